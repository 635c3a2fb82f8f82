//! Answers from the zone that are written in place: the common query, no allocation, no codec.
//!
//! Every reply is what `local` and the codec would make of the same query; what they would have to think about is left to
//! them.

use domain::base::Name;
use domain::base::iana::{Rcode, Rtype};

use crate::name::DnsName;
use crate::wire::{self, HEADER, OPT_LEN, QuickQuery};
use crate::zone::{Area, Data, Zone};

/// A pointer to the question's name.
const QUESTION: u16 = 0xc000 | HEADER as u16;

/// The TC bit in the third byte of a message.
const TRUNCATED: u8 = 0x02;

/// What was written.
pub(super) struct Written {
    pub(super) area: Area,
    pub(super) rcode: Rcode,
    pub(super) truncated: bool,
}

/// The SOA records of the two zones, made once.
pub(super) struct Authorities(Vec<Authority>);

struct Authority {
    area: Area,
    apex: DnsName,
    server: DnsName,
    mailbox: DnsName,
    /// Serial, the times and the minimum.
    fixed: Vec<u8>,
    ttl: u32,
}

impl Authorities {
    pub(super) fn of(zone: &Zone) -> Authorities {
        let soa = |area| {
            let (apex, soa) = zone.authority(area, Name::root_slice())?;
            let numbers = [soa.serial().into_int(), soa.refresh().as_secs(), soa.retry().as_secs(), soa.expire().as_secs()];
            let mut fixed: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
            let ttl = soa.minimum().as_secs();
            fixed.extend(ttl.to_be_bytes());
            Some(Authority { area, apex, server: soa.mname().clone(), mailbox: soa.rname().clone(), fixed, ttl })
        };
        Authorities([Area::Cluster, Area::Clusterset].into_iter().filter_map(soa).collect())
    }
}

/// Writes the reply to `query` into `reply`; `None` where it takes more than this.
pub(super) fn answer(
    zone: &Zone,
    authorities: &Authorities,
    query: &QuickQuery<'_>,
    recursion_available: bool,
    reply: &mut Vec<u8>,
) -> Option<Written> {
    // Types that do not mean themselves, and those that aliases and the SOA record are.
    let qtype = query.qtype;
    if matches!(qtype, Rtype::CNAME | Rtype::SOA | Rtype::OPT) || (128..=255).contains(&qtype.to_int()) {
        return None;
    }
    let found = zone.find(query.name());
    if found.area == Area::Outside {
        return None;
    }
    let records = found.records.unwrap_or_default();
    if records.alias().is_some() {
        return None;
    }
    let rcode = if found.records.is_some() { Rcode::NOERROR } else { Rcode::NXDOMAIN };
    let count = records.count(qtype);
    // Several reverse names would compress against each other.
    if count > 1 && qtype == Rtype::PTR {
        return None;
    }
    let mut out = Writer::begin(reply, query, rcode, recursion_available);
    if count == 0 {
        let soa = authorities.0.iter().find(|authority| authority.area == found.area)?;
        out.authority(query, soa);
    } else {
        let ttl = zone.ttl().as_secs();
        let rotate = count > 1 && matches!(qtype, Rtype::A | Rtype::AAAA);
        let skip = if rotate { usize::from(query.id()) % count } else { 0 };
        let matching = records.of(qtype);
        for data in matching.clone().skip(skip).chain(matching.take(skip)) {
            let end = out.bytes.len();
            out.record(&data, ttl)?;
            if out.is_full() {
                out.take_back(end);
                break;
            }
        }
    }
    let truncated = out.finish(query);
    Some(Written { area: found.area, rcode, truncated })
}

/// A reply that is being written.
struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
    limit: usize,
    answers: u16,
    authorities: u16,
}

