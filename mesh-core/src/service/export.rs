//! What each cluster exports: derived from its manifests, or as its publisher signed it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::merge::Merged;
use crate::{ClusterName, Endpoint, EndpointPort, Export, ObjectName, Service, ServiceId, ServiceKind, State, Trust};

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
        let endpoints = self.endpoints(|cluster, id| facts.service_exports.contains_key(&(cluster.clone(), id.clone())));
        let derived = facts.service_exports.iter().filter_map(|(key, export)| {
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
                publish_not_ready: service.publish_not_ready,
                endpoints: endpoints.get(&(&key.0, &key.1)).cloned().unwrap_or_default(),
            })
        });
        let signed = facts
            .exports
            .iter()
            .filter(|(key, export)| !facts.service_exports.contains_key(key) && export.kind != ServiceKind::ExternalName);
        let mut exports: Vec<Export> = derived.chain(signed.map(|(_, export)| export.clone())).collect();
        exports.sort_by(|a, b| (&a.id, &a.cluster).cmp(&(&b.id, &b.cluster)));
        exports
    }

    /// Returns the conditions of `cluster`'s ServiceExports: whether each exports something, and with whom it disagrees.
    pub fn export_conditions(&self, cluster: &ClusterName) -> BTreeMap<ServiceId, ExportCondition> {
        let exports = self.exports();
        let mut conflicts: BTreeMap<&ServiceId, String> = BTreeMap::new();
        for group in exports.chunk_by(|a, b| a.id == b.id) {
            let exporters = Merged::new(group).exporters;
            let own = exporters.into_iter().find(|exporter| exporter.cluster == *cluster);
            if let Some(conflict) = own.and_then(|exporter| exporter.conflict) {
                conflicts.insert(&group[0].id, conflict);
            }
        }
        let ids: BTreeSet<&ServiceId> =
            self.facts().service_exports.keys().filter(|key| key.0 == *cluster).map(|key| &key.1).collect();
        let condition = |id: &ServiceId| ExportCondition {
            validity: self.export_validity(cluster, id),
            conflict: conflicts.get(id).cloned(),
        };
        ids.into_iter().map(|id| (id.clone(), condition(id))).collect()
    }

    fn export_validity(&self, cluster: &ClusterName, id: &ServiceId) -> ExportValidity {
        match self.facts().services.get(&(cluster.clone(), id.clone())) {
            None => ExportValidity::NoService,
            Some(Service { kind: ServiceKind::ExternalName, .. }) => ExportValidity::InvalidServiceType,
            Some(_) => ExportValidity::Valid,
        }
    }

    /// Collects the endpoints of the services that `wanted` names. The API allows an endpoint to be in several slices of a
    /// service, for a time or for other ports: it is one endpoint all the same, ready where one of them says so.
    pub(super) fn endpoints(&self, wanted: impl Fn(&ClusterName, &ServiceId) -> bool) -> Endpoints<'_> {
        type Merging<'a> =
            BTreeMap<(&'a [std::net::IpAddr], Option<&'a Arc<str>>, Option<&'a ObjectName>), (bool, BTreeSet<&'a EndpointPort>)>;
        let mut merging: BTreeMap<(&ClusterName, &ServiceId), Merging<'_>> = BTreeMap::new();
        for slice in self.facts().slices.values().filter(|slice| wanted(&slice.cluster, &slice.service)) {
            let service = merging.entry((&slice.cluster, &slice.service)).or_default();
            for endpoint in &slice.endpoints {
                let key = (endpoint.addresses.as_slice(), endpoint.hostname.as_ref(), endpoint.node.as_ref());
                let (ready, ports) = service.entry(key).or_default();
                *ready |= endpoint.ready;
                ports.extend(&endpoint.ports);
            }
        }
        let endpoint = |((addresses, hostname, node), (ready, ports)): (_, (bool, BTreeSet<&EndpointPort>))| {
            let (addresses, hostname, node): (&[std::net::IpAddr], Option<&Arc<str>>, Option<&ObjectName>) =
                (addresses, hostname, node);
            let ports = ports.into_iter().cloned().collect();
            Endpoint { addresses: addresses.to_vec(), ready, hostname: hostname.cloned(), node: node.cloned(), ports }
        };
        merging.into_iter().map(|(key, endpoints)| (key, endpoints.into_iter().map(endpoint).collect())).collect()
    }
}
