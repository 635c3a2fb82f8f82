//! What one cluster's names mean: both zones, as a snapshot that readers share.
//!
//! Records are not stored one by one. They follow from the structure: a service has addresses, ports and endpoints, an
//! endpoint's label leads to its addresses, an address leads to the names that it has. So a name is taken apart, and what is at
//! it is computed from the service's entry.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use domain::base::{Name, Serial, Ttl};
use domain::rdata::Soa;
use foldhash::fast::RandomState;
use mesh_core::{Change, ClusterName, NamespaceName, Services, State};

use self::entry::Entry;
use self::reverse::Owners;
use self::trie::Trie;
use crate::name::{self, DnsName};

mod builder;
mod config;
mod entry;
mod lookup;
mod records;
mod reverse;
#[cfg(test)]
mod tests;
mod trie;

pub use self::builder::ZoneBuilder;
pub use self::config::{ZoneConfig, ZoneConfigError};
pub use self::lookup::{Lookup, Record, RecordType, ZoneChange};
pub(crate) use self::records::{Data, Found, Records};

/// The label below which the services are, in wire form.
const SVC: &[u8] = b"\x03svc";

/// One for all zones, so that those of two builders can be compared. It has a seed of its own in each process: nobody can choose
/// names that collide.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// The names of the own cluster and of the fleet as one cluster sees them; immutable, shared behind an `Arc`.
#[derive(Clone, Debug)]
pub struct Zone {
    /// The two zones, that with the longer name first: one may lie inside the other.
    apexes: Arc<[Apex; 2]>,
    ttl: Ttl,
    hasher: &'static RandomState,
    cluster: Table,
    clusterset: Table,
    /// The names of each address that has one.
    reverse: Trie<(IpAddr, Owners)>,
}

/// The services of one of the zones.
#[derive(Clone, Debug, Default)]
struct Table {
    /// By the labels of service and namespace.
    services: Trie<Arc<Entry>>,
    /// How many services each namespace has.
    namespaces: Trie<(NamespaceName, u32)>,
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
    labels: usize,
    soa: Soa<DnsName>,
    /// The version of the specification that the zone follows.
    version: &'static str,
}

impl Zone {
    /// Derives the zone that `cluster` sees from `state`, all of it. A [`ZoneBuilder`] follows a state that changes.
    pub fn build(state: &State, cluster: &ClusterName, config: &ZoneConfig) -> Zone {
        let mut services = Services::new(cluster.clone());
        let all = services.update(state, &Change::default());
        let mut builder = ZoneBuilder::new(config);
        builder.update(&services, &all);
        Arc::unwrap_or_clone(builder.into_zone())
    }

    fn empty(config: &ZoneConfig) -> Zone {
        let apex = |area, name: &DnsName, version| {
            let labels = name.label_count() - 1;
            Apex { area, name: name.clone(), labels, soa: soa(name, config.ttl), version }
        };
        let mut apexes = [apex(Area::Cluster, &config.cluster, "1.1.0"), apex(Area::Clusterset, &config.clusterset, "1.0.0")];
        apexes.sort_by_key(|apex| std::cmp::Reverse(apex.name.len()));
        Zone {
            apexes: Arc::new(apexes),
            ttl: config.ttl,
            hasher: &HASHER,
            cluster: Table::default(),
            clusterset: Table::default(),
            reverse: Trie::default(),
        }
    }

    /// Returns the number of services that have a name: in `cluster.local` and in `clusterset.local`.
    pub fn len(&self) -> (usize, usize) {
        (self.cluster.services.len(), self.clusterset.services.len())
    }

    /// Tells whether no service has a name.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// Tells where `name` belongs, as people write it; `None` where it is not a name.
    pub fn area(&self, name: &str) -> Option<Area> {
        name::parse(name).map(|name| self.find(name.for_slice()).area)
    }

