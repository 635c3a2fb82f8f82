//! What is at a name, read out of a zone without copying it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::Name;
use domain::base::iana::Rtype;
use domain::rdata::Soa;
use mesh_core::Bytes;

use super::entry::{Entry, Host, Srv};
use super::reverse::Names;
use super::{Apex, Area, SVC};
use crate::name::{self, DnsName};

/// The data of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Data<'a> {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv { port: u16, target: Target<'a> },
    Cname(&'a DnsName),
    Ptr(Target<'a>),
    Txt(&'static str),
    Soa(&'a Soa<DnsName>),
}

impl Data<'_> {
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
}

impl From<IpAddr> for Data<'_> {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Data::A(address),
            IpAddr::V6(address) => Data::Aaaa(address),
        }
    }
}

/// A name of a service or of an endpoint in one of the zones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    host: Option<(&'a Entry, &'a Host)>,
    /// The labels between the host's and `svc`.
    stem: &'a [u8],
    apex: &'a DnsName,
}

impl Target<'_> {
    /// Adds the name in wire form, uncompressed and in lower case.
    pub(crate) fn append_to(&self, wire: &mut Vec<u8>) {
        if let Some((entry, host)) = self.host {
            let (label, cluster) = entry.host_name(host);
            name::push_label(wire, &label);
            if let Some(cluster) = cluster {
                name::push_label(wire, cluster.as_str().as_bytes());
            }
        }
        wire.extend_from_slice(self.stem);
        wire.extend_from_slice(SVC);
        wire.extend_from_slice(self.apex.as_slice());
    }

    pub(crate) fn to_name(self) -> DnsName {
        let mut wire = Vec::new();
        self.append_to(&mut wire);
        Name::from_octets(Bytes::from(wire)).expect("what is too long for DNS is not in a zone")
    }
}

/// The records at a name; none where it is an empty non-terminal.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Records<'a> {
    /// A record that is alone of its kind.
    single: Option<Single<'a>>,
    /// Addresses of IPv4 and of IPv6.
    addresses: (&'a [IpAddr], &'a [IpAddr]),
    /// Where hosts and SRV records are from.
    entry: Option<(&'a Entry, &'a Apex)>,
    hosts: &'a [Host],
    srvs: &'a [Srv],
    /// Of the SRV records only those at the service's own name.
    at_service: bool,
    owners: Names<'a>,
    /// The two zones, for the names of an address.
    apexes: &'a [Apex],
}

#[derive(Clone, Copy, Debug)]
enum Single<'a> {
    Cname(&'a DnsName),
    Txt(&'static str),
    Soa(&'a Soa<DnsName>),
}

impl<'a> Records<'a> {
    pub(super) fn soa(soa: &'a Soa<DnsName>) -> Records<'a> {
        Records { single: Some(Single::Soa(soa)), ..Records::default() }
    }

    pub(super) fn txt(text: &'static str) -> Records<'a> {
        Records { single: Some(Single::Txt(text)), ..Records::default() }
    }

    /// Returns the records at a service's own name.
    pub(super) fn service(entry: &'a Entry, apex: &'a Apex) -> Records<'a> {
        Records {
            single: entry.alias().map(Single::Cname),
            addresses: entry.addresses(),
            entry: Some((entry, apex)),
            srvs: entry.srvs(),
            at_service: true,
            ..Records::default()
        }
    }

    pub(super) fn hosts(entry: &'a Entry, apex: &'a Apex, hosts: &'a [Host]) -> Records<'a> {
        Records { entry: Some((entry, apex)), hosts, ..Records::default() }
    }

    pub(super) fn srvs(entry: &'a Entry, apex: &'a Apex, srvs: &'a [Srv]) -> Records<'a> {
        Records { entry: Some((entry, apex)), srvs, ..Records::default() }
    }

    pub(super) fn owners(owners: Names<'a>, apexes: &'a [Apex]) -> Records<'a> {
        Records { owners, apexes, ..Records::default() }
    }

    /// Returns where the name is an alias to; there is no other record then.
    pub(crate) fn alias(&self) -> Option<&'a DnsName> {
        match self.single {
            Some(Single::Cname(target)) => Some(target),
            _ => None,
        }
    }

    /// Returns the number of records of a type.
    pub(crate) fn count(&self, rtype: Rtype) -> usize {
        match rtype {
            Rtype::A if self.hosts.is_empty() => self.addresses.0.len(),
            Rtype::AAAA if self.hosts.is_empty() => self.addresses.1.len(),
            _ => self.of(rtype).count(),
        }
    }

    /// Returns the records of a type, or all of them for `ANY`, always in the same order; skipping addresses of a service costs
    /// nothing.
    pub(crate) fn of(&self, rtype: Rtype) -> impl Iterator<Item = Data<'a>> + Clone + use<'a> {
        let any = rtype == Rtype::ANY;
        let wants = |of: Rtype| any || rtype == of;
        let (v4, v6) = (wants(Rtype::A), wants(Rtype::AAAA));
        let own = (if v4 { self.addresses.0 } else { &[] }, if v6 { self.addresses.1 } else { &[] });
        let entry = self.entry;
        let hosts = if v4 || v6 { self.hosts } else { &[] };
        let hosts = hosts.iter().filter_map(move |host| {
            let (entry, _) = entry.expect("hosts are an entry's");
            let address = entry.address(host);
            (if address.is_ipv4() { v4 } else { v6 }).then(|| Data::from(address))
        });
        let at_service = self.at_service;
        let srvs = if wants(Rtype::SRV) { self.srvs } else { &[] };
        let srvs = srvs.iter().filter(move |srv| !(at_service && srv.again)).map(move |srv| {
            let (entry, apex) = entry.expect("SRV records are an entry's");
            let (port, host) = entry.target(srv);
            let host = host.map(|host| (entry, host));
            Data::Srv { port, target: Target { host, stem: entry.stem(), apex: &apex.name } }
        });
        let apexes = self.apexes;
        let owners = if wants(Rtype::PTR) { self.owners } else { Names::default() };
        let owners = owners.filter_map(move |(area, stem)| {
            let apex = apexes.iter().find(|apex| apex.area == area)?;
            Some(Data::Ptr(Target { host: None, stem, apex: &apex.name }))
        });
        let single = self.single.map(|single| match single {
            Single::Cname(target) => Data::Cname(target),
            Single::Txt(text) => Data::Txt(text),
            Single::Soa(soa) => Data::Soa(soa),
        });
        let single = single.filter(|data| wants(data.rtype()));
        let own = own.0.iter().chain(own.1).map(|address| Data::from(*address));
        own.chain(hosts).chain(srvs).chain(owners).chain(single)
    }
}

/// What a zone has at a name.
pub(crate) struct Found<'a> {
    pub(crate) area: Area,
    /// `None`: the name does not exist.
    pub(crate) records: Option<Records<'a>>,
}
