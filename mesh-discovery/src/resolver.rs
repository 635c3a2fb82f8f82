//! The resolver: packets in, packets out, no clock and no socket.
//!
//! ```text
//!   packet ──> Responder ── the zone knows ──────────────────────────────> reply      (any number of workers, no lock)
//!                 │ outside
//!                 ▼
//!             Resolver ── cache ── holds ────────────────────────────────> reply      (one, shared)
//!                           │ nothing
//!                           ▼
//!             one question for all who ask it ──> upstreams, in turn ──> cache ──> replies
//! ```
//!
//! Names of the zones and reverse names that they know are answered at once. Everything else is forwarded to the upstreams,
//! one after the other; where there is none, it is refused (REFUSED), as the client's next server may know better. A query that
//! no upstream answers fails (SERVFAIL).
//!
//! An upstream's answer counts only with the id, the question and its case, and the sender that were asked; of its records
//! only those are kept and passed on that answer the question.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use domain::base::iana::{OptRcode, Rcode};
use mesh_core::Time;

use self::cache::{Cache, Key};
use self::counters::Tally;
use self::forward::{Forwarder, Question, Response, Started, Waiter};
use self::responder::Outside;
use self::stored::Stored;
use crate::wire::{self, Built, Head, Parsed, Transport};
use crate::zone::{Area, Zone};

mod cache;
mod config;
mod counters;
mod forward;
mod local;
mod quick;
mod responder;
mod stored;

pub use self::config::ResolverConfig;
pub use self::counters::Counters;
pub use self::forward::{ForwardId, Transmit};
pub use self::responder::{Handled, Responder};

/// Where the ids of forwarded queries and the case of their names come from: nobody must be able to guess the next one.
pub type Entropy = Box<dyn FnMut() -> u16 + Send>;

/// What to do about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Send these bytes back.
    Answer(Vec<u8>),
    /// Wait: the reply will come out of [`Resolver::poll_reply`].
    Forward,
    /// Nothing: it is not a query.
    Drop,
}

/// Answers DNS queries for clients that the caller knows as `C`.
pub struct Resolver<C> {
    responder: Responder,
    forwarder: Forwarder<C>,
    cache: Cache,
    /// What is ready for clients that waited.
    replies: VecDeque<(Waiter<C>, Option<Arc<Stored>>)>,
    /// What the responders for workers count.
    tallies: Vec<Arc<Tally>>,
    counters: Counters,
}

