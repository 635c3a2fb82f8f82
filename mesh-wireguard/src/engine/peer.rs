//! What the engine keeps for each peer and each of its keys.

use std::net::SocketAddr;

use mesh_core::{NodeId, Time, WallTime, WireGuardKey};
use mesh_dataplane::{Peer, PeerHandle};

/// A peer.
pub(super) struct PeerState {
    pub(super) node: NodeId,
    /// As it was set.
    pub(super) spec: Peer,
    /// Where it was heard last, or else where it is said to be.
    pub(super) endpoint: Option<SocketAddr>,
    /// The session that packets go out by: that of the last handshake, of whichever key.
    pub(super) active: u32,
    /// Handshakes begun since the last one that came about.
    pub(super) attempts: u32,
    /// When the next handshake is tried, while none came about.
    pub(super) retry: Time,
    pub(super) last_sent: Time,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl PeerState {
    /// Notes an authentic datagram: the peer is where it came from.
    pub(super) fn heard(&mut self, source: SocketAddr, len: usize) {
        self.endpoint = Some(source);
        self.rx_bytes += len as u64;
    }
}

/// One key of a peer and its session.
pub(super) struct Link<S> {
    pub(super) peer: PeerHandle,
    pub(super) key: WireGuardKey,
    pub(super) session: S,
    /// The receiver index of the latest handshake that both sides are known to have finished.
    pub(super) confirmed: Option<u32>,
    /// An initiation was answered, and the peer has not used the new keys yet.
    pub(super) answered: bool,
    pub(super) last_handshake: Option<WallTime>,
}
