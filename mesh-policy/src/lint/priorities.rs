//! Policies of one tier and priority that decide a connection differently: which of them wins is the mesh's choice of the name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_core::policy::{ClusterNetworkPolicy, ClusterPeer, PolicyScope, PortMatch, RuleAction};
use mesh_core::{Direction, FiveTuple, Located, NamedPort, Protocol, Workload};

use super::pods::{Kind, Pods};
use super::{Code, Report, cluster_key};
use crate::naive::Side;
use crate::rules;

pub(super) fn look(pods: &Pods<'_>, report: &mut Report<'_>) {
    let mut equal: BTreeMap<_, Vec<&ClusterNetworkPolicy>> = BTreeMap::new();
    for policy in pods.state.facts().cluster_policies.values() {
        equal.entry((policy.tier, policy.priority)).or_default().push(policy);
    }
    for policies in equal.values_mut() {
        policies.sort_by_key(|policy| (policy.name.clone(), policy.scope.clone()));
        for (index, second) in policies.iter().enumerate() {
            for first in &policies[..index] {
                look_at_pair(pods, first, second, report);
            }
        }
    }
}

fn look_at_pair(pods: &Pods<'_>, first: &ClusterNetworkPolicy, second: &ClusterNetworkPolicy, report: &mut Report<'_>) {
    let meet = first.scope == second.scope || [first, second].iter().any(|policy| policy.scope == PolicyScope::Fleet);
    if !meet {
        return;
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        let Some((tuple, subject, [one, other])) = disagreement(pods, first, second, direction) else { continue };
        let peer = if direction == Direction::Ingress { tuple.source } else { tuple.destination };
        let peer = match pods.state.locate(peer) {
            Located::Workload(peer) => peer.id.to_string(),
            _ => peer.to_string(),
        };
        let port = match tuple.protocol.has_ports() {
            true => format!("{}/{}", tuple.destination_port, tuple.protocol),
            false => tuple.protocol.to_string(),
        };
        let between = match direction {
            Direction::Ingress => format!("{peer} > {} {port}", subject.id),
            Direction::Egress => format!("{} > {peer} {port}", subject.id),
        };
        let message = format!(
            "it has the same tier and priority {} as {}, and {direction} of {between} is {} there and {} here: {} wins, by its name",
            second.priority,
            cluster_key(first),
            word(one),
            word(other),
            first.name,
        );
        let at = (cluster_key(second), "spec.priority".to_owned());
        report.add(Code::EqualPriorities, &at, message, "give the one that should win a lower priority");
    }
}

fn word(action: RuleAction) -> &'static str {
    match action {
        RuleAction::Accept => "accepted",
        RuleAction::Deny => "denied",
        RuleAction::Pass => "passed",
    }
}

type Disagreement<'a> = (FiveTuple, &'a Workload, [RuleAction; 2]);

/// Returns a connection of today that the two decide differently.
fn disagreement<'a>(
    pods: &Pods<'a>,
    first: &ClusterNetworkPolicy,
    second: &ClusterNetworkPolicy,
    direction: Direction,
) -> Option<Disagreement<'a>> {
    let actions: BTreeSet<RuleAction> = [first, second].iter().flat_map(|policy| effective(policy, direction)).collect();
    if actions.len() < 2 || [first, second].iter().any(|policy| effective(policy, direction).next().is_none()) {
        return None;
    }
    let subjects = pods.subjects(first).filter(|kind| second.scope.covers(&kind.pods.0.id.cluster) && kind.is(&second.subject));
    let mut tried: BTreeMap<&[NamedPort], usize> = BTreeMap::new();
    for subject in subjects {
        // Subjects of both differ to the rules by their named ports only; two of each, because one may be the peer itself.
        let alike = tried.entry(subject.pods.0.ports.as_slice()).or_default();
        *alike += 1;
        if *alike > 2 {
            continue;
        }
        for (peer, address) in peers(pods, subject, [first, second], direction) {
            for (protocol, port) in ports(pods, [first, second], direction) {
                let own = Kind::address(subject.pods.0);
                let (source, destination) = if direction == Direction::Ingress { (address, own) } else { (own, address) };
                let tuple = FiveTuple { source, destination, protocol, source_port: 0, destination_port: port };
                let workload = Located::Workload(subject.pods.0);
                let ends = if direction == Direction::Ingress { (peer, workload) } else { (workload, peer) };
                let side = Side::new(pods.state, &tuple, direction, ends)?;
                if let (Some(one), Some(other)) = (decides(&side, first), decides(&side, second))
                    && one != other
                {
                    return Some((tuple, subject.pods.0, [one, other]));
                }
            }
        }
    }
    None
}

