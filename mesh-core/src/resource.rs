//! The facts that the mesh acts on, as plain data: what manifests and records say, parsed once.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::policy::{ClusterNetworkPolicy, NetworkPolicy, PolicyScope};
use crate::{
    ClusterName, ExportTraffic, Grant, Labels, NamespaceName, NodeId, ObjectName, Prefix, ServiceId, Traffic, WallTime,
    WorkloadId,
};

/// A transport protocol that ports belong to, as Kubernetes names it; also any other IP protocol, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
    /// SCTP, IP protocol 132.
    Sctp,
    /// Any other protocol (ICMP is 1, ICMPv6 is 58): policed without ports.
    Other(u8),
}

impl Protocol {
    /// Returns the protocol of an IP header's protocol (or last next-header) number.
    pub fn from_number(number: u8) -> Protocol {
        match number {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            132 => Protocol::Sctp,
            other => Protocol::Other(other),
        }
    }

    /// Returns the IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
            Protocol::Other(number) => number,
        }
    }

    /// Tells whether the protocol has ports.
    pub fn has_ports(self) -> bool {
        !matches!(self, Protocol::Other(_))
    }

    /// Reads a Kubernetes protocol name (`TCP`, `UDP`, `SCTP`, any case), `ICMP`, `ICMPv6`, or a number.
    pub fn parse(text: &str) -> Option<Protocol> {
        Some(match text.to_ascii_uppercase().as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            "ICMP" => Protocol::Other(1),
            "ICMPV6" => Protocol::Other(58),
            other => Protocol::from_number(other.parse().ok()?),
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protocol::Tcp => f.write_str("TCP"),
            Protocol::Udp => f.write_str("UDP"),
            Protocol::Sctp => f.write_str("SCTP"),
            Protocol::Other(1) => f.write_str("ICMP"),
            Protocol::Other(58) => f.write_str("ICMPv6"),
            Protocol::Other(number) => write!(f, "{number}"),
        }
    }
}

impl TryFrom<String> for Protocol {
    type Error = String;
    fn try_from(text: String) -> Result<Protocol, String> {
        Protocol::parse(&text).ok_or_else(|| format!("'{text}' is not a protocol: TCP, UDP, SCTP, ICMP, ICMPv6 or a number"))
    }
}

impl From<Protocol> for String {
    fn from(protocol: Protocol) -> String {
        protocol.to_string()
    }
}

/// A Namespace of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The cluster.
    pub cluster: ClusterName,
    /// The namespace's name.
    pub name: NamespaceName,
    /// Its labels as declared, without reserved keys.
    pub labels: Labels,
}

/// A Node: what the cluster says of it, apart from its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node.
    pub id: NodeId,
    /// Its labels as declared, without reserved keys.
    pub labels: Labels,
    /// Its Internal and External addresses.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`: the prefixes that it speaks for.
    pub prefixes: Vec<Prefix>,
}

/// A WireGuard public key (Curve25519), written in base64 as `wg` does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WireGuardKey(pub [u8; 32]);

/// How to reach a node over WireGuard: what it announced of itself and its publisher signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeLink {
    /// The node.
    pub id: NodeId,
    /// Its WireGuard public key in use.
    pub key: WireGuardKey,
    /// The key that it will use next, accepted beside the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<WireGuardKey>,
    /// Where its WireGuard listens on the underlay, in order of preference; empty for a node that only calls out.
    #[serde(default)]
    pub endpoints: Vec<SocketAddr>,
    /// Its own addresses inside the mesh, one for each family at most: inside its prefixes, never a workload's.
    #[serde(default)]
    pub overlay: Vec<IpAddr>,
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// The port's name (IANA service name form).
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// A workload: a Pod, or what stands in for one on a plain host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The workload.
    pub id: WorkloadId,
    /// Its labels as declared, without reserved keys.
    pub labels: Labels,
    /// `spec.serviceAccountName`, `default` where missing.
    pub service_account: Arc<str>,
    /// The node it runs on, once scheduled.
    pub node: Option<ObjectName>,
    /// Host-network pods have their node's addresses and no identity of their own.
    pub host_network: bool,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// The named container ports, in declared order.
    pub ports: Vec<NamedPort>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The port's name; `None` where the Service has a single unnamed one.
    pub name: Option<Arc<str>>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The number that clients use.
    pub port: u16,
    /// `appProtocol`, carried along.
    pub app_protocol: Option<Arc<str>>,
}

/// What kind of addresses a Service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKind {
    /// Cluster addresses (also NodePort and LoadBalancer, which have them).
    ClusterIp,
    /// `clusterIP: None`.
    Headless,
    /// A CNAME to somewhere else, which has no endpoints.
    ExternalName,
}

