//! The resolver: packets in, packets out, no clock and no socket.
//!
//! Names of the zones and reverse names that they know are answered at once. Everything else is forwarded to the upstreams,
//! one after the other; where there is none, it is refused (REFUSED), as the client's next server may know better. A query that
//! no upstream answers fails (SERVFAIL).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::{Class, OptRcode, Rcode, Rtype};
use mesh_core::Time;

use self::forward::{Forwarded, Forwarder};
use self::local::Local;
use crate::wire::{self, Head, Parsed, Query, Transport};
use crate::zone::{Area, Zone};

mod counters;
mod forward;
mod local;

pub use self::counters::Counters;
pub use self::forward::{ForwardId, Transmit};

/// How a resolver forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverConfig {
    /// The servers that are asked for names outside the zones, in order of preference.
    pub upstreams: Vec<SocketAddr>,
    /// How long one of them has for its answer.
    pub timeout: Duration,
    /// How many times the list is gone through before a query fails.
    pub rounds: u32,
    /// How many queries may wait for an upstream at the same time; more are answered with SERVFAIL.
    pub max_pending: usize,
}

impl Default for ResolverConfig {
    /// Returns a configuration without upstreams. With two of them a query fails before the 5 seconds after which most
    /// clients ask again.
    fn default() -> ResolverConfig {
        ResolverConfig { upstreams: Vec::new(), timeout: Duration::from_millis(1200), rounds: 2, max_pending: 1024 }
    }
}

/// Where the ids of forwarded queries come from: nobody must be able to guess the next one.
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
    zone: Arc<Zone>,
    forwarder: Forwarder<C>,
    counters: Counters,
}

impl<C> Resolver<C> {
    /// Makes a resolver that answers from `zone`.
    pub fn new(config: ResolverConfig, zone: Arc<Zone>, entropy: Entropy) -> Resolver<C> {
        Resolver { zone, forwarder: Forwarder::new(config, entropy), counters: Counters::default() }
    }

    /// Answers from `zone` from now on.
    pub fn set_zone(&mut self, zone: Arc<Zone>) {
        self.zone = zone;
    }

    /// Takes a packet from `client`. UDP replies are at most as long as the client can take, and 1232 bytes.
    pub fn handle_message(&mut self, packet: &[u8], transport: Transport, client: C, now: Time) -> Reply {
        let reply = match wire::parse(packet, transport) {
            Parsed::Ignore => None,
            Parsed::Fault(rcode) => wire::fault(packet, rcode),
            Parsed::BadVersion(query) => Some(self.without_records(&query, OptRcode::BADVERS)),
            Parsed::Query(query) => {
                let zone = self.zone.clone();
                return self.resolve(&zone, &query, (packet, transport, client), now);
            }
        };
        self.counters.malformed += 1;
        reply.map_or(Reply::Drop, Reply::Answer)
    }

    fn resolve(&mut self, zone: &Zone, query: &Query<'_>, origin: (&[u8], Transport, C), now: Time) -> Reply {
        let (area, has_upstreams) = (zone.find(query.name.for_slice()).area, !self.forwarder.has_no_upstream());
        let refused = matches!(query.question.qtype(), Rtype::AXFR | Rtype::IXFR) || query.question.qclass() != Class::IN;
        if refused || (area == Area::Outside && !has_upstreams) {
            self.counters.count(area, Rcode::REFUSED);
            return Reply::Answer(self.without_records(query, OptRcode::REFUSED));
        }
        let (chain, target) = match local::resolve(zone, query) {
            Local::Answer { rcode, chain, records, negative } => {
                let owner = chain.last().map_or_else(|| query.name.for_slice(), |target| target.for_slice());
                let authority = negative.and_then(|area| zone.authority(area, owner));
                let head = Head { rcode: rcode.into(), authoritative: true, recursion_available: has_upstreams };
                let built = wire::reply(query, head, |section| local::push(section, zone, query, &chain, records), authority);
                self.counters.count(area, rcode);
                self.counters.truncated += u64::from(built.truncated);
                return Reply::Answer(built.bytes);
            }
            Local::Outside { chain } => {
                let target = chain.last().cloned();
                (chain, target)
            }
        };
        if !has_upstreams {
            // An alias to where nobody can look: it is the answer as far as it goes.
            let head = Head { rcode: OptRcode::NOERROR, authoritative: true, recursion_available: false };
            let built = wire::reply(query, head, |section| local::push(section, zone, query, &chain, &[]), None);
            self.counters.count(area, Rcode::NOERROR);
            return Reply::Answer(built.bytes);
        }
        let (packet, transport, client) = origin;
        let upstream_query = match &target {
            Some(target) => wire::upstream_query(query, target, true),
            None => wire::upstream_query(query, query.question.qname(), false),
        };
        let forwarded = Forwarded { query: packet.to_vec(), transport, area, chain, ttl: zone.ttl(), client };
        match upstream_query.map(|bytes| self.forwarder.start(bytes, forwarded, now)) {
            Some(Ok(())) => {
                self.counters.forwarded += 1;
                Reply::Forward
            }
            Some(Err(_)) | None => {
                self.counters.count(area, Rcode::SERVFAIL);
                Reply::Answer(self.without_records(query, OptRcode::SERVFAIL))
            }
        }
    }

    fn without_records(&self, query: &Query<'_>, rcode: OptRcode) -> Vec<u8> {
        let head = Head { rcode, authoritative: false, recursion_available: !self.forwarder.has_no_upstream() };
        wire::reply(query, head, |_| Ok(()), None).bytes
    }

    /// Returns the next message to send to an upstream.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.forwarder.poll_transmit()
    }

    /// Takes what `from` sent in answer to `id`. Only the answer to the question that was asked, with the id it was asked with,
    /// from the upstream that was asked, counts; returns whether it was that.
    pub fn handle_response(&mut self, id: ForwardId, from: SocketAddr, packet: &[u8], now: Time) -> bool {
        let accepted = self.forwarder.handle_response(id, from, packet, now);
        self.counters.mismatched += u64::from(!accepted);
        accepted
    }

    /// Takes the news that `id` could not be sent, or that its upstream refused the connection.
    pub fn handle_failure(&mut self, id: ForwardId, now: Time) {
        self.forwarder.handle_failure(id, now);
    }

    /// Lets time pass: upstreams that did not answer are given up.
    pub fn handle_timeout(&mut self, now: Time) {
        self.forwarder.handle_timeout(now);
    }

    /// Returns when [`Resolver::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.forwarder.poll_timeout()
    }

    /// Returns the next reply to a forwarded query, and whose it is.
    pub fn poll_reply(&mut self) -> Option<(C, Vec<u8>)> {
        let done = self.forwarder.poll_done()?;
        let (built, rcode) = forward::reply(&done.forwarded, done.response.as_deref());
        self.counters.count(done.forwarded.area, rcode);
        self.counters.truncated += u64::from(built.truncated);
        Some((done.forwarded.client, built.bytes))
    }

    /// Returns what was counted since the resolver was made.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
