//! What the engine keeps for each peer and each of its keys.

use std::net::SocketAddr;

use mesh_core::{NodeId, Now, Time, WallTime, WireGuardKey};
use mesh_dataplane::{Peer, PeerHandle};

use crate::message::Message;
use crate::session::Step;

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
    /// Notes what was sent, if anything.
    pub(super) fn sent(&mut self, len: usize, now: Now) {
        if len > 0 {
            self.last_sent = now.time;
            self.tx_bytes += len as u64;
        }
    }
}

/// One key and its session. A key proves who holds it and nothing else: where several nodes are said to have it, each is
/// believed for its own prefixes, so that who copies another's key gains nothing and takes nothing away.
pub(super) struct Link<S> {
    /// The peers that are said to have the key: one, unless somebody lies.
    pub(super) claimants: Vec<PeerHandle>,
    pub(super) key: WireGuardKey,
    pub(super) session: S,
    /// Where the holder of the key was heard last.
    pub(super) endpoint: Option<SocketAddr>,
    /// When something came last that shows that the peer hears too: data, or an answer. An initiation does not.
    pub(super) heard: Time,
    /// The receiver index of the latest handshake that both sides are known to have finished.
    pub(super) confirmed: Option<u32>,
    /// When an initiation was answered, where the holder has not used the new keys yet.
    pub(super) answered: Option<Time>,
    /// When an answer was taken while that was so: two handshakes came about at once, and a third one settles it.
    pub(super) crossed: Option<Time>,
    pub(super) last_handshake: Option<WallTime>,
    /// The indices of the last initiations that may still be answered: none from before the latest handshake.
    pub(super) calls: [Option<u32>; 2],
    /// Those from right before it.
    pub(super) overtaken: [Option<u32>; 2],
}

impl<S> Link<S> {
    /// Remembers an initiation, where that is what `step` sends.
    pub(super) fn note_call(&mut self, step: &Step, room: &[u8]) {
        if let Step::Send(len) = step
            && let Some(Message::Initiation { sender }) = Message::parse(&room[..*len])
        {
            self.calls = [Some(sender), self.calls[0]];
        }
    }
}
