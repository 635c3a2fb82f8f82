//! The rules of discovery (SEMANTICS §3), record by record: what a zone is compared with.

use mesh_core::{Backend, ImportedService, LocalService};

use super::*;

/// Every record of both zones, by name.
pub(super) struct Naive {
    apexes: [(Area, DnsName); 2],
    nodes: BTreeMap<DnsName, BTreeSet<String>>,
    /// The services that have a name, with that name.
    named: BTreeMap<(ServiceId, Area), DnsName>,
}

/// A service's own name and what its SRV records say.
struct Names<'a> {
    service: DnsName,
    ports: &'a [ServicePort],
}

impl Naive {
    pub(super) fn new(services: &Services, config: &ZoneConfig) -> Naive {
        let mut apexes = [(Area::Cluster, config.cluster.clone()), (Area::Clusterset, config.clusterset.clone())];
        apexes.sort_by_key(|(_, apex)| std::cmp::Reverse(apex.len()));
        let mut naive = Naive { apexes, nodes: BTreeMap::new(), named: BTreeMap::new() };
        naive.apex(&config.cluster, "1.1.0");
        naive.apex(&config.clusterset, "1.0.0");
        for (id, local) in services.local() {
            naive.local(id, local, &config.cluster);
        }
        for (id, imported) in services.imported() {
            naive.imported(id, imported, &config.clusterset);
        }
        naive
    }

    pub(super) fn names(&self) -> impl Iterator<Item = DnsName> {
        self.nodes.keys().cloned()
    }

    pub(super) fn own_zone(&self) -> String {
        let (_, apex) = self.apexes.iter().find(|(area, _)| *area == Area::Cluster).expect("one of the two");
        format!(".svc.{apex}")
    }

    pub(super) fn answers(&self, name: &DnsName) -> (Area, Option<Vec<String>>) {
        let records = self.nodes.get(name).map(|records| records.iter().cloned().collect());
        let area = match self.apexes.iter().find(|(_, apex)| name.ends_with(apex)) {
            Some((area, _)) => *area,
            None if records.is_some() => Area::Reverse,
            None => Area::Outside,
        };
        (area, records)
    }

    pub(super) fn services(&self) -> (usize, usize) {
        let of = |area| self.named.keys().filter(|(_, of)| *of == area).count();
        (of(Area::Cluster), of(Area::Clusterset))
    }

    pub(super) fn changes_since(&self, older: &Naive) -> Vec<ZoneChange> {
        let all: BTreeMap<_, _> = older.named.iter().chain(&self.named).collect();
        let below = |naive: &Naive, name: &DnsName| -> Vec<(DnsName, BTreeSet<String>)> {
            naive.nodes.iter().filter(|(known, _)| known.ends_with(name)).map(|(known, of)| (known.clone(), of.clone())).collect()
        };
        let differs = |name: &DnsName| below(self, name) != below(older, name);
        let changed = all.into_iter().filter(|(_, name)| differs(name));
        let change = |(key, name): (&(ServiceId, Area), &DnsName)| ZoneChange {
            service: key.0.clone(),
            area: key.1,
            name: name.to_string(),
            exists: self.named.contains_key(key),
        };
        changed.map(change).collect()
    }

    fn apex(&mut self, apex: &DnsName, version: &'static str) {
        self.add(apex, format!("SOA {}", name::join(&["ns", "dns"], apex).expect("short")));
        self.add(&name::join(&["dns-version"], apex).expect("short"), format!("TXT {version}"));
    }

    fn local(&mut self, id: &ServiceId, local: &LocalService, apex: &DnsName) {
        let Some(service) = service_name(id, apex) else { return };
        let names = Names { service, ports: &local.service.ports };
        match local.service.kind {
            ServiceKind::ExternalName => {
                if let Some(target) = local.service.external_name.as_deref().and_then(name::parse) {
                    self.add(&names.service, format!("CNAME {target}"));
                }
            }
            ServiceKind::ClusterIp => self.with_address(&names, &local.service.addresses),
            ServiceKind::Headless => self.headless(&names, local.backends.iter(), None),
        }
        self.note(id, Area::Cluster, names.service);
    }