impl<'a> Writer<'a> {
    /// Writes header and question, whose name stays as it was asked.
    fn begin(bytes: &'a mut Vec<u8>, query: &QuickQuery<'_>, rcode: Rcode, recursion_available: bool) -> Writer<'a> {
        bytes.clear();
        bytes.extend_from_slice(query.header_and_question());
        // QR and AA, with the client's RD.
        bytes[2] = 0x84 | (bytes[2] & 0x01);
        bytes[3] = u8::from(recursion_available) << 7 | rcode.to_int();
        bytes[11] = 0;
        Writer { bytes, limit: query.limit - if query.edns.is_some() { OPT_LEN } else { 0 }, answers: 0, authorities: 0 }
    }

    fn is_full(&self) -> bool {
        self.bytes.len() > self.limit
    }

    /// Writes the fixed part of a record whose owner is what `owner` points to.
    fn head(&mut self, owner: u16, rtype: Rtype, ttl: u32, len: usize) {
        let mut head = [0; 12];
        head[..2].copy_from_slice(&owner.to_be_bytes());
        head[2..4].copy_from_slice(&rtype.to_int().to_be_bytes());
        head[5] = 1;
        head[6..10].copy_from_slice(&ttl.to_be_bytes());
        head[10..].copy_from_slice(&(len as u16).to_be_bytes());
        self.bytes.extend_from_slice(&head);
    }

    /// Writes an answer; `None` where the codec has to.
    fn record(&mut self, data: &Data<'_>, ttl: u32) -> Option<()> {
        let head = |out: &mut Self, len| out.head(QUESTION, data.rtype(), ttl, len);
        match data {
            Data::A(address) => {
                head(self, 4);
                self.bytes.extend_from_slice(&address.octets());
            }
            Data::Aaaa(address) => {
                head(self, 16);
                self.bytes.extend_from_slice(&address.octets());
            }
            Data::Srv { port, target } => {
                head(self, 0);
                let begin = self.bytes.len();
                // Priority 0 and weight 100, as `local` writes them.
                let [high, low] = port.to_be_bytes();
                self.bytes.extend_from_slice(&[0, 0, 0, 100, high, low]);
                target.append_to(self.bytes);
                self.set_len(begin);
            }
            Data::Ptr(target) => {
                head(self, 0);
                let begin = self.bytes.len();
                target.append_to(self.bytes);
                self.set_len(begin);
            }
            Data::Txt(text) => {
                let len = u8::try_from(text.len()).ok()?;
                head(self, 1 + text.len());
                self.bytes.push(len);
                self.bytes.extend_from_slice(text.as_bytes());
            }
            Data::Cname(_) | Data::Soa(_) => return None,
        }
        self.answers = self.answers.saturating_add(1);
        Some(())
    }

    /// Writes the SOA record of a negative answer. The zone's name is the end of the question's.
    fn authority(&mut self, query: &QuickQuery<'_>, soa: &Authority) {
        let offset = HEADER + query.wire_name().len() - soa.apex.as_slice().len();
        let apex = 0xc000 | offset as u16;
        self.head(apex, Rtype::SOA, soa.ttl, 0);
        let begin = self.bytes.len();
        for name in [&soa.server, &soa.mailbox] {
            match name.as_slice().strip_suffix(soa.apex.as_slice()) {
                Some(labels) if name.ends_with(&soa.apex) => {
                    self.bytes.extend_from_slice(labels);
                    self.bytes.extend_from_slice(&apex.to_be_bytes());
                }
                _ => self.bytes.extend_from_slice(name.as_slice()),
            }
        }
        self.bytes.extend_from_slice(&soa.fixed);
        self.set_len(begin);
        self.authorities = 1;
    }

    /// Sets the length of the data that begins at `begin`.
    fn set_len(&mut self, begin: usize) {
        let len = (self.bytes.len() - begin) as u16;
        self.bytes[begin - 2..begin].copy_from_slice(&len.to_be_bytes());
    }

    /// Leaves out the answer that begins at `end`, and says so.
    fn take_back(&mut self, end: usize) {
        self.bytes.truncate(end);
        self.answers -= 1;
        self.bytes[2] |= TRUNCATED;
    }

    /// Sets the counts and adds the OPT record. Tells whether something was left out.
    fn finish(mut self, query: &QuickQuery<'_>) -> bool {
        if self.is_full() {
            // A negative answer without its SOA record.
            self.bytes.truncate(query.header_and_question().len());
            self.authorities = 0;
            self.bytes[2] |= TRUNCATED;
        }
        self.bytes[6..8].copy_from_slice(&self.answers.to_be_bytes());
        self.bytes[8..10].copy_from_slice(&self.authorities.to_be_bytes());
        if let Some(edns) = query.edns {
            wire::append_opt(self.bytes, edns);
        }
        self.bytes[2] & TRUNCATED != 0
    }
}
