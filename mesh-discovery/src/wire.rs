//! Messages: queries in, replies out. All that is read here is hostile.

use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, PushError};
use domain::base::wire::Composer;
use domain::base::{Header, Message, MessageBuilder, Name, ParsedName, Question, StaticCompressor, ToName};
use domain::dep::octseq::Array;
use domain::rdata::Soa;

use crate::name::DnsName;

mod quick;

pub(crate) use self::quick::{HEADER, QuickQuery};

/// The largest UDP payload that is sent or asked for: it fits every path of 1280 bytes (DNS flag day 2020).
pub(crate) const UDP_LIMIT: u16 = 1232;
/// The UDP payload that every client takes (RFC 1035 §2.3.4).
const UDP_MINIMUM: u16 = 512;
/// What an OPT record without options takes.
pub(crate) const OPT_LEN: usize = 11;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram, limited in size.
    Udp,
    /// A stream with length prefixes.
    Tcp,
}

/// A well-formed query with one question.
pub(crate) struct Query<'a> {
    pub(crate) message: &'a Message<[u8]>,
    pub(crate) question: Question<ParsedName<&'a [u8]>>,
    /// The question's name in lower case, uncompressed.
    pub(crate) name: Name<Array<255>>,
    pub(crate) edns: Option<Edns>,
    /// The most bytes that the reply may have.
    pub(crate) limit: usize,
}

/// What the client said of itself in its OPT record (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) dnssec_ok: bool,
}

/// What a packet is.
pub(crate) enum Parsed<'a> {
    Query(Query<'a>),
    /// A query with something wrong: reply with this code.
    Fault(Rcode),
    /// A query with a newer EDNS than there is (RFC 6891 §6.1.3).
    BadVersion(Query<'a>),
    /// Nothing that may be answered: too short for an id, or an answer itself.
    Ignore,
}

/// Reads a packet.
pub(crate) fn parse(packet: &[u8], transport: Transport) -> Parsed<'_> {
    let Ok(message) = Message::from_slice(packet) else { return Parsed::Ignore };
    let header = message.header();
    if header.qr() {
        return Parsed::Ignore;
    }
    if header.opcode() != Opcode::QUERY {
        return Parsed::Fault(Rcode::NOTIMP);
    }
    let (Ok(question), Some(opt)) = (message.sole_question(), opt(message)) else { return Parsed::Fault(Rcode::FORMERR) };
    let Ok(name) = question.qname().try_to_canonical_name::<Array<255>>() else { return Parsed::Fault(Rcode::FORMERR) };
    let limit = limit(transport, opt.map(|opt| opt.size));
    let query = Query { message, question, name, edns: opt.map(|opt| Edns { dnssec_ok: opt.dnssec_ok }), limit };
    if opt.is_some_and(|opt| opt.version > 0) { Parsed::BadVersion(query) } else { Parsed::Query(query) }
}

/// Returns the most bytes that a reply may have for a client that said `size` in its OPT record.
fn limit(transport: Transport, size: Option<u16>) -> usize {
    match (transport, size) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => UDP_MINIMUM.into(),
        (Transport::Udp, Some(size)) => size.clamp(UDP_MINIMUM, UDP_LIMIT).into(),
    }
}

#[derive(Clone, Copy)]
struct Opt {
    size: u16,
    version: u8,
    dnssec_ok: bool,
}

/// Walks all records for the OPT record; `None` when one cannot be read, or OPT is twice or in the wrong place.
fn opt(message: &Message<[u8]>) -> Option<Option<Opt>> {
    let mut found = None;
    let mut section = message.answer().ok()?;
    let mut index = 0;
    loop {
        for record in section.by_ref() {
            let record = record.ok()?;
            if record.rtype() != Rtype::OPT {
                continue;
            }
            if index < 2 || found.is_some() || !record.owner().is_root() {
                return None;
            }
            // The TTL's bits (RFC 6891 §6.1.3): extended code, version, DO and zeroes.
            let bits = record.ttl().as_secs();
            let [_, version, flags, _] = bits.to_be_bytes();
            found = Some(Opt { size: record.class().to_int(), version, dnssec_ok: flags & 0x80 != 0 });
        }
        index += 1;
        match section.next_section().ok()? {
            Some(next) => section = next,
            None => return Some(found),
        }
    }
}

/// What a reply says beside its records.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) rcode: OptRcode,
    pub(crate) authoritative: bool,
    pub(crate) recursion_available: bool,
}

/// A reply and whether it had to be truncated.
pub(crate) struct Built {
    pub(crate) bytes: Vec<u8>,
    pub(crate) truncated: bool,
}

type Target = StaticCompressor<Vec<u8>>;
/// The answer section of a reply that is being built.
pub(crate) type AnswerSection = AnswerBuilder<Target>;