    fn imported(&mut self, id: &ServiceId, imported: &ImportedService, apex: &DnsName) {
        let Some(service) = service_name(id, apex) else { return };
        let names = Names { service, ports: &imported.ports };
        match imported.kind {
            ServiceKind::ExternalName => {}
            ServiceKind::ClusterIp => self.with_address(&names, &imported.addresses),
            ServiceKind::Headless => {
                for exporter in &imported.exporters {
                    let of_cluster = imported.backends.iter().filter(|backend| backend.cluster == exporter.cluster);
                    self.headless(&names, of_cluster, Some(&exporter.cluster));
                }
            }
        }
        self.note(id, Area::Clusterset, names.service);
    }

    fn note(&mut self, id: &ServiceId, area: Area, service: DnsName) {
        if self.nodes.contains_key(&service) {
            self.named.insert((id.clone(), area), service);
        }
    }

    /// Rule 3: the addresses answer whether or not there is an endpoint, and the name exists before they are allocated.
    fn with_address(&mut self, names: &Names<'_>, addresses: &[IpAddr]) {
        self.touch(&names.service);
        for address in addresses {
            self.address(&names.service, *address);
            self.add(&name::reverse(*address), format!("PTR {}", names.service));
        }
        for port in names.ports {
            self.srv(names, port, port.port, &names.service);
        }
    }

    /// Rule 4: ready endpoints, each also under a name of its own below the service, or below its cluster there.
    fn headless<'a>(&mut self, names: &Names<'_>, backends: impl Iterator<Item = &'a Backend>, cluster: Option<&ClusterName>) {
        for backend in backends.filter(|backend| backend.ready) {
            for address in &backend.addresses {
                let label = name::Label::of_host(backend.hostname.as_deref(), *address);
                let label = String::from_utf8_lossy(&label).into_owned();
                let host = match cluster {
                    Some(cluster) => name::join(&[&label, cluster.as_str()], &names.service),
                    None => name::join(&[&label], &names.service),
                };
                self.address(&names.service, *address);
                let Some(host) = host else { continue };
                self.address(&host, *address);
                self.add(&name::reverse(*address), format!("PTR {host}"));
                for (port, at) in names.ports.iter().zip(backend.ports.iter()) {
                    if let Some(at) = at {
                        self.srv(names, port, *at, &host);
                    }
                }
            }
        }
    }

    /// Rule 5: at the port's name and at the service's.
    fn srv(&mut self, names: &Names<'_>, port: &ServicePort, number: u16, target: &DnsName) {
        let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) else { return };
        let (port_label, protocol_label) = (format!("_{port_name}"), format!("_{}", port.protocol));
        let data = format!("SRV {number} {target}");
        if let Some(name) = name::join(&[&port_label, &protocol_label], &names.service) {
            self.add(&name, data.clone());
        }
        self.add(&names.service, data);
    }

    fn address(&mut self, name: &DnsName, address: IpAddr) {
        self.add(name, format!("{} {address}", if address.is_ipv4() { "A" } else { "AAAA" }));
    }

    fn add(&mut self, name: &DnsName, data: String) {
        self.touch(name);
        self.nodes.entry(name.clone()).or_default().insert(data);
    }

    /// Rule 6: makes the node of `name` and the empty non-terminals above it, up to the highest zone that it is in.
    fn touch(&mut self, name: &DnsName) {
        self.nodes.entry(name.clone()).or_default();
        let tops: Vec<usize> = self.apexes.iter().filter(|(_, apex)| name.ends_with(apex)).map(|(_, apex)| apex.len()).collect();
        let Some(top) = tops.into_iter().min() else { return };
        for suffix in name.iter_suffixes().filter(|suffix| suffix.len() >= top) {
            self.nodes.entry(suffix).or_default();
        }
    }
}

fn service_name(id: &ServiceId, apex: &DnsName) -> Option<DnsName> {
    let name = Some(id.name.as_str()).filter(|name| !name.contains('.'))?;
    name::join(&[name, id.namespace.as_str(), "svc"], apex)
}
