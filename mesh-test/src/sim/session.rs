//! WireGuard's sessions without its cryptography, under virtual time.
//!
//! The messages, key generations, timers and replay windows are WireGuard's (whitepaper, sections 5 and 6); the cipher is a
//! checksum over a secret that the two ends share and nobody else computes. What is forged, changed or replayed on the way is
//! refused as by the real one, and nothing reads a clock.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_core::{Time, WireGuardKey};
use mesh_wireguard::message::{DATA_OVERHEAD, INITIATION_LEN, Message, RESPONSE_LEN};
use mesh_wireguard::session::{Initiator, LocalKey, Refusal, Session, Step};

use super::rng::mix;

const SECOND: u64 = 1_000_000_000;
/// After these times keys are renewed by who began, and used no more (REKEY_AFTER_TIME, REJECT_AFTER_TIME).
const REKEY: u64 = 120 * SECOND;
const REJECT: u64 = 180 * SECOND;
/// Sent and heard nothing: a new handshake (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT); heard and sent nothing: a keepalive.
const SILENCE: u64 = 15 * SECOND;
const KEEPALIVE: u64 = 10 * SECOND;
/// The shortest time between two initiations of a session's own (REKEY_TIMEOUT), and how long it tries (REKEY_ATTEMPT_TIME).
const RETRY: u64 = 5 * SECOND;
const ATTEMPTS: u64 = 90 * SECOND;
/// The handshakes whose keys are kept.
const MAX_KEYS: usize = 8;
/// The packets that wait for a handshake.
const MAX_WAITING: usize = 16;

/// The clock of a node's sessions: the simulator sets it.
pub type Clock = Arc<AtomicU64>;

/// The local side of simulated sessions.
pub struct SimKey {
    own: WireGuardKey,
    clock: Clock,
}

impl SimKey {
    /// Takes the node's name in the form of a key, and its clock (nanoseconds).
    pub fn new(own: WireGuardKey, clock: Clock) -> SimKey {
        SimKey { own, clock }
    }
}

/// Keys of one handshake.
#[derive(Clone, Debug)]
struct Keys {
    local: u32,
    remote: u32,
    /// What tells this handshake from every other of the two.
    salt: u64,
    born: u64,
    began: bool,
    sent: u64,
    /// The highest counter seen, and which of the 64 below it were.
    highest: u64,
    window: u64,
}

/// One end of a simulated session.
pub struct SimSession {
    own: WireGuardKey,
    peer: WireGuardKey,
    index: u32,
    generation: u32,
    clock: Clock,
    /// The keys of the latest handshakes, begun or answered: by each of them something may still come.
    keys: VecDeque<Keys>,
    /// The local index of the keys that are used: the newest that the peer is known to have.
    current: Option<u32>,
    /// The index of the initiation that waits for its answer, and since when.
    initiated: Option<(u32, u64)>,
    /// The one before it: its answer may still be on the way.
    initiated_before: Option<(u32, u64)>,
    /// Since when a handshake has been tried without an end.
    trying: Option<u64>,
    last_initiation: u64,
    last_sent: u64,
    last_heard: u64,
    /// Data was sent since something was heard; something was heard since anything was sent.
    unanswered: Option<u64>,
    owed: Option<u64>,
    latest_stamp: u64,
    waiting: VecDeque<Vec<u8>>,
}

impl SimSession {
    fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Returns the tag of what this side sends: it binds the sender's part, so that nothing can be sent back to who sent it.
    fn tag(&self, salt: u64, bytes: &[u8]) -> u64 {
        digest(digest(digest(0x005e_c2e7 ^ salt, &self.own.0), &self.peer.0), bytes)
    }

    fn tag_of_peer(&self, salt: u64, bytes: &[u8]) -> u64 {
        digest(digest(digest(0x005e_c2e7 ^ salt, &self.peer.0), &self.own.0), bytes)
    }

    fn fresh(&mut self) -> u32 {
        self.generation = (self.generation + 1) & 0xff;
        self.index << 8 | self.generation
    }

    fn place(&self, local: u32) -> Option<usize> {
        let now = self.now();
        self.keys.iter().position(|keys| keys.local == local && now.saturating_sub(keys.born) < REJECT)
    }

    /// Returns the place of the keys that are used, while they may be.
    fn usable(&self) -> Option<usize> {
        self.place(self.current?)
    }

