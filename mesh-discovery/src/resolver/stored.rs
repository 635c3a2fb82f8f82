//! An upstream's answer, cut down to what answers the question.

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::message_builder::PushError;
use domain::base::name::{Label, ToLabelIter};
use domain::base::rdata::ComposeRecordData;
use domain::base::{Message, ParsedName, Record, RecordSection, ToName, Ttl};
use domain::rdata::AllRecordData;

use super::local;
use crate::name::DnsName;
use crate::wire::{self, Built, HEADER, Head, Query};

/// How many aliases of an upstream are followed through its answer.
const MAX_ALIASES: usize = 16;
/// How many records an upstream's answer may have: 4096 addresses fill a message, so nothing sane has more.
const MAX_RECORDS: usize = 4096;

type Parsed<'a> = Record<ParsedName<&'a [u8]>, AllRecordData<&'a [u8], ParsedName<&'a [u8]>>>;

/// How long an answer may be kept at most, in seconds.
#[derive(Clone, Copy)]
pub(super) struct MaxTtl {
    pub(super) positive: u32,
    pub(super) negative: u32,
}

/// What is kept of an upstream's answer: its code, the records that answer the question, and for a negative answer the SOA
/// record that says how long it holds.
pub(super) struct Stored {
    /// The message without an OPT record, with the question in lower case.
    bytes: Box<[u8]>,
    /// Where the TTLs are.
    ttls: Box<[u32]>,
    question_end: usize,
    /// How many seconds it holds; 0 where it must not be kept.
    lifetime: u32,
}

impl Stored {
    /// Takes an upstream's response to the question in it; `None` where it cannot be read. Records that do not answer the
    /// question are left out, whatever they claim.
    pub(super) fn keep(response: &Message<[u8]>, dnssec_ok: bool, max: MaxTtl) -> Option<Stored> {
        let place = wire::question_place(response.as_slice())?;
        // The upstream may have compressed its records against the question, whose case is of no meaning to clients.
        let mut lower = response.as_slice().to_vec();
        lower[HEADER..place.end - 4].make_ascii_lowercase();
        let response = Message::from_slice(&lower).ok()?;
        let question = response.sole_question().ok()?;
        let (_, answers, authority, _) = response.sections().ok()?;
        let answers: Vec<Parsed<'_>> = answers.limit_to().take(MAX_RECORDS + 1).collect::<Result<_, _>>().ok()?;
        if answers.len() > MAX_RECORDS {
            return None;
        }
        let (kept, last, negative) = answering(&answers, *question.qname(), question.qtype(), dnssec_ok);
        let mut proofs: Vec<Parsed<'_>> = Vec::new();
        for record in authority.limit_to::<AllRecordData<_, ParsedName<_>>>() {
            let record = record.ok()?;
            let (soa, ours) = (record.rtype() == Rtype::SOA, last.ends_with(record.owner()));
            let wanted = if soa { negative && ours && !proofs.iter().any(is_soa) } else { dnssec_ok && is_proof(record.rtype()) };
            if wanted && record.class() == Class::IN {
                proofs.push(record);
            }
        }
        let rcode = response.header().rcode();
        let lifetime = lifetime(&kept, &proofs, negative, max);
        let (bytes, ttls) = write(response, place.end, kept.iter().copied(), &proofs)?;
        let may_be_kept = matches!(rcode, Rcode::NOERROR | Rcode::NXDOMAIN);
        let mut stored = Stored {
            bytes: bytes.into(),
            ttls: ttls.into(),
            question_end: place.end,
            lifetime: if may_be_kept { lifetime } else { 0 },
        };
        // No client keeps a record for longer than it is kept here, and an SOA record for longer than its minimum says.
        let most = if negative { lifetime } else { max.positive };
        stored.lower_ttls(|ttl| ttl.min(most));
        Some(stored)
    }

    /// Returns how many seconds the answer holds.
    pub(super) fn lifetime(&self) -> u32 {
        self.lifetime
    }

    /// Returns the memory that it takes, in bytes.
    pub(super) fn size(&self) -> usize {
        size_of::<Stored>() + self.bytes.len() + 4 * self.ttls.len()
    }

    pub(super) fn rcode(&self) -> Rcode {
        Rcode::masked_from_int(self.bytes[3] & 15)
    }

    fn lower_ttls(&mut self, change: impl Fn(u32) -> u32) {
        let Stored { bytes, ttls, .. } = self;
        change_ttls(bytes, ttls, change);
    }

