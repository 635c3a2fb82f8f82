//! Sessions: what turns packets into datagrams for one peer's key, and back.

use std::net::IpAddr;

use mesh_core::{Time, WireGuardKey};

mod boring;
mod plain;

pub use self::boring::{BoringKey, BoringSession};
pub use self::plain::{PlainKey, PlainSession};

/// The number of sessions that one engine can have: a session's index is 24 bits of the wire's receiver index, whose last 8
/// bits number the session's key generations.
pub const MAX_SESSIONS: u32 = 1 << 24;

/// The bytes that an output buffer must have beyond the input's length.
pub const ROOM: usize = crate::message::INITIATION_LEN + crate::message::DATA_OVERHEAD;

/// One end of the conversation with one key of a peer. All output goes to the front of `out`, which has at least [`ROOM`]
/// bytes more than the input.
pub trait Session: Send {
    /// The local side that makes these sessions.
    type Local: LocalKey<Session = Self>;

    /// Encrypts `packet`; an empty one is a keepalive. Without a live session the packet may be kept back, and the output is a
    /// handshake message.
    fn encapsulate(&mut self, packet: &[u8], out: &mut [u8]) -> Step;

    /// Takes a message from `source`. An empty `datagram` asks for a packet that was kept back: repeat until [`Step::Idle`].
    fn decapsulate(&mut self, source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Step;

    /// Does what time asks for: a new handshake, a keepalive, forgetting keys. To be called about four times a second.
    fn handle_timeout(&mut self, out: &mut [u8]) -> Step;

    /// Begins a handshake now, whatever is under way.
    fn handshake(&mut self, out: &mut [u8]) -> Step;
}

/// A node's own key: opens sessions, and tells whose a handshake is before there is one.
pub trait LocalKey: Send {
    /// What it opens.
    type Session: Session<Local = Self>;

    /// Returns the key by which peers know the node.
    fn public(&self) -> WireGuardKey;

    /// Opens a session with the owner of `peer`; `index` is below [`MAX_SESSIONS`] and no other live session's.
    fn open(&self, peer: &WireGuardKey, index: u32) -> Self::Session;

    /// Checks a handshake initiation from `source` and tells whose it is; `out` has [`ROOM`].
    fn identify(&mut self, source: IpAddr, initiation: &[u8], out: &mut [u8]) -> Initiator;

    /// Renews the budget of handshakes.
    fn handle_timeout(&mut self, now: Time);
}

/// What came of a call to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Nothing to do.
    Idle,
    /// The first bytes of the output, so many, are a datagram for the peer.
    Send(usize),
    /// The first bytes of the output, so many, are a packet from the peer.
    Deliver(usize),
    /// The input was not believed.
    Refused(Refusal),
}

/// Who sent a handshake initiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Initiator {
    /// The owner of this key, as it claims; the session proves it.
    Peer(WireGuardKey),
    /// Too many handshakes: the first bytes of the output, so many, ask the sender to prove its address.
    Reply(usize),
    /// It was not believed.
    Refused(Refusal),
}

/// Why a message was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// No message of the protocol, or a packet inside that is no IP packet.
    Malformed,
    /// A wrong key, tag or checksum.
    Unauthentic,
    /// Seen before, or too old.
    Replayed,
    /// For a session that is not there (any more).
    NoSession,
    /// Too many handshakes.
    UnderLoad,
    /// The peer did not answer for so long that the session gave up; [`Session::handshake`] begins again.
    Expired,
}
