//! Probes of what is derived before a name is asked for: the ServiceImport in each cluster, the conditions of each ServiceExport.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use mesh_core::{
    ClusterName, ExportCondition, ImportedService, Locality, Prefix, ServiceId, ServiceKind, ServicePort, SessionAffinity,
};

/// `<cluster> <namespace>/<name> none`, or `<cluster> <namespace>/<name> <ClusterSetIP|Headless> [<field> <value>] …`: the
/// ServiceImport of a service in a cluster. A field that is not told is not looked at; `-` is the empty list.
///
/// | field | value |
/// | --- | --- |
/// | `ips` | the addresses; a prefix instead of one means any address in it |
/// | `ports` | `<name>:<port>/<protocol>`, in the merged order |
/// | `affinity` | `None`, or `ClientIP:<seconds>` |
/// | `internal` | `Cluster`, or `Local` |
/// | `distribution` | `node`, `zone`, `cluster`, `region`, or `anywhere` |
/// | `exporters` | the exporting clusters, oldest export first |
/// | `backends` | `<cluster>/<address>` of each endpoint, `!` behind one that takes no new connections |
/// | `<port>/<protocol>` | the `<address>:<port>` that take connections to that port |
#[derive(Clone, Debug)]
pub struct ImportProbe {
    /// The importing cluster.
    pub cluster: ClusterName,
    /// The service.
    pub id: ServiceId,
    /// `none`, `ClusterSetIP` or `Headless`.
    kind: String,
    fields: BTreeMap<String, Vec<String>>,
}

impl ImportProbe {
    /// Reads a probe.
    ///
    /// # Errors
    /// Returns what cannot be read.
    pub fn read(text: &str) -> Result<ImportProbe, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [cluster, id, kind, fields @ ..] = words.as_slice() else {
            return Err(format!("not of the form '<cluster> <namespace>/<name> <type> …': {text}"));
        };
        if !matches!(*kind, "none" | "ClusterSetIP" | "Headless") || fields.len() % 2 != 0 {
            return Err(format!("not a type, or a field without a value: {text}"));
        }
        let list = |value: &str| value.split(',').filter(|item| *item != "-").map(str::to_owned).collect();
        let fields = fields.chunks_exact(2).map(|pair| (pair[0].to_owned(), list(pair[1]))).collect();
        let cluster = ClusterName::new(cluster).map_err(|error| format!("{error}: {text}"))?;
        let id = id.parse::<ServiceId>().map_err(|error| format!("{error}: {text}"))?;
        Ok(ImportProbe { cluster, id, kind: (*kind).to_owned(), fields })
    }

    /// Returns what differs from `told`.
    pub fn compare(&self, told: Option<&ImportedService>) -> Result<(), String> {
        let Some(told) = told else {
            return if self.kind == "none" { Ok(()) } else { Err("it is not imported".into()) };
        };
        let kind = if told.kind == ServiceKind::ClusterIp { "ClusterSetIP" } else { "Headless" };
        if self.kind != kind {
            return Err(format!("it is imported as {kind}"));
        }
        for (field, expected) in &self.fields {
            let value = field_of(told, field)?;
            let same = match field.as_str() {
                "ips" => {
                    value.len() == expected.len() && value.iter().zip(expected).all(|(told, expected)| is_in(told, expected))
                }
                _ => value == *expected,
            };
            if !same {
                return Err(format!("{field}: told {value:?}"));
            }
        }
        Ok(())
    }
}

fn is_in(address: &str, expected: &str) -> bool {
    let inside = |prefix: Prefix| address.parse().is_ok_and(|address: IpAddr| prefix.contains(address));
    address == expected || expected.parse().is_ok_and(inside)
}

fn field_of(service: &ImportedService, field: &str) -> Result<Vec<String>, String> {
    let one = |text: &str| vec![text.to_owned()];
    let port = |port: &ServicePort| format!("{}:{}/{}", port.name.as_deref().unwrap_or(""), port.port, port.protocol);
    Ok(match field {
        "ips" => service.addresses.iter().map(ToString::to_string).collect(),
        "ports" => service.ports.iter().map(port).collect(),
        "affinity" => match service.affinity {
            SessionAffinity::None => one("None"),
            SessionAffinity::ClientIp { timeout_seconds } => vec![format!("ClientIP:{timeout_seconds}")],
        },
        "internal" => one(if service.traffic.node_only { "Local" } else { "Cluster" }),
        "distribution" => one(match service.traffic.first {
            Locality::Node => "node",
            Locality::Zone => "zone",
            Locality::Cluster => "cluster",
            Locality::Region => "region",
            Locality::Anywhere => "anywhere",
        }),
        "exporters" => service.exporters.iter().map(|exporter| exporter.cluster.to_string()).collect(),
        "backends" => service
            .backends
            .iter()
            .flat_map(|backend| {
                let mark = if backend.ready { "" } else { "!" };
                backend.addresses.iter().map(move |address| format!("{}/{address}{mark}", backend.cluster))
            })
            .collect(),
        at => {
            let (number, protocol) = at.split_once('/').ok_or_else(|| format!("'{field}' is not a field"))?;
            let wanted = |port: &ServicePort| port.port.to_string() == number && port.protocol.to_string() == protocol;
            let index = service.ports.iter().position(wanted).ok_or_else(|| format!("there is no port {at}"))?;
            service.ready_backends(index).map(|(address, port)| SocketAddr::new(address, port).to_string()).collect()
        }
    })
}

/// `<cluster> <namespace>/<name> none`, or `<cluster> <namespace>/<name> <reason of Valid> [conflict <part of the message>]`:
/// the conditions of a cluster's ServiceExport. Without `conflict` that condition must not be there.
#[derive(Clone, Debug)]
pub struct ConditionProbe {
    /// The exporting cluster.
    pub cluster: ClusterName,
    /// The service.
    pub id: ServiceId,
    /// `none`, `Valid`, `NoService` or `InvalidServiceType`.
    validity: String,
    conflict: Option<String>,
}

impl ConditionProbe {
    /// Reads a probe.
    ///
    /// # Errors
    /// Returns what cannot be read.
    pub fn read(text: &str) -> Result<ConditionProbe, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (cluster, id, validity, conflict) = match words.as_slice() {
            [cluster, id, validity] => (cluster, id, validity, None),
            [cluster, id, validity, "conflict", part @ ..] if !part.is_empty() => (cluster, id, validity, Some(part.join(" "))),
            _ => return Err(format!("not of the form '<cluster> <namespace>/<name> <reason> [conflict …]': {text}")),
        };
        if !matches!(*validity, "none" | "Valid" | "NoService" | "InvalidServiceType") {
            return Err(format!("'{validity}' is no reason: {text}"));
        }
        let cluster = ClusterName::new(cluster).map_err(|error| format!("{error}: {text}"))?;
        let id = id.parse::<ServiceId>().map_err(|error| format!("{error}: {text}"))?;
        Ok(ConditionProbe { cluster, id, validity: (*validity).to_owned(), conflict })
    }

    /// Returns what differs from `told`.
    pub fn compare(&self, told: Option<&ExportCondition>) -> Result<(), String> {
        let validity = told.map_or("none".to_owned(), |told| told.validity.to_string());
        let conflict = told.and_then(|told| told.conflict.as_deref());
        let same = match (&self.conflict, conflict) {
            (None, None) => true,
            (Some(part), Some(message)) => message.contains(part.as_str()),
            _ => false,
        };
        if same && validity == self.validity { Ok(()) } else { Err(format!("told {validity}, conflict {conflict:?}")) }
    }
}
