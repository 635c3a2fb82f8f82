//! From services to records (Kubernetes DNS specification 1.1.0, multi-cluster DNS specification 1.0.0).

use std::net::IpAddr;

use hashbrown::HashMap;
use mesh_core::{Backend, ClusterName, ImportedService, LocalService, ServiceId, ServiceKind, ServicePort, State};

use super::{Apex, Area, Data, Zone, ZoneConfig};
use crate::name::{self, DnsName};

/// Builds the zone of `cluster`. The cluster's own names come first, so that a reverse name lists them first.
pub(super) fn zone(state: &State, cluster: &ClusterName, config: &ZoneConfig) -> Zone {
    let mut apexes = [
        Apex { area: Area::Cluster, name: config.cluster.clone() },
        Apex { area: Area::Clusterset, name: config.clusterset.clone() },
    ];
    apexes.sort_by_key(|apex| std::cmp::Reverse(apex.name.len()));
    let mut builder = Builder { zone: Zone { apexes, ttl: config.ttl, nodes: HashMap::default() } };
    builder.apex(&config.cluster, "1.1.0");
    builder.apex(&config.clusterset, "1.0.0");
    for (id, local) in &state.local_services(cluster) {
        builder.local(id, local, &config.cluster);
    }
    for (id, imported) in &state.imported_services(cluster).services {
        builder.imported(id, imported, &config.clusterset);
    }
    builder.zone
}

struct Builder {
    zone: Zone,
}

/// A service's own name and what its SRV records say.
struct Names<'a> {
    service: DnsName,
    ports: &'a [ServicePort],
}

impl Builder {
    fn apex(&mut self, apex: &DnsName, version: &'static str) {
        self.add(apex, Data::Soa(super::soa(apex, self.zone.ttl)));
        if let Some(name) = name::join(&["dns-version"], apex) {
            self.add(&name, Data::Txt(version));
        }
    }

    fn local(&mut self, id: &ServiceId, local: &LocalService, apex: &DnsName) {
        let Some(service) = service_name(id, apex) else { return };
        let names = Names { service, ports: &local.service.ports };
        match local.service.kind {
            ServiceKind::ExternalName => {
                if let Some(target) = local.service.external_name.as_deref().and_then(name::parse) {
                    self.add(&names.service, Data::Cname(target));
                }
            }
            ServiceKind::ClusterIp => self.with_address(&names, &local.service.addresses),
            ServiceKind::Headless => self.headless(&names, &local.backends, None),
        }
    }

    fn imported(&mut self, id: &ServiceId, imported: &ImportedService, apex: &DnsName) {
        let Some(service) = service_name(id, apex) else { return };
        let names = Names { service, ports: &imported.ports };
        match imported.kind {
            ServiceKind::ExternalName => {}
            ServiceKind::ClusterIp => self.with_address(&names, &imported.addresses),
            ServiceKind::Headless => {
                for exporter in &imported.exporters {
                    let backends: Vec<Backend> =
                        imported.backends.iter().filter(|backend| backend.cluster == exporter.cluster).cloned().collect();
                    self.headless(&names, &backends, Some(&exporter.cluster));
                }
            }
        }
    }

    /// A service with addresses of its own: they answer whether or not there is an endpoint.
    fn with_address(&mut self, names: &Names<'_>, addresses: &[IpAddr]) {
        // The name exists even while no address has been allocated.
        self.touch(&names.service);
        for address in addresses {
            self.add(&names.service, Data::address(*address));
            self.add(&name::reverse(*address), Data::Ptr(names.service.clone()));
        }
        for port in names.ports {
            self.srv(names, port, port.port, &names.service);
        }
    }

    /// A headless service: its ready endpoints, each also under a name of its own below the service, or below `cluster` there.
    fn headless(&mut self, names: &Names<'_>, backends: &[Backend], cluster: Option<&ClusterName>) {
        for backend in backends.iter().filter(|backend| backend.ready) {
            for address in &backend.addresses {
                let label = name::host_label(backend.hostname.as_deref(), *address);
                let host = match cluster {
                    Some(cluster) => name::join(&[&label, cluster.as_str()], &names.service),
                    None => name::join(&[&label], &names.service),
                };
                self.add(&names.service, Data::address(*address));
                let Some(host) = host else { continue };
                self.add(&host, Data::address(*address));
                self.add(&name::reverse(*address), Data::Ptr(host.clone()));
                for (port, at) in names.ports.iter().zip(backend.ports.iter()) {
                    if let Some(at) = at {
                        self.srv(names, port, *at, &host);
                    }
                }
            }
        }
    }

    /// Adds the SRV record of a named port, at the port's name and at the service's.
    fn srv(&mut self, names: &Names<'_>, port: &ServicePort, number: u16, target: &DnsName) {
        let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) else { return };
        let (port_label, protocol_label) = (format!("_{port_name}"), format!("_{}", port.protocol));
        let data = Data::Srv { port: number, target: target.clone() };
        if let Some(name) = name::join(&[&port_label, &protocol_label], &names.service) {
            self.add(&name, data.clone());
        }
        self.add(&names.service, data);
    }

    fn add(&mut self, name: &DnsName, data: Data) {
        self.touch(name);
        let records = self.zone.nodes.get_mut(name.as_slice()).expect("the node was just made");
        if !records.contains(&data) {
            records.push(data);
        }
    }

    /// Makes the node of `name` and, inside a zone, the empty non-terminals above it.
    fn touch(&mut self, name: &DnsName) {
        let inside = self.zone.apexes.iter().any(|apex| name.ends_with(&apex.name));
        for suffix in name.iter_suffixes() {
            if self.zone.nodes.contains_key(suffix.as_slice()) {
                return;
            }
            self.zone.nodes.insert(suffix.as_slice().into(), Vec::new());
            if !inside || self.zone.apexes.iter().any(|apex| apex.name == suffix) {
                return;
            }
        }
    }
}

fn service_name(id: &ServiceId, apex: &DnsName) -> Option<DnsName> {
    // A Service's name is one label; anything else would put records where other names belong.
    let name = Some(id.name.as_str()).filter(|name| !name.contains('.'))?;
    name::join(&[name, id.namespace.as_str(), "svc"], apex)
}
