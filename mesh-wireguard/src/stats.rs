//! What a tunnel counts.

use std::net::SocketAddr;

use mesh_core::{NodeId, WallTime, WireGuardKey};
use mesh_dataplane::Counters;

use crate::session::Refusal;

/// One reading of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelStats {
    /// The peers, by node.
    pub peers: Vec<PeerStats>,
    /// What the engine counted.
    pub engine: EngineCounters,
    /// What the forwarder counted: packets by verdict, drops by reason.
    pub forwarder: Counters,
    /// What the device and the sockets lost.
    pub io: IoCounters,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStats {
    /// The node.
    pub node: NodeId,
    /// Its key that packets go out by.
    pub key: WireGuardKey,
    /// Where it was heard last, or else where it is said to be.
    pub endpoint: Option<SocketAddr>,
    /// When both sides last finished a handshake.
    pub last_handshake: Option<WallTime>,
    /// Bytes of authentic datagrams from it.
    pub rx_bytes: u64,
    /// Bytes of datagrams to it.
    pub tx_bytes: u64,
}

/// What the engine counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Finished handshakes.
    pub handshakes: u64,
    /// Messages that were not believed, by reason.
    pub refused: Refusals,
    /// Packets for peers without a session object: they were removed in between.
    pub no_session: u64,
    /// Datagrams for peers whose address is not known (yet).
    pub no_endpoint: u64,
    /// Packets without ECN whose datagrams had met congestion: dropped, so that their senders learn of it (RFC 6040 §4.2).
    pub congested: u64,
}

/// Messages that were not believed, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// No message of the protocol, or a packet inside that is no IP packet.
    pub malformed: u64,
    /// A wrong key, tag or checksum.
    pub unauthentic: u64,
    /// Seen before, or too old.
    pub replayed: u64,
    /// For a session or from a key that is not known.
    pub no_session: u64,
    /// Too many handshakes.
    pub under_load: u64,
    /// For a session that gave up.
    pub expired: u64,
}

impl Refusals {
    /// Returns how many there were in all.
    pub fn total(&self) -> u64 {
        self.malformed + self.unauthentic + self.replayed + self.no_session + self.under_load + self.expired
    }

    pub(crate) fn count(&mut self, refusal: Refusal) {
        *match refusal {
            Refusal::Malformed => &mut self.malformed,
            Refusal::Unauthentic => &mut self.unauthentic,
            Refusal::Replayed => &mut self.replayed,
            Refusal::NoSession => &mut self.no_session,
            Refusal::UnderLoad => &mut self.under_load,
            Refusal::Expired => &mut self.expired,
        } += 1;
    }
}

/// What the device and the sockets lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Datagrams that the kernel did not take: no route, no buffer, a firewall.
    pub send_errors: u64,
    /// Packets that the TUN did not take.
    pub tun_errors: u64,
    /// Datagrams longer than any that a peer sends.
    pub truncated: u64,
    /// Flow records that nobody fetched in time.
    pub records_lost: u64,
}
