//! Namespace, Node and Pod.

use super::cursor::{Cursor, Object};
use super::object::{Meta, port_name, protocol};
use crate::{ClusterName, NamedPort, Namespace, Node, NodeId, ObjectName, Resource, Workload, WorkloadId};

pub(super) fn namespace(meta: &Meta<'_>, cluster: &ClusterName) -> Option<Resource> {
    let labels = meta.labels();
    Some(Resource::Namespace(Namespace { cluster: cluster.clone(), name: meta.name()?, labels }))
}

pub(super) fn node(meta: &Meta<'_>, cluster: &ClusterName) -> Option<Resource> {
    let name = meta.name();
    let labels = meta.labels();
    let mut addresses = Vec::new();
    if let Some(status) = meta.root.get("status") {
        for item in status.object().items("addresses") {
            let item = item.object();
            let kind = item.require("type").and_then(|cursor| cursor.text());
            if matches!(kind, Some("InternalIP" | "ExternalIP")) {
                addresses.extend(item.require("address").and_then(|cursor| cursor.address()));
            }
        }
    }
    let mut prefixes = Vec::new();
    if let Some(spec) = meta.root.get("spec") {
        let spec = spec.object();
        prefixes.extend(spec.items("podCIDRs").iter().filter_map(Cursor::prefix));
        if prefixes.is_empty() {
            prefixes.extend(spec.get("podCIDR").and_then(|cursor| cursor.prefix()));
        }
    }
    let id = NodeId { cluster: cluster.clone(), name: name? };
    Some(Resource::Node(Node { id, labels, addresses, prefixes }))
}

pub(super) fn pod(meta: &Meta<'_>, cluster: &ClusterName) -> Option<Resource> {
    let (name, namespace, labels) = (meta.name::<ObjectName>(), meta.namespace(), meta.labels());
    // The API requires a spec; a Pod of a test or an export that says nothing there says nothing wrong either.
    let spec = meta.root.get("spec").map(|spec| spec.object());
    let status = meta.root.get("status").map(|status| status.object());
    let addresses = status.as_ref().map(pod_addresses).unwrap_or_default();
    let field = |name: &str| spec.as_ref().and_then(|spec| spec.get(name));
    let service_account = field("serviceAccountName").or_else(|| field("serviceAccount"));
    let service_account = service_account.map_or(Some("default".into()), |cursor| {
        let name: ObjectName = cursor.parse()?;
        Some(name.as_str().into())
    });
    let node = field("nodeName").and_then(|cursor| cursor.parse());
    let host_network = spec.as_ref().is_some_and(|spec| spec.flag("hostNetwork"));
    let ports = spec.as_ref().map(container_ports).unwrap_or_default();
    Some(Resource::Workload(Workload {
        id: WorkloadId { cluster: cluster.clone(), namespace: namespace?, name: name? },
        labels,
        service_account: service_account?,
        node,
        host_network,
        addresses,
        ports,
    }))
}

/// Returns the addresses of a Pod; one that has ended has given its addresses back.
fn pod_addresses(status: &Object<'_>) -> Vec<std::net::IpAddr> {
    if matches!(status.text("phase"), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let listed = status.items("podIPs");
    if !listed.is_empty() {
        return listed.iter().filter_map(|item| item.object().require("ip")?.address()).collect();
    }
    status.get("podIP").and_then(|cursor| cursor.address()).into_iter().collect()
}

/// Returns the named ports of the containers that run beside each other: init containers are among them as sidecars only.
fn container_ports(spec: &Object<'_>) -> Vec<NamedPort> {
    let mut ports = Vec::new();
    let containers = spec.items("containers").into_iter().map(|container| (container, true));
    let sidecars = spec.items("initContainers").into_iter().map(|container| (container, false));
    for (container, runs) in containers.chain(sidecars) {
        let container = container.object();
        let runs = runs || container.text("restartPolicy") == Some("Always");
        for port in container.items("ports") {
            let port = port.object();
            let number = port.require("containerPort").and_then(|cursor| cursor.port());
            let protocol = protocol(&port);
            let name = port.get("name").filter(|name| name.text() != Some("")).and_then(|name| port_name(&name, false));
            if let (true, Some(name), Some(protocol), Some(port)) = (runs, name, protocol, number) {
                ports.push(NamedPort { name, protocol, port });
            }
        }
    }
    ports
}