impl<C> Resolver<C> {
    /// Makes a resolver that answers from `zone`.
    pub fn new(config: ResolverConfig, zone: Arc<Zone>, entropy: Entropy) -> Resolver<C> {
        let responder = Responder::new(zone, !config.upstreams.is_empty());
        Resolver {
            tallies: vec![responder.tally().clone()],
            responder,
            cache: Cache::new(config.cache_entries, config.cache_bytes),
            forwarder: Forwarder::new(config, entropy),
            replies: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Answers from `zone` from now on.
    pub fn set_zone(&mut self, zone: Arc<Zone>) {
        self.responder.set_zone(zone);
    }

    /// Returns a responder for a worker: it answers from the zone of now, on its own, and what it counts is counted here.
    pub fn responder(&mut self) -> Responder {
        let responder = self.responder.fork();
        self.tallies.push(responder.tally().clone());
        responder
    }

    /// Returns the resolver's own responder, for the zone of now.
    pub(crate) fn own_responder(&self) -> Responder {
        self.responder.clone()
    }

    /// Takes a packet from `client`. UDP replies are at most as long as the client can take, and 1232 bytes.
    pub fn handle_message(&mut self, packet: &[u8], transport: Transport, client: C, now: Time) -> Reply {
        self.handle_message_of(packet, transport, || client, now)
    }

    /// Takes a packet like [`Resolver::handle_message`]; who sent it is only asked when it has to wait.
    pub fn handle_message_of(&mut self, packet: &[u8], transport: Transport, client: impl FnOnce() -> C, now: Time) -> Reply {
        let outside = match self.responder.consider(packet, transport) {
            Ok(Some(bytes)) => return Reply::Answer(bytes),
            Ok(None) => return Reply::Drop,
            Err(outside) => outside,
        };
        let question = self.question(&outside);
        if let Some((stored, age)) = self.cache.get(&question.key, now) {
            self.counters.cache_hits += 1;
            let built = stored.reply(&outside.query, (&outside.chain, self.responder.zone().ttl()), age);
            return Reply::Answer(self.counted(outside.area, stored.rcode(), built));
        }
        self.counters.cache_misses += 1;
        if !self.forwarder.has_room() {
            self.counters.overloaded += 1;
            self.responder.tally().query(outside.area, Rcode::SERVFAIL);
            return Reply::Answer(self.responder.without_records(&outside.query, OptRcode::SERVFAIL));
        }
        let ttl = self.responder.zone().ttl();
        let Outside { area, chain, .. } = *outside;
        let waiter = Waiter { query: packet.to_vec(), transport, area, chain, ttl, client: client() };
        match self.forwarder.start(question, waiter, now) {
            Started::Asked => self.counters.forwarded += 1,
            Started::Joined => self.counters.coalesced += 1,
        }
        Reply::Forward
    }

    /// Returns what the upstreams are asked.
    fn question(&self, outside: &Outside<'_>) -> Question {
        let query = &outside.query;
        let dnssec_ok = query.edns.is_some_and(|edns| edns.dnssec_ok);
        let asked = query.message.header();
        let recurse = asked.rd() || !outside.chain.is_empty();
        let flags = u8::from(dnssec_ok) | u8::from(asked.cd()) << 1 | u8::from(recurse) << 2;
        let name = outside.chain.last().map_or_else(|| query.name.for_slice(), |target| target.for_slice());
        let key = Key::new(name.as_slice(), query.question.qtype(), flags);
        Question { key, packet: wire::upstream_query(query, name, recurse), dnssec_ok }
    }

    fn counted(&self, area: Area, rcode: Rcode, built: Built) -> Vec<u8> {
        self.responder.tally().query(area, rcode);
        self.responder.tally().truncated(built.truncated);
        built.bytes
    }

    /// Returns the next message to send to an upstream.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.forwarder.poll_transmit()
    }

    /// Takes what `from` sent in answer to `id`. Only the answer to the question that was asked, with the id it was asked with,
    /// from the upstream that was asked, counts; returns whether it was that. (One in which only the case of the name is wrong
    /// ends the attempt as well: the upstream is asked again over TCP.)
    pub fn handle_response(&mut self, id: ForwardId, from: SocketAddr, packet: &[u8], now: Time) -> bool {
        let response = self.forwarder.handle_response(id, from, packet, now);
        self.settle(now);
        match response {
            Response::Accepted => return true,
            Response::WrongCase => self.counters.wrong_case += 1,
            Response::Mismatch => self.counters.mismatched += 1,
        }
        matches!(response, Response::WrongCase)
    }

    /// Takes the news that `id` could not be sent, or that its upstream refused the connection.
    pub fn handle_failure(&mut self, id: ForwardId, now: Time) {
        self.forwarder.handle_failure(id, now);
        self.settle(now);
    }

    /// Lets time pass: upstreams that did not answer are given up.
    pub fn handle_timeout(&mut self, now: Time) {
        self.forwarder.handle_timeout(now);
        self.settle(now);
    }

    /// Returns when [`Resolver::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.forwarder.poll_timeout()
    }

    /// Keeps the answers that came, and readies the replies of all who wait for them.
    fn settle(&mut self, now: Time) {
        while let Some(done) = self.forwarder.poll_done() {
            if let Some(answer) = &done.answer {
                self.cache.insert(done.key, answer.clone(), now);
            }
            self.replies.extend(done.waiters.into_iter().map(|waiter| (waiter, done.answer.clone())));
        }
    }

    /// Returns the next reply to a forwarded query, and whose it is.
    pub fn poll_reply(&mut self) -> Option<(C, Vec<u8>)> {
        let (waiter, answer) = self.replies.pop_front()?;
        let Parsed::Query(query) = wire::parse(&waiter.query, waiter.transport) else {
            unreachable!("only what was read as a query is forwarded");
        };
        let (built, rcode) = match answer {
            Some(stored) => (stored.reply(&query, (&waiter.chain, waiter.ttl), 0), stored.rcode()),
            None => {
                let head = Head { rcode: OptRcode::SERVFAIL, authoritative: false, recursion_available: true };
                (wire::reply(&query, head, |_| Ok(()), None), Rcode::SERVFAIL)
            }
        };
        let bytes = self.counted(waiter.area, rcode, built);
        Some((waiter.client, bytes))
    }

    /// Returns what was counted since the resolver was made.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        self.tallies.iter().for_each(|tally| tally.add_to(&mut counters));
        (counters.cache_entries, counters.cache_bytes, counters.cache_evicted) = self.cache.figures();
        counters
    }
}