    /// Returns the reply to `query`, `age` seconds after the answer came. `chain` are the aliases that led to what was asked
    /// here, of the zone, with `ttl`.
    pub(super) fn reply(&self, query: &Query<'_>, (chain, ttl): (&[DnsName], Ttl), age: u32) -> Built {
        if chain.is_empty() { self.pass_on(query, age) } else { self.behind(query, chain, ttl, age) }
    }

    /// The stored message under the client's id, with the question as the client wrote it.
    fn pass_on(&self, query: &Query<'_>, age: u32) -> Built {
        let asked = query.message.header();
        let opt = if query.edns.is_some() { wire::OPT_LEN } else { 0 };
        let question = wire::question_place(query.message.as_slice());
        let question = question.and_then(|place| query.message.as_slice().get(place));
        let Some(question) = question.filter(|question| question.len() == self.question_end - HEADER) else {
            // The client compressed its question, which has nothing to be compressed against.
            return truncated(query, self.rcode());
        };
        if self.bytes.len() + opt > query.limit {
            return truncated(query, self.rcode());
        }
        let mut bytes = Vec::with_capacity(self.bytes.len() + opt);
        bytes.extend_from_slice(&self.bytes);
        bytes[..2].copy_from_slice(&query.message.as_slice()[..2]);
        bytes[HEADER..self.question_end].copy_from_slice(question);
        change_ttls(&mut bytes, &self.ttls, |ttl| ttl.saturating_sub(age));
        let header = domain::base::Header::for_message_slice_mut(&mut bytes);
        header.set_rd(asked.rd());
        header.set_cd(asked.cd());
        header.set_ra(true);
        header.set_ad(header.ad() && (asked.ad() || query.edns.is_some_and(|edns| edns.dnssec_ok)));
        if let Some(edns) = query.edns {
            wire::append_opt(&mut bytes, edns);
        }
        Built { bytes, truncated: false }
    }

    /// The zone's aliases, and behind them the stored answers.
    fn behind(&self, query: &Query<'_>, chain: &[DnsName], ttl: Ttl, age: u32) -> Built {
        let head = Head { rcode: self.rcode().into(), authoritative: false, recursion_available: true };
        let answers = Message::from_slice(&self.bytes).ok().and_then(|message| message.answer().ok());
        let section = |section: &mut wire::AnswerSection| -> Result<(), PushError> {
            local::push_chain(section, query, chain, ttl)?;
            let answers = answers.into_iter().flat_map(RecordSection::limit_to::<AllRecordData<_, ParsedName<_>>>);
            for record in answers.flatten() {
                let left = Ttl::from_secs(record.ttl().as_secs().saturating_sub(age));
                section.push((record.owner(), record.class(), left, record.data()))?;
            }
            Ok(())
        };
        wire::reply(query, head, section, None)
    }
}

/// Returns the reply that sends the client to TCP.
fn truncated(query: &Query<'_>, rcode: Rcode) -> Built {
    let head = Head { rcode: rcode.into(), authoritative: false, recursion_available: true };
    wire::reply(query, head, |_| Err(PushError::ShortBuf), None)
}

/// Returns those of `answers` that answer the question, in the order of the aliases; the name where they end; and whether
/// nothing of the asked type is there.
fn answering<'a, 'r>(
    answers: &'r [Parsed<'a>],
    qname: ParsedName<&'a [u8]>,
    qtype: Rtype,
    dnssec_ok: bool,
) -> (Vec<&'r Parsed<'a>>, ParsedName<&'a [u8]>, bool) {
    let (mut kept, mut name) = (Vec::new(), qname);
    for _ in 0..MAX_ALIASES {
        let here = |record: &&Parsed<'a>| record.class() == Class::IN && record.owner().name_eq(&name);
        let asked = |record: &&Parsed<'a>| qtype == Rtype::ANY || record.rtype() == qtype;
        let before = kept.len();
        kept.extend(answers.iter().filter(here).filter(asked));
        let found = kept.len() > before;
        let alias = answers.iter().filter(here).find_map(|record| match record.data() {
            AllRecordData::Cname(target) if !found => Some((record, *target.cname())),
            _ => None,
        });
        if let Some((record, _)) = alias {
            // A DNAME above the name is what the alias was made of (RFC 6672 §3.1).
            let dname = |record: &&Parsed<'a>| record.rtype() == Rtype::DNAME && name.ends_with(record.owner());
            kept.extend(answers.iter().filter(dname));
            kept.push(record);
        }
        if dnssec_ok && qtype != Rtype::RRSIG && qtype != Rtype::ANY {
            kept.extend(answers.iter().filter(|record| record.rtype() == Rtype::RRSIG).filter(here));
        }
        match alias {
            Some((_, target)) => name = target,
            None => return (kept, name, !found),
        }
    }
    (kept, name, true)
}

