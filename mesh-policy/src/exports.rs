//! What clusters export, as far as policy asks: which port at which address is behind which service.

use std::net::IpAddr;

use mesh_core::{ClusterName, Export, NamespaceName, Protocol, State};

/// A port of an endpoint of an exported service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BackendPort {
    /// The exporting cluster.
    pub(crate) cluster: ClusterName,
    /// The service's namespace: a cluster without it cannot import the service.
    pub(crate) namespace: NamespaceName,
    pub(crate) address: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// Returns the backend ports, ready or not, of every export; sorted, without repeats.
pub(crate) fn backend_ports(state: &State) -> Vec<BackendPort> {
    let mut ports: Vec<BackendPort> = state.exports().iter().flat_map(ports_of).collect();
    ports.sort();
    ports.dedup();
    ports
}

/// Returns the backend ports, ready or not, of an export; sorted, without repeats.
pub(crate) fn ports_of(export: &Export) -> Vec<BackendPort> {
    let mut ports = Vec::new();
    for endpoint in &export.endpoints {
        for at in &endpoint.ports {
            // The endpoint's port belongs to the Service's port of the same name; without a number it is that port's own.
            let Some(own) = export.ports.iter().find(|own| own.name == at.name && own.protocol == at.protocol) else {
                continue;
            };
            ports.extend(endpoint.addresses.iter().map(|address| BackendPort {
                cluster: export.cluster.clone(),
                namespace: export.id.namespace.clone(),
                address: *address,
                protocol: at.protocol,
                port: at.port.unwrap_or(own.port),
            }));
        }
    }
    ports.sort();
    ports.dedup();
    ports
}
