//! Who owns an address: this node, or which peer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hashbrown::HashMap;
use mesh_core::{NodeId, Prefix, PrefixMap};

use super::PeerHandle;
use crate::flow_table::Owner;

/// Local prefixes and routes in one longest-prefix map.
#[derive(Debug, Default)]
pub(super) struct Routes {
    handles: HashMap<NodeId, PeerHandle, foldhash::fast::RandomState>,
    nodes: Vec<NodeId>,
    owners: PrefixMap<Claims>,
    local: BTreeSet<Prefix>,
}

/// While a prefix moves between this node and a peer both may claim it: what is local stays local.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Claims {
    local: bool,
    peer: Option<PeerHandle>,
}

impl Routes {
    pub(super) fn peer(&mut self, node: &NodeId) -> PeerHandle {
        if let Some(handle) = self.handles.get(node) {
            return *handle;
        }
        let handle = PeerHandle(u32::try_from(self.nodes.len()).expect("fewer peers than a u32 counts"));
        self.nodes.push(node.clone());
        self.handles.insert(node.clone(), handle);
        handle
    }

    pub(super) fn node(&self, handle: PeerHandle) -> Option<&NodeId> {
        self.nodes.get(handle.0 as usize)
    }

    /// Returns who owns `address`, by its longest prefix.
    pub(super) fn owner(&self, address: IpAddr) -> Option<Owner> {
        let (_, claims) = self.owners.lookup(address)?;
        if claims.local { Some(Owner::Local) } else { claims.peer.map(Owner::Peer) }
    }

    /// Replaces the local prefixes; tells whether that changed anything.
    pub(super) fn set_local(&mut self, prefixes: &BTreeSet<Prefix>) -> bool {
        let changed: Vec<Prefix> = self.local.symmetric_difference(prefixes).copied().collect();
        for prefix in &changed {
            self.change(*prefix, |claims| claims.local = prefixes.contains(prefix));
        }
        self.local.clone_from(prefixes);
        !changed.is_empty()
    }

    /// Gives `prefix` to a peer, or to none; tells whether that changed anything.
    pub(super) fn set_route(&mut self, prefix: Prefix, peer: Option<PeerHandle>) -> bool {
        self.change(prefix, |claims| claims.peer = peer)
    }

    /// Takes every prefix from `peer`; tells whether it had any.
    pub(super) fn remove_routes_of(&mut self, peer: PeerHandle) -> bool {
        let own: Vec<Prefix> = self.owners.iter().filter(|(_, c)| c.peer == Some(peer)).map(|(prefix, _)| prefix).collect();
        own.iter().for_each(|prefix| {
            self.set_route(*prefix, None);
        });
        !own.is_empty()
    }

    fn change(&mut self, prefix: Prefix, change: impl FnOnce(&mut Claims)) -> bool {
        let before = self.owners.get(prefix).copied().unwrap_or_default();
        let mut after = before;
        change(&mut after);
        if after == Claims::default() {
            self.owners.remove(prefix);
        } else {
            self.owners.insert(prefix, after);
        }
        before != after
    }
}