/// Returns what the rules of a policy do, without those that match nothing.
fn effective(policy: &ClusterNetworkPolicy, direction: Direction) -> impl Iterator<Item = RuleAction> {
    let rules = if direction == Direction::Ingress { &policy.ingress } else { &policy.egress };
    rules.iter().filter_map(move |rule| match (rules::fails_closed(rule, direction), rule.action) {
        (true, RuleAction::Accept) => None,
        (true, _) => Some(RuleAction::Deny),
        (false, action) => Some(action),
    })
}

/// Returns what the first rule of `policy` that matches does.
fn decides(side: &Side<'_>, policy: &ClusterNetworkPolicy) -> Option<RuleAction> {
    let rules = if side.direction == Direction::Ingress { &policy.ingress } else { &policy.egress };
    rules.iter().find_map(|rule| match (rules::fails_closed(rule, side.direction), rule.action) {
        (true, RuleAction::Accept) => None,
        (true, _) => Some(RuleAction::Deny),
        (false, action) => side.matches_cluster_rule(rule).then_some(action),
    })
}

/// Returns the other ends to try: a pod of each kind, and in egress the nodes and the first address of each network.
fn peers<'a>(
    pods: &Pods<'a>,
    subject: &Kind<'a>,
    policies: [&ClusterNetworkPolicy; 2],
    direction: Direction,
) -> Vec<(Located<'a>, IpAddr)> {
    let of_kind = pods.kinds.iter().filter_map(|kind| {
        let pod = if std::ptr::eq(kind.pods.0, subject.pods.0) { kind.pods.1? } else { kind.pods.0 };
        Some((Located::Workload(pod), Kind::address(pod)))
    });
    let mut peers: Vec<_> = of_kind.collect();
    if direction == Direction::Egress {
        let networks =
            policies.iter().flat_map(|policy| &policy.egress).flat_map(|rule| &rule.peers).flat_map(|peer| match peer {
                ClusterPeer::Networks(networks) => networks.iter().map(|network| network.address()).collect(),
                _ => Vec::new(),
            });
        let nodes = pods.state.facts().nodes.values().flat_map(|node| node.addresses.clone());
        let known = pods.state.config().domains.values().flatten().copied();
        let addresses: BTreeSet<IpAddr> = networks.chain(nodes).chain(known).collect();
        peers.extend(addresses.into_iter().map(|address| (pods.state.locate(address), address)));
        peers.retain(|(peer, _)| *peer != Located::Pending && *peer != Located::Workload(subject.pods.0));
    }
    peers
}

/// Returns the ports to try: where the ranges of both policies begin, and where they are over.
fn ports(pods: &Pods<'_>, policies: [&ClusterNetworkPolicy; 2], direction: Direction) -> BTreeSet<(Protocol, u16)> {
    let rules =
        policies.into_iter().flat_map(|policy| if direction == Direction::Ingress { &policy.ingress } else { &policy.egress });
    let mut tried = BTreeSet::from([(Protocol::Tcp, 1), (Protocol::Udp, 1)]);
    for port in rules.flat_map(|rule| &rule.protocols) {
        match port {
            PortMatch::Protocol(protocol) => drop(tried.insert((*protocol, u16::from(protocol.has_ports())))),
            PortMatch::Range(protocol, first, last) => {
                tried.extend([(*protocol, *first), (*protocol, last.saturating_add(1))]);
            }
            PortMatch::Named(_, name) => {
                let named = pods.kinds.iter().flat_map(|kind| &kind.pods.0.ports).filter(|own| own.name == *name);
                tried.extend(named.map(|own| (own.protocol, own.port)));
            }
        }
    }
    tried
}
