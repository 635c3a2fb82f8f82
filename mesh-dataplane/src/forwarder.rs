//! The stateful decision about every packet: policy, flow table and routes. It owns no crypto and touches no device.

use mesh_core::{FlowRecord, NodeId, Now, Time};

use crate::counters::{Counters, DropReason};
use crate::op::Op;

/// A peer by a dense number that is stable while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerHandle(pub u32);

/// What to do with a packet that was read from the TUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outbound {
    /// Encrypt it to this peer.
    Send(PeerHandle),
    /// Write it back to the TUN: both ends live here.
    Local,
    /// Drop it. It is counted.
    Drop(DropReason),
}

/// What to do with a packet that was decrypted from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Inbound {
    /// Write it to the TUN.
    Deliver,
    /// Drop it. It is counted.
    Drop(DropReason),
}

/// Decides packets.
#[derive(Debug, Default)]
pub struct Forwarder {
    counters: Counters,
    peers: Vec<NodeId>,
}

impl Forwarder {
    /// Makes a forwarder that drops everything until it is told otherwise.
    pub fn new() -> Forwarder {
        Forwarder::default()
    }

    /// Takes over a step of the plan. Steps that are not about packets (services, guarded prefixes) change nothing.
    pub fn apply(&mut self, _op: &Op) {}

    /// Returns the handle of `node`, a new one where it has none yet.
    pub fn peer(&mut self, node: &NodeId) -> PeerHandle {
        let index = self.peers.iter().position(|known| known == node).unwrap_or_else(|| {
            self.peers.push(node.clone());
            self.peers.len() - 1
        });
        PeerHandle(u32::try_from(index).expect("fewer peers than a u32 counts"))
    }

    /// Decides a packet that was read from the TUN.
    pub fn handle_outbound(&mut self, _packet: &[u8], _now: Now) -> Outbound {
        self.counters.drops.count(DropReason::NoPolicy);
        Outbound::Drop(DropReason::NoPolicy)
    }

    /// Decides a packet that was decrypted from a peer.
    pub fn handle_inbound(&mut self, _from: PeerHandle, _packet: &[u8], _now: Now) -> Inbound {
        self.counters.drops.count(DropReason::NoPolicy);
        Inbound::Drop(DropReason::NoPolicy)
    }

    /// Ends flows that were idle for too long.
    pub fn handle_timeout(&mut self, _now: Now) {}

    /// Returns when [`handle_timeout`](Forwarder::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// Returns the next flow record.
    pub fn poll_flow(&mut self) -> Option<FlowRecord> {
        None
    }

    /// Returns what was counted so far.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }
}
