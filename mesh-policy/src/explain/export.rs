//! Exports as consent between clusters: which service opens a port, or what is missing for one to do so.

use std::net::SocketAddr;

use mesh_core::{ClusterName, CrossClusterDefault, Direction, Key, Located, ServiceId};

use super::Lack;
use crate::naive::Side;

impl Side<'_> {
    /// Returns client and server of a connection between workloads.
    pub(super) fn clusters(&self) -> Option<(&ClusterName, &ClusterName)> {
        let Located::Workload(peer) = self.peer else { return None };
        Some(match self.direction {
            Direction::Ingress => (&peer.id.cluster, &self.subject.id.cluster),
            Direction::Egress => (&self.subject.id.cluster, &peer.id.cluster),
        })
    }
}

/// Returns the exported services of the destination's cluster that have its port as a backend's, with or without the consent to
/// import them.
pub(super) fn behind(side: &Side<'_>) -> Vec<ServiceId> {
    exported(side, true)
}

/// Returns what is missing for the fleet's default to allow the connection.
pub(super) fn missing(side: &Side<'_>) -> Lack {
    let Some((client, server)) = side.clusters() else { return Lack::DefaultDenies };
    if side.state.cross_cluster_default() == CrossClusterDefault::Deny {
        return Lack::DefaultDenies;
    }
    let because = not_importable(side, client)
        .or_else(|| not_exported(side, server))
        .or_else(|| other_port(side))
        .unwrap_or_else(|| "no service that is known has one there".into());
    let tuple = side.tuple;
    let port = match tuple.protocol.has_ports() {
        true => format!("{}/{}", SocketAddr::new(tuple.destination, tuple.destination_port), tuple.protocol),
        false => format!("{} ({} has no ports, and exports are ports)", tuple.destination, tuple.protocol),
    };
    Lack::NotExported { cluster: server.clone(), port, because }
}

/// The service is exported, and its namespace does not exist where the client is.
fn not_importable(side: &Side<'_>, client: &ClusterName) -> Option<String> {
    let id = behind(side).into_iter().next()?;
    let namespace = &id.namespace;
    let grant = side.state.facts().grants.get(client);
    Some(match grant.is_some_and(|grant| !grant.speaks_for(namespace)) {
        true => format!("{id} is exported, and namespace {namespace} is not in the grant of {client}, which so cannot import it"),
        false => format!("{id} is exported, and {client} has no namespace {namespace}, and so cannot import it"),
    })
}

/// A service of the cluster has the port, and is not exported.
fn not_exported(side: &Side<'_>, server: &ClusterName) -> Option<String> {
    let (state, tuple) = (side.state, side.tuple);
    let slice = state.facts().slices.values().find(|slice| {
        slice.cluster == *server
            && slice.endpoints.iter().any(|endpoint| {
                let ports = endpoint
                    .ports
                    .iter()
                    .any(|at| at.protocol == tuple.protocol && at.port.is_none_or(|port| port == tuple.destination_port));
                ports && endpoint.addresses.contains(&tuple.destination)
            })
    })?;
    let id = &slice.service;
    if state.facts().service_exports.contains_key(&(server.clone(), id.clone())) {
        return None;
    }
    let refusal = state.refused().find_map(|(key, refusal)| match key {
        Key::ServiceExport(cluster, service) | Key::Export(cluster, service) if cluster == server && service == id => {
            Some(refusal)
        }
        _ => None,
    });
    Some(match refusal {
        Some(refusal) => format!("the ServiceExport of {id} is refused: {}", refusal.detail),
        None => format!("service {id} is not exported by {server} (it has no ServiceExport)"),
    })
}

/// A service is exported with the same backend and other ports.
fn other_port(side: &Side<'_>) -> Option<String> {
    let id = exported(side, false).into_iter().next()?;
    Some(format!("{id} is exported with that backend, for other ports"))
}

fn exported(side: &Side<'_>, same_port: bool) -> Vec<ServiceId> {
    let Some((_, server)) = side.clusters() else { return Vec::new() };
    let tuple = side.tuple;
    let mut services = Vec::new();
    for export in side.state.exports().into_iter().filter(|export| export.cluster == *server) {
        let is_backend =
            export.endpoints.iter().filter(|endpoint| endpoint.addresses.contains(&tuple.destination)).any(|endpoint| {
                endpoint.ports.iter().any(|at| {
                    let own = export.ports.iter().find(|own| own.name == at.name && own.protocol == at.protocol);
                    own.is_some_and(|own| {
                        !same_port || (at.protocol == tuple.protocol && at.port.unwrap_or(own.port) == tuple.destination_port)
                    })
                })
            });
        if is_backend {
            services.push(export.id);
        }
    }
    services
}
