//! Service, EndpointSlice, ServiceExport and ServiceImport.

use std::collections::BTreeSet;

use super::cursor::{Cursor, Object, short};
use super::object::{Meta, port_name, protocol, service_name};
use crate::{
    ClusterName, Endpoint, EndpointPort, EndpointSlice, ExportTraffic, Locality, ObjectName, Resource, Service, ServiceExport,
    ServiceId, ServiceImport, ServiceKind, ServicePort, SessionAffinity, Traffic, WallTime,
};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is missing (core/v1): three hours.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

pub(super) fn service(meta: &Meta<'_>, cluster: &ClusterName) -> Option<Resource> {
    let id = meta.service_id();
    let spec = meta.spec()?;
    let types = [("ClusterIP", false), ("NodePort", false), ("LoadBalancer", false), ("ExternalName", true)];
    let external = spec.get("type").and_then(|cursor| cursor.one_of(&types)).unwrap_or(false);
    let mut texts = spec.items("clusterIPs");
    if texts.is_empty() {
        texts.extend(spec.get("clusterIP"));
    }
    texts.retain(|cursor| cursor.text() != Some(""));
    let headless = texts.iter().any(|cursor| cursor.text() == Some("None"));
    if headless && (texts.len() > 1 || external) {
        texts[0].error("'None' stands alone, and not in a Service of type ExternalName");
    }
    let addresses = if headless { Vec::new() } else { texts.iter().filter_map(Cursor::address).collect() };
    let kind = match (external, headless) {
        (true, _) => ServiceKind::ExternalName,
        (false, true) => ServiceKind::Headless,
        (false, false) => ServiceKind::ClusterIp,
    };
    let external_name = if external { spec.require("externalName") } else { None };
    let external_name = external_name.and_then(|cursor| cursor.text()).map(Into::into);
    let ports = service_ports(&spec);
    let affinity = affinity(&spec);
    let traffic = traffic(meta, &spec);
    let publish_not_ready = spec.flag("publishNotReadyAddresses");
    let cluster = cluster.clone();
    Some(Resource::Service(Service {
        cluster,
        id: id?,
        kind,
        addresses,
        ports,
        affinity,
        traffic,
        publish_not_ready,
        external_name,
    }))
}

fn service_ports(spec: &Object<'_>) -> Vec<ServicePort> {
    let items = spec.items("ports");
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let several = items.len() > 1;
    let read = |cursor: &Cursor<'_>| {
        let object = cursor.object();
        let name = object.get("name").filter(|name| name.text() != Some("")).and_then(|cursor| port_name(&cursor, true));
        if several && name.is_none() {
            object.missing("name", "is missing: a Service with several ports names each of them");
        }
        let protocol = protocol(&object);
        let port = object.require("port").and_then(|cursor| cursor.port());
        let app_protocol = object.text("appProtocol").map(Into::into);
        let port = ServicePort { name, protocol: protocol?, port: port?, app_protocol };
        if port.name.is_some() && !names.insert(port.name.clone()) {
            object.missing("name", "another port of the Service has this name");
        }
        if !numbers.insert((port.protocol, port.port)) {
            object.missing("port", "another port of the Service has this number and protocol");
        }
        Some(port)
    };
    items.iter().filter_map(read).collect()
}

fn affinity(spec: &Object<'_>) -> SessionAffinity {
    let client_ip = spec.get("sessionAffinity").and_then(|cursor| cursor.one_of(&[("None", false), ("ClientIP", true)]));
    if client_ip != Some(true) {
        return SessionAffinity::None;
    }
    let config = spec.get("sessionAffinityConfig").and_then(|config| config.object().get("clientIP"));
    let seconds = config.and_then(|config| config.object().get("timeoutSeconds")).and_then(|cursor| cursor.integer(1..=86_400));
    let timeout_seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    SessionAffinity::ClientIp { timeout_seconds }
}

/// How connections are spread, for what `trafficDistribution` has no word for. On a Service, or on a ServiceExport before it.
const DISTRIBUTION_ANNOTATION: &str = "cluster-mesh.io/traffic-distribution";
/// The weight of each backend of the cluster.
const WEIGHT_ANNOTATION: &str = "cluster-mesh.io/weight";

fn traffic(meta: &Meta<'_>, spec: &Object<'_>) -> Traffic {
    let annotated = traffic_annotations(meta);
    let words = [("PreferClose", Locality::Zone), ("PreferSameZone", Locality::Zone), ("PreferSameNode", Locality::Node)];
    let first = spec.get("trafficDistribution").and_then(|cursor| cursor.one_of(&words));
    let node_only = spec.get("internalTrafficPolicy").and_then(|cursor| cursor.one_of(&[("Cluster", false), ("Local", true)]));
    Traffic {
        first: annotated.first.or(first).unwrap_or_default(),
        node_only: node_only.unwrap_or(false),
        weight: annotated.weight.unwrap_or(Traffic::DEFAULT_WEIGHT),
    }
}

/// Reads our annotations; every value of an annotation is a string.
fn traffic_annotations(meta: &Meta<'_>) -> ExportTraffic {
    let Some(annotations) = meta.metadata.get("annotations").map(|annotations| annotations.object()) else {
        return ExportTraffic::default();
    };
    let words = [
        ("node", Locality::Node),
        ("zone", Locality::Zone),
        ("cluster", Locality::Cluster),
        ("region", Locality::Region),
        ("anywhere", Locality::Anywhere),
    ];
    let weight = annotations.get(WEIGHT_ANNOTATION).and_then(|cursor| {
        let text = cursor.text()?;
        let weight = text.parse().ok().filter(|weight| *weight <= Traffic::MAX_WEIGHT);
        if weight.is_none() {
            cursor.error(format_args!("'{}' is not a weight: a number from 0 to {}", short(text), Traffic::MAX_WEIGHT));
        }
        weight
    });
    let first = annotations.get(DISTRIBUTION_ANNOTATION).and_then(|cursor| cursor.one_of(&words));
    ExportTraffic { first, weight }
}

