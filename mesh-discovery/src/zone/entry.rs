//! A service in a zone: its records in a compact form, from which every answer about its names is computed.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use mesh_core::{Backend, ClusterName, ImportedService, LocalService, Protocol, ServiceId, ServiceKind, ServicePort};

use crate::name::{self, DnsName, Label};

mod fill;

/// The longest name that DNS has, in wire form.
const MAX_NAME: usize = 255;

/// What a service of one zone says in DNS. There is an entry for each service whose name exists, and no other.
#[derive(Debug)]
pub(super) struct Entry {
    service: Service,
    /// The labels of the service and its namespace, in wire form.
    stem: Box<[u8]>,
    /// Where an ExternalName service points to.
    alias: Option<Box<DnsName>>,
    /// The addresses at the service's name, each once, those of IPv4 first.
    addresses: Box<[IpAddr]>,
    v4: u32,
    /// The endpoints' own names: by hash, name and address.
    hosts: Box<[Host]>,
    /// The clusters that have such endpoints, in order, where their names are below those of their clusters.
    clusters: Box<[ClusterName]>,
    /// By port.
    srvs: Box<[Srv]>,
}

#[derive(Debug)]
enum Service {
    Local(Arc<LocalService>),
    Imported(Arc<ImportedService>),
}

/// An endpoint's name and one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host {
    hash: u32,
    backend: u32,
    /// Which of the entry's addresses.
    address: u32,
}

/// An SRV record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Srv {
    /// Which port of the service, the first of those with one name and protocol.
    port: u16,
    /// The first host of the target's name, or [`Srv::SERVICE`].
    host: u32,
    number: u16,
    /// It is not at the service's own name, because one that says the same is.
    pub(super) again: bool,
    /// The port has a name of its own in the zone.
    named: bool,
}

impl Srv {
    const SERVICE: u32 = u32::MAX;
}

impl Entry {
    /// Makes the entry of a service of the own cluster; `None` where it has no name. `apex` is the length of the zone's name.
    pub(super) fn local(local: &Arc<LocalService>, apex: usize, hasher: &RandomState) -> Option<Entry> {
        let service = &local.service;
        let mut entry = Entry::empty(Service::Local(local.clone()), &service.id)?;
        match service.kind {
            ServiceKind::ExternalName => {
                entry.alias = Some(Box::new(service.external_name.as_deref().and_then(name::parse)?));
            }
            ServiceKind::ClusterIp => entry.fill_addresses(&service.addresses, apex),
            ServiceKind::Headless => entry.fill_hosts(apex, hasher)?,
        }
        Some(entry)
    }

    /// Makes the entry of an imported service; `None` where it has no name.
    pub(super) fn imported(imported: &Arc<ImportedService>, apex: usize, hasher: &RandomState) -> Option<Entry> {
        let mut entry = Entry::empty(Service::Imported(imported.clone()), &imported.id)?;
        match imported.kind {
            ServiceKind::ExternalName => return None,
            // The name exists even while no address has been allocated, and whether or not there is an endpoint.
            ServiceKind::ClusterIp => entry.fill_addresses(&imported.addresses, apex),
            ServiceKind::Headless => entry.fill_hosts(apex, hasher)?,
        }
        Some(entry)
    }

    /// Tells whether all answers about the service and its names are the same as those of `other`, which is of the same service.
    pub(super) fn says_the_same(&self, other: &Entry) -> bool {
        let hosts = || self.hosts.iter().zip(&other.hosts);
        // Only ports that have a name of their own in the zone say something by it.
        let is_same_port = |srv: &Srv| {
            let [own, theirs] = [self, other].map(|entry| &entry.ports()[usize::from(srv.port)]);
            let [name, other_name] = [own, theirs].map(|port| port.name.as_deref().unwrap_or_default());
            name.eq_ignore_ascii_case(other_name) && own.protocol == theirs.protocol
        };
        let of_one_name = |(a, b): (&Host, &Host)| {
            let ((label, cluster), (other_label, other_cluster)) = (self.host_name(a), other.host_name(b));
            a.address == b.address && *label == *other_label && cluster == other_cluster
        };
        self.alias == other.alias
            && self.addresses == other.addresses
            && self.hosts.len() == other.hosts.len()
            && hosts().all(of_one_name)
            && self.srvs == other.srvs
            && self.srvs.iter().filter(|srv| srv.named).all(is_same_port)
    }

