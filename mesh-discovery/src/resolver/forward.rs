//! Queries on their way to the upstreams and back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use domain::base::iana::{OptRcode, Rcode};
use domain::base::{Message, ParsedName, Ttl};
use domain::rdata::AllRecordData;
use mesh_core::Time;

use super::{Entropy, ResolverConfig, local};
use crate::name::DnsName;
use crate::wire::{self, Built, Head, Parsed, Transport};
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

/// A client's query that waits for an upstream.
pub(super) struct Forwarded<C> {
    pub(super) query: Vec<u8>,
    pub(super) transport: Transport,
    pub(super) area: Area,
    /// The aliases that led outside; empty: the client's own question was forwarded.
    pub(super) chain: Vec<DnsName>,
    pub(super) ttl: Ttl,
    pub(super) client: C,
}

/// A forwarded query that is over: with the last upstream's response, or without any.
pub(super) struct Done<C> {
    pub(super) forwarded: Forwarded<C>,
    pub(super) response: Option<Vec<u8>>,
}

struct Pending<C> {
    forwarded: Forwarded<C>,
    /// What is asked, with the id of the current attempt.
    packet: Vec<u8>,
    attempt: u32,
    upstream: SocketAddr,
    deadline: Time,
    transport: Transport,
    /// How many upstreams were tried before this one.
    tried: u32,
    /// The last refusal of an upstream, if all do no better.
    refusal: Option<Vec<u8>>,
}

/// All queries that wait.
pub(super) struct Forwarder<C> {
    config: ResolverConfig,
    entropy: Entropy,
    next: u64,
    pending: BTreeMap<u64, Pending<C>>,
    deadlines: BTreeSet<(Time, u64)>,
    transmits: VecDeque<Transmit>,
    done: VecDeque<Done<C>>,
}

/// There are as many queries waiting as may.
pub(super) struct TooManyPending;

impl<C> Forwarder<C> {
    pub(super) fn new(config: ResolverConfig, entropy: Entropy) -> Forwarder<C> {
        Forwarder {
            config,
            entropy,
            next: 0,
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            transmits: VecDeque::new(),
            done: VecDeque::new(),
        }
    }

    /// Tells whether there is no upstream at all.
    pub(super) fn has_no_upstream(&self) -> bool {
        self.config.upstreams.is_empty()
    }

    /// Begins to ask the upstreams `packet`, whose id is set for each attempt. There is at least one upstream.
    pub(super) fn start(&mut self, packet: Vec<u8>, forwarded: Forwarded<C>, now: Time) -> Result<(), TooManyPending> {
        let Some(upstream) = self.config.upstreams.first().copied() else { return Err(TooManyPending) };
        if self.pending.len() >= self.config.max_pending {
            return Err(TooManyPending);
        }
        let key = self.next;
        self.next += 1;
        let transport = Transport::Udp;
        let pending = Pending { forwarded, packet, attempt: 0, upstream, deadline: now, transport, tried: 0, refusal: None };
        self.pending.insert(key, pending);
        self.send(key, now);
        Ok(())
    }

    /// Sends the next attempt of `key`, as it now stands.
    fn send(&mut self, key: u64, now: Time) {
        let Some(pending) = self.pending.get_mut(&key) else { return };
        self.deadlines.remove(&(pending.deadline, key));
        pending.attempt += 1;
        pending.deadline = now + self.config.timeout;
        self.deadlines.insert((pending.deadline, key));
        let id = (self.entropy)();
        domain::base::Header::for_message_slice_mut(&mut pending.packet).set_id(id);
        self.transmits.push_back(Transmit {
            id: ForwardId { query: key, attempt: pending.attempt },
            upstream: pending.upstream,
            transport: pending.transport,
            packet: pending.packet.clone(),
            deadline: pending.deadline,
        });
    }

    /// Turns to the next upstream; after the last one of the last round the query is over.
    fn next_upstream(&mut self, key: u64, now: Time) {
        let count = self.config.upstreams.len();
        let Some(pending) = self.pending.get_mut(&key) else { return };
        pending.tried += 1;
        if pending.tried as usize >= count * self.config.rounds.max(1) as usize {
            let response = pending.refusal.take();
            return self.finish(key, response);
        }
        pending.upstream = self.config.upstreams[pending.tried as usize % count];
        pending.transport = Transport::Udp;
        self.send(key, now);
    }

    fn finish(&mut self, key: u64, response: Option<Vec<u8>>) {
        let Some(pending) = self.pending.remove(&key) else { return };
        self.deadlines.remove(&(pending.deadline, key));
        self.done.push_back(Done { forwarded: pending.forwarded, response });
    }