/// `sessionAffinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionAffinity {
    /// Every connection is balanced anew.
    #[default]
    None,
    /// Connections of one client address stay with one backend, for this many seconds after the last.
    ClientIp {
        /// `sessionAffinityConfig.clientIP.timeoutSeconds`, 10800 where missing.
        timeout_seconds: u32,
    },
}

/// A Service of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The cluster.
    pub cluster: ClusterName,
    /// The service.
    pub id: ServiceId,
    /// What addresses it has.
    pub kind: ServiceKind,
    /// `spec.clusterIPs`, without `None`.
    pub addresses: Vec<IpAddr>,
    /// The ports.
    pub ports: Vec<ServicePort>,
    /// The session affinity.
    pub affinity: SessionAffinity,
    /// How connections are spread.
    pub traffic: Traffic,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.externalName`, for [`ServiceKind::ExternalName`].
    pub external_name: Option<Arc<str>>,
}

/// An endpoint of an EndpointSlice or of an export.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The endpoint's addresses.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`; missing is ready.
    pub ready: bool,
    /// `conditions.terminating`: it is going away, and takes no new connections unless it is ready all the same.
    pub terminating: bool,
    /// `hostname`, for the endpoint's own DNS name.
    pub hostname: Option<Arc<str>>,
    /// The node it runs on.
    pub node: Option<ObjectName>,
    /// The ports it serves on, which may differ from the Service's: by name and protocol.
    pub ports: Vec<EndpointPort>,
}

/// A port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointPort {
    /// The name that ties it to the Service's port.
    pub name: Option<Arc<str>>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The number at the endpoint; `None` means every port (EndpointSlice API).
    pub port: Option<u16>,
}

/// An EndpointSlice of one cluster, for the service in its `kubernetes.io/service-name` label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The cluster.
    pub cluster: ClusterName,
    /// The EndpointSlice object's name.
    pub name: ObjectName,
    /// The service it belongs to.
    pub service: ServiceId,
    /// The endpoints, each with the slice's ports.
    pub endpoints: Vec<Endpoint>,
}

/// A ServiceExport manifest: consent to offer a service to the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceExport {
    /// The cluster.
    pub cluster: ClusterName,
    /// The service.
    pub id: ServiceId,
    /// `metadata.creationTimestamp`.
    pub created: Option<WallTime>,
    /// What its annotations say of traffic.
    pub traffic: ExportTraffic,
}

/// What a cluster offers to the fleet of one service: derived from its ServiceExport, or signed by its publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The exporting cluster.
    pub cluster: ClusterName,
    /// The service.
    pub id: ServiceId,
    /// When it was first exported; `None` counts as newest.
    pub created: Option<WallTime>,
    /// ClusterSetIP or headless: never [`ServiceKind::ExternalName`].
    pub kind: ServiceKind,
    /// The ports.
    pub ports: Vec<ServicePort>,
    /// The session affinity.
    pub affinity: SessionAffinity,
    /// How connections are spread; the weight is the exporting cluster's own.
    pub traffic: Traffic,
    /// Not-ready endpoints are published as well.
    pub publish_not_ready: bool,
    /// The endpoints, ready or not.
    pub endpoints: Vec<Endpoint>,
}

/// A ServiceImport manifest, or a publisher's allocation: the clusterset addresses of a service in one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceImport {
    /// The importing cluster.
    pub cluster: ClusterName,
    /// The service.
    pub id: ServiceId,
    /// `spec.ips`.
    pub addresses: Vec<IpAddr>,
}

/// A cluster's sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The cluster.
    pub cluster: ClusterName,
    /// When it was signed, by the publisher's clock.
    pub issued: WallTime,
    /// How long it is good for, in seconds.
    pub ttl_seconds: u32,
    /// The serial of the fleet policies that are in force on every node of the cluster that was heard of lately; `None` where
    /// some node has none, or does not say.
    pub policies: Option<u64>,
}

/// One fact. Every variant has exactly one [`Key`] kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the type it holds")]
pub enum Resource {
    Grant(Arc<Grant>),
    Namespace(Namespace),
    Node(Node),
    NodeLink(NodeLink),
    Workload(Workload),
    Service(Service),
    EndpointSlice(EndpointSlice),
    ServiceExport(ServiceExport),
    ServiceImport(ServiceImport),
    Export(Export),
    NetworkPolicy(Arc<NetworkPolicy>),
    ClusterNetworkPolicy(Arc<ClusterNetworkPolicy>),
    Lease(Lease),
}

