//! What a worker needs to answer from the zone: nothing that it shares with others but what they only read.

use std::sync::Arc;

use domain::base::iana::{Class, OptRcode, Rcode, Rtype};

use super::counters::Tally;
use super::local::{self, Local};
use super::quick::{self, Authorities};
use crate::name::DnsName;
use crate::wire::{self, Head, Parsed, Query, QuickQuery, Transport};
use crate::zone::{Area, Records, Zone};

/// Answers queries that the zone knows the answer to. Cheap to clone; the clones of one resolver count together.
#[derive(Clone)]
pub struct Responder {
    zone: Arc<Zone>,
    authorities: Arc<Authorities>,
    recursion_available: bool,
    tally: Arc<Tally>,
}

/// What a responder did about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// The reply is written.
    Answer,
    /// Only the [`Resolver`](super::Resolver) can tell.
    Forward,
    /// Nothing: it is not a query.
    Drop,
}

/// A query whose answer is the upstreams'.
pub(super) struct Outside<'a> {
    pub(super) query: Query<'a>,
    pub(super) area: Area,
    /// The aliases that led outside.
    pub(super) chain: Vec<DnsName>,
}

impl Responder {
    pub(super) fn new(zone: Arc<Zone>, recursion_available: bool) -> Responder {
        let authorities = Arc::new(Authorities::of(&zone));
        Responder { zone, authorities, recursion_available, tally: Arc::default() }
    }

    /// Returns a responder for the same zone that counts on its own.
    pub(super) fn fork(&self) -> Responder {
        Responder { tally: Arc::default(), ..self.clone() }
    }

    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    pub(crate) fn zone(&self) -> &Arc<Zone> {
        &self.zone
    }

    /// Answers from `zone` from now on.
    pub fn set_zone(&mut self, zone: Arc<Zone>) {
        self.authorities = Arc::new(Authorities::of(&zone));
        self.zone = zone;
    }

    /// Answers `packet` into `reply`, whose old content is dropped. The common queries for names of the zone allocate nothing
    /// once `reply` has the room.
    pub fn answer(&self, packet: &[u8], transport: Transport, reply: &mut Vec<u8>) -> Handled {
        if let Some(query) = QuickQuery::read(packet, transport) {
            let written = quick::answer(&self.zone, &self.authorities, &query, self.recursion_available, reply);
            if let Some(written) = written {
                self.tally.query(written.area, written.rcode);
                self.tally.truncated(written.truncated);
                return Handled::Answer;
            }
        }
        self.answer_by_codec(packet, transport, reply)
    }

    /// Does what [`Responder::answer`] does, by the codec alone: what that one is held to.
    pub fn answer_by_codec(&self, packet: &[u8], transport: Transport, reply: &mut Vec<u8>) -> Handled {
        match self.consider(packet, transport) {
            Ok(answer) => {
                reply.clear();
                reply.extend_from_slice(&answer.unwrap_or_default());
                if reply.is_empty() { Handled::Drop } else { Handled::Answer }
            }
            Err(_) => Handled::Forward,
        }
    }

    /// Answers `packet`; `Ok(None)` when there is nothing to say, an error when the answer lies outside.
    pub(super) fn consider<'a>(&self, packet: &'a [u8], transport: Transport) -> Result<Option<Vec<u8>>, Box<Outside<'a>>> {
        let reply = match wire::parse(packet, transport) {
            Parsed::Ignore => None,
            Parsed::Fault(rcode) => wire::fault(packet, rcode),
            Parsed::BadVersion(query) => Some(self.without_records(&query, OptRcode::BADVERS)),
            Parsed::Query(query) => return self.resolve(query).map(Some),
        };
        self.tally.malformed();
        Ok(reply)
    }

    fn resolve<'a>(&self, query: Query<'a>) -> Result<Vec<u8>, Box<Outside<'a>>> {
        let area = self.zone.find(query.name.for_slice()).area;
        let refused = matches!(query.question.qtype(), Rtype::AXFR | Rtype::IXFR) || query.question.qclass() != Class::IN;
        if refused || (area == Area::Outside && !self.recursion_available) {
            self.tally.query(area, Rcode::REFUSED);
            return Ok(self.without_records(&query, OptRcode::REFUSED));
        }
        match local::resolve(&self.zone, &query) {
            Local::Answer { rcode, chain, records, negative } => {
                let owner = chain.last().map_or_else(|| query.name.for_slice(), |target| target.for_slice());
                let authority = negative.and_then(|area| self.zone.authority(area, owner));
                let head = Head { rcode: rcode.into(), authoritative: true, recursion_available: self.recursion_available };
                let push = |section: &mut wire::AnswerSection| local::push(section, &self.zone, &query, &chain, records);
                let built = wire::reply(&query, head, push, authority);
                self.tally.query(area, rcode);
                self.tally.truncated(built.truncated);
                Ok(built.bytes)
            }
            // An alias to where nobody can look: it is the answer as far as it goes.
            Local::Outside { chain } if !self.recursion_available => {
                let head = Head { rcode: OptRcode::NOERROR, authoritative: true, recursion_available: false };
                let built = wire::reply(
                    &query,
                    head,
                    |section| local::push(section, &self.zone, &query, &chain, Records::default()),
                    None,
                );
                self.tally.query(area, Rcode::NOERROR);
                self.tally.truncated(built.truncated);
                Ok(built.bytes)
            }
            Local::Outside { chain } => Err(Box::new(Outside { query, area, chain })),
        }
    }

    /// Returns the reply that is only a code.
    pub(super) fn without_records(&self, query: &Query<'_>, rcode: OptRcode) -> Vec<u8> {
        let head = Head { rcode, authoritative: false, recursion_available: self.recursion_available };
        wire::reply(query, head, |_| Ok(()), None).bytes
    }
}
