//! Who is behind an address.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::index::{insert, remove};
use crate::{Key, NodeId, Resource, WorkloadId};

/// The owners of every address of the admitted facts.
///
/// Two facts may claim one address while one of them is stale; the claims are kept, so that the answer does not depend on the
/// order in which they came and went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    workloads: Claims<WorkloadId>,
    nodes: Claims<NodeId>,
    refused: Claims<Key>,
}

/// Claimants in order. Nearly every address has one: a list of exactly that many weighs a tenth of a tree with room for eleven.
type Claims<T> = HashMap<IpAddr, Vec<T>, foldhash::fast::RandomState>;

impl Addresses {
    pub(super) fn add(&mut self, resource: &Resource) {
        match resource {
            Resource::Workload(workload) if !workload.host_network => {
                claim(&mut self.workloads, &workload.addresses, &workload.id);
            }
            Resource::Node(node) => claim(&mut self.nodes, &node.addresses, &node.id),
            Resource::NodeLink(link) => claim(&mut self.nodes, &link.overlay, &link.id),
            _ => {}
        }
    }

    pub(super) fn remove(&mut self, resource: &Resource) {
        match resource {
            Resource::Workload(workload) if !workload.host_network => {
                yield_claim(&mut self.workloads, &workload.addresses, &workload.id);
            }
            Resource::Node(node) => yield_claim(&mut self.nodes, &node.addresses, &node.id),
            Resource::NodeLink(link) => yield_claim(&mut self.nodes, &link.overlay, &link.id),
            _ => {}
        }
    }

    pub(super) fn workload(&self, address: IpAddr) -> Option<&WorkloadId> {
        self.workloads.get(&address)?.first()
    }

    /// Returns the node that has `address`, of those that `may` have it.
    pub(super) fn node(&self, address: IpAddr, may: impl Fn(&NodeId) -> bool) -> Option<&NodeId> {
        self.nodes.get(&address)?.iter().find(|node| may(node))
    }

    /// Notes that the refused fact of `key` claims `addresses`.
    pub(super) fn refuse(&mut self, addresses: &[IpAddr], key: &Key) {
        claim(&mut self.refused, addresses, key);
    }

    pub(super) fn unrefuse(&mut self, addresses: &[IpAddr], key: &Key) {
        yield_claim(&mut self.refused, addresses, key);
    }

    /// Tells whether a refused fact of a plain source claims `address`.
    pub(super) fn is_refused(&self, address: IpAddr) -> bool {
        self.refused.contains_key(&address)
    }
}

fn claim<T: Ord + Clone>(claims: &mut Claims<T>, addresses: &[IpAddr], owner: &T) {
    for address in addresses {
        insert(claims.entry(*address).or_default(), owner.clone());
    }
}

fn yield_claim<T: Ord>(claims: &mut Claims<T>, addresses: &[IpAddr], owner: &T) {
    for address in addresses {
        if claims.get_mut(address).is_some_and(|owners| remove(owners, owner)) {
            claims.remove(address);
        }
    }
}
