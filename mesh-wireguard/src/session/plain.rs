//! The messages of WireGuard without its cryptography: for tests, and to measure everything else.

use std::net::IpAddr;

use mesh_core::{Time, WireGuardKey};

use super::{Initiator, LocalKey, Refusal, Session, Step};
use crate::message::{DATA_OVERHEAD, INITIATION_LEN, Message, RESPONSE_LEN};

/// A session in the clear: whoever knows the indices is believed. Never to be used between machines.
pub struct PlainSession {
    own: WireGuardKey,
    /// This side's index as the wire has it.
    index: u32,
    /// The peer's, once a handshake told it.
    remote: Option<u32>,
    sent: u64,
    /// The counter that is expected next; a smaller one is a replay.
    expected: u64,
}

impl Session for PlainSession {
    type Local = PlainKey;

    fn encapsulate(&mut self, packet: &[u8], out: &mut [u8]) -> Step {
        let Some(remote) = self.remote else { return self.handshake(out) };
        let len = packet.len() + DATA_OVERHEAD;
        out[..8].copy_from_slice(&header(4, remote));
        out[8..16].copy_from_slice(&self.sent.to_le_bytes());
        out[16..16 + packet.len()].copy_from_slice(packet);
        out[16 + packet.len()..len].fill(0);
        self.sent += 1;
        Step::Send(len)
    }

    fn decapsulate(&mut self, _source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Step {
        if datagram.is_empty() {
            return Step::Idle;
        }
        match Message::parse(datagram) {
            Some(Message::Initiation { .. }) => {
                self.remote = Some(word(datagram, 4));
                (self.sent, self.expected) = (0, 0);
                out[..8].copy_from_slice(&header(2, self.index));
                out[8..12].copy_from_slice(&datagram[4..8]);
                out[12..RESPONSE_LEN].fill(0);
                Step::Send(RESPONSE_LEN)
            }
            Some(Message::Response { .. }) => {
                self.remote = Some(word(datagram, 4));
                (self.sent, self.expected) = (0, 0);
                self.encapsulate(&[], out)
            }
            Some(Message::Data { .. }) if self.remote.is_none() => Step::Refused(Refusal::NoSession),
            Some(Message::Data { .. }) => {
                let counter = u64::from(word(datagram, 8)) | u64::from(word(datagram, 12)) << 32;
                if counter < self.expected {
                    return Step::Refused(Refusal::Replayed);
                }
                self.expected = counter.saturating_add(1);
                let packet = &datagram[16..datagram.len() - 16];
                out[..packet.len()].copy_from_slice(packet);
                if packet.is_empty() { Step::Idle } else { Step::Deliver(packet.len()) }
            }
            Some(Message::Cookie { .. }) | None => Step::Refused(Refusal::Malformed),
        }
    }

    fn handle_timeout(&mut self, _out: &mut [u8]) -> Step {
        Step::Idle
    }

    fn handshake(&mut self, out: &mut [u8]) -> Step {
        out[..8].copy_from_slice(&header(1, self.index));
        out[8..40].copy_from_slice(&self.own.0);
        out[40..INITIATION_LEN].fill(0);
        Step::Send(INITIATION_LEN)
    }
}

/// The local side of plain sessions: a name in the form of a key.
pub struct PlainKey(pub WireGuardKey);

impl LocalKey for PlainKey {
    type Session = PlainSession;

    fn public(&self) -> WireGuardKey {
        self.0
    }

    fn open(&self, _peer: &WireGuardKey, index: u32) -> PlainSession {
        PlainSession { own: self.0, index: index << 8, remote: None, sent: 0, expected: 0 }
    }

    fn identify(&mut self, _source: IpAddr, initiation: &[u8], _out: &mut [u8]) -> Initiator {
        let key = initiation.get(8..40).and_then(|key| key.try_into().ok());
        key.map_or(Initiator::Refused(Refusal::Malformed), |key| Initiator::Peer(WireGuardKey(key)))
    }

    fn handle_timeout(&mut self, _now: Time) {}
}

fn header(kind: u8, index: u32) -> [u8; 8] {
    let [a, b, c, d] = index.to_le_bytes();
    [kind, 0, 0, 0, a, b, c, d]
}

/// Returns the little-endian word at `at` of a message whose length was checked.
fn word(message: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]])
}