    /// Returns the addresses that have a reverse name, each with the labels of that name in front of `svc`; without those that
    /// `other`, an earlier or later entry of the same service, has as well.
    pub(super) fn owned_beyond(&self, other: Option<&Entry>) -> Vec<(IpAddr, Box<[u8]>)> {
        let other = other.filter(|other| other.is_headless() == self.is_headless());
        if !self.is_headless() {
            let is_known = |address: &&IpAddr| other.is_some_and(|other| other.addresses.contains(address));
            return self
                .addresses
                .iter()
                .filter(|address| !is_known(address))
                .map(|address| (*address, self.stem.clone()))
                .collect();
        }
        let owned = |host: &Host| {
            let (label, cluster) = self.host_name(host);
            let labels = [&*label].into_iter().chain(cluster.map(|cluster| cluster.as_str().as_bytes()));
            let mut name = Vec::with_capacity(MAX_NAME);
            labels.for_each(|label| name::push_label(&mut name, label));
            name.extend_from_slice(&self.stem);
            (self.address(host), name.into())
        };
        let is_known = |host: &&Host| other.is_some_and(|other| other.has(self, host));
        self.hosts.iter().filter(|host| !is_known(host)).map(owned).collect()
    }

    /// Tells whether a host of another entry of this service, with its name and address, is here too.
    fn has(&self, other: &Entry, host: &Host) -> bool {
        let first = self.hosts.partition_point(|own| own.hash < host.hash);
        self.hosts[first..].iter().take_while(|own| own.hash == host.hash).any(|own| {
            let ((label, cluster), (other_label, other_cluster)) = (self.host_name(own), other.host_name(host));
            self.address(own) == other.address(host) && *label == *other_label && cluster == other_cluster
        })
    }

    fn is_headless(&self) -> bool {
        let kind = match &self.service {
            Service::Local(local) => local.service.kind,
            Service::Imported(imported) => imported.kind,
        };
        kind == ServiceKind::Headless
    }

    fn empty(service: Service, id: &ServiceId) -> Option<Entry> {
        let stem = stem(id)?;
        let (addresses, hosts, srvs) = (Box::default(), Box::default(), Box::default());
        Some(Entry { service, stem, alias: None, addresses, v4: 0, hosts, clusters: Box::default(), srvs })
    }

    pub(super) fn id(&self) -> &ServiceId {
        match &self.service {
            Service::Local(local) => &local.service.id,
            Service::Imported(imported) => &imported.id,
        }
    }

    pub(super) fn stem(&self) -> &[u8] {
        &self.stem
    }

    pub(super) fn alias(&self) -> Option<&DnsName> {
        self.alias.as_deref()
    }

    /// Tells whether the endpoints' names are below those of their clusters.
    pub(super) fn is_imported(&self) -> bool {
        matches!(self.service, Service::Imported(_))
    }

    /// Returns the addresses at the service's name: those of IPv4, and those of IPv6.
    pub(super) fn addresses(&self) -> (&[IpAddr], &[IpAddr]) {
        self.addresses.split_at(self.v4 as usize)
    }

    fn ports(&self) -> &[ServicePort] {
        match &self.service {
            Service::Local(local) => &local.service.ports,
            Service::Imported(imported) => &imported.ports,
        }
    }

    fn backends(&self) -> &[Backend] {
        match &self.service {
            Service::Local(local) => &local.backends,
            Service::Imported(imported) => &imported.backends,
        }
    }

    pub(super) fn address(&self, host: &Host) -> IpAddr {
        self.addresses[host.address as usize]
    }

