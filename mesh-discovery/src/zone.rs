//! What one cluster's names mean: every record of both zones, computed once from the state.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::iana::Rtype;
use domain::base::{Name, Serial, Ttl};
use domain::rdata::Soa;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use mesh_core::{ClusterName, State};

use crate::name::{self, DnsName};

mod build;
mod config;

pub use self::config::{ZoneConfig, ZoneConfigError};

/// The names of the own cluster and of the fleet as one cluster sees them; immutable, shared behind an `Arc`.
#[derive(Debug)]
pub struct Zone {
    apexes: [Apex; 2],
    ttl: Ttl,
    /// By canonical wire form. A node without records is an empty non-terminal.
    nodes: HashMap<Box<[u8]>, Vec<Data>, RandomState>,
}

/// The part of the name space that a name belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// The own cluster's zone, `cluster.local`.
    Cluster,
    /// The fleet's zone, `clusterset.local`.
    Clusterset,
    /// The reverse name of an address that has a name in one of the zones.
    Reverse,
    /// Everything else: for the upstreams.
    Outside,
}

#[derive(Debug)]
struct Apex {
    area: Area,
    name: DnsName,
}

/// The data of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv { port: u16, target: DnsName },
    Cname(DnsName),
    Ptr(DnsName),
    Txt(&'static str),
    Soa(Soa<DnsName>),
}

/// What a zone has at a name.
pub(crate) struct Found<'a> {
    pub(crate) area: Area,
    /// `None`: the name does not exist.
    pub(crate) records: Option<&'a [Data]>,
}

impl Zone {
    /// Derives the zone that `cluster` sees from `state`.
    pub fn build(state: &State, cluster: &ClusterName, config: &ZoneConfig) -> Zone {
        build::zone(state, cluster, config)
    }

    /// Returns the number of names that have a record.
    pub fn len(&self) -> usize {
        self.nodes.values().filter(|records| !records.is_empty()).count()
    }

    /// Tells whether no name has a record. (A zone that was built has at least its own SOA records.)
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells where `name` belongs, as people write it; `None` where it is not a name.
    pub fn area(&self, name: &str) -> Option<Area> {
        name::parse(name).map(|name| self.find(name.for_slice()).area)
    }

    /// Returns what is at `name`, which is in canonical form.
    pub(crate) fn find(&self, name: &Name<[u8]>) -> Found<'_> {
        let records = self.nodes.get(name.as_slice()).map(Vec::as_slice);
        // Longest first, as one of the zones may lie inside the other.
        let area = match self.apexes.iter().find(|apex| name.ends_with(&apex.name)) {
            Some(apex) => apex.area,
            None if records.is_some() => Area::Reverse,
            None => Area::Outside,
        };
        Found { area, records }
    }

    /// Returns the SOA record for a negative answer about `name`: its owner and data.
    ///
    /// A reverse name is a zone of its own, as nothing is known about its neighbours.
    pub(crate) fn authority(&self, area: Area, name: &Name<[u8]>) -> Option<(DnsName, Soa<DnsName>)> {
        let apex = match area {
            Area::Outside => return None,
            Area::Reverse => Name::from_octets(mesh_core::Bytes::copy_from_slice(name.as_slice())).ok()?,
            Area::Cluster | Area::Clusterset => self.apexes.iter().find(|apex| apex.area == area)?.name.clone(),
        };
        let soa = soa(&self.apexes[0].name, self.ttl);
        let soa = if area == Area::Reverse { soa } else { self::soa(&apex, self.ttl) };
        Some((apex, soa))
    }

    /// Returns the time that clients may keep an answer.
    pub(crate) fn ttl(&self) -> Ttl {
        self.ttl
    }
}

impl Data {
    pub(crate) fn rtype(&self) -> Rtype {
        match self {
            Data::A(_) => Rtype::A,
            Data::Aaaa(_) => Rtype::AAAA,
            Data::Srv { .. } => Rtype::SRV,
            Data::Cname(_) => Rtype::CNAME,
            Data::Ptr(_) => Rtype::PTR,
            Data::Txt(_) => Rtype::TXT,
            Data::Soa(_) => Rtype::SOA,
        }
    }

    fn address(address: IpAddr) -> Data {
        match address {
            IpAddr::V4(address) => Data::A(address),
            IpAddr::V6(address) => Data::Aaaa(address),
        }
    }
}

/// Makes the SOA of a zone. Nobody transfers the zones, so the serial does not count; the minimum is the TTL of negative
/// answers (RFC 2308 §4), the other times are CoreDNS's.
fn soa(apex: &DnsName, ttl: Ttl) -> Soa<DnsName> {
    let (server, mailbox) = (name::join(&["ns", "dns"], apex), name::join(&["hostmaster"], apex));
    let (server, mailbox) = (server.unwrap_or_else(|| apex.clone()), mailbox.unwrap_or_else(|| apex.clone()));
    let seconds = Ttl::from_secs;
    Soa::new(server, mailbox, Serial(1), seconds(7200), seconds(1800), seconds(86_400), ttl)
}
