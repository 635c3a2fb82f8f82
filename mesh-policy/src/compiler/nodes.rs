//! Nodes: their addresses, and the prefixes in which an address without an identity is pending.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{ClusterName, Labels, NodeId, State};

use super::{Dirty, Parts};
use crate::store::Ranges;
use crate::{PolicySet, rules};

/// What a node claims.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Claims {
    handle: u32,
    /// Every address that it says is its own.
    addresses: Vec<IpAddr>,
    /// Those that are believed.
    believed: Vec<IpAddr>,
    labels: Labels,
}

impl Claims {
    /// Returns the believed addresses, each with the handle.
    fn pairs(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        self.believed.iter().map(|address| (self.handle, *address))
    }
}

impl Parts {
    /// Brings the nodes in step with the state, and marks the addresses that they claim or claimed.
    pub(super) fn update_nodes<'a>(&mut self, state: &'a State, dirty: &mut Dirty<'a>, set: &mut PolicySet) {
        if !dirty.grants.is_empty() {
            let prefixes = state.cluster_prefixes().flat_map(|(_, prefixes)| prefixes.iter().copied());
            let distinct: std::collections::BTreeSet<_> = prefixes.collect();
            set.ends.pending = Arc::new(Ranges::new(distinct.into_iter().map(|prefix| (prefix, ()))));
            // Who is believed inside prefixes depends on whose they are.
            dirty.nodes.extend(state.facts().nodes.keys().chain(state.facts().links.keys()));
            dirty.addresses.extend(self.workloads.refused());
        }
        for node in dirty.nodes.clone() {
            self.update_node(state, node, dirty, set);
        }
    }

    fn update_node(&mut self, state: &State, node: &NodeId, dirty: &mut Dirty<'_>, set: &mut PolicySet) {
        let before = self.node_claims.remove(node);
        let facts = state.facts();
        let (known, link) = (facts.nodes.get(node), facts.links.get(node));
        let now = (known.is_some() || link.is_some()).then(|| {
            let own = known.into_iter().flat_map(|node| &node.addresses);
            let addresses = own.chain(link.into_iter().flat_map(|link| &link.overlay)).copied().collect();
            let labels = known.map(|known| known.labels.clone()).unwrap_or_default();
            Claims { handle: self.use_node(node.clone(), set), addresses, believed: rules::node_addresses(state, node), labels }
        });
        for claims in before.iter().chain(&now) {
            dirty.addresses.extend(&claims.addresses);
        }
        let same = before.as_ref().zip(now.as_ref()).is_some_and(|(before, now)| before.believed == now.believed);
        if !same {
            let of_node = Arc::make_mut(&mut set.ends.node_addresses);
            for (handle, address) in before.iter().flat_map(Claims::pairs) {
                of_node.remove(&(handle, address));
            }
            of_node.extend(now.iter().flat_map(Claims::pairs));
        }
        if let Some(claims) = &now {
            self.digest.add(&("node", node, &claims.addresses, &claims.believed, &claims.labels));
        }
        if let Some(claims) = before {
            self.digest.sub(&("node", node, &claims.addresses, &claims.believed, &claims.labels));
            self.nodes.release(claims.handle);
        }
        self.node_claims.extend(now.map(|claims| (node.clone(), claims)));
    }

    /// Returns the number of a cluster, which it keeps.
    pub(super) fn cluster(&mut self, cluster: &ClusterName) -> u32 {
        let (number, new) = self.clusters.intern(cluster.clone());
        if new {
            self.clusters.retain(number);
        }
        number
    }
}