    /// Returns the label of an endpoint and the cluster that it is below of, where it is.
    pub(super) fn host_name(&self, host: &Host) -> (Label, Option<&ClusterName>) {
        let backend = &self.backends()[host.backend as usize];
        let label = Label::of_host(backend.hostname.as_deref(), self.address(host));
        (label, self.is_imported().then_some(&backend.cluster))
    }

    /// Returns the hosts that have this name.
    pub(super) fn hosts_at(&self, hasher: &RandomState, label: &[u8], cluster: Option<&[u8]>) -> &[Host] {
        let hash = host_hash(hasher, label, cluster);
        let is = |host: &Host| {
            let (known, of) = self.host_name(host);
            host.hash == hash && *known == *label && of.map(|cluster| cluster.as_str().as_bytes()) == cluster
        };
        let mut begin = self.hosts.partition_point(|host| host.hash < hash);
        while self.hosts.get(begin).is_some_and(|host| host.hash == hash && !is(host)) {
            begin += 1;
        }
        let len = self.hosts[begin..].iter().take_while(|host| is(host)).count();
        &self.hosts[begin..begin + len]
    }

    /// Tells whether some endpoint of `cluster` has a name.
    pub(super) fn has_hosts_of(&self, cluster: &[u8]) -> bool {
        self.clusters.binary_search_by(|known| known.as_str().as_bytes().cmp(cluster)).is_ok()
    }

    /// Returns all SRV records; those at the service's own name are the ones that are not [`Srv::again`].
    pub(super) fn srvs(&self) -> &[Srv] {
        &self.srvs
    }

    /// Returns the SRV records at a port's name, by its two labels without their underscores.
    pub(super) fn srvs_at(&self, port: &[u8], protocol: &[u8]) -> &[Srv] {
        let mut groups = self.srv_groups();
        let is = |srvs: &&[Srv]| {
            let known = &self.ports()[usize::from(srvs[0].port)];
            let name = known.name.as_deref().unwrap_or_default();
            srvs[0].named && name.as_bytes().eq_ignore_ascii_case(port) && is_protocol(known.protocol, protocol)
        };
        groups.find(is).unwrap_or_default()
    }

    /// Tells whether some port of this protocol has a name.
    pub(super) fn has_ports_of(&self, protocol: &[u8]) -> bool {
        self.srv_groups().any(|srvs| srvs[0].named && is_protocol(self.ports()[usize::from(srvs[0].port)].protocol, protocol))
    }

    /// Returns the SRV records of one port after the other's.
    fn srv_groups(&self) -> impl Iterator<Item = &[Srv]> {
        let mut rest = &*self.srvs;
        std::iter::from_fn(move || {
            let port = rest.first()?.port;
            let (group, others) = rest.split_at(rest.partition_point(|srv| srv.port == port));
            rest = others;
            Some(group)
        })
    }

    /// Returns where an SRV record points to: a port of an endpoint, or of the service where there is none.
    pub(super) fn target(&self, srv: &Srv) -> (u16, Option<&Host>) {
        (srv.number, self.hosts.get(srv.host as usize))
    }
}

/// Returns the labels of a service and its namespace; `None` for a name that is not one label, which no Service has: it would
/// put records where other names belong.
pub(super) fn stem(id: &ServiceId) -> Option<Box<[u8]>> {
    let name = Some(id.name.as_str()).filter(|name| name.len() <= 63 && !name.contains('.'))?;
    let mut stem = Vec::with_capacity(name.len() + id.namespace.as_str().len() + 2);
    name::push_label(&mut stem, name.as_bytes());
    name::push_label(&mut stem, id.namespace.as_str().as_bytes());
    Some(stem.into())
}

fn host_hash(hasher: &RandomState, label: &[u8], cluster: Option<&[u8]>) -> u32 {
    hasher.hash_one((label, cluster)) as u32
}

fn is_protocol(protocol: Protocol, label: &[u8]) -> bool {
    *Label::of(protocol) == *label
}
