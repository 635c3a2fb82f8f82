//! Messages to facts: everything that a message can say wrong is found here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Record, RecordKey, RootRecord, Version, wire};
use crate::{
    ClusterName, Endpoint, EndpointPort, Export, Grant, Labels, Lease, Locality, NamePattern, NamedPort, Namespace,
    NamespaceName, Node, NodeId, NodeLink, ObjectName, Prefix, Protocol, PublicKey, Resource, ServiceImport, ServiceKind,
    ServicePort, SessionAffinity, Traffic, WallTime, WireGuardKey, Workload, WorkloadId,
};

/// What is wrong with a message, for a person.
pub(super) type Decoded<T> = Result<T, String>;

pub(super) fn record(message: wire::Record) -> Decoded<(PublicKey, Record)> {
    let cluster: ClusterName = name(&message.cluster)?;
    let key = match message.key.ok_or("no key")? {
        wire::Key::Node(node) => RecordKey::Node(name(&node)?),
        wire::Key::Namespace(namespace) => RecordKey::Namespace(name(&namespace)?),
        wire::Key::Slice(slice) => RecordKey::Slice(name(&slice.namespace)?, name(&slice.node)?),
        wire::Key::Export(id) => RecordKey::Export(name(&id)?),
        wire::Key::Import(id) => RecordKey::Import(name(&id)?),
        wire::Key::Lease(_) => RecordKey::Lease,
    };
    let version = Version { incarnation: message.incarnation, counter: message.counter };
    let resources = message.resources.into_iter().map(|each| resource(&cluster, &key, each)).collect::<Result<_, _>>()?;
    Ok((public_key(&message.fleet)?, Record { cluster, version, key, resources }))
}

fn resource(own: &ClusterName, key: &RecordKey, message: wire::Resource) -> Decoded<Resource> {
    let cluster = if message.cluster.is_empty() { own.clone() } else { name(&message.cluster)? };
    Ok(match message.fact.ok_or("a resource of an unknown kind")? {
        wire::Fact::Node(message) => Resource::Node(Node {
            id: NodeId { cluster, name: name(&message.name)? },
            labels: labels(&message.labels)?,
            addresses: addresses(&message.addresses)?,
            prefixes: prefixes(&message.prefixes)?,
        }),
        wire::Fact::NodeLink(message) => Resource::NodeLink(link(cluster, &message)?),
        wire::Fact::Namespace(message) => {
            Resource::Namespace(Namespace { cluster, name: name(&message.name)?, labels: labels(&message.labels)? })
        }
        wire::Fact::Workload(message) => Resource::Workload(workload(cluster, key, message)?),
        wire::Fact::Export(message) => Resource::Export(export(cluster, message)?),
        wire::Fact::ServiceImport(message) => Resource::ServiceImport(ServiceImport {
            cluster,
            id: name(&message.service)?,
            addresses: addresses(&message.addresses)?,
        }),
        wire::Fact::Lease(message) => Resource::Lease(Lease {
            cluster,
            issued: WallTime::from_unix_nanos(message.issued),
            ttl_seconds: message.ttl_seconds,
            policies: message.policies,
        }),
    })
}

fn link(cluster: ClusterName, message: &wire::NodeLink) -> Decoded<NodeLink> {
    let key = |bytes: &[u8]| bytes.try_into().map(WireGuardKey).map_err(|_| "a WireGuard key has 32 bytes".to_owned());
    let endpoint = |at: &wire::SocketAddress| Ok::<_, String>(SocketAddr::new(address(&at.address)?, port(at.port)?));
    Ok(NodeLink {
        id: NodeId { cluster, name: name(&message.name)? },
        key: key(&message.key)?,
        next_key: if message.next_key.is_empty() { None } else { Some(key(&message.next_key)?) },
        endpoints: message.endpoints.iter().map(endpoint).collect::<Result<_, _>>()?,
        overlay: addresses(&message.overlay)?,
    })
}