/// What a fact is about: two facts with one key are the same fact at different times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each variant is the resource of the same name")]
pub enum Key {
    Grant(ClusterName),
    Namespace(ClusterName, NamespaceName),
    Node(NodeId),
    NodeLink(NodeId),
    Workload(WorkloadId),
    Service(ClusterName, ServiceId),
    EndpointSlice(ClusterName, NamespaceName, ObjectName),
    ServiceExport(ClusterName, ServiceId),
    ServiceImport(ClusterName, ServiceId),
    Export(ClusterName, ServiceId),
    NetworkPolicy(PolicyScope, NamespaceName, ObjectName),
    ClusterNetworkPolicy(PolicyScope, ObjectName),
    Lease(ClusterName),
    /// A domain name, whose addresses [`State::learn`](crate::State::learn) takes: no source tells them.
    Domain(Arc<str>),
}

impl Resource {
    /// Returns what the fact is about.
    pub fn key(&self) -> Key {
        match self {
            Resource::Grant(grant) => Key::Grant(grant.cluster.clone()),
            Resource::Namespace(namespace) => Key::Namespace(namespace.cluster.clone(), namespace.name.clone()),
            Resource::Node(node) => Key::Node(node.id.clone()),
            Resource::NodeLink(link) => Key::NodeLink(link.id.clone()),
            Resource::Workload(workload) => Key::Workload(workload.id.clone()),
            Resource::Service(service) => Key::Service(service.cluster.clone(), service.id.clone()),
            Resource::EndpointSlice(slice) => {
                Key::EndpointSlice(slice.cluster.clone(), slice.service.namespace.clone(), slice.name.clone())
            }
            Resource::ServiceExport(export) => Key::ServiceExport(export.cluster.clone(), export.id.clone()),
            Resource::ServiceImport(import) => Key::ServiceImport(import.cluster.clone(), import.id.clone()),
            Resource::Export(export) => Key::Export(export.cluster.clone(), export.id.clone()),
            Resource::NetworkPolicy(policy) => {
                Key::NetworkPolicy(policy.scope.clone(), policy.namespace.clone(), policy.name.clone())
            }
            Resource::ClusterNetworkPolicy(policy) => Key::ClusterNetworkPolicy(policy.scope.clone(), policy.name.clone()),
            Resource::Lease(lease) => Key::Lease(lease.cluster.clone()),
        }
    }
}

impl Key {
    /// Returns the cluster whose fact it is; `None` for a fleet policy and a domain name.
    pub fn cluster(&self) -> Option<&ClusterName> {
        match self {
            Key::Grant(cluster)
            | Key::Lease(cluster)
            | Key::Namespace(cluster, _)
            | Key::Service(cluster, _)
            | Key::EndpointSlice(cluster, ..)
            | Key::ServiceExport(cluster, _)
            | Key::ServiceImport(cluster, _)
            | Key::Export(cluster, _) => Some(cluster),
            Key::Node(id) | Key::NodeLink(id) => Some(&id.cluster),
            Key::Workload(id) => Some(&id.cluster),
            Key::NetworkPolicy(scope, ..) | Key::ClusterNetworkPolicy(scope, _) => match scope {
                PolicyScope::Cluster(cluster) => Some(cluster),
                PolicyScope::Fleet => None,
            },
            Key::Domain(_) => None,
        }
    }
}

impl fmt::Display for Key {
    /// Writes `Workload east/shop/web-0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Grant(cluster) => write!(f, "Grant {cluster}"),
            Key::Lease(cluster) => write!(f, "Lease {cluster}"),
            Key::Domain(name) => write!(f, "Domain {name}"),
            Key::Namespace(cluster, name) => write!(f, "Namespace {cluster}/{name}"),
            Key::Node(id) => write!(f, "Node {id}"),
            Key::NodeLink(id) => write!(f, "NodeLink {id}"),
            Key::Workload(id) => write!(f, "Workload {id}"),
            Key::Service(cluster, id) => write!(f, "Service {cluster}/{id}"),
            Key::EndpointSlice(cluster, namespace, name) => write!(f, "EndpointSlice {cluster}/{namespace}/{name}"),
            Key::ServiceExport(cluster, id) => write!(f, "ServiceExport {cluster}/{id}"),
            Key::ServiceImport(cluster, id) => write!(f, "ServiceImport {cluster}/{id}"),
            Key::Export(cluster, id) => write!(f, "Export {cluster}/{id}"),
            Key::NetworkPolicy(scope, namespace, name) => write!(f, "NetworkPolicy {scope}/{namespace}/{name}"),
            Key::ClusterNetworkPolicy(scope, name) => write!(f, "ClusterNetworkPolicy {scope}/{name}"),
        }
    }
}

impl fmt::Display for WireGuardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::keys::encode_base64(&self.0))
    }
}

impl fmt::Debug for WireGuardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for WireGuardKey {
    type Error = crate::keys::KeyError;
    fn try_from(text: String) -> Result<WireGuardKey, crate::keys::KeyError> {
        crate::keys::decode_base64(&text).map(WireGuardKey)
    }
}

impl From<WireGuardKey> for String {
    fn from(key: WireGuardKey) -> String {
        key.to_string()
    }
}
