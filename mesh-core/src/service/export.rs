//! What each cluster exports: derived from its manifests, or as its publisher signed it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::merge::Merged;
use crate::{
    ClusterName, Endpoint, EndpointPort, EndpointSlice, Export, ObjectName, Service, ServiceId, ServiceKind, State, Traffic,
    Trust,
};

/// What a ServiceExport's status says (MCS API `ServiceExport` conditions).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportCondition {
    /// The `Valid` condition.
    pub validity: ExportValidity,
    /// The message of a true `Conflict` condition; `None`: every cluster that exports the service agrees.
    pub conflict: Option<String>,
}

/// Whether a ServiceExport exports anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExportValidity {
    /// The service is exported.
    Valid,
    /// There is no Service of that name.
    NoService,
    /// The Service is of type ExternalName, which cannot be exported.
    InvalidServiceType,
}

impl fmt::Display for ExportValidity {
    /// Writes the condition's reason, as the MCS API names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ExportValidity::Valid => "Valid",
            ExportValidity::NoService => "NoService",
            ExportValidity::InvalidServiceType => "InvalidServiceType",
        })
    }
}

/// The endpoints of each service of each cluster, from its EndpointSlices.
pub(super) type Endpoints<'a> = BTreeMap<(&'a ClusterName, &'a ServiceId), Vec<Endpoint>>;

impl State {
    /// Returns every export of the fleet, by service and then cluster: those of ServiceExport manifests, with the endpoints of
    /// their Service's EndpointSlices, and the signed ones as they are.
    ///
    /// Where a cluster has both for a service, the manifests count. In a fleet ([`Trust::Signed`]) the age is then still the
    /// signed one's, and an export that its publisher has not signed yet has none.
    pub fn exports(&self) -> Vec<Export> {
        let facts = self.facts();
        let mut endpoints = self.endpoints(|cluster, id| facts.service_exports.contains_key(&(cluster.clone(), id.clone())));
        let derived = facts.service_exports.keys().filter_map(|key| {
            let endpoints = endpoints.remove(&(&key.0, &key.1)).unwrap_or_default();
            self.derived_export(key, endpoints)
        });
        let derived: Vec<Export> = derived.collect();
        let signed = facts.exports.iter().filter(|(key, _)| !facts.service_exports.contains_key(key));
        let signed = signed.filter(|(_, export)| export.kind != ServiceKind::ExternalName);
        let mut exports: Vec<Export> = derived.into_iter().chain(signed.map(|(_, export)| export.clone())).collect();
        exports.sort_by(|a, b| (&a.id, &a.cluster).cmp(&(&b.id, &b.cluster)));
        exports
    }

    /// Returns what `cluster` exports of a service, as [`State::exports`] has it; its cost is that service's own size.
    pub fn export(&self, cluster: &ClusterName, id: &ServiceId) -> Option<Export> {
        self.export_of(cluster, id).map(Cow::into_owned)
    }