    fn add(&mut self, keys: Keys) {
        if self.keys.len() >= MAX_KEYS {
            self.keys.pop_front();
        }
        self.keys.push_back(keys);
    }

    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Step {
        let now = self.now();
        let Some(place) = self.usable() else { return Step::Idle };
        let keys = &mut self.keys[place];
        let len = packet.len() + DATA_OVERHEAD;
        out[..8].copy_from_slice(&header(4, keys.remote));
        out[8..16].copy_from_slice(&keys.sent.to_le_bytes());
        out[16..16 + packet.len()].copy_from_slice(packet);
        keys.sent += 1;
        let salt = keys.salt;
        let tag = self.tag(salt, &out[..16 + packet.len()]);
        out[16 + packet.len()..][..8].copy_from_slice(&tag.to_le_bytes());
        out[24 + packet.len()..len].fill(0);
        self.last_sent = now;
        self.owed = None;
        if !packet.is_empty() {
            self.unanswered.get_or_insert(now);
        }
        Step::Send(len)
    }

    fn heard(&mut self) {
        self.last_heard = self.now();
        self.unanswered = None;
    }

    fn take_initiation(&mut self, datagram: &[u8], out: &mut [u8]) -> Step {
        let stamp = u64::from_le_bytes(datagram[72..80].try_into().expect("an initiation is longer"));
        if self.tag_of_peer(0, &datagram[..80]).to_le_bytes() != datagram[80..88] {
            return Step::Refused(Refusal::Unauthentic);
        }
        if stamp <= self.latest_stamp {
            return Step::Refused(Refusal::Replayed);
        }
        self.latest_stamp = stamp;
        let (local, remote, born) = (self.fresh(), word(datagram, 4), self.now());
        // In the place of the ephemeral key: an initiation that is answered again in a later life makes other keys.
        let salt = mix(stamp ^ mix(born));
        self.add(Keys { local, remote, salt, born, began: false, sent: 0, highest: 0, window: 0 });
        self.heard();
        out[..8].copy_from_slice(&header(2, local));
        out[8..12].copy_from_slice(&remote.to_le_bytes());
        out[12..20].copy_from_slice(&salt.to_le_bytes());
        let tag = self.tag(stamp, &out[..20]);
        out[20..28].copy_from_slice(&tag.to_le_bytes());
        out[28..RESPONSE_LEN].fill(0);
        self.last_sent = born;
        Step::Send(RESPONSE_LEN)
    }

    fn take_response(&mut self, datagram: &[u8], receiver: u32, out: &mut [u8]) -> Step {
        let mut initiated = [self.initiated, self.initiated_before].into_iter().flatten();
        let Some((_, stamp)) = initiated.find(|(index, _)| *index == receiver) else {
            return Step::Refused(Refusal::NoSession);
        };
        // An answer is to one initiation: one that was given in an earlier life is none, although indices come again.
        if self.tag_of_peer(stamp, &datagram[..20]).to_le_bytes() != datagram[20..28] {
            return Step::Refused(Refusal::Unauthentic);
        }
        let remote = word(datagram, 4);
        let keys = Keys {
            local: receiver,
            remote,
            salt: u64::from_le_bytes(datagram[12..20].try_into().expect("an answer is longer")),
            born: self.now(),
            began: true,
            sent: 0,
            highest: 0,
            window: 0,
        };
        self.add(keys);
        self.current = Some(receiver);
        (self.initiated, self.initiated_before, self.trying) = (None, None, None);
        self.heard();
        // What waited goes first and confirms the keys; a keepalive does where nothing waited.
        let packet = self.waiting.pop_front().unwrap_or_default();
        self.seal(&packet, out)
    }

    fn take_data(&mut self, datagram: &[u8], receiver: u32, out: &mut [u8]) -> Step {
        let now = self.now();
        let end = datagram.len() - 16;
        let Some(place) = self.place(receiver) else { return Step::Refused(Refusal::NoSession) };
        if self.tag_of_peer(self.keys[place].salt, &datagram[..end]).to_le_bytes() != datagram[end..end + 8] {
            return Step::Refused(Refusal::Unauthentic);
        }
        let counter = u64::from_le_bytes(datagram[8..16].try_into().expect("a data message is longer")) + 1;
        if !accept(&mut self.keys[place], counter) {
            return Step::Refused(Refusal::Replayed);
        }
        if self.usable().is_none_or(|used| self.keys[used].born <= self.keys[place].born) {
            (self.current, self.trying) = (Some(receiver), None);
        }
        self.heard();
        let packet = &datagram[16..end];
        out[..packet.len()].copy_from_slice(packet);
        if packet.is_empty() {
            return Step::Idle;
        }
        self.owed.get_or_insert(now);
        Step::Deliver(packet.len())
    }
}

