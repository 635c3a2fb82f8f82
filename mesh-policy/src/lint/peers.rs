//! Subjects, peers and ports that mean nobody of today, and networks that mean more than it seems.

use mesh_core::policy::{ClusterNetworkPolicy, ClusterPeer, NetworkPolicy, NetworkPolicyPeer, PortMatch};
use mesh_core::{Direction, Prefix, State};

use super::pods::{Kind, Pods};
use super::{At, Code, Report, cluster_key, network_key, peer_path, rule_path, where_of};
use crate::{rules, words};

const WAY_OUT_OF_NOTHING: &str = "correct the selector, or delete the policy";
const WAY_OUT_OF_NOBODY: &str = "correct the peer, or remove it";

pub(super) fn look(pods: &Pods<'_>, report: &mut Report<'_>) {
    for policy in pods.state.facts().network_policies.values() {
        look_at_network(pods, policy, report);
    }
    for policy in pods.state.facts().cluster_policies.values() {
        look_at_cluster(pods, policy, report);
    }
}

fn look_at_network(pods: &Pods<'_>, policy: &NetworkPolicy, report: &mut Report<'_>) {
    let key = network_key(policy);
    let subjects: Vec<&Kind<'_>> = pods.selected(policy).collect();
    if subjects.is_empty() && !report.has(Code::NamespaceNotGranted, &key, "") {
        let meant = words::pods_of(Some(&policy.subject));
        let message =
            format!("it selects nothing: there are no {meant} in namespace {} of {}", policy.namespace, where_of(&policy.scope));
        report.add(Code::SelectsNothing, &(key.clone(), "spec.podSelector".into()), message, WAY_OUT_OF_NOTHING);
    }
    for (direction, rules) in [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)] {
        for (index, rule) in rules.iter().flatten().enumerate() {
            for (nth, peer) in rule.peers.iter().enumerate() {
                let at = (key.clone(), peer_path(direction, index, nth));
                match peer {
                    NetworkPolicyPeer::Workloads { .. } => {
                        let nobody = !pods.kinds.iter().any(|kind| kind.is_peer(policy, peer));
                        if nobody && !report.has(Code::PeerNotGranted, &at.0, &at.1) {
                            let message = format!("no pod of the fleet matches {}", words::peer(policy, peer));
                            report.add(Code::MatchesNobody, &at, message, WAY_OUT_OF_NOBODY);
                        }
                    }
                    NetworkPolicyPeer::IpBlock { cidr, except } => look_at_networks(pods.state, &[*cidr], except, &at, report),
                    NetworkPolicyPeer::Nothing => {
                        let message = "no field of the peer is known, so it matches nobody".into();
                        report.add(Code::MatchesNobody, &at, message, "write podSelector, namespaceSelector or ipBlock");
                    }
                }
            }
            let is_peer = |kind: &Kind<'_>| rule.peers.is_empty() || rule.peers.iter().any(|peer| kind.is_peer(policy, peer));
            let place = (key.clone(), format!("{}.ports", rule_path(direction, index)));
            look_at_ports(&rule.ports, &destinations(pods, &subjects, direction, is_peer), &place, report);
        }
    }
}

fn look_at_cluster(pods: &Pods<'_>, policy: &ClusterNetworkPolicy, report: &mut Report<'_>) {
    let key = cluster_key(policy);
    let subjects: Vec<&Kind<'_>> = pods.subjects(policy).collect();
    if subjects.is_empty() {
        let message = format!("it selects nothing: there are no {} of {}", words::who(&policy.subject), where_of(&policy.scope));
        report.add(Code::SelectsNothing, &(key.clone(), "spec.subject".into()), message, WAY_OUT_OF_NOTHING);
    }
    for (direction, rules) in [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)] {
        for (index, rule) in rules.iter().enumerate() {
            if rules::fails_closed(rule, direction) {
                let message = match rule.action {
                    mesh_core::policy::RuleAction::Accept => "something in it is not understood here, so it allows nobody",
                    _ => "something in it is not understood here, so it denies everything",
                };
                let way_out =
                    "remove what the loader warns of; networks, nodes and domain names are for egress, names for Accept";
                report.add(Code::NotUnderstood, &(key.clone(), rule_path(direction, index)), message.into(), way_out);
                continue;
            }
            for (nth, peer) in rule.peers.iter().enumerate() {
                look_at_cluster_peer(pods, peer, &(key.clone(), peer_path(direction, index, nth)), report);
            }
            let is_peer = |kind: &Kind<'_>| rule.peers.iter().any(|peer| kind.is_cluster_peer(peer));
            let place = (key.clone(), format!("{}.protocols", rule_path(direction, index)));
            look_at_ports(&rule.protocols, &destinations(pods, &subjects, direction, is_peer), &place, report);
        }
    }
}