    /// Returns the exports of one service, by cluster, as [`State::exports`] has them; its cost is that service's own size.
    pub fn exports_of(&self, id: &ServiceId) -> Vec<Cow<'_, Export>> {
        self.exporters(id).filter_map(|cluster| self.export_of(cluster, id)).collect()
    }

    fn export_of(&self, cluster: &ClusterName, id: &ServiceId) -> Option<Cow<'_, Export>> {
        self.export_with(cluster, id, None)
    }

    /// Returns what `cluster` exports of a service, whose endpoints there may be known already.
    pub(super) fn export_with(
        &self,
        cluster: &ClusterName,
        id: &ServiceId,
        known: Option<Vec<Endpoint>>,
    ) -> Option<Cow<'_, Export>> {
        let facts = self.facts();
        let key = (cluster.clone(), id.clone());
        if facts.service_exports.contains_key(&key) {
            let endpoints = known.unwrap_or_else(|| self.endpoints_of(cluster, id));
            return self.derived_export(&key, endpoints).map(Cow::Owned);
        }
        facts.exports.get(&key).filter(|export| export.kind != ServiceKind::ExternalName).map(Cow::Borrowed)
    }

    /// Returns the export of a ServiceExport manifest, where it exports something.
    fn derived_export(&self, key: &(ClusterName, ServiceId), endpoints: Vec<Endpoint>) -> Option<Export> {
        let facts = self.facts();
        let export = facts.service_exports.get(key)?;
        let service = facts.services.get(key).filter(|_| self.export_validity(&key.0, &key.1) == ExportValidity::Valid)?;
        let created = match self.config().trust {
            Trust::Signed { .. } => facts.exports.get(key).and_then(|signed| signed.created),
            Trust::Open | Trust::Declared => export.created,
        };
        Some(Export {
            cluster: key.0.clone(),
            id: key.1.clone(),
            created,
            kind: service.kind,
            ports: service.ports.clone(),
            affinity: service.affinity,
            traffic: Traffic {
                first: export.traffic.first.unwrap_or(service.traffic.first),
                weight: export.traffic.weight.unwrap_or(service.traffic.weight),
                ..service.traffic
            },
            publish_not_ready: service.publish_not_ready,
            endpoints,
        })
    }

    /// Returns the conditions of `cluster`'s ServiceExports: whether each exports something, and with whom it disagrees. Its
    /// cost is the size of the services that `cluster` exports.
    pub fn export_conditions(&self, cluster: &ClusterName) -> BTreeMap<ServiceId, ExportCondition> {
        let conflict = |id: &ServiceId| {
            let exports = self.exports_of(id);
            let exports = exports.iter().map(Cow::as_ref);
            // Without an own export there is nobody to disagree.
            exports.clone().find(|export| export.cluster == *cluster)?;
            Merged::new(exports).exporters.into_iter().find(|exporter| exporter.cluster == *cluster)?.conflict
        };
        let ids = self.facts().service_exports.keys().filter(|key| key.0 == *cluster).map(|key| &key.1);
        let condition = |id: &ServiceId| ExportCondition { validity: self.export_validity(cluster, id), conflict: conflict(id) };
        ids.map(|id| (id.clone(), condition(id))).collect()
    }

    fn export_validity(&self, cluster: &ClusterName, id: &ServiceId) -> ExportValidity {
        match self.facts().services.get(&(cluster.clone(), id.clone())) {
            None => ExportValidity::NoService,
            Some(Service { kind: ServiceKind::ExternalName, .. }) => ExportValidity::InvalidServiceType,
            Some(_) => ExportValidity::Valid,
        }
    }

    /// Returns the endpoints of a service of `cluster`, from its EndpointSlices.
    pub(super) fn endpoints_of(&self, cluster: &ClusterName, id: &ServiceId) -> Vec<Endpoint> {
        merge_slices(self.slices_of(cluster, id)).into_values().next().unwrap_or_default()
    }

    /// Collects the endpoints of the services that `wanted` names.
    pub(super) fn endpoints(&self, wanted: impl Fn(&ClusterName, &ServiceId) -> bool) -> Endpoints<'_> {
        merge_slices(self.facts().slices.values().filter(|slice| wanted(&slice.cluster, &slice.service)))
    }
}

/// Merges slices to the endpoints of their services. The API allows an endpoint to be in several slices of a service, for a time
/// or for other ports: it is one endpoint all the same, ready where one of them says so.
fn merge_slices<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> Endpoints<'a> {
    type Merging<'a> =
        BTreeMap<(&'a [IpAddr], Option<&'a Arc<str>>, Option<&'a ObjectName>), (bool, bool, BTreeSet<&'a EndpointPort>)>;
    let mut merging: BTreeMap<(&ClusterName, &ServiceId), Merging<'_>> = BTreeMap::new();
    for slice in slices {
        let service = merging.entry((&slice.cluster, &slice.service)).or_default();
        for endpoint in &slice.endpoints {
            let key = (endpoint.addresses.as_slice(), endpoint.hostname.as_ref(), endpoint.node.as_ref());
            let (ready, terminating, ports) = service.entry(key).or_default();
            *ready |= endpoint.ready;
            *terminating |= endpoint.terminating;
            ports.extend(&endpoint.ports);
        }
    }
    let endpoint = |((addresses, hostname, node), (ready, terminating, ports)): (_, (bool, bool, BTreeSet<&EndpointPort>))| {
        let (addresses, hostname, node): (&[IpAddr], Option<&Arc<str>>, Option<&ObjectName>) = (addresses, hostname, node);
        let ports = ports.into_iter().cloned().collect();
        Endpoint { addresses: addresses.to_vec(), ready, terminating, hostname: hostname.cloned(), node: node.cloned(), ports }
    };
    merging.into_iter().map(|(key, endpoints)| (key, endpoints.into_iter().map(endpoint).collect())).collect()
}
