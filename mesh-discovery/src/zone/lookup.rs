//! Names for programs: answers as values, and what is different between two snapshots.

use std::net::IpAddr;

use domain::base::iana::Rtype;
use mesh_core::ServiceId;

use super::{Area, Data, Table, Zone};
use crate::name;

/// What is asked for at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each variant is the record type of its name")]
pub enum RecordType {
    A,
    Aaaa,
    Srv,
    Cname,
    Ptr,
    Txt,
    /// All of them.
    Any,
}

/// What a zone answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The records of the type, at least one, always in the same order.
    Records(Vec<Record>),
    /// The name exists, without a record of the type.
    NoData,
    /// The name is inside one of the zones and does not exist.
    NoName,
    /// The name is outside, or is no DNS name: somebody else may know it.
    Outside,
}

/// A record's data. Names are in lower case, with a final dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// An A or AAAA record.
    Address(IpAddr),
    /// An SRV record; priority and weight are the same for all.
    Srv {
        /// The port's number.
        port: u16,
        /// The name to ask for the addresses.
        target: String,
    },
    /// A CNAME record: the name means what this one means. It is the answer for every type; nothing is followed.
    Alias(String),
    /// A PTR record: a name of the address.
    Name(String),
    /// A TXT record.
    Text(&'static str),
}

/// A service whose names say something else than before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZoneChange {
    /// The service.
    pub service: ServiceId,
    /// In which of the two zones.
    pub area: Area,
    /// The service's own name, without a final dot. Names below it (ports, endpoints) and the reverse names of its addresses may
    /// have changed, too.
    pub name: String,
    /// Whether the name exists now.
    pub exists: bool,
}

impl Lookup {
    /// Returns the addresses among the records.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let records = match self {
            Lookup::Records(records) => records.as_slice(),
            _ => &[],
        };
        records.iter().filter_map(|record| match record {
            Record::Address(address) => Some(*address),
            _ => None,
        })
    }
}

impl Zone {
    /// Looks up a name, as people write it: absolute, with or without the final dot, in any case.
    ///
    /// It is what the DNS server answers, without a message around it and without following aliases.
    pub fn lookup(&self, name: &str, rtype: RecordType) -> Lookup {
        let Some(name) = name::parse(name) else { return Lookup::Outside };
        let found = self.find(name.for_slice());
        match found.records {
            None if found.area == Area::Outside => Lookup::Outside,
            None => Lookup::NoName,
            Some(records) => {
                let rtype = if records.alias().is_some() { Rtype::CNAME } else { rtype.into() };
                let records: Vec<Record> = records.of(rtype).filter_map(Record::new).collect();
                if records.is_empty() { Lookup::NoData } else { Lookup::Records(records) }
            }
        }
    }

    /// Returns the services whose names say something else here than in `older`, in order. What two zones of one
    /// [`ZoneBuilder`](super::ZoneBuilder) share is skipped, so that it costs what changed between them.
    pub fn changes_since(&self, older: &Zone) -> impl Iterator<Item = ZoneChange> + use<> {
        let mut changes = Vec::new();
        for (area, now, before) in
            [(Area::Cluster, &self.cluster, &older.cluster), (Area::Clusterset, &self.clusterset, &older.clusterset)]
        {
            let apex = &self.apex(area).name;
            now.differences(before, &mut |service: &ServiceId, exists| {
                let name = format!("{}.{}.svc.{apex}", service.name, service.namespace);
                changes.push(ZoneChange { service: service.clone(), area, name, exists });
            });
        }
        changes.sort_unstable();
        changes.into_iter()
    }
}

impl Table {
    /// Calls `each` for every service of one of the two tables that is not in the other or says something else there.
    fn differences(&self, older: &Table, each: &mut impl FnMut(&ServiceId, bool)) {
        self.services.differences(&older.services, &|a, b| a.stem() == b.stem(), &mut |now, before| {
            let same = now.zip(before).is_some_and(|(now, before)| now.says_the_same(before));
            if let Some(entry) = now.or(before).filter(|_| !same) {
                each(entry.id(), now.is_some());
            }
        });
    }
}

impl Record {
    fn new(data: Data<'_>) -> Option<Record> {
        Some(match data {
            Data::A(address) => Record::Address(address.into()),
            Data::Aaaa(address) => Record::Address(address.into()),
            Data::Srv { port, target } => Record::Srv { port, target: format!("{}.", target.to_name()) },
            Data::Cname(target) => Record::Alias(format!("{target}.")),
            Data::Ptr(target) => Record::Name(format!("{}.", target.to_name())),
            Data::Txt(text) => Record::Text(text),
            Data::Soa(_) => return None,
        })
    }
}

impl From<RecordType> for Rtype {
    fn from(rtype: RecordType) -> Rtype {
        match rtype {
            RecordType::A => Rtype::A,
            RecordType::Aaaa => Rtype::AAAA,
            RecordType::Srv => Rtype::SRV,
            RecordType::Cname => Rtype::CNAME,
            RecordType::Ptr => Rtype::PTR,
            RecordType::Txt => Rtype::TXT,
            RecordType::Any => Rtype::ANY,
        }
    }
}
