//! Why a rule does not match: beside each predicate of the yardstick's `matching`, the requirements that do not hold.

use mesh_core::policy::{
    ClusterPeer, ClusterRule, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PortMatch, WorkloadMatch,
};
use mesh_core::{Labels, Located, Prefix, Requirement, Selector, Workload};

use super::lack::{Lack, port_of, weight};
use crate::naive::Side;
use crate::words;

/// What a rule lacks, its peer and its port apart; nothing in both: it matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unmet {
    pub(super) peer: Vec<Lack>,
    pub(super) port: Vec<Lack>,
}

impl Side<'_> {
    pub(super) fn unmet(&self, policy: &NetworkPolicy, rule: &NetworkPolicyRule) -> Unmet {
        let matches = rule.peers.is_empty() || rule.peers.iter().any(|peer| self.is_peer(policy, peer));
        let peer = match matches {
            true => Vec::new(),
            false => fewest(rule.peers.iter().map(|peer| self.unmet_peer(policy, peer))),
        };
        Unmet { peer, port: self.unmet_ports(&rule.ports) }
    }

    pub(super) fn unmet_cluster(&self, rule: &ClusterRule) -> Unmet {
        let peer = match rule.peers.iter().any(|peer| self.is_cluster_peer(peer)) {
            true => Vec::new(),
            false => fewest(rule.peers.iter().map(|peer| self.unmet_cluster_peer(peer))),
        };
        Unmet { peer, port: self.unmet_ports(&rule.protocols) }
    }

    fn unmet_peer(&self, policy: &NetworkPolicy, peer: &NetworkPolicyPeer) -> Vec<Lack> {
        match peer {
            NetworkPolicyPeer::Workloads { namespaces, pods } => {
                let Located::Workload(workload) = self.peer else {
                    let named = if namespaces.is_none() { 1 } else { 0 };
                    return self
                        .no_workload(words::peer(policy, peer), named + count(namespaces.as_ref()) + count(pods.as_ref()));
                };
                let mut lacks = match namespaces {
                    Some(selector) => self.unmet_namespaces(workload, selector),
                    None if workload.id.namespace == policy.namespace => Vec::new(),
                    None => vec![Lack::Namespace { wanted: policy.namespace.clone(), has: workload.id.namespace.clone() }],
                };
                lacks.extend(self.unmet_pods(workload, pods.as_ref()));
                lacks
            }
            NetworkPolicyPeer::IpBlock { cidr, except } => self.unmet_networks(&[*cidr], except),
            NetworkPolicyPeer::Nothing => vec![Lack::UnknownPeer],
        }
    }

    fn unmet_cluster_peer(&self, peer: &ClusterPeer) -> Vec<Lack> {
        match peer {
            ClusterPeer::Workloads(who) => match self.peer {
                Located::Workload(workload) => self.unmet_who(workload, who),
                _ => self.no_workload(words::who(who), count(Some(&who.namespaces)) + count(who.pods.as_ref())),
            },
            ClusterPeer::Networks(networks) => self.unmet_networks(networks, &[]),
            ClusterPeer::Nodes(selector) => self.unmet_nodes(selector),
            ClusterPeer::DomainNames(names) => vec![Lack::Domain { wanted: names.clone(), has: self.peer_address }],
        }
    }

    fn unmet_who(&self, workload: &Workload, who: &WorkloadMatch) -> Vec<Lack> {
        let mut lacks = self.unmet_namespaces(workload, &who.namespaces);
        lacks.extend(self.unmet_pods(workload, who.pods.as_ref()));
        lacks
    }

    fn no_workload(&self, wanted: String, requirements: usize) -> Vec<Lack> {
        vec![Lack::NoWorkload { address: self.peer_address, wanted, requirements }]
    }

    fn unmet_namespaces(&self, workload: &Workload, selector: &Selector) -> Vec<Lack> {
        let labels = self.state.namespace_labels(&workload.id.cluster, &workload.id.namespace);
        unmet(selector, &labels, |wanted, has| Lack::NamespaceLabel { wanted, has })
    }

    fn unmet_pods(&self, workload: &Workload, selector: Option<&Selector>) -> Vec<Lack> {
        let labels = self.state.workload_labels(workload);
        selector.map(|selector| unmet(selector, &labels, |wanted, has| Lack::Label { wanted, has })).unwrap_or_default()
    }

    fn unmet_networks(&self, networks: &[Prefix], except: &[Prefix]) -> Vec<Lack> {
        let mut lacks = Vec::new();
        if matches!(self.peer, Located::Workload(_)) && !self.state.config().settings.ipblock_matches_pods {
            lacks.push(Lack::NetworksMatchNoPods);
        }
        let has = self.peer_address;
        if !networks.iter().any(|network| network.contains(has)) {
            lacks.push(Lack::Network { wanted: networks.to_vec(), has });
        }
        lacks.extend(except.iter().find(|except| except.contains(has)).map(|except| Lack::Excepted { except: *except, has }));
        lacks
    }

    fn unmet_nodes(&self, selector: &Selector) -> Vec<Lack> {
        let nodes = self.state.facts().nodes.values().filter(|node| self.is_peer_address_of(&node.id));
        let lacks = nodes.map(|node| {
            let label = |wanted, has| Lack::NodeLabel { node: node.id.clone(), wanted, has };
            unmet(selector, &self.state.node_labels(node), label)
        });
        let nearest = fewest(lacks);
        if nearest.is_empty() { vec![Lack::NoNode { address: self.peer_address }] } else { nearest }
    }

    fn unmet_ports(&self, ports: &[PortMatch]) -> Vec<Lack> {
        if ports.is_empty() || ports.iter().any(|port| self.is_port(port)) {
            return Vec::new();
        }
        let wanted = ports.iter().map(|port| self.port_here(port)).collect();
        vec![Lack::Port { wanted, ports: ports.to_vec(), has: port_of(self.tuple) }]
    }

    /// Writes a port; a named one with the numbers that it has at the destination.
    fn port_here(&self, port: &PortMatch) -> String {
        let PortMatch::Named(protocol, name) = port else { return words::port(port) };
        let Located::Workload(destination) = self.destination else {
            return format!("{} (named ports are a workload's)", words::port(port));
        };
        let numbers: Vec<String> = destination
            .ports
            .iter()
            .filter(|own| own.name == *name && protocol.is_none_or(|protocol| protocol == own.protocol))
            .map(|own| format!("{}/{}", own.port, own.protocol))
            .collect();
        match numbers.is_empty() {
            true => format!("{} (a name that {} does not have)", words::port(port), destination.id),
            false => format!("{} (which is {} at {})", words::port(port), numbers.join(", "), destination.id),
        }
    }
}

fn unmet(selector: &Selector, labels: &Labels, lack: impl Fn(Requirement, Option<std::sync::Arc<str>>) -> Lack) -> Vec<Lack> {
    let unmet = selector.requirements.iter().filter(|requirement| !requirement.matches(labels));
    unmet
        .map(|wanted| {
            let (Requirement::In(key, _)
            | Requirement::NotIn(key, _)
            | Requirement::Exists(key)
            | Requirement::DoesNotExist(key)) = wanted;
            lack(wanted.clone(), labels.get(key).map(Into::into))
        })
        .collect()
}

fn count(selector: Option<&Selector>) -> usize {
    selector.map_or(0, |selector| selector.requirements.len())
}

/// Returns the list of the least weight, the first of equals.
fn fewest(lists: impl Iterator<Item = Vec<Lack>>) -> Vec<Lack> {
    lists.min_by_key(|lacks| weight(lacks)).unwrap_or_default()
}
