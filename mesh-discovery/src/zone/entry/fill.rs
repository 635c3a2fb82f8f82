//! From a service to its entry.

use std::net::IpAddr;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use mesh_core::Protocol;

use super::{Entry, Host, MAX_NAME, Srv, host_hash};

type Map<K, V> = HashMap<K, V, RandomState>;
type Set<K> = HashSet<K, RandomState>;

/// A port as SRV records see it.
#[derive(Clone, Copy)]
struct Port {
    /// The first of the ports with its name and protocol.
    first: u16,
    /// Its name fits into DNS.
    named: bool,
}

/// The SRV records of one service, each once.
#[derive(Default)]
struct Srvs {
    srvs: Vec<Srv>,
    at_port: Set<(u16, u16, u32)>,
    at_service: Set<(u16, u32)>,
}

impl Entry {
    /// Fills in a service that has addresses of its own.
    pub(super) fn fill_addresses(&mut self, addresses: &[IpAddr], apex: usize) {
        let mut known = Set::default();
        let addresses: Vec<IpAddr> = addresses.iter().copied().filter(|address| known.insert(*address)).collect();
        self.set_addresses(&addresses);
        let mut srvs = Srvs::default();
        for (port, own) in self.srv_ports(apex).iter().zip(self.ports()) {
            srvs.add(*port, own.port, Srv::SERVICE);
        }
        self.srvs = srvs.finish();
    }

    /// Fills in a headless service: its ready endpoints; `None` where it has none.
    pub(super) fn fill_hosts(&mut self, apex: usize, hasher: &RandomState) -> Option<()> {
        let (mut addresses, mut places) = (Vec::new(), Map::default());
        // In the order of the backends, with the backend's number.
        let mut hosts = Vec::new();
        for (number, backend) in (0u32..).zip(self.backends()).filter(|(_, backend)| backend.ready) {
            for address in &backend.addresses {
                let place = *places.entry(*address).or_insert_with(|| {
                    addresses.push(*address);
                    addresses.len() as u32 - 1
                });
                hosts.push(Host { hash: 0, backend: number, address: place });
            }
        }
        if addresses.is_empty() {
            return None;
        }
        let places = self.set_addresses(&addresses);
        for host in &mut hosts {
            host.address = places[host.address as usize];
        }
        hosts.retain(|host| {
            let (label, cluster) = self.host_name(host);
            self.has_room(apex, &[label.len(), cluster.map_or(0, |cluster| cluster.as_str().len())])
        });
        for host in &mut hosts {
            let (label, cluster) = self.host_name(host);
            host.hash = host_hash(hasher, &label, cluster.map(|cluster| cluster.as_str().as_bytes()));
        }
        let by_name = self.name_hosts(&hosts);
        let ports = self.srv_ports(apex);
        let mut srvs = Srvs::default();
        for (host, name) in hosts.iter().zip(by_name) {
            for (port, at) in ports.iter().zip(&*self.backends()[host.backend as usize].ports) {
                if let Some(number) = at {
                    srvs.add(*port, *number, name);
                }
            }
        }
        self.srvs = srvs.finish();
        Some(())
    }

    /// Puts the addresses in their order; returns the new place of each.
    fn set_addresses(&mut self, addresses: &[IpAddr]) -> Vec<u32> {
        let mut order: Vec<usize> = (0..addresses.len()).collect();
        order.sort_by_key(|place| addresses[*place].is_ipv6());
        self.v4 = addresses.iter().filter(|address| address.is_ipv4()).count() as u32;
        self.addresses = order.iter().map(|place| addresses[*place]).collect();
        let mut places = vec![0; order.len()];
        for (new, old) in (0u32..).zip(order) {
            places[old] = new;
        }
        places
    }

    /// Puts the hosts in their order, each once; returns for each of `hosts` the first of those with its name.
    fn name_hosts(&mut self, hosts: &[Host]) -> Vec<u32> {
        let mut order: Vec<usize> = (0..hosts.len()).collect();
        let of_one_name = |a: &Host, b: &Host| {
            let ((label, cluster), (other, other_cluster)) = (self.host_name(a), self.host_name(b));
            a.hash.cmp(&b.hash).then_with(|| label.cmp(&other)).then_with(|| cluster.cmp(&other_cluster))
        };
        order.sort_by(|a, b| {
            let (a, b) = (&hosts[*a], &hosts[*b]);
            // Names are looked at only where hashes are the same.
            a.hash.cmp(&b.hash).then_with(|| of_one_name(a, b)).then(a.address.cmp(&b.address))
        });
        let mut named: Vec<Host> = Vec::with_capacity(hosts.len());
        let mut by_name = vec![0; hosts.len()];
        let mut first = 0;
        for place in order {
            let host = hosts[place];
            match named.last() {
                Some(last) if last.hash == host.hash && of_one_name(last, &host).is_eq() => {
                    if last.address != host.address {
                        named.push(host);
                    }
                }
                _ => {
                    first = named.len() as u32;
                    named.push(host);
                }
            }
            by_name[place] = first;
        }
        if self.is_imported() {
            let mut clusters: Vec<_> = named.iter().map(|host| &self.backends()[host.backend as usize].cluster).collect();
            clusters.sort_unstable();
            clusters.dedup();
            self.clusters = clusters.into_iter().cloned().collect();
        }
        self.hosts = named.into();
        by_name
    }

    /// Returns what SRV records say of each port; ports without a name have none.
    fn srv_ports(&self, apex: usize) -> Vec<Option<Port>> {
        let mut known: Map<(String, Protocol), u16> = Map::default();
        let port = |(number, port): (usize, &mesh_core::ServicePort)| {
            let number = u16::try_from(number).ok()?;
            let name = port.name.as_deref().filter(|name| !name.is_empty())?;
            let first = *known.entry((name.to_ascii_lowercase(), port.protocol)).or_insert(number);
            let named = self.has_room(apex, &[name.len() + 1, crate::name::Label::of(port.protocol).len() + 1]);
            Some(Port { first, named })
        };
        self.ports().iter().enumerate().map(port).collect()
    }

    /// Tells whether a name with these labels below the service's is one; a label of no bytes is none.
    fn has_room(&self, apex: usize, labels: &[usize]) -> bool {
        let labels = || labels.iter().filter(|len| **len > 0);
        let below = labels().map(|len| len + 1).sum::<usize>();
        labels().all(|len| *len <= 63) && below + self.stem.len() + super::super::SVC.len() + apex <= MAX_NAME
    }
}

impl Srvs {
    fn add(&mut self, port: Option<Port>, number: u16, host: u32) {
        let Some(Port { first: port, named }) = port else { return };
        if self.at_port.insert((port, number, host)) {
            let again = !self.at_service.insert((number, host));
            self.srvs.push(Srv { port, host, number, again, named });
        }
    }

    fn finish(mut self) -> Box<[Srv]> {
        self.srvs.sort_by_key(|srv| srv.port);
        self.srvs.into()
    }
}
