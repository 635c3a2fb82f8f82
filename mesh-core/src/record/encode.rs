//! Facts to messages.

use std::net::{IpAddr, SocketAddr};

use super::{Record, RecordKey, RootRecord, SignError, wire};
use crate::{
    Endpoint, EndpointPort, Export, Grant, Labels, Locality, NamedPort, Node, NodeLink, Prefix, PublicKey, Resource, ServiceKind,
    ServicePort, SessionAffinity, Traffic, Workload,
};

pub(super) fn record(record: &Record, root: &PublicKey) -> Result<wire::Record, SignError> {
    let resource = |resource: &Resource| {
        let fact = fact(resource).ok_or_else(|| SignError::Kind { fact: resource.key().to_string() })?;
        let cluster = resource.key().cluster().filter(|cluster| **cluster != record.cluster).map(ToString::to_string);
        Ok(wire::Resource { cluster: cluster.unwrap_or_default(), fact: Some(fact) })
    };
    Ok(wire::Record {
        fleet: root.as_bytes().to_vec(),
        cluster: record.cluster.to_string(),
        incarnation: record.version.incarnation,
        counter: record.version.counter,
        key: Some(key(&record.key)),
        resources: record.resources.iter().map(resource).collect::<Result<_, _>>()?,
    })
}

fn key(key: &RecordKey) -> wire::Key {
    match key {
        RecordKey::Node(name) => wire::Key::Node(name.to_string()),
        RecordKey::Namespace(name) => wire::Key::Namespace(name.to_string()),
        RecordKey::Slice(namespace, node) => {
            wire::Key::Slice(wire::Slice { namespace: namespace.to_string(), node: node.to_string() })
        }
        RecordKey::Export(id) => wire::Key::Export(id.to_string()),
        RecordKey::Import(id) => wire::Key::Import(id.to_string()),
        RecordKey::Lease => wire::Key::Lease(true),
    }
}

/// Returns the message of `resource`; `None` where records do not carry its kind.
fn fact(resource: &Resource) -> Option<wire::Fact> {
    Some(match resource {
        Resource::Node(value) => wire::Fact::Node(node(value)),
        Resource::NodeLink(value) => wire::Fact::NodeLink(link(value)),
        Resource::Namespace(value) => {
            wire::Fact::Namespace(wire::Namespace { name: value.name.to_string(), labels: labels(&value.labels) })
        }
        Resource::Workload(value) => wire::Fact::Workload(workload(value)),
        Resource::Export(value) if value.kind != ServiceKind::ExternalName => wire::Fact::Export(export(value)),
        Resource::ServiceImport(value) => wire::Fact::ServiceImport(wire::ServiceImport {
            service: value.id.to_string(),
            addresses: addresses(&value.addresses),
        }),
        Resource::Lease(value) => wire::Fact::Lease(wire::Lease {
            issued: value.issued.as_unix_nanos(),
            ttl_seconds: value.ttl_seconds,
            policies: value.policies,
        }),
        _ => return None,
    })
}

fn node(node: &Node) -> wire::Node {
    wire::Node {
        name: node.id.name.to_string(),
        labels: labels(&node.labels),
        addresses: addresses(&node.addresses),
        prefixes: prefixes(&node.prefixes),
    }
}

fn link(link: &NodeLink) -> wire::NodeLink {
    let endpoint = |at: &SocketAddr| wire::SocketAddress { address: address(&at.ip()), port: at.port().into() };
    wire::NodeLink {
        name: link.id.name.to_string(),
        key: link.key.0.to_vec(),
        next_key: link.next_key.map(|key| key.0.to_vec()).unwrap_or_default(),
        endpoints: link.endpoints.iter().map(endpoint).collect(),
        overlay: addresses(&link.overlay),
    }
}

fn workload(workload: &Workload) -> wire::Workload {
    let port = |port: &NamedPort| wire::Port {
        name: Some(port.name.to_string()),
        protocol: port.protocol.number().into(),
        port: Some(port.port.into()),
        app_protocol: None,
    };
    wire::Workload {
        namespace: workload.id.namespace.to_string(),
        name: workload.id.name.to_string(),
        labels: labels(&workload.labels),
        service_account: workload.service_account.to_string(),
        node: workload.node.as_ref().map(ToString::to_string),
        host_network: workload.host_network,
        addresses: addresses(&workload.addresses),
        ports: workload.ports.iter().map(port).collect(),
    }
}

