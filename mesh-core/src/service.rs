//! Services of the fleet: export to import to backends (KEP-1645), seen from one cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::{ClusterName, NodeId, Protocol, Service, ServiceId, ServiceKind, ServicePort, SessionAffinity, Traffic, WallTime};

mod allocate;
mod concerns;
mod export;
mod import;
mod merge;
#[cfg(test)]
mod tests;
mod view;

pub use self::allocate::allocate;
pub(crate) use self::concerns::Concerns;
pub use self::export::{ExportCondition, ExportValidity};
pub use self::view::Services;

/// The services that one cluster can import, each merged from all its exports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportedServices {
    /// By service.
    pub services: BTreeMap<ServiceId, ImportedService>,
}

/// A service of the fleet as one cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedService {
    /// The service.
    pub id: ServiceId,
    /// ClusterSetIP ([`ServiceKind::ClusterIp`]) or headless, by the oldest export.
    pub kind: ServiceKind,
    /// The session affinity, by the oldest export.
    pub affinity: SessionAffinity,
    /// How connections are spread, by the oldest export; the weights are with the exporters.
    pub traffic: Traffic,
    /// The ports, merged by name, then protocol and number, oldest export first.
    pub ports: Vec<ServicePort>,
    /// The clusterset addresses in the viewing cluster, one for each family at most; empty for headless, or not allocated yet.
    pub addresses: Vec<IpAddr>,
    /// The endpoints of all exporting clusters, ready or not. [`Services`] shares them with the cluster's own service where
    /// they are the same.
    pub backends: Arc<[Backend]>,
    /// The exporting clusters, oldest export first, each with its condition.
    pub exporters: Vec<Exporter>,
}

/// An endpoint behind an imported service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// The exporting cluster.
    pub cluster: ClusterName,
    /// The endpoint's addresses.
    pub addresses: Box<[IpAddr]>,
    /// May take new connections: ready, or published all the same.
    pub ready: bool,
    /// Is going away.
    pub terminating: bool,
    /// The endpoint's own name.
    pub hostname: Option<Arc<str>>,
    /// The node it runs on.
    pub node: Option<NodeId>,
    /// For each port of the service, by index, the number at this endpoint; `None` where it does not serve that port.
    /// Endpoints one after the other that serve alike share it.
    pub ports: Arc<[Option<u16>]>,
}

/// A Service of the viewing cluster itself, with its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalService {
    /// The Service.
    pub service: Service,
    /// Its endpoints, ready or not; their ports are by the index of the Service's.
    pub backends: Arc<[Backend]>,
}

/// One cluster's export of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exporter {
    /// The cluster.
    pub cluster: ClusterName,
    /// When it was first exported.
    pub created: Option<WallTime>,
    /// The weight of each of its backends.
    pub weight: u16,
    /// What about it disagrees with another cluster's export (message of the `Conflict` condition); `None`: nothing.
    pub conflict: Option<String>,
}

impl ImportedService {
    /// Returns the backends' addresses and ports for port `index` of the service: ready ones only.
    pub fn ready_backends(&self, index: usize) -> impl Iterator<Item = (IpAddr, u16)> {
        ready_backends(&self.backends, index)
    }

    /// Tells whether `address` and `port` are a backend's, ready or not.
    pub fn has_backend(&self, address: IpAddr, protocol: Protocol, port: u16) -> bool {
        self.backends.iter().any(|backend| {
            backend.addresses.contains(&address)
                && self.ports.iter().zip(backend.ports.iter()).any(|(own, at)| own.protocol == protocol && *at == Some(port))
        })
    }
}

impl LocalService {
    /// Returns the backends' addresses and ports for port `index` of the Service: ready ones only.
    pub fn ready_backends(&self, index: usize) -> impl Iterator<Item = (IpAddr, u16)> {
        ready_backends(&self.backends, index)
    }
}

fn ready_backends(backends: &[Backend], index: usize) -> impl Iterator<Item = (IpAddr, u16)> {
    backends.iter().filter(|backend| backend.ready).flat_map(move |backend| {
        let port = backend.ports.get(index).copied().flatten();
        backend.addresses.iter().filter_map(move |address| Some((*address, port?)))
    })
}