fn workload(cluster: ClusterName, key: &RecordKey, message: wire::Workload) -> Decoded<Workload> {
    let named = |message: wire::Port| {
        let (protocol, number) = (protocol(message.protocol)?, port(message.port.ok_or("a port without a number")?)?);
        Ok::<_, String>(NamedPort { name: text(&message.name.ok_or("a port without a name")?)?, protocol, port: number })
    };
    // A slice says once where all of its workloads are.
    let (namespace, node) = match key {
        RecordKey::Slice(namespace, node) => (Some(namespace), Some(node)),
        _ => (None, None),
    };
    let namespace = match namespace.filter(|namespace| namespace.as_str() == message.namespace) {
        Some(namespace) => namespace.clone(),
        None => name::<NamespaceName>(&message.namespace)?,
    };
    let node = match node.filter(|node| message.node.as_deref() == Some(node.as_str())) {
        Some(node) => Some(node.clone()),
        None => message.node.as_deref().map(name).transpose()?,
    };
    Ok(Workload {
        id: WorkloadId { cluster, namespace, name: name::<ObjectName>(&message.name)? },
        labels: labels(&message.labels)?,
        service_account: text(&message.service_account)?,
        node,
        host_network: message.host_network,
        addresses: addresses(&message.addresses)?,
        ports: message.ports.into_iter().map(named).collect::<Result<_, _>>()?,
    })
}

fn export(cluster: ClusterName, message: wire::Export) -> Decoded<Export> {
    let service_port = |message: wire::Port| {
        Ok::<_, String>(ServicePort {
            name: message.name.as_deref().map(text).transpose()?,
            protocol: protocol(message.protocol)?,
            port: port(message.port.ok_or("a port without a number")?)?,
            app_protocol: message.app_protocol.as_deref().map(text).transpose()?,
        })
    };
    let affinity = message.affinity_seconds.map(|timeout_seconds| SessionAffinity::ClientIp { timeout_seconds });
    let traffic = Traffic {
        first: match message.first {
            1 => Locality::Region,
            2 => Locality::Cluster,
            3 => Locality::Zone,
            4 => Locality::Node,
            // One that a later version has is as good as none: what is preferred permits nothing.
            _ => Locality::Anywhere,
        },
        node_only: message.node_only,
        weight: match message.weight {
            None => Traffic::DEFAULT_WEIGHT,
            Some(weight) => weight.min(Traffic::MAX_WEIGHT.into()) as u16,
        },
    };
    Ok(Export {
        cluster,
        id: name(&message.service)?,
        created: message.created.map(WallTime::from_unix_nanos),
        kind: if message.headless { ServiceKind::Headless } else { ServiceKind::ClusterIp },
        ports: message.ports.into_iter().map(service_port).collect::<Result<_, _>>()?,
        affinity: affinity.unwrap_or_default(),
        traffic,
        publish_not_ready: message.publish_not_ready,
        endpoints: message.endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?,
    })
}

fn endpoint(message: wire::Endpoint) -> Decoded<Endpoint> {
    let endpoint_port = |message: wire::Port| {
        Ok::<_, String>(EndpointPort {
            name: message.name.as_deref().map(text).transpose()?,
            protocol: protocol(message.protocol)?,
            port: message.port.map(port).transpose()?,
        })
    };
    // A hostname becomes a DNS label (RFC 1123), which is what a namespace's name is too.
    let hostname = |text: &str| name::<NamespaceName>(text).map(|label| Arc::from(label.as_str()));
    Ok(Endpoint {
        addresses: addresses(&message.addresses)?,
        ready: message.ready,
        terminating: message.terminating,
        hostname: message.hostname.as_deref().map(hostname).transpose()?,
        node: message.node.as_deref().map(name).transpose()?,
        ports: message.ports.into_iter().map(endpoint_port).collect::<Result<_, _>>()?,
    })
}