/// The label that ties an EndpointSlice to its Service (discovery/v1).
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// How many endpoints and ports a slice may have (discovery/v1). Every endpoint has every port, so a few letters of text
/// could stand for very many of them.
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 100;

pub(super) fn endpoint_slice(meta: &Meta<'_>, cluster: &ClusterName) -> Option<Resource> {
    let (name, namespace) = (meta.name::<ObjectName>(), meta.namespace());
    let labels = meta.metadata.get("labels").map(|labels| labels.object());
    let service = labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
    if service.is_none() {
        // The API allows it, for whoever reads slices of their own.
        meta.root.cursor.warn(format_args!("left out: without the label {SERVICE_NAME_LABEL} the slice belongs to no Service"));
    }
    let service = service.and_then(|cursor| service_name(&cursor));
    let families = [("IPv4", Some(true)), ("IPv6", Some(false)), ("FQDN", None)];
    let family = meta.root.require("addressType").and_then(|cursor| cursor.one_of(&families));
    let items = |name, most| {
        let items = meta.root.items(name);
        if items.len() > most {
            meta.root.missing(name, format_args!("has {} items, {most} are allowed", items.len()));
            return Vec::new();
        }
        items
    };
    let ports: Vec<_> = items("ports", MAX_PORTS).iter().filter_map(endpoint_port).collect();
    let endpoints = items("endpoints", MAX_ENDPOINTS);
    let endpoints = endpoints.iter().map(|cursor| endpoint(cursor, family.flatten(), &ports)).collect();
    // An endpoint that is a name has no address that traffic or an answer could have.
    let endpoints = if family == Some(None) { Vec::new() } else { endpoints };
    let service = ServiceId { namespace: namespace?, name: service? };
    Some(Resource::EndpointSlice(EndpointSlice { cluster: cluster.clone(), name: name?, service, endpoints }))
}

fn endpoint_port(cursor: &Cursor<'_>) -> Option<EndpointPort> {
    let object = cursor.object();
    object.only(&["name", "port", "protocol", "appProtocol"]);
    let name = object.get("name").filter(|name| name.text() != Some("")).and_then(|cursor| port_name(&cursor, true));
    let port = match object.get("port") {
        Some(cursor) => Some(cursor.port()?),
        None => None,
    };
    Some(EndpointPort { name, protocol: protocol(&object)?, port })
}

fn endpoint(cursor: &Cursor<'_>, is_ipv4: Option<bool>, ports: &[EndpointPort]) -> Endpoint {
    let object = cursor.object();
    object.only(&["addresses", "conditions", "hostname", "nodeName", "zone", "hints", "targetRef", "deprecatedTopology"]);
    let mut addresses = Vec::new();
    if let Some(list) = object.require("addresses").filter(|_| is_ipv4.is_some()) {
        for cursor in list.items() {
            let Some(address) = cursor.address() else { continue };
            if Some(address.is_ipv4()) != is_ipv4 {
                cursor.error(format_args!("{address} is not of the slice's addressType"));
            }
            addresses.push(address);
        }
    }
    let conditions = object.get("conditions").map(|conditions| conditions.object());
    let condition = |name| conditions.as_ref().and_then(|conditions| conditions.get(name)?.boolean());
    let (ready, terminating) = (condition("ready").unwrap_or(true), condition("terminating").unwrap_or(false));
    let hostname = object.get("hostname").filter(|name| name.text() != Some("")).and_then(|cursor| service_name(&cursor));
    let node = object.get("nodeName").and_then(|cursor| cursor.parse());
    Endpoint { addresses, ready, terminating, hostname: hostname.map(|name| name.as_str().into()), node, ports: ports.to_vec() }
}

pub(super) fn service_export(meta: &Meta<'_>, cluster: &ClusterName) -> Option<Resource> {
    let id = meta.service_id();
    let created = meta.metadata.get("creationTimestamp").and_then(|cursor| timestamp(&cursor));
    Some(Resource::ServiceExport(ServiceExport {
        cluster: cluster.clone(),
        id: id?,
        created,
        traffic: traffic_annotations(meta),
    }))
}

/// Reads RFC 3339.
pub(super) fn timestamp(cursor: &Cursor<'_>) -> Option<WallTime> {
    let text = cursor.text()?;
    let time = WallTime::parse_rfc3339(text);
    if time.is_none() {
        cursor.error(format_args!("'{}' is not a time such as 2026-11-22T07:00:00Z", short(text)));
    }
    time
}

pub(super) fn service_import(meta: &Meta<'_>, cluster: &ClusterName) -> Option<Resource> {
    let id = meta.service_id();
    let mut ips: Vec<Cursor<'_>> = meta.root.items("ips");
    if let Some(spec) = meta.root.get("spec") {
        ips.extend(spec.object().items("ips"));
    }
    let mut addresses = Vec::new();
    for cursor in &ips {
        let Some(address) = cursor.address() else { continue };
        if addresses.iter().any(|other: &std::net::IpAddr| other.is_ipv4() == address.is_ipv4()) {
            cursor.error("a ServiceImport has one address of each family at most");
        }
        addresses.push(address);
    }
    Some(Resource::ServiceImport(ServiceImport { cluster: cluster.clone(), id: id?, addresses }))
}