fn is_soa(record: &Parsed<'_>) -> bool {
    record.rtype() == Rtype::SOA
}

/// Tells whether a record belongs to a proof that something does not exist (RFC 4035 §3.1.3).
fn is_proof(rtype: Rtype) -> bool {
    matches!(rtype, Rtype::NSEC | Rtype::NSEC3 | Rtype::RRSIG)
}

/// Returns for how many seconds an answer holds (RFC 2308 §5: a negative one by its SOA record, without one not at all).
fn lifetime(kept: &[&Parsed<'_>], proofs: &[Parsed<'_>], negative: bool, max: MaxTtl) -> u32 {
    // A TTL with the highest bit counts as zero (RFC 2181 §8).
    let seconds = |ttl: Ttl| if ttl.as_secs() > i32::MAX as u32 { 0 } else { ttl.as_secs() };
    let answers = kept.iter().map(|record| seconds(record.ttl())).min();
    if !negative {
        return answers.unwrap_or(0).min(max.positive);
    }
    let soa = proofs.iter().find_map(|record| match record.data() {
        AllRecordData::Soa(soa) => Some(seconds(record.ttl()).min(seconds(soa.minimum()))),
        _ => None,
    });
    soa.map_or(0, |soa| soa.min(max.negative).min(answers.unwrap_or(u32::MAX)))
}

/// Writes a message of header, question and records, and returns it with the places of its TTLs; `None` where it gets too long.
///
/// Only whole names are compressed, against the question and the ends of aliases: a search for common endings would let a
/// message of many long names cost seconds.
fn write<'a, 'r>(
    response: &Message<[u8]>,
    question: usize,
    kept: impl Iterator<Item = &'r Parsed<'a>>,
    proofs: &'r [Parsed<'a>],
) -> Option<(Vec<u8>, Vec<u32>)>
where
    'a: 'r,
{
    let mut known: Vec<(ParsedName<&'a [u8]>, u16)> = Vec::new();
    let (mut bytes, mut ttls) = (response.as_slice().get(..question)?.to_vec(), Vec::new());
    let mut counts = [0_u16; 2];
    let sections = kept.map(|record| (0, record)).chain(proofs.iter().map(|record| (1, record)));
    for (section, record) in sections {
        let owner = record.owner();
        let at_question = response.sole_question().is_ok_and(|question| question.qname().name_eq(owner));
        let place = if at_question {
            Some(HEADER as u16)
        } else {
            known.iter().find(|(name, _)| name.name_eq(owner)).map(|known| known.1)
        };
        match place {
            Some(place) => bytes.extend((0xc000 | place).to_be_bytes()),
            None => owner.iter_labels().for_each(|label| push_label(&mut bytes, label)),
        }
        bytes.extend(record.rtype().to_int().to_be_bytes());
        bytes.extend(record.class().to_int().to_be_bytes());
        ttls.push(u32::try_from(bytes.len()).ok()?);
        bytes.extend(record.ttl().as_secs().to_be_bytes());
        let len = bytes.len();
        bytes.extend([0, 0]);
        record.data().compose_rdata(&mut bytes).ok()?;
        let data = u16::try_from(bytes.len() - len - 2).ok()?;
        bytes[len..len + 2].copy_from_slice(&data.to_be_bytes());
        if let AllRecordData::Cname(target) = record.data()
            && len + 2 < 0x4000
        {
            known.push((*target.cname(), (len + 2) as u16));
        }
        counts[section] += 1;
        if bytes.len() > usize::from(u16::MAX) {
            return None;
        }
    }
    bytes[6..8].copy_from_slice(&counts[0].to_be_bytes());
    bytes[8..10].copy_from_slice(&counts[1].to_be_bytes());
    bytes[10..12].copy_from_slice(&[0, 0]);
    // An answer out of a cache is nobody's first word.
    bytes[2] &= !0x06;
    Some((bytes, ttls))
}

fn push_label(bytes: &mut Vec<u8>, label: &Label) {
    bytes.push(label.len() as u8);
    bytes.extend_from_slice(label.as_slice());
}

fn change_ttls(bytes: &mut [u8], places: &[u32], change: impl Fn(u32) -> u32) {
    for place in places {
        let place = *place as usize;
        if let Some(ttl) = bytes.get_mut(place..).and_then(|rest| rest.first_chunk_mut::<4>()) {
            *ttl = change(u32::from_be_bytes(*ttl)).to_be_bytes();
        }
    }
}