fn export(export: &Export) -> wire::Export {
    let port = |port: &ServicePort| wire::Port {
        name: port.name.as_ref().map(ToString::to_string),
        protocol: port.protocol.number().into(),
        port: Some(port.port.into()),
        app_protocol: port.app_protocol.as_ref().map(ToString::to_string),
    };
    wire::Export {
        service: export.id.to_string(),
        created: export.created.map(crate::WallTime::as_unix_nanos),
        headless: export.kind == ServiceKind::Headless,
        ports: export.ports.iter().map(port).collect(),
        affinity_seconds: match export.affinity {
            SessionAffinity::None => None,
            SessionAffinity::ClientIp { timeout_seconds } => Some(timeout_seconds),
        },
        publish_not_ready: export.publish_not_ready,
        endpoints: export.endpoints.iter().map(endpoint).collect(),
        first: match export.traffic.first {
            Locality::Anywhere => 0,
            Locality::Region => 1,
            Locality::Cluster => 2,
            Locality::Zone => 3,
            Locality::Node => 4,
        },
        node_only: export.traffic.node_only,
        weight: (export.traffic.weight != Traffic::DEFAULT_WEIGHT).then_some(export.traffic.weight.into()),
    }
}

fn endpoint(endpoint: &Endpoint) -> wire::Endpoint {
    let port = |port: &EndpointPort| wire::Port {
        name: port.name.as_ref().map(ToString::to_string),
        protocol: port.protocol.number().into(),
        port: port.port.map(Into::into),
        app_protocol: None,
    };
    wire::Endpoint {
        addresses: addresses(&endpoint.addresses),
        ready: endpoint.ready,
        hostname: endpoint.hostname.as_ref().map(ToString::to_string),
        node: endpoint.node.as_ref().map(ToString::to_string),
        ports: endpoint.ports.iter().map(port).collect(),
        terminating: endpoint.terminating,
    }
}

/// Returns the kind and payload of a root record.
pub(super) fn root_record(record: &RootRecord, root: &PublicKey) -> Result<(wire::Kind, Vec<u8>), SignError> {
    use prost::Message;
    let fleet = root.as_bytes().to_vec();
    Ok(match record {
        RootRecord::Grant(grant) => (wire::Kind::Grant, self::grant(grant, fleet)?.encode_to_vec()),
        RootRecord::Policies { serial, manifests } => {
            let manifest = |(file, text): &(String, String)| wire::Manifest { file: file.clone(), text: text.clone() };
            let manifests = manifests.iter().map(manifest).collect();
            (wire::Kind::Policies, wire::Policies { fleet, serial: *serial, manifests }.encode_to_vec())
        }
        RootRecord::Revocation { cluster, epoch } => {
            let message = wire::Revocation { fleet, cluster: cluster.to_string(), epoch: *epoch };
            (wire::Kind::Revocation, message.encode_to_vec())
        }
    })
}

fn grant(grant: &Grant, fleet: Vec<u8>) -> Result<wire::Grant, SignError> {
    let key = grant.key.ok_or_else(|| SignError::NoKey { cluster: grant.cluster.clone() })?;
    Ok(wire::Grant {
        fleet,
        cluster: grant.cluster.to_string(),
        key: key.as_bytes().to_vec(),
        prefixes: prefixes(&grant.prefixes),
        service_prefixes: prefixes(&grant.service_prefixes),
        namespaces: grant.namespaces.iter().map(|pattern| pattern.0.to_string()).collect(),
        exports: grant.exports.iter().map(ToString::to_string).collect(),
        attributes: pairs(grant.attributes.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))),
        not_before: grant.not_before.as_unix_nanos(),
        not_after: grant.not_after.as_unix_nanos(),
        epoch: grant.epoch,
        next_key: grant.next_key.map(|key| key.as_bytes().to_vec()).unwrap_or_default(),
    })
}

fn labels(labels: &Labels) -> Vec<wire::Label> {
    pairs(labels.iter())
}

fn pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<wire::Label> {
    pairs.map(|(key, value)| wire::Label { key: key.into(), value: value.into() }).collect()
}

fn prefixes(prefixes: &[Prefix]) -> Vec<wire::Prefix> {
    prefixes.iter().map(|prefix| wire::Prefix { address: address(&prefix.address()), len: prefix.len().into() }).collect()
}

fn addresses(addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    addresses.iter().map(address).collect()
}

fn address(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
