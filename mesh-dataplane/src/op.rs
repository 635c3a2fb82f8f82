//! The steps that a tunnel understands.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use mesh_core::{NodeId, Prefix};
use mesh_policy::PolicySet;

use crate::plan::{Local, Peer, ServiceTable};

/// One idempotent step: applying it twice is applying it once, and deleting what is not there is no error.
#[derive(Clone)]
pub enum Op {
    /// Replaces the policy, in one step.
    SetPolicy(Arc<PolicySet>),
    /// Replaces the service table.
    SetServices(Arc<ServiceTable>),
    /// Replaces what is local.
    SetLocal(Local),
    /// Replaces the guarded prefixes.
    SetGuarded(BTreeSet<Prefix>),
    /// Adds a peer, or changes its keys or endpoints; its routes and live sessions stay.
    SetPeer(NodeId, Peer),
    /// Sends a prefix to a peer, and believes its packets from there; the prefix leaves the peer that had it.
    /// An error where the peer is unknown.
    SetRoute(Prefix, NodeId),
    /// Removes a prefix.
    DelRoute(Prefix),
    /// Removes a peer, and the routes that it has left.
    DelPeer(NodeId),
}

impl fmt::Display for Op {
    /// Writes what a log says: `set route 10.2.0.0/24 to west/node-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::SetPolicy(policy) => write!(f, "set policy {:016x}", policy.fingerprint()),
            Op::SetServices(services) => write!(f, "set services ({} frontends)", services.0.len()),
            Op::SetLocal(local) => write!(f, "set local {} ({} prefixes)", local.node, local.prefixes.len()),
            Op::SetGuarded(prefixes) => write!(f, "set guarded ({} prefixes)", prefixes.len()),
            Op::SetPeer(node, _) => write!(f, "set peer {node}"),
            Op::SetRoute(prefix, node) => write!(f, "set route {prefix} to {node}"),
            Op::DelRoute(prefix) => write!(f, "delete route {prefix}"),
            Op::DelPeer(node) => write!(f, "delete peer {node}"),
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Op {
    /// Compares policies by their fingerprints.
    fn eq(&self, other: &Op) -> bool {
        match (self, other) {
            (Op::SetPolicy(a), Op::SetPolicy(b)) => a.fingerprint() == b.fingerprint(),
            (Op::SetServices(a), Op::SetServices(b)) => a == b,
            (Op::SetLocal(a), Op::SetLocal(b)) => a == b,
            (Op::SetGuarded(a), Op::SetGuarded(b)) => a == b,
            (Op::SetPeer(a, peer_a), Op::SetPeer(b, peer_b)) => a == b && peer_a == peer_b,
            (Op::SetRoute(a, node_a), Op::SetRoute(b, node_b)) => a == b && node_a == node_b,
            (Op::DelRoute(a), Op::DelRoute(b)) => a == b,
            (Op::DelPeer(a), Op::DelPeer(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Op {}
