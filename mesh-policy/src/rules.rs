//! The small facts of SEMANTICS §2 that the yardstick and the compiler must not read differently.

use std::net::IpAddr;

use mesh_core::policy::{ClusterPeer, ClusterRule, RuleAction};
use mesh_core::{Direction, Located, NodeId, Prefix, State};

/// Tells whether `rule` fails closed (rules 11 and 12): something in it is unknown, or has no meaning where it stands.
///
/// The API server and the manifest reader refuse the latter; a rule that comes another way is not given a meaning here.
pub(crate) fn fails_closed(rule: &ClusterRule, direction: Direction) -> bool {
    rule.unknown
        || rule.peers.is_empty()
        || rule.peers.iter().any(|peer| match peer {
            ClusterPeer::Workloads(_) => false,
            ClusterPeer::Nodes(_) | ClusterPeer::Networks(_) => direction == Direction::Ingress,
            ClusterPeer::DomainNames(_) => direction == Direction::Ingress || rule.action != RuleAction::Accept,
        })
}

/// Tells whether `name` is meant by `pattern`: the name itself, or `*.` for one or more labels before the rest.
pub(crate) fn domain_matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(rest) => {
            name.strip_suffix(rest).and_then(|labels| labels.strip_suffix('.')).is_some_and(|labels| !labels.is_empty())
        }
        None => pattern == name,
    }
}

/// Tells whether `address` is one of `node`'s: an Internal or ExternalIP, or its own address inside the mesh.
///
/// Nodes of several clusters may have the same underlay address, and it is then an address of each. Inside a cluster's granted
/// prefixes nobody else's word counts, and a workload's address is no node's.
pub(crate) fn node_has_address(state: &State, node: &NodeId, address: IpAddr) -> bool {
    matches!(state.locate(address), Located::Node(_)) && node_addresses(state, node).contains(&address)
}

/// Returns the addresses that `node` claims and that are believed, some of which may be workloads' for all that.
pub(crate) fn node_addresses(state: &State, node: &NodeId) -> Vec<IpAddr> {
    let facts = state.facts();
    let own = facts.nodes.get(node).into_iter().flat_map(|node| &node.addresses);
    let claimed = own.chain(facts.links.get(node).into_iter().flat_map(|link| &link.overlay)).copied();
    let is_believed = |address: &IpAddr| {
        let mut owners = facts.grants.values().filter(|grant| grant.covers(Prefix::host(*address))).peekable();
        owners.peek().is_none() || owners.any(|grant| grant.cluster == node.cluster)
    };
    claimed.filter(is_believed).collect()
}

#[cfg(test)]
mod tests {
    use super::domain_matches;

    #[test]
    fn a_star_stands_for_one_or_more_labels() {
        for (pattern, name, expected) in [
            ("example.com", "example.com", true),
            ("example.com", "api.example.com", false),
            ("*.example.com", "api.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "badexample.com", false),
        ] {
            assert_eq!(domain_matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
