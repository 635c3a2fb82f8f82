//! The services of the fleet and of one's own cluster, as one cluster sees them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::merge::{Merged, Own};
use super::{ImportedService, ImportedServices, LocalService, allocate};
use crate::{ClusterName, Endpoint, Export, Prefix, Service, ServiceId, ServiceKind, State, Trust};

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
            if *exists.entry(&id.namespace).or_insert_with(|| self.namespace_exists(cluster, &id.namespace)) {
                imported.services.insert(id.clone(), self.merged(cluster, id, group));
            }
        }
        if self.allocates() {
            let open = imported.services.values().filter(|service| is_open(service)).map(|service| &service.id);
            for (id, addresses) in self.allocations(cluster, open.cloned().collect::<Vec<_>>().iter()) {
                imported.services.get_mut(&id).expect("it was just taken from there").addresses = addresses;
            }
        }
        imported
    }

    /// Returns one service as `cluster` imports it, as [`State::imported_services`] has it; its cost is that service's own size.
    ///
    /// Without the addresses that are allocated where no publisher is: those depend on all services.
    pub fn imported_service(&self, cluster: &ClusterName, id: &ServiceId) -> Option<ImportedService> {
        let exports = self.exports_of(id);
        let importable = !exports.is_empty() && self.namespace_exists(cluster, &id.namespace);
        importable.then(|| self.merged(cluster, id, exports.iter().map(Cow::as_ref)))
    }

    /// Returns [`State::local_service`] and [`State::imported_service`], whose endpoints are in part the same, at once.
    pub(super) fn seen_service(&self, cluster: &ClusterName, id: &ServiceId) -> (Option<LocalService>, Option<ImportedService>) {
        let key = (cluster.clone(), id.clone());
        let Some(service) = self.facts().services.get(&key) else { return (None, self.imported_service(cluster, id)) };
        let endpoints = self.endpoints_of(cluster, id);
        let local = LocalService::new(service, &endpoints);
        let mut endpoints = Some(endpoints);
        let exports = self.exporters(id).filter_map(|exporter| {
            let own = if exporter == cluster { endpoints.take() } else { None };
            self.export_with(exporter, id, own)
        });
        let exports: Vec<Cow<'_, Export>> = exports.collect();
        let importable = !exports.is_empty() && self.namespace_exists(cluster, &id.namespace);
        (Some(local), importable.then(|| self.merged(cluster, id, exports.iter().map(Cow::as_ref))))
    }

    /// Returns `cluster`'s own services with their endpoints, by service.
    pub fn local_services(&self, cluster: &ClusterName) -> BTreeMap<ServiceId, LocalService> {
        let mut endpoints = self.endpoints(|of, _| of == cluster);
        let services = self.facts().services.iter().filter(|(key, _)| key.0 == *cluster);
        let local = services.map(|((_, id), service)| {
            let endpoints = endpoints.remove(&(cluster, id)).unwrap_or_default();
            (id.clone(), LocalService::new(service, &endpoints))
        });
        local.collect()
    }

    /// Returns one service of `cluster`'s own, as [`State::local_services`] has it; its cost is that service's own size.
    pub fn local_service(&self, cluster: &ClusterName, id: &ServiceId) -> Option<LocalService> {
        let service = self.facts().services.get(&(cluster.clone(), id.clone()))?;
        Some(LocalService::new(service, &self.endpoints_of(cluster, id)))
    }

    fn merged<'a>(
        &self,
        cluster: &ClusterName,
        id: &ServiceId,
        exports: impl IntoIterator<Item = &'a Export>,
    ) -> ImportedService {
        let Merged { kind, affinity, traffic, ports, exporters, backends } = Merged::new(exports);
        let addresses = if kind == ServiceKind::ClusterIp { self.declared_addresses(cluster, id) } else { Vec::new() };
        ImportedService { id: id.clone(), kind, affinity, traffic, ports, addresses, backends, exporters }
    }

    /// Returns the addresses of the cluster's ServiceImport, the first of each family.
    fn declared_addresses(&self, cluster: &ClusterName, id: &ServiceId) -> Vec<IpAddr> {
        let declared = self.facts().service_imports.get(&(cluster.clone(), id.clone()));
        let declared = declared.map(|import| import.addresses.as_slice()).unwrap_or_default();
        let first = |v4: bool| declared.iter().copied().find(|address| address.is_ipv4() == v4);
        [true, false].into_iter().filter_map(first).collect()
    }

    /// Tells whether addresses are allocated here, because no publisher is there to do it.
    pub(super) fn allocates(&self) -> bool {
        !matches!(self.config().trust, Trust::Signed { .. })
    }

    /// Returns the addresses that `cluster` gives the `open` services, which come in order: each depends on those before it.
    pub(super) fn allocations<'a>(
        &self,
        cluster: &ClusterName,
        open: impl IntoIterator<Item = &'a ServiceId>,
    ) -> Vec<(ServiceId, Vec<IpAddr>)> {
        let granted = self.facts().grants.get(cluster).map(|grant| grant.service_prefixes.clone());
        let ranges = granted.filter(|ranges| !ranges.is_empty()).unwrap_or_else(|| {
            DEFAULT_RANGES.iter().map(|range| range.parse::<Prefix>().expect("the default ranges are prefixes")).collect()
        });
        let declared = self.facts().service_imports.values().filter(|import| import.cluster == *cluster);
        let mut taken: BTreeSet<IpAddr> = declared.flat_map(|import| import.addresses.iter().copied()).collect();
        let allocated = open.into_iter().map(|id| {
            let mut addresses = Vec::new();
            for v4 in [true, false] {
                let mut of_family = ranges.iter().filter(|range| range.is_ipv4() == v4);
                let address =
                    of_family.find_map(|range| allocate(*range, (taken.len(), |address: &IpAddr| taken.contains(address)), id));
                taken.extend(address);
                addresses.extend(address);
            }
            (id.clone(), addresses)
        });
        allocated.collect()
    }
}

/// Tells whether a service waits for clusterset addresses.
pub(super) fn is_open(service: &ImportedService) -> bool {
    service.kind == ServiceKind::ClusterIp && service.addresses.is_empty()
}

impl LocalService {
    fn new(service: &Service, endpoints: &[Endpoint]) -> LocalService {
        let own = Own {
            cluster: &service.cluster,
            ports: &service.ports,
            by_number: false,
            publish_not_ready: service.publish_not_ready,
        };
        let backends = own.backends(&service.ports, endpoints).into();
        LocalService { service: service.clone(), backends }
    }
}
