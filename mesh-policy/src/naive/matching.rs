//! Whether a policy selects the workload, and whether a rule's peers and ports match the connection.

use mesh_core::policy::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PortMatch, WorkloadMatch,
};
use mesh_core::{Located, NodeId, Prefix, Selector, Workload};

use super::Side;
use crate::rules;

impl Side<'_> {
    /// Rule 4: subjects are workloads of the policy's own cluster; rule 7: by namespace and own labels.
    pub(crate) fn is_subject_of(&self, policy: &ClusterNetworkPolicy) -> bool {
        policy.scope.covers(&self.subject.id.cluster) && self.is_match(self.subject, &policy.subject)
    }

    pub(crate) fn is_selected_by(&self, policy: &NetworkPolicy) -> bool {
        policy.scope.covers(&self.subject.id.cluster)
            && policy.namespace == self.subject.id.namespace
            && policy.subject.matches(&self.state.workload_labels(self.subject))
    }

    /// Rule 9: a peer and a port must match; an empty list restricts nothing.
    pub(crate) fn matches_rule(&self, policy: &NetworkPolicy, rule: &NetworkPolicyRule) -> bool {
        let peers = rule.peers.is_empty() || rule.peers.iter().any(|peer| self.is_peer(policy, peer));
        let ports = rule.ports.is_empty() || rule.ports.iter().any(|port| self.is_port(port));
        peers && ports
    }

    pub(crate) fn matches_cluster_rule(&self, rule: &ClusterRule) -> bool {
        let ports = rule.protocols.is_empty() || rule.protocols.iter().any(|port| self.is_port(port));
        rule.peers.iter().any(|peer| self.is_cluster_peer(peer)) && ports
    }

    pub(crate) fn is_peer(&self, policy: &NetworkPolicy, peer: &NetworkPolicyPeer) -> bool {
        match peer {
            NetworkPolicyPeer::Workloads { namespaces, pods } => {
                // Rule 6: only what has an identity is matched by selectors.
                let Located::Workload(workload) = self.peer else { return false };
                let in_namespace = match namespaces {
                    Some(selector) => self.is_in_namespaces(workload, selector),
                    // Rule 4: the policy's namespace, by name, in every cluster.
                    None => workload.id.namespace == policy.namespace,
                };
                in_namespace && self.is_pod(workload, pods.as_ref())
            }
            NetworkPolicyPeer::IpBlock { cidr, except } => self.is_in_networks(&[*cidr], except),
            NetworkPolicyPeer::Nothing => false,
        }
    }

    pub(crate) fn is_cluster_peer(&self, peer: &ClusterPeer) -> bool {
        match peer {
            ClusterPeer::Workloads(who) => match self.peer {
                Located::Workload(workload) => self.is_match(workload, who),
                _ => false,
            },
            ClusterPeer::Networks(networks) => self.is_in_networks(networks, &[]),
            ClusterPeer::Nodes(selector) => self.is_node_address(selector),
            ClusterPeer::DomainNames(patterns) => self.is_domain_address(patterns),
        }
    }

    fn is_match(&self, workload: &Workload, who: &WorkloadMatch) -> bool {
        self.is_in_namespaces(workload, &who.namespaces) && self.is_pod(workload, who.pods.as_ref())
    }

    /// Rule 4: a namespaceSelector sees the labels of the Namespace object in the peer's own cluster.
    fn is_in_namespaces(&self, workload: &Workload, selector: &Selector) -> bool {
        selector.matches(&self.state.namespace_labels(&workload.id.cluster, &workload.id.namespace))
    }

    fn is_pod(&self, workload: &Workload, selector: Option<&Selector>) -> bool {
        selector.is_none_or(|selector| selector.matches(&self.state.workload_labels(workload)))
    }

    /// Rule 5: any address, workloads included where the setting says so; `except` is "not matched".
    fn is_in_networks(&self, networks: &[Prefix], except: &[Prefix]) -> bool {
        let is_workload = matches!(self.peer, Located::Workload(_));
        if is_workload && !self.state.config().settings.ipblock_matches_pods {
            return false;
        }
        let inside = |prefixes: &[Prefix]| prefixes.iter().any(|prefix| prefix.contains(self.peer_address));
        inside(networks) && !inside(except)
    }

    /// Rule 11: the addresses of matching nodes of all clusters.
    fn is_node_address(&self, selector: &Selector) -> bool {
        self.state.facts().nodes.values().any(|node| {
            let id: &NodeId = &node.id;
            selector.matches(&self.state.node_labels(node)) && self.is_peer_address_of(id)
        })
    }

    /// Rule 10 and 11: any of the node's addresses is the node, also one that a question calls the node's.
    pub(crate) fn is_peer_address_of(&self, node: &NodeId) -> bool {
        self.peer == Located::Node(node) || rules::node_has_address(self.state, node, self.peer_address)
    }

    /// Rule 11: the addresses that matching names are known to have.
    fn is_domain_address(&self, patterns: &[std::sync::Arc<str>]) -> bool {
        self.state.config().domains.iter().any(|(name, addresses)| {
            patterns.iter().any(|pattern| rules::domain_matches(pattern, name)) && addresses.contains(&self.peer_address)
        })
    }

    /// Rules 9 and 14: numbers as they are, names by the destination workload's container ports; no ports on ICMP.
    pub(crate) fn is_port(&self, port: &PortMatch) -> bool {
        let tuple = self.tuple;
        match port {
            PortMatch::Protocol(protocol) => tuple.protocol == *protocol,
            PortMatch::Range(protocol, first, last) => {
                tuple.protocol == *protocol && protocol.has_ports() && (*first..=*last).contains(&tuple.destination_port)
            }
            PortMatch::Named(protocol, name) => {
                let Located::Workload(destination) = self.destination else { return false };
                destination.ports.iter().any(|port| {
                    port.name == *name
                        && protocol.is_none_or(|protocol| protocol == port.protocol)
                        && port.protocol == tuple.protocol
                        && port.protocol.has_ports()
                        && port.port == tuple.destination_port
                })
            }
        }
    }
}
