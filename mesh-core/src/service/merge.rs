//! Merging the exports of one service: the oldest decides, and who disagrees is told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Backend, Exporter};
use crate::{ClusterName, Endpoint, Export, Locality, NodeId, ServiceKind, ServicePort, SessionAffinity, Traffic};

/// All exports of one service as one.
pub(super) struct Merged {
    pub(super) kind: ServiceKind,
    pub(super) affinity: SessionAffinity,
    pub(super) traffic: Traffic,
    pub(super) ports: Vec<ServicePort>,
    pub(super) exporters: Vec<Exporter>,
    pub(super) backends: Arc<[Backend]>,
}

impl Merged {
    /// Merges `exports`, at least one and all of one service.
    pub(super) fn new<'a>(exports: impl IntoIterator<Item = &'a Export>) -> Merged {
        let mut exports: Vec<&Export> = exports.into_iter().collect();
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
            if spread(export.traffic) != spread(oldest.traffic) {
                disagree(0, index, "traffic distribution", &traffic_name(oldest.traffic), &traffic_name(export.traffic));
            }
            for port in &export.ports {
                let same_name = ports.iter().find(|(_, known)| known.name == port.name);
                match same_name.or_else(|| ports.iter().find(|(_, known)| same_number(known, port))) {
                    None => ports.push((index, port)),
                    Some((older, known)) if *known != port => {
                        disagree(*older, index, "port", &port_name(known), &port_name(port));
                    }
                    Some(_) => {}
                }
            }
        }
        // The union is used, and still nobody can count on each port in each cluster (KEP-1645, "Service Port").
        for (index, port) in &ports {
            let lacks = |export: &&&Export| !export.ports.iter().any(|own| own.name == port.name || same_number(own, port));
            let without: Vec<&str> = exports.iter().filter(lacks).map(|export| export.cluster.as_str()).collect();
            if !without.is_empty() {
                let message = format!("port: {} in {}, none in {}", port_name(port), exports[*index].cluster, without.join(", "));
                for of_export in &mut conflicts {
                    of_export.insert(message.clone());
                }
            }
        }
        let ports: Vec<ServicePort> = ports.into_iter().map(|(_, port)| port.clone()).collect();
        let of = |export: &&Export| {
            let own = Own {
                cluster: &export.cluster,
                ports: &export.ports,
                by_number: oldest.kind == ServiceKind::ClusterIp,
                publish_not_ready: export.publish_not_ready,
            };
            own.backends(&ports, &export.endpoints)
        };
        let mut backends: Vec<Backend> = exports.iter().flat_map(of).collect();
        backends.sort();
        let exporter = |(export, conflicts): (&&Export, BTreeSet<String>)| Exporter {
            cluster: export.cluster.clone(),
            created: export.created,
            weight: export.traffic.weight,
            conflict: (!conflicts.is_empty()).then(|| conflicts.into_iter().collect::<Vec<_>>().join("; ")),
        };
        let exporters = exports.iter().zip(conflicts).map(exporter).collect();
        Merged {
            kind: oldest.kind,
            affinity: oldest.affinity,
            traffic: oldest.traffic,
            ports,
            exporters,
            backends: backends.into(),
        }
    }
}

/// What a cluster's own Service says of its endpoints.
pub(super) struct Own<'a> {
    pub(super) cluster: &'a ClusterName,
    pub(super) ports: &'a [ServicePort],
    /// The merged service has addresses of its own: what counts is the number that clients use, not the port's name.
    pub(super) by_number: bool,
    pub(super) publish_not_ready: bool,
}

impl Own<'_> {
    /// Makes the backends of `endpoints`, for the `merged` ports.
    pub(super) fn backends(&self, merged: &[ServicePort], endpoints: &[Endpoint]) -> Vec<Backend> {
        let mut last: Option<Arc<[Option<u16>]>> = None;
        let backend = |endpoint: &Endpoint| {
            let ports = merged.iter().map(|port| self.port_at(port, endpoint));
            let ports = last.take().filter(|last| last.iter().copied().eq(ports.clone())).unwrap_or_else(|| ports.collect());
            last = Some(ports.clone());
            Backend {
                cluster: self.cluster.clone(),
                addresses: endpoint.addresses.iter().copied().collect::<BTreeSet<IpAddr>>().into_iter().collect(),
                ready: endpoint.ready || self.publish_not_ready,
                terminating: endpoint.terminating,
                hostname: endpoint.hostname.clone(),
                node: endpoint.node.as_ref().map(|name| NodeId { cluster: self.cluster.clone(), name: name.clone() }),
                ports,
            }
        };
        endpoints.iter().map(backend).collect()
    }

    /// Returns where `endpoint` serves the merged `port`, if its own Service has that port.
    ///
    /// With addresses of its own, traffic to a port goes only to those whose Service has the same protocol and number (KEP-1645,
    /// "Service Port"). Behind a headless service clients use the endpoint's own number, which they find by the port's name.
    fn port_at(&self, port: &ServicePort, endpoint: &Endpoint) -> Option<u16> {
        let same_name = |own: &&ServicePort| !self.by_number && own.name == port.name && own.protocol == port.protocol;
        let by_name = self.ports.iter().find(same_name);
        let own = by_name.or_else(|| self.ports.iter().find(|own| same_number(own, port)))?;
        let at = endpoint.ports.iter().find(|at| at.name == own.name && at.protocol == own.protocol)?;
        Some(at.port.unwrap_or(own.port))
    }
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

/// Each cluster's weight is its own business.
fn spread(traffic: Traffic) -> (Locality, bool) {
    (traffic.first, traffic.node_only)
}

fn traffic_name(traffic: Traffic) -> String {
    let first = match traffic.first {
        Locality::Node => "same node first",
        Locality::Zone => "same zone first",
        Locality::Cluster => "same cluster first",
        Locality::Region => "same region first",
        Locality::Anywhere => "anywhere",
    };
    if traffic.node_only { format!("{first}, same node only") } else { first.into() }
}

fn port_name(port: &ServicePort) -> String {
    let app = port.app_protocol.as_deref().map(|app| format!(" ({app})")).unwrap_or_default();
    format!("{} {}/{}{app}", port.name.as_deref().unwrap_or("(unnamed)"), port.port, port.protocol)
}
