//! What clusters export, as far as policy asks: which port at which address is behind which service.

use std::net::IpAddr;

use mesh_core::{ClusterName, NamespaceName, Protocol, State};

/// A port of an endpoint of an exported service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BackendPort {
    /// The exporting cluster.
    pub(crate) cluster: ClusterName,
    /// The service's namespace: a cluster without it cannot import the service.
    pub(crate) namespace: NamespaceName,
    pub(crate) address: IpAddr,
    pub(crate) protocol: Protocol,
    /// `None`: every port of the protocol (EndpointSlice API).
    pub(crate) port: Option<u16>,
}

/// Returns the backend ports, ready or not, of every export; sorted, without repeats.
pub(crate) fn backend_ports(state: &State) -> Vec<BackendPort> {
    let mut ports = Vec::new();
    for export in state.exports() {
        for endpoint in &export.endpoints {
            let served = endpoint
                .ports
                .iter()
                .filter(|at| export.ports.iter().any(|port| port.name == at.name && port.protocol == at.protocol));
            for (at, address) in served.flat_map(|at| endpoint.addresses.iter().map(move |address| (at, *address))) {
                ports.push(BackendPort {
                    cluster: export.cluster.clone(),
                    namespace: export.id.namespace.clone(),
                    address,
                    protocol: at.protocol,
                    port: at.port,
                });
            }
        }
    }
    ports.sort();
    ports.dedup();
    ports
}
