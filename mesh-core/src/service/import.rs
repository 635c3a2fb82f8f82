//! The services of the fleet and of one's own cluster, as one cluster sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::merge::{self, Merged};
use super::{ImportedService, ImportedServices, LocalService, allocate};
use crate::{ClusterName, Prefix, ServiceId, ServiceKind, State, Trust};

/// The clusterset ranges of a cluster whose grant names none, where no publisher allocates.
const DEFAULT_RANGES: [&str; 2] = ["100.80.0.0/16", "fd00:80::/112"];

impl State {
    /// Returns the services that `cluster` can import: every exported one whose namespace exists there (KEP-1645).
    ///
    /// A ClusterSetIP service has the addresses of the cluster's ServiceImport. Without one it has none in a fleet until the
    /// cluster's publisher has allocated them; where no publisher is (an offline check) they are allocated here.
    pub fn imported_services(&self, cluster: &ClusterName) -> ImportedServices {
        let exports = self.exports();
        let mut exists = BTreeMap::new();
        let mut imported = ImportedServices::default();
        for group in exports.chunk_by(|a, b| a.id == b.id) {
            let id = &group[0].id;
            if !*exists.entry(&id.namespace).or_insert_with(|| self.namespace_exists(cluster, &id.namespace)) {
                continue;
            }
            let Merged { kind, affinity, ports, exporters, backends } = Merged::new(group);
            let addresses = if kind == ServiceKind::ClusterIp { self.declared_addresses(cluster, id) } else { Vec::new() };
            let service = ImportedService { id: id.clone(), kind, affinity, ports, addresses, backends, exporters };
            imported.services.insert(id.clone(), service);
        }
        if !matches!(self.config().trust, Trust::Signed { .. }) {
            self.allocate_missing(cluster, &mut imported);
        }
        imported
    }

    /// Returns `cluster`'s own services with their endpoints, by service.
    pub fn local_services(&self, cluster: &ClusterName) -> BTreeMap<ServiceId, LocalService> {
        let endpoints = self.endpoints(|of, _| of == cluster);
        let services = self.facts().services.iter().filter(|(key, _)| key.0 == *cluster);
        let local = services.map(|((_, id), service)| {
            let endpoints = endpoints.get(&(cluster, id)).into_iter().flatten();
            let publish = service.publish_not_ready;
            let backends = endpoints.map(|endpoint| merge::backend(cluster, &service.ports, &service.ports, publish, endpoint));
            (id.clone(), LocalService { service: service.clone(), backends: backends.collect() })
        });
        local.collect()
    }

    /// Returns the addresses of the cluster's ServiceImport, the first of each family.
    fn declared_addresses(&self, cluster: &ClusterName, id: &ServiceId) -> Vec<IpAddr> {
        let declared = self.facts().service_imports.get(&(cluster.clone(), id.clone()));
        let declared = declared.map(|import| import.addresses.as_slice()).unwrap_or_default();
        let first = |v4: bool| declared.iter().copied().find(|address| address.is_ipv4() == v4);
        [true, false].into_iter().filter_map(first).collect()
    }

    fn allocate_missing(&self, cluster: &ClusterName, imported: &mut ImportedServices) {
        let granted = self.facts().grants.get(cluster).map(|grant| grant.service_prefixes.clone());
        let ranges = granted.filter(|ranges| !ranges.is_empty()).unwrap_or_else(|| {
            DEFAULT_RANGES.iter().map(|range| range.parse::<Prefix>().expect("the default ranges are prefixes")).collect()
        });
        let declared = self.facts().service_imports.values().filter(|import| import.cluster == *cluster);
        let mut taken: BTreeSet<IpAddr> = declared.flat_map(|import| import.addresses.iter().copied()).collect();
        for service in imported.services.values_mut() {
            if service.kind != ServiceKind::ClusterIp || !service.addresses.is_empty() {
                continue;
            }
            for v4 in [true, false] {
                let mut of_family = ranges.iter().filter(|range| range.is_ipv4() == v4);
                let address = of_family.find_map(|range| allocate(*range, &taken, &service.id));
                taken.extend(address);
                service.addresses.extend(address);
            }
        }
    }
}
