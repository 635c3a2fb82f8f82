//! How selectors, peers and ports are written for people.

use mesh_core::labels::NAMESPACE_NAME_LABEL;
use mesh_core::policy::{
    ClusterPeer, ClusterRule, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PortMatch, WorkloadMatch,
};
use mesh_core::{Prefix, Requirement, Selector};

/// Writes `80/TCP`, `80-90/TCP`, `TCP` for every port of it, or `http` (`http/TCP`) for a named port.
pub(crate) fn port(port: &PortMatch) -> String {
    match port {
        PortMatch::Protocol(protocol) => protocol.to_string(),
        PortMatch::Range(protocol, first, last) if first == last => format!("{first}/{protocol}"),
        PortMatch::Range(protocol, first, last) => format!("{first}-{last}/{protocol}"),
        PortMatch::Named(Some(protocol), name) => format!("{name}/{protocol}"),
        PortMatch::Named(None, name) => name.to_string(),
    }
}

/// Writes a list of ports; nothing named is any port.
pub(crate) fn ports(ports: &[PortMatch]) -> String {
    if ports.is_empty() { "any port".into() } else { ports.iter().map(port).collect::<Vec<_>>().join(", ") }
}

/// Writes one requirement as `kubectl` writes a selector.
pub(crate) fn requirement(requirement: &Requirement) -> String {
    Selector { requirements: vec![requirement.clone()] }.to_string()
}

/// Writes `pods app=web in namespaces env=prod`, and namespaces that are selected by name by their names.
pub(crate) fn workloads(namespaces: &Selector, pods: Option<&Selector>) -> String {
    let namespaces = match namespaces.requirements.as_slice() {
        [] => "every namespace".into(),
        [Requirement::In(key, names)] if **key == *NAMESPACE_NAME_LABEL && names.len() == 1 => format!("namespace {}", names[0]),
        [Requirement::In(key, names)] if **key == *NAMESPACE_NAME_LABEL => format!("namespaces {}", names.join(" and ")),
        _ => format!("namespaces {namespaces}"),
    };
    format!("{} in {namespaces}", pods_of(pods))
}

/// Writes whom a ClusterNetworkPolicy's subject or peer means.
pub(crate) fn who(who: &WorkloadMatch) -> String {
    workloads(&who.namespaces, who.pods.as_ref())
}

/// Writes `pods app=web`, or `all pods`.
pub(crate) fn pods_of(selector: Option<&Selector>) -> String {
    match selector {
        Some(selector) if !selector.requirements.is_empty() => format!("pods {selector}"),
        _ => "all pods".into(),
    }
}

/// Writes a peer of a NetworkPolicy.
pub(crate) fn peer(policy: &NetworkPolicy, peer: &NetworkPolicyPeer) -> String {
    match peer {
        NetworkPolicyPeer::Workloads { namespaces: Some(namespaces), pods } => workloads(namespaces, pods.as_ref()),
        NetworkPolicyPeer::Workloads { namespaces: None, pods } => {
            format!("{} in namespace {} of every cluster", pods_of(pods.as_ref()), policy.namespace)
        }
        NetworkPolicyPeer::IpBlock { cidr, except } if except.is_empty() => format!("addresses {cidr}"),
        NetworkPolicyPeer::IpBlock { cidr, except } => format!("addresses {cidr} except {}", prefixes(except)),
        NetworkPolicyPeer::Nothing => "nobody (no known field)".into(),
    }
}

/// Writes a peer of a ClusterNetworkPolicy.
pub(crate) fn cluster_peer(peer: &ClusterPeer) -> String {
    match peer {
        ClusterPeer::Workloads(peers) => who(peers),
        ClusterPeer::Nodes(selector) if selector.requirements.is_empty() => "all nodes".into(),
        ClusterPeer::Nodes(selector) => format!("nodes {selector}"),
        ClusterPeer::Networks(networks) => format!("addresses {}", prefixes(networks)),
        ClusterPeer::DomainNames(names) => format!("domain names {}", names.join(", ")),
    }
}

/// Writes the peers of a NetworkPolicy rule; none is anybody.
pub(crate) fn peers(policy: &NetworkPolicy, rule: &NetworkPolicyRule) -> Vec<String> {
    match rule.peers.is_empty() {
        true => vec!["anybody".into()],
        false => rule.peers.iter().map(|item| peer(policy, item)).collect(),
    }
}

/// Writes the peers of a ClusterNetworkPolicy rule.
pub(crate) fn cluster_peers(rule: &ClusterRule) -> Vec<String> {
    rule.peers.iter().map(cluster_peer).collect()
}

pub(crate) fn prefixes(prefixes: &[Prefix]) -> String {
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
