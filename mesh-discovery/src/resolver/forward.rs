//! Queries on their way to the upstreams and back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use domain::base::iana::Rcode;
use domain::base::{Message, Ttl};
use mesh_core::Time;

use super::cache::Key;
use super::stored::{MaxTtl, Stored};
use super::{Entropy, ResolverConfig};
use crate::name::DnsName;
use crate::wire::{self, HEADER, Transport};
use crate::zone::Area;

/// One attempt at a forwarded query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardId {
    query: u64,
    attempt: u32,
}

/// A message for an upstream. Send it from a socket of its own, so that the port is as hard to guess as the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// What its answer is handed in under.
    pub id: ForwardId,
    /// Where it goes.
    pub upstream: SocketAddr,
    /// How it goes.
    pub transport: Transport,
    /// The message, without a length in front.
    pub packet: Vec<u8>,
    /// When its answer is no longer of use.
    pub deadline: Time,
}

/// What the upstreams are asked.
pub(super) struct Question {
    pub(super) key: Key,
    /// What [`wire::upstream_query`] made; the resolver cannot ask without.
    pub(super) packet: Vec<u8>,
    pub(super) dnssec_ok: bool,
}

/// A client that waits for an upstream.
pub(super) struct Waiter<C> {
    /// Its query, as it came.
    pub(super) query: Vec<u8>,
    pub(super) transport: Transport,
    pub(super) area: Area,
    /// The aliases that led outside; empty: the client's own question was forwarded.
    pub(super) chain: Vec<DnsName>,
    pub(super) ttl: Ttl,
    pub(super) client: C,
}

/// A forwarded question that is over: with an upstream's answer, or without any.
pub(super) struct Done<C> {
    pub(super) key: Key,
    pub(super) waiters: Vec<Waiter<C>>,
    pub(super) answer: Option<Arc<Stored>>,
}

/// What became of a question.
pub(super) enum Started {
    /// An upstream is asked.
    Asked,
    /// It is asked already, and its answer is for this client as well.
    Joined,
}

/// What a packet of an upstream was.
pub(super) enum Response {
    Accepted,
    /// The answer, but for the case of the name: perhaps a forged one.
    WrongCase,
    Mismatch,
}

struct Pending<C> {
    key: Key,
    waiters: Vec<Waiter<C>>,
    /// What is asked, with the id and the case of the current attempt, and always with an OPT record.
    packet: Vec<u8>,
    dnssec_ok: bool,
    attempt: u32,
    upstream: SocketAddr,
    deadline: Time,
    transport: Transport,
    /// The upstream is told of EDNS.
    edns: bool,
    /// How many upstreams were tried before this one.
    tried: u32,
    /// The last refusal of an upstream, if all do no better.
    refusal: Option<Stored>,
}

/// All queries that wait.
pub(super) struct Forwarder<C> {
    config: ResolverConfig,
    entropy: Entropy,
    next: u64,
    pending: BTreeMap<u64, Pending<C>>,
    by_key: BTreeMap<Key, u64>,
    /// How many clients wait.
    waiting: usize,
    deadlines: BTreeSet<(Time, u64)>,
    transmits: VecDeque<Transmit>,
    done: VecDeque<Done<C>>,
}

impl<C> Forwarder<C> {
    pub(super) fn new(config: ResolverConfig, entropy: Entropy) -> Forwarder<C> {
        Forwarder {
            config,
            entropy,
            next: 0,
            pending: BTreeMap::new(),
            by_key: BTreeMap::new(),
            waiting: 0,
            deadlines: BTreeSet::new(),
            transmits: VecDeque::new(),
            done: VecDeque::new(),
        }
    }

    /// Tells whether another client may wait.
    pub(super) fn has_room(&self) -> bool {
        self.waiting < self.config.max_pending && !self.config.upstreams.is_empty()
    }

    /// Begins to ask the upstreams, unless the same is being asked: a client that makes the resolver ask twice at once would
    /// double the chance of a forged answer. There has to be room.
    pub(super) fn start(&mut self, question: Question, waiter: Waiter<C>, now: Time) -> Started {
        let Question { key, packet, dnssec_ok } = question;
        self.waiting += 1;
        if let Some(pending) = self.by_key.get(&key).and_then(|number| self.pending.get_mut(number)) {
            pending.waiters.push(waiter);
            return Started::Joined;
        }
        let number = self.next;
        self.next += 1;
        self.by_key.insert(key.clone(), number);
        let pending = Pending {
            key,
            waiters: vec![waiter],
            packet,
            dnssec_ok,
            attempt: 0,
            upstream: self.config.upstreams[0],
            deadline: now,
            transport: Transport::Udp,
            edns: true,
            tried: 0,
            refusal: None,
        };
        self.pending.insert(number, pending);
        self.send(number, now);
        Started::Asked
    }

    /// Sends the next attempt of a question, as it now stands.
    fn send(&mut self, number: u64, now: Time) {
        let Some(pending) = self.pending.get_mut(&number) else { return };
        self.deadlines.remove(&(pending.deadline, number));
        pending.attempt += 1;
        pending.deadline = now + self.config.timeout;
        self.deadlines.insert((pending.deadline, number));
        let id = (self.entropy)();
        domain::base::Header::for_message_slice_mut(&mut pending.packet).set_id(id);
        if self.config.randomize_case {
            randomize_case(&mut pending.packet, &mut self.entropy);
        }
        let mut packet = pending.packet.clone();
        if !pending.edns {
            wire::without_opt(&mut packet);
        }
        self.transmits.push_back(Transmit {
            id: ForwardId { query: number, attempt: pending.attempt },
            upstream: pending.upstream,
            transport: pending.transport,
            packet,
            deadline: pending.deadline,
        });
    }

