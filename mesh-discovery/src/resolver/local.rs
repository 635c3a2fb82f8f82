//! Answers from the zone.

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::message_builder::PushError;
use domain::base::{ToName, Ttl};
use domain::rdata::{A, Aaaa, Cname, Ptr, Srv, Txt};

use crate::name::DnsName;
use crate::wire::{AnswerSection, Query};
use crate::zone::{Area, Data, Records, Zone};

/// How many aliases are followed before the name counts as broken.
const MAX_ALIASES: usize = 8;

/// What the zone says about a query.
pub(super) enum Local<'a> {
    Answer {
        rcode: Rcode,
        /// The targets of the aliases on the way.
        chain: Vec<DnsName>,
        records: Records<'a>,
        /// Where the SOA of a negative answer comes from.
        negative: Option<Area>,
    },
    /// The name, or the last alias of it, lies outside.
    Outside { chain: Vec<DnsName> },
}

/// Looks the question up, and follows aliases inside the zones.
pub(super) fn resolve<'a>(zone: &'a Zone, query: &Query<'_>) -> Local<'a> {
    let qtype = query.question.qtype();
    let mut chain: Vec<DnsName> = Vec::new();
    loop {
        let name = chain.last().map_or_else(|| query.name.for_slice(), DnsName::for_slice);
        let found = zone.find(name);
        if found.area == Area::Outside {
            return Local::Outside { chain };
        }
        let records = found.records.unwrap_or_default();
        if let Some(target) = records.alias().filter(|_| !matches!(qtype, Rtype::CNAME | Rtype::ANY)) {
            if chain.len() == MAX_ALIASES {
                return Local::Answer { rcode: Rcode::SERVFAIL, chain: Vec::new(), records: Records::default(), negative: None };
            }
            chain.push(target.clone());
            continue;
        }
        let negative = (records.count(qtype) == 0).then_some(found.area);
        let rcode = if found.records.is_some() { Rcode::NOERROR } else { Rcode::NXDOMAIN };
        return Local::Answer { rcode, chain, records, negative };
    }
}

/// Writes the aliases and those of `records` that were asked for. Addresses begin at a different one for each query id,
/// so that clients which take the first one spread over them.
pub(super) fn push(
    section: &mut AnswerSection,
    zone: &Zone,
    query: &Query<'_>,
    chain: &[DnsName],
    records: Records<'_>,
) -> Result<(), PushError> {
    push_chain(section, query, chain, zone.ttl())?;
    let (qtype, ttl) = (query.question.qtype(), zone.ttl());
    let count = records.count(qtype);
    let rotate = matches!(qtype, Rtype::A | Rtype::AAAA) && count > 1;
    let skip = if rotate { usize::from(query.message.header().id()) % count } else { 0 };
    let wanted = records.of(qtype);
    for data in wanted.clone().skip(skip).chain(wanted.take(skip)) {
        match chain.last() {
            None => push_data(section, query.question.qname(), ttl, &data)?,
            Some(owner) => push_data(section, owner, ttl, &data)?,
        }
    }
    Ok(())
}

/// Writes the aliases from the question's name to the last of `chain`.
pub(super) fn push_chain(section: &mut AnswerSection, query: &Query<'_>, chain: &[DnsName], ttl: Ttl) -> Result<(), PushError> {
    for (index, target) in chain.iter().enumerate() {
        let data = Cname::new(target);
        match index.checked_sub(1).map(|before| &chain[before]) {
            None => section.push((query.question.qname(), Class::IN, ttl, data))?,
            Some(owner) => section.push((owner, Class::IN, ttl, data))?,
        }
    }
    Ok(())
}

fn push_data(section: &mut AnswerSection, owner: &impl ToName, ttl: Ttl, data: &Data<'_>) -> Result<(), PushError> {
    match data {
        Data::A(address) => section.push((owner, Class::IN, ttl, A::new(*address))),
        Data::Aaaa(address) => section.push((owner, Class::IN, ttl, Aaaa::new(*address))),
        // Priority and weight are the same for all: the specifications leave them open.
        Data::Srv { port, target } => section.push((owner, Class::IN, ttl, Srv::new(0, 100, *port, target.to_name()))),
        Data::Cname(target) => section.push((owner, Class::IN, ttl, Cname::new(target))),
        Data::Ptr(target) => section.push((owner, Class::IN, ttl, Ptr::new(target.to_name()))),
        Data::Txt(text) => {
            let text = Txt::<Vec<u8>>::build_from_slice(text.as_bytes()).map_err(|_| PushError::ShortBuf)?;
            section.push((owner, Class::IN, ttl, text))
        }
        Data::Soa(soa) => section.push((owner, Class::IN, ttl, *soa)),
    }
}
