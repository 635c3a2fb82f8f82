//! Merging the exports of one service: the oldest decides, and who disagrees is told.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Backend, Exporter};
use crate::{Endpoint, Export, NodeId, ServiceKind, ServicePort, SessionAffinity};

/// All exports of one service as one.
pub(super) struct Merged {
    pub(super) kind: ServiceKind,
    pub(super) affinity: SessionAffinity,
    pub(super) ports: Vec<ServicePort>,
    pub(super) exporters: Vec<Exporter>,
    pub(super) backends: Vec<Backend>,
}

impl Merged {
    /// Merges `exports`, at least one and all of one service.
    pub(super) fn new(exports: &[Export]) -> Merged {
        let mut exports: Vec<&Export> = exports.iter().collect();
        // A missing time sorts behind every time, and equal times go by cluster.
        exports.sort_by_key(|export| (export.created.is_none(), export.created, &export.cluster));
        let oldest = exports[0];
        let mut conflicts = vec![BTreeSet::new(); exports.len()];
        let mut disagree = |older: usize, newer: usize, what: &str, of_older: &str, of_newer: &str| {
            let (by, with) = (&exports[older].cluster, &exports[newer].cluster);
            let message = format!("{what}: {of_older} in {by}, which is older and used, {of_newer} in {with}");
            conflicts[older].insert(message.clone());
            conflicts[newer].insert(message);
        };
        let mut ports: Vec<(usize, &ServicePort)> = Vec::new();
        for (index, export) in exports.iter().enumerate() {
            if export.kind != oldest.kind {
                disagree(0, index, "type", type_name(oldest.kind), type_name(export.kind));
            }
            if export.affinity != oldest.affinity {
                disagree(0, index, "session affinity", &affinity_name(oldest.affinity), &affinity_name(export.affinity));
            }
            for port in &export.ports {
                let same_name = ports.iter().find(|(_, known)| known.name == port.name);
                match same_name.or_else(|| ports.iter().find(|(_, known)| same_number(known, port))) {
                    None => ports.push((index, port)),
                    Some((older, known)) if known.name != port.name || !same_number(known, port) => {
                        disagree(*older, index, "port", &port_name(known), &port_name(port));
                    }
                    Some(_) => {}
                }
            }
        }
        let ports: Vec<ServicePort> = ports.into_iter().map(|(_, port)| port.clone()).collect();
        let mut backends: Vec<Backend> = exports
            .iter()
            .flat_map(|export| {
                export
                    .endpoints
                    .iter()
                    .map(|endpoint| backend(&export.cluster, &ports, &export.ports, export.publish_not_ready, endpoint))
            })
            .collect();
        backends.sort();
        let exporter = |(export, conflicts): (&&Export, BTreeSet<String>)| Exporter {
            cluster: export.cluster.clone(),
            created: export.created,
            conflict: (!conflicts.is_empty()).then(|| conflicts.into_iter().collect::<Vec<_>>().join("; ")),
        };
        let exporters = exports.iter().zip(conflicts).map(exporter).collect();
        Merged { kind: oldest.kind, affinity: oldest.affinity, ports, exporters, backends }
    }
}

/// Makes the backend of an endpoint, for `merged` ports of which its own Service has `own`.
pub(super) fn backend(
    cluster: &crate::ClusterName,
    merged: &[ServicePort],
    own: &[ServicePort],
    publish_not_ready: bool,
    endpoint: &Endpoint,
) -> Backend {
    Backend {
        cluster: cluster.clone(),
        addresses: endpoint.addresses.iter().copied().collect::<BTreeSet<IpAddr>>().into_iter().collect(),
        ready: endpoint.ready || publish_not_ready,
        hostname: endpoint.hostname.clone(),
        node: endpoint.node.as_ref().map(|name| NodeId { cluster: cluster.clone(), name: name.clone() }),
        ports: merged.iter().map(|port| port_at(port, own, endpoint)).collect(),
    }
}

/// Returns where `endpoint` serves `port`: its own Service has that port by name, or else by protocol and number.
fn port_at(port: &ServicePort, own: &[ServicePort], endpoint: &Endpoint) -> Option<u16> {
    let by_name = own.iter().find(|own| own.name == port.name && own.protocol == port.protocol);
    let own = by_name.or_else(|| own.iter().find(|own| same_number(own, port)))?;
    let at = endpoint.ports.iter().find(|at| at.name == own.name && at.protocol == own.protocol)?;
    Some(at.port.unwrap_or(own.port))
}

fn same_number(a: &ServicePort, b: &ServicePort) -> bool {
    a.protocol == b.protocol && a.port == b.port
}

fn type_name(kind: ServiceKind) -> &'static str {
    match kind {
        ServiceKind::ClusterIp => "ClusterSetIP",
        ServiceKind::Headless => "Headless",
        ServiceKind::ExternalName => "ExternalName",
    }
}

fn affinity_name(affinity: SessionAffinity) -> String {
    match affinity {
        SessionAffinity::None => "None".into(),
        SessionAffinity::ClientIp { timeout_seconds } => format!("ClientIP for {timeout_seconds} s"),
    }
}

fn port_name(port: &ServicePort) -> String {
    format!("{} {}/{}", port.name.as_deref().unwrap_or("(unnamed)"), port.port, port.protocol)
}