    /// Turns to the next upstream; after the last one of the last round the question is over.
    fn next_upstream(&mut self, number: u64, now: Time) {
        let count = self.config.upstreams.len();
        let Some(pending) = self.pending.get_mut(&number) else { return };
        pending.tried += 1;
        if pending.tried as usize >= count * self.config.rounds.max(1) as usize {
            let answer = pending.refusal.take();
            return self.finish(number, answer);
        }
        pending.upstream = self.config.upstreams[pending.tried as usize % count];
        pending.transport = Transport::Udp;
        pending.edns = true;
        self.send(number, now);
    }

    fn finish(&mut self, number: u64, answer: Option<Stored>) {
        let Some(pending) = self.pending.remove(&number) else { return };
        self.deadlines.remove(&(pending.deadline, number));
        self.by_key.remove(&pending.key);
        self.waiting -= pending.waiters.len();
        self.done.push_back(Done { key: pending.key, waiters: pending.waiters, answer: answer.map(Arc::new) });
    }

    /// Takes a packet of an upstream; tells whether it is the answer to the attempt `id`.
    pub(super) fn handle_response(&mut self, id: ForwardId, from: SocketAddr, packet: &[u8], now: Time) -> Response {
        let max = MaxTtl { positive: self.config.cache_max_ttl, negative: self.config.cache_max_negative_ttl };
        let Some(pending) = self.pending.get_mut(&id.query).filter(|pending| pending.attempt == id.attempt) else {
            return Response::Mismatch;
        };
        let Some((message, same_case)) = answered(&pending.packet, packet).filter(|_| from == pending.upstream) else {
            return Response::Mismatch;
        };
        let udp = pending.transport == Transport::Udp;
        if udp && !same_case && self.config.randomize_case {
            // Over TCP nobody can forge it, whatever the upstream does to the case.
            pending.transport = Transport::Tcp;
            self.send(id.query, now);
            return Response::WrongCase;
        }
        let header = message.header();
        if header.tc() && udp {
            pending.transport = Transport::Tcp;
            self.send(id.query, now);
            return Response::Accepted;
        }
        if matches!(header.rcode(), Rcode::FORMERR | Rcode::NOTIMP) && pending.edns {
            // An old upstream, which does not know EDNS (RFC 6891 §7).
            pending.edns = false;
            self.send(id.query, now);
            return Response::Accepted;
        }
        let stored = Stored::keep(message, pending.dnssec_ok, max);
        match header.rcode() {
            Rcode::SERVFAIL | Rcode::REFUSED | Rcode::NOTIMP | Rcode::FORMERR => {
                pending.refusal = stored;
                self.next_upstream(id.query, now);
            }
            // What cannot be read is as good as nothing.
            _ if stored.is_none() => self.next_upstream(id.query, now),
            _ => self.finish(id.query, stored),
        }
        Response::Accepted
    }

    pub(super) fn handle_failure(&mut self, id: ForwardId, now: Time) {
        if self.pending.get(&id.query).is_some_and(|pending| pending.attempt == id.attempt) {
            self.next_upstream(id.query, now);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Time) {
        while let Some((_, number)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.next_upstream(number, now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub(super) fn poll_done(&mut self) -> Option<Done<C>> {
        self.done.pop_front()
    }
}

/// Returns `packet` as the answer to `asked`, and whether the question came back in the case in which it went; `None` where it
/// answers something else, or nothing.
fn answered<'a>(asked: &[u8], packet: &'a [u8]) -> Option<(&'a Message<[u8]>, bool)> {
    let (message, query) = (Message::from_slice(packet).ok()?, Message::from_slice(asked).ok()?);
    let (header, sent) = (message.header(), query.header());
    let same = header.qr() && header.id() == sent.id() && header.opcode() == sent.opcode();
    let place = wire::question_place(packet).filter(|place| same && Some(place) == wire::question_place(asked).as_ref())?;
    let (name, rest) = (HEADER..place.end - 4, place.end - 4..place.end);
    let same = packet[name.clone()].eq_ignore_ascii_case(&asked[name.clone()]) && packet[rest.clone()] == asked[rest];
    same.then(|| (message, packet[name.clone()] == asked[name]))
}

/// Gives each letter of the question's name a case by chance: an answer that is forged blindly has to guess it as well.
fn randomize_case(packet: &mut [u8], entropy: &mut Entropy) {
    let Some(place) = wire::question_place(packet) else { return };
    let (mut bits, mut left) = (0, 0);
    // Length bytes are below 64 and no letters.
    for byte in packet[place.start..place.end - 4].iter_mut().filter(|byte| byte.is_ascii_alphabetic()) {
        if left == 0 {
            (bits, left) = (entropy(), u16::BITS);
        }
        *byte = byte.to_ascii_lowercase() & !((bits as u8 & 1) << 5);
        bits >>= 1;
        left -= 1;
    }
}