    /// Takes a packet of an upstream; tells whether it is the answer to the attempt `id`.
    pub(super) fn handle_response(&mut self, id: ForwardId, from: SocketAddr, packet: &[u8], now: Time) -> bool {
        let Some(pending) = self.pending.get_mut(&id.query).filter(|pending| pending.attempt == id.attempt) else { return false };
        let (Ok(asked), Ok(message)) = (Message::from_slice(&pending.packet), Message::from_slice(packet)) else { return false };
        let header = message.header();
        let same = header.qr() && header.id() == asked.header().id() && header.opcode() == asked.header().opcode();
        if !same || from != pending.upstream || !wire::same_question(asked, message) {
            return false;
        }
        // A client on UDP learns of the truncation and comes back on TCP; an alias needs the whole answer.
        let wants_all = pending.forwarded.transport == Transport::Tcp || !pending.forwarded.chain.is_empty();
        if header.tc() && pending.transport == Transport::Udp && wants_all {
            pending.transport = Transport::Tcp;
            self.send(id.query, now);
        } else if matches!(header.rcode(), Rcode::SERVFAIL | Rcode::REFUSED | Rcode::NOTIMP) {
            pending.refusal = Some(packet.to_vec());
            self.next_upstream(id.query, now);
        } else {
            self.finish(id.query, Some(packet.to_vec()));
        }
        true
    }

    pub(super) fn handle_failure(&mut self, id: ForwardId, now: Time) {
        if self.pending.get(&id.query).is_some_and(|pending| pending.attempt == id.attempt) {
            self.next_upstream(id.query, now);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Time) {
        while let Some((_, key)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.next_upstream(key, now);
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

/// Makes the client's reply out of an upstream's response; without one, or with one that cannot be read, SERVFAIL.
pub(super) fn reply<C>(forwarded: &Forwarded<C>, response: Option<&[u8]>) -> (Built, Rcode) {
    let Parsed::Query(query) = wire::parse(&forwarded.query, forwarded.transport) else {
        unreachable!("only what was read as a query is forwarded");
    };
    let head = |rcode: Rcode| Head { rcode: rcode.into(), authoritative: false, recursion_available: true };
    let failure = || (wire::reply(&query, head(Rcode::SERVFAIL), |_| Ok(()), None), Rcode::SERVFAIL);
    let Some(message) = response.and_then(|response| Message::from_slice(response).ok()) else { return failure() };
    let rcode = message.header().rcode();
    if forwarded.chain.is_empty() {
        return (pass_on(message, &query), rcode);
    }
    // The alias is ours, what it stands for is the upstream's.
    let Ok(answers) = message.answer() else { return failure() };
    let answers: Result<Vec<_>, _> = answers.limit_to::<AllRecordData<_, ParsedName<_>>>().collect();
    let Ok(answers) = answers else { return failure() };
    let head = Head { rcode: OptRcode::from(rcode), authoritative: false, recursion_available: true };
    let section = |section: &mut wire::AnswerSection| {
        local::push_chain(section, &query, &forwarded.chain, forwarded.ttl)?;
        answers.iter().try_for_each(|record| section.push(record))
    };
    (wire::reply(&query, head, section, None), rcode)
}

/// Returns the upstream's response under the client's id and with the question as the client wrote it.
fn pass_on(message: &Message<[u8]>, query: &wire::Query<'_>) -> Built {
    let too_long = message.as_slice().len() > query.limit;
    let cut = || {
        let head = Head { rcode: message.header().rcode().into(), authoritative: false, recursion_available: true };
        let mut built = wire::reply(query, head, |_| Err(domain::base::message_builder::PushError::ShortBuf), None);
        built.truncated = true;
        built
    };
    if too_long {
        return cut();
    }
    let mut bytes = message.as_slice().to_vec();
    domain::base::Header::for_message_slice_mut(&mut bytes).set_id(query.message.header().id());
    // The first name of a message cannot be compressed, so the same name takes the same bytes; only its case may differ.
    let mut question = Vec::with_capacity(255);
    for label in query.question.qname() {
        question.push(label.len() as u8);
        question.extend_from_slice(label.as_slice());
    }
    match bytes.get_mut(12..12 + question.len()) {
        Some(place) if place.eq_ignore_ascii_case(&question) => place.copy_from_slice(&question),
        _ => return cut(),
    }
    Built { truncated: message.header().tc(), bytes }
}