pub(super) fn grant(message: wire::Grant) -> Decoded<(PublicKey, RootRecord)> {
    let attribute = |label: wire::Label| Ok::<_, String>((text(&label.key)?, text(&label.value)?));
    let grant = Grant {
        cluster: name(&message.cluster)?,
        key: Some(public_key(&message.key)?),
        next_key: if message.next_key.is_empty() { None } else { Some(public_key(&message.next_key)?) },
        prefixes: prefixes(&message.prefixes)?,
        service_prefixes: prefixes(&message.service_prefixes)?,
        namespaces: message.namespaces.iter().map(|pattern| text(pattern).map(NamePattern)).collect::<Result<_, _>>()?,
        exports: message.exports.iter().map(|pattern| pattern.parse()).collect::<Result<_, _>>()?,
        attributes: message.attributes.into_iter().map(attribute).collect::<Result<_, _>>()?,
        not_before: WallTime::from_unix_nanos(message.not_before),
        not_after: WallTime::from_unix_nanos(message.not_after),
        epoch: message.epoch,
    };
    Ok((public_key(&message.fleet)?, RootRecord::Grant(Arc::new(grant))))
}

pub(super) fn policies(message: wire::Policies) -> Decoded<(PublicKey, RootRecord)> {
    let manifests = message.manifests.into_iter().map(|manifest| (manifest.file, manifest.text)).collect();
    Ok((public_key(&message.fleet)?, RootRecord::Policies { serial: message.serial, manifests }))
}

pub(super) fn revocation(message: &wire::Revocation) -> Decoded<(PublicKey, RootRecord)> {
    let revocation = RootRecord::Revocation { cluster: name(&message.cluster)?, epoch: message.epoch };
    Ok((public_key(&message.fleet)?, revocation))
}

pub(super) fn public_key(bytes: &[u8]) -> Decoded<PublicKey> {
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| "a public key has 32 bytes")?;
    PublicKey::from_bytes(bytes).map_err(|error| error.to_string())
}

fn name<T: std::str::FromStr<Err = crate::NameError>>(text: &str) -> Decoded<T> {
    text.parse().map_err(|error: crate::NameError| error.to_string())
}

/// Takes a text that is no name: a service account, a label, a port's name. 317 bytes hold the longest label key.
fn text(text: &str) -> Decoded<Arc<str>> {
    if text.len() > 317 || text.chars().any(char::is_control) {
        return Err("a text with control characters, or of more than 317 bytes".into());
    }
    Ok(text.into())
}

fn labels(labels: &[wire::Label]) -> Decoded<Labels> {
    let count = labels.len();
    let pairs = labels.iter().map(|label| Ok::<_, String>((text(&label.key)?, text(&label.value)?)));
    let labels = pairs.collect::<Result<Labels, _>>()?;
    if labels.iter().len() == count { Ok(labels) } else { Err("a label key twice".into()) }
}

fn protocol(number: u32) -> Decoded<Protocol> {
    u8::try_from(number).map(Protocol::from_number).map_err(|_| format!("{number} is no IP protocol"))
}

fn port(number: u32) -> Decoded<u16> {
    u16::try_from(number).map_err(|_| format!("{number} is no port"))
}

fn prefixes(prefixes: &[wire::Prefix]) -> Decoded<Vec<Prefix>> {
    let prefix = |prefix: &wire::Prefix| {
        let len = u8::try_from(prefix.len).map_err(|_| "a prefix longer than an address".to_owned())?;
        Prefix::new(address(&prefix.address)?, len).ok_or_else(|| "a prefix longer than an address".to_owned())
    };
    prefixes.iter().map(prefix).collect()
}

fn addresses(addresses: &[Vec<u8>]) -> Decoded<Vec<IpAddr>> {
    addresses.iter().map(|bytes| address(bytes)).collect()
}

/// Reads 4 or 16 bytes. An IPv4 address in IPv6 clothes (RFC 4291 §2.5.5.2) is refused: it would be two names for one address.
fn address(bytes: &[u8]) -> Decoded<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(octets));
    }
    let octets: [u8; 16] = bytes.try_into().map_err(|_| "an address has 4 or 16 bytes")?;
    let address = std::net::Ipv6Addr::from(octets);
    if address.to_ipv4_mapped().is_some() {
        Err(format!("{address} is an IPv4 address written as IPv6"))
    } else {
        Ok(address.into())
    }
}