    /// Returns what is at `name`, which is in canonical form. Nothing is allocated.
    pub(crate) fn find(&self, name: &Name<[u8]>) -> Found<'_> {
        let wire = name.as_slice();
        // A name has at most 127 labels and the root.
        let (mut starts, mut count, mut at) = ([0u8; 128], 0, 0);
        while wire[at] != 0 {
            starts[count] = at as u8;
            count += 1;
            at += 1 + usize::from(wire[at]);
        }
        let starts = &starts[..count];
        for apex in self.apexes.iter() {
            let end = wire.len().checked_sub(apex.name.as_slice().len());
            let Some((end, inside)) = end.zip(count.checked_sub(apex.labels)) else { continue };
            if wire[end..] == *apex.name.as_slice() && starts.get(inside).is_none_or(|start| usize::from(*start) == end) {
                return Found { area: apex.area, records: self.find_inside(apex, &wire[..end], &starts[..inside]) };
            }
        }
        let owners = reverse::parse(wire).and_then(|address| {
            let owners = self.reverse.get(self.hasher.hash_one(address), |(known, _)| *known == address)?;
            Some(Records::owners(owners.1.iter(), &*self.apexes))
        });
        Found { area: if owners.is_some() { Area::Reverse } else { Area::Outside }, records: owners }
    }

    /// Returns what is at a name inside a zone, by its labels in front of the zone's name.
    fn find_inside<'a>(&'a self, apex: &'a Apex, wire: &[u8], starts: &[u8]) -> Option<Records<'a>> {
        let table = if apex.area == Area::Cluster { &self.cluster } else { &self.clusterset };
        let start = |from_end: usize| starts.len().checked_sub(from_end).map(|place| usize::from(starts[place]));
        let label = |place: usize| {
            let begin = usize::from(starts[place]) + 1;
            &wire[begin..begin + usize::from(wire[begin - 1])]
        };
        let Some(svc) = start(1) else { return Some(Records::soa(&apex.soa)) };
        if wire[svc..] != *SVC {
            let is_version = starts.len() == 1 && label(0) == b"dns-version";
            return if is_version { Some(Records::txt(apex.version)) } else { self.above(apex, wire) };
        }
        let Some(namespace) = start(2) else {
            return (table.services.len() > 0).then(Records::default).or_else(|| self.above(apex, wire));
        };
        let Some(service) = start(3) else {
            let name = &wire[namespace + 1..svc];
            let known = table.namespaces.get(self.hasher.hash_one(name), |(known, _)| known.as_str().as_bytes() == name);
            return known.map(|_| Records::default()).or_else(|| self.above(apex, wire));
        };
        let stem = &wire[service..svc];
        let Some(entry) = table.services.get(self.hasher.hash_one(stem), |entry| entry.stem() == stem) else {
            return self.above(apex, wire);
        };
        let below = match starts.len() - 3 {
            0 => Some(Records::service(entry, apex)),
            1 => match label(0) {
                [b'_', protocol @ ..] => entry.has_ports_of(protocol).then(Records::default),
                cluster if entry.is_imported() => entry.has_hosts_of(cluster).then(Records::default),
                host => self.hosts(entry, apex, host, None),
            },
            2 => match (label(0), label(1)) {
                ([b'_', port @ ..], [b'_', protocol @ ..]) => Some(entry.srvs_at(port, protocol))
                    .filter(|srvs| !srvs.is_empty())
                    .map(|srvs| Records::srvs(entry, apex, srvs)),
                (host, cluster) if entry.is_imported() => self.hosts(entry, apex, host, Some(cluster)),
                _ => None,
            },
            _ => None,
        };
        below.or_else(|| self.above(apex, wire))
    }

    fn hosts<'a>(&self, entry: &'a Entry, apex: &'a Apex, host: &[u8], cluster: Option<&[u8]>) -> Option<Records<'a>> {
        let hosts = entry.hosts_at(self.hasher, host, cluster);
        (!hosts.is_empty()).then(|| Records::hosts(entry, apex, hosts))
    }

    /// Returns the empty non-terminal that a name is where the other zone lies below it.
    fn above(&self, apex: &Apex, wire: &[u8]) -> Option<Records<'_>> {
        let is_above = |other: &Apex| {
            let inside = other.name.as_slice().strip_suffix(apex.name.as_slice())?.strip_suffix(wire)?;
            // The rest has to be whole labels.
            let mut rest = inside;
            while let [len, more @ ..] = rest {
                rest = more.get(usize::from(*len)..)?;
            }
            Some(())
        };
        let other = self.apexes.iter().find(|other| other.area != apex.area)?;
        is_above(other).map(|()| Records::default())
    }

    fn apex(&self, area: Area) -> &Apex {
        self.apexes.iter().find(|apex| apex.area == area).expect("there is one for each zone")
    }

    /// Returns the SOA record for a negative answer about `name`: its owner and data.
    ///
    /// A reverse name is a zone of its own, as nothing is known about its neighbours.
    pub(crate) fn authority(&self, area: Area, name: &Name<[u8]>) -> Option<(DnsName, Soa<DnsName>)> {
        let (apex, soa) = match area {
            Area::Outside => return None,
            Area::Reverse => {
                let name = Name::from_octets(mesh_core::Bytes::copy_from_slice(name.as_slice())).ok()?;
                (name, &self.apexes[0].soa)
            }
            Area::Cluster | Area::Clusterset => (self.apex(area).name.clone(), &self.apex(area).soa),
        };
        Some((apex, soa.clone()))
    }

    /// Returns the time that clients may keep an answer.
    pub(crate) fn ttl(&self) -> Ttl {
        self.ttl
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