/// Notes a counter; tells whether it is new and not too old.
fn accept(keys: &mut Keys, counter: u64) -> bool {
    if counter > keys.highest {
        let shift = counter - keys.highest;
        keys.window = if shift >= 64 { 0 } else { keys.window << shift } | 1;
        keys.highest = counter;
        return true;
    }
    let behind = keys.highest - counter;
    if behind >= 64 || keys.window >> behind & 1 == 1 {
        return false;
    }
    keys.window |= 1 << behind;
    true
}

impl Session for SimSession {
    type Local = SimKey;

    fn encapsulate(&mut self, packet: &[u8], out: &mut [u8]) -> Step {
        if let Some(place) = self.usable() {
            let (now, keys) = (self.now(), &self.keys[place]);
            if keys.began && now.saturating_sub(keys.born) >= REKEY {
                self.trying.get_or_insert(now);
            }
            return self.seal(packet, out);
        }
        if !packet.is_empty() {
            self.waiting.push_back(packet.to_vec());
            if self.waiting.len() > MAX_WAITING {
                self.waiting.pop_front();
            }
        }
        if self.initiated.is_some() && self.now().saturating_sub(self.last_initiation) < RETRY {
            return Step::Idle;
        }
        self.handshake(out)
    }

    fn decapsulate(&mut self, _source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Step {
        if datagram.is_empty() {
            return match self.waiting.pop_front() {
                Some(packet) if self.usable().is_some() => self.seal(&packet, out),
                _ => Step::Idle,
            };
        }
        match Message::parse(datagram) {
            Some(Message::Initiation { .. }) => self.take_initiation(datagram, out),
            Some(Message::Response { receiver }) => self.take_response(datagram, receiver, out),
            Some(Message::Data { receiver }) => self.take_data(datagram, receiver, out),
            Some(Message::Cookie { .. }) | None => Step::Refused(Refusal::Malformed),
        }
    }

    fn handle_timeout(&mut self, out: &mut [u8]) -> Step {
        let now = self.now();
        if let Some(since) = self.trying
            && now.saturating_sub(since) >= ATTEMPTS
        {
            (self.trying, self.initiated, self.unanswered) = (None, None, None);
            self.keys.clear();
            self.current = None;
            self.waiting.clear();
            return Step::Refused(Refusal::Expired);
        }
        if self.unanswered.is_some_and(|since| now.saturating_sub(since) >= SILENCE) {
            self.unanswered = None;
            self.trying.get_or_insert(now);
        }
        if self.trying.is_some() && now.saturating_sub(self.last_initiation) >= RETRY {
            return self.handshake(out);
        }
        if self.owed.is_some_and(|since| now.saturating_sub(since) >= KEEPALIVE) && self.usable().is_some() {
            return self.seal(&[], out);
        }
        Step::Idle
    }

    fn handshake(&mut self, out: &mut [u8]) -> Step {
        let now = self.now();
        let index = self.fresh();
        self.initiated_before = self.initiated.replace((index, now.max(1)));
        self.trying.get_or_insert(now);
        self.last_initiation = now;
        self.last_sent = now;
        out[..8].copy_from_slice(&header(1, index));
        out[8..40].copy_from_slice(&self.own.0);
        out[40..72].copy_from_slice(&self.peer.0);
        out[72..80].copy_from_slice(&now.max(1).to_le_bytes());
        let tag = self.tag(0, &out[..80]);
        out[80..88].copy_from_slice(&tag.to_le_bytes());
        out[88..INITIATION_LEN].fill(0);
        Step::Send(INITIATION_LEN)
    }
}

impl LocalKey for SimKey {
    type Session = SimSession;

    fn public(&self) -> WireGuardKey {
        self.own
    }

    fn open(&self, peer: &WireGuardKey, index: u32) -> SimSession {
        SimSession {
            own: self.own,
            peer: *peer,
            index,
            generation: 0,
            clock: self.clock.clone(),
            keys: VecDeque::new(),
            current: None,
            initiated: None,
            initiated_before: None,
            trying: None,
            last_initiation: 0,
            last_sent: 0,
            last_heard: 0,
            unanswered: None,
            owed: None,
            latest_stamp: 0,
            waiting: VecDeque::new(),
        }
    }

    fn identify(&mut self, _source: IpAddr, initiation: &[u8], _out: &mut [u8]) -> Initiator {
        let key = |at: usize| initiation.get(at..at + 32).and_then(|key| key.try_into().ok()).map(WireGuardKey);
        match (key(8), key(40)) {
            (Some(peer), Some(own)) if own == self.own => Initiator::Peer(peer),
            _ => Initiator::Refused(Refusal::Unauthentic),
        }
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

fn digest(seed: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(mix(seed ^ bytes.len() as u64), |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}