fn look_at_cluster_peer(pods: &Pods<'_>, peer: &ClusterPeer, at: &At, report: &mut Report<'_>) {
    let state = pods.state;
    let nobody = match peer {
        ClusterPeer::Workloads(_) => !pods.kinds.iter().any(|kind| kind.is_cluster_peer(peer)),
        ClusterPeer::Nodes(selector) => !state.facts().nodes.values().any(|node| selector.matches(&state.node_labels(node))),
        ClusterPeer::Networks(networks) => return look_at_networks(state, networks, &[], at, report),
        ClusterPeer::DomainNames(patterns) => {
            let known = |pattern: &str| state.config().domains.keys().any(|name| rules::domain_matches(pattern, name));
            for pattern in patterns.iter().filter(|pattern| !known(pattern)) {
                let message = format!("no address of {pattern} is known, so it matches nobody here");
                report.add(Code::UnknownDomain, at, message, "give its addresses under domains in mesh.yaml, for this check");
            }
            return;
        }
    };
    if nobody && !report.has(Code::PeerNotGranted, &at.0, &at.1) {
        report.add(
            Code::MatchesNobody,
            at,
            format!("nothing in the fleet matches {}", words::cluster_peer(peer)),
            WAY_OUT_OF_NOBODY,
        );
    }
}

/// Returns the pods whose named ports a rule is about: the subjects in ingress, the peers in egress.
fn destinations<'p, 'a>(
    pods: &'p Pods<'a>,
    subjects: &[&'p Kind<'a>],
    direction: Direction,
    is_peer: impl Fn(&Kind<'a>) -> bool,
) -> Vec<&'p Kind<'a>> {
    match direction {
        Direction::Ingress => subjects.to_vec(),
        Direction::Egress => pods.kinds.iter().filter(|kind| is_peer(kind)).collect(),
    }
}

fn look_at_ports(ports: &[PortMatch], destinations: &[&Kind<'_>], at: &At, report: &mut Report<'_>) {
    // Where nobody is meant, that has been said.
    if destinations.is_empty() {
        return;
    }
    for port in ports {
        let PortMatch::Named(protocol, name) = port else { continue };
        let has = |kind: &&Kind<'_>| {
            kind.pods.0.ports.iter().any(|own| own.name == *name && protocol.is_none_or(|protocol| protocol == own.protocol))
        };
        if !destinations.iter().any(has) {
            let message =
                format!("no pod that the rule is about has a container port {}, so it matches nothing", words::port(port));
            report.add(Code::UnknownPort, at, message, "name the port in the pods, or write its number");
        }
    }
}

fn look_at_networks(state: &State, networks: &[Prefix], except: &[Prefix], at: &At, report: &mut Report<'_>) {
    let excepted = |prefix: Prefix| except.iter().any(|except| except.covers(prefix));
    if networks.iter().all(|network| excepted(*network)) {
        let message = "every address of it is excepted, so it matches nobody".into();
        return report.add(Code::MatchesNobody, at, message, WAY_OUT_OF_NOBODY);
    }
    let mut hit: Vec<String> = Vec::new();
    let mut inside = !networks.is_empty();
    for network in networks {
        let of = |prefix: &Prefix| network.overlaps(*prefix) && !excepted(*prefix) && !excepted(*network);
        let owners =
            state.cluster_prefixes().flat_map(|(cluster, prefixes)| prefixes.iter().map(move |prefix| (cluster, *prefix)));
        hit.extend(owners.filter(|(_, prefix)| of(prefix)).map(|(cluster, prefix)| format!("{prefix} of {cluster}")));
        inside &= state.cluster_prefixes().any(|(_, prefixes)| prefixes.iter().any(|prefix| prefix.covers(*network)));
    }
    if state.cluster_prefixes().next().is_none() {
        // Without grants nothing says which prefixes are the pods': their addresses do.
        let pods = state.facts().workloads.values().filter(|pod| !pod.host_network);
        let addresses = pods.flat_map(|pod| pod.addresses.iter().map(move |address| (pod, Prefix::host(*address))));
        let in_it = |prefix: Prefix| networks.iter().any(|network| network.covers(prefix)) && !excepted(prefix);
        hit.extend(addresses.filter(|(_, prefix)| in_it(*prefix)).map(|(pod, _)| format!("pod {}", pod.id)).take(1));
        inside = false;
    }
    hit.dedup();
    if hit.is_empty() {
        return;
    }
    let written = words::prefixes(networks);
    if state.config().settings.ipblock_matches_pods {
        let message = format!("{written} holds pods too: {}", hit.join(", "));
        let way_out = "where pods are not meant, except their prefixes; where pods are meant, select them by labels";
        report.add(Code::BlockHitsPods, at, message, way_out);
    } else if inside {
        let message =
            format!("{written} lies in pod prefixes ({}), and ipblock_matches_pods is false: it matches no pod", hit.join(", "));
        report.add(Code::MatchesNobody, at, message, "select the pods by labels");
    }
}