/// Builds the reply to `query`, with the question's name exactly as it was asked. What does not fit is left out, and the reply
/// says that it is truncated (RFC 2181 §9): clients ask again over TCP, and those that never do have the records that fit.
pub(crate) fn reply(
    query: &Query<'_>,
    head: Head,
    answers: impl FnOnce(&mut AnswerSection) -> Result<(), PushError>,
    authority: Option<(DnsName, Soa<DnsName>)>,
) -> Built {
    // A question and an OPT record are at most 12 + 259 + 11 bytes.
    build(query, head, answers, authority).expect("every limit has room for the question")
}

fn build(
    query: &Query<'_>,
    head: Head,
    answers: impl FnOnce(&mut AnswerSection) -> Result<(), PushError>,
    authority: Option<(DnsName, Soa<DnsName>)>,
) -> Result<Built, PushError> {
    let mut builder =
        MessageBuilder::from_target(StaticCompressor::new(Vec::with_capacity(512))).map_err(|_| PushError::ShortBuf)?;
    // The builder's limit is the first length that is too long.
    builder.set_push_limit(query.limit + 1 - if query.edns.is_some() { OPT_LEN } else { 0 });
    let mut builder = builder.start_answer(query.message, head.rcode.rcode())?;
    builder.header_mut().set_aa(head.authoritative);
    builder.header_mut().set_ra(head.recursion_available);
    // A record that does not fit leaves nothing of itself.
    let mut truncated = answers(&mut builder).is_err();
    let mut builder = builder.authority();
    if let Some((owner, soa)) = authority.filter(|_| !truncated) {
        let ttl = soa.minimum();
        truncated = builder.push((owner, Class::IN, ttl, soa)).is_err();
    }
    builder.header_mut().set_tc(truncated);
    let mut builder = builder.additional();
    if let Some(edns) = query.edns {
        builder.clear_push_limit();
        push_opt(&mut builder, UDP_LIMIT, edns, head.rcode)?;
    }
    Ok(Built { bytes: builder.finish().into_target(), truncated })
}

/// Builds the reply to a query that cannot be read further than its header.
pub(crate) fn fault(packet: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let header = Message::from_slice(packet).ok()?.header();
    let mut builder = MessageBuilder::new_vec();
    let reply = builder.header_mut();
    reply.set_id(header.id());
    reply.set_qr(true);
    reply.set_opcode(header.opcode());
    reply.set_rd(header.rd());
    reply.set_rcode(rcode);
    Some(builder.finish())
}

/// Builds the query that asks an upstream for `name`, on behalf of `query`: with an OPT record at its end, so that the answer
/// may be long.
pub(crate) fn upstream_query(query: &Query<'_>, name: &Name<[u8]>, recurse: bool) -> Vec<u8> {
    let asked = query.message.header();
    let mut packet = vec![0; HEADER];
    // One question and nothing else.
    packet[5] = 1;
    let header = Header::for_message_slice_mut(&mut packet);
    header.set_rd(recurse || asked.rd());
    header.set_cd(asked.cd());
    // The upstream's word on authenticity; clients that did not ask for it do not get it (RFC 6840 §5.7).
    header.set_ad(true);
    packet.extend_from_slice(name.as_slice());
    packet.extend(query.question.qtype().to_int().to_be_bytes());
    packet.extend(query.question.qclass().to_int().to_be_bytes());
    append_opt(&mut packet, Edns { dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok) });
    packet
}

/// Takes the OPT record away from what [`upstream_query`] made.
pub(crate) fn without_opt(upstream_query: &mut Vec<u8>) {
    upstream_query.truncate(upstream_query.len() - OPT_LEN);
    upstream_query[11] = 0;
}

/// Adds the OPT record of a reply to a message that ends without one.
pub(crate) fn append_opt(message: &mut Vec<u8>, edns: Edns) {
    let [high, low] = UDP_LIMIT.to_be_bytes();
    message[11] += 1;
    message.extend_from_slice(&[0, 0, 41, high, low, 0, 0, u8::from(edns.dnssec_ok) << 7, 0, 0, 0]);
}

fn push_opt<T: Composer>(builder: &mut AdditionalBuilder<T>, size: u16, edns: Edns, rcode: OptRcode) -> Result<(), PushError> {
    builder.opt(|opt| {
        opt.set_udp_payload_size(size);
        opt.set_dnssec_ok(edns.dnssec_ok);
        opt.set_rcode(rcode);
        Ok(())
    })
}

/// Returns the place of the question, name, type and class, in a message that has exactly one, uncompressed.
pub(crate) fn question_place(message: &[u8]) -> Option<std::ops::Range<usize>> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut end = HEADER;
    loop {
        match *message.get(end)? {
            0 => break,
            len @ 1..=63 => end += 1 + usize::from(len),
            _ => return None,
        }
    }
    let place = HEADER..end + 5;
    (place.len() <= 259 && message.len() >= place.end).then_some(place)
}
