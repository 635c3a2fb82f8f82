//! A fleet of generated clusters, each of 100 nodes and 5,000 workloads: its records are made when somebody asks for them.
//!
//! Cluster 0 is the own one. It and its partners share the namespace `shop`, export from it and allow each other by policy; every
//! other cluster has namespaces of its own, so that nothing of it matters to anybody here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::policy::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PolicyScope};
use mesh_core::{
    Bytes, ClusterName, Endpoint, EndpointPort, EndpointSlice, Export, Grant, Labels, Lease, NameError, NamePattern, Namespace,
    NamespaceName, Node, NodeId, NodeLink, ObjectName, Protocol, PublicKey, Record, RecordKey, Resource, RootRecord, SecretKey,
    Selector, Service, ServiceExport, ServiceId, ServiceKind, ServicePort, SessionAffinity, Traffic, Version, WallTime,
    WireGuardKey, Workload, WorkloadId,
};

/// Nodes of a cluster.
pub const NODES: usize = 100;
/// Namespaces of a cluster.
pub const NAMESPACES: usize = 5;
/// Workloads of a namespace on a node.
pub const SLICE: usize = 10;
/// Workloads of a cluster.
pub const WORKLOADS: usize = NODES * NAMESPACES * SLICE;
/// The clusters that share a namespace with the own one.
pub const PARTNERS: usize = 5;
/// The exported services of a partner, and the endpoints of each.
pub const SERVICES: usize = 5;
const ENDPOINTS: usize = 20;

fn name<T: std::str::FromStr<Err = NameError>>(text: &str) -> T {
    text.parse().expect("generated names are valid")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("generated addresses are valid")
}

/// Returns the root's key.
pub fn root() -> SecretKey {
    SecretKey::from_bytes([7; 32])
}

/// Returns the signing key of a cluster.
pub fn key_of(cluster: usize) -> SecretKey {
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&(cluster as u64).to_be_bytes());
    SecretKey::from_bytes(bytes)
}

/// Returns the name of a cluster.
pub fn cluster(cluster: usize) -> ClusterName {
    name(&format!("c{cluster:04}"))
}

/// Returns the name of a node.
pub fn node(node: usize) -> ObjectName {
    name(&format!("n{node}"))
}

/// Returns the name of a namespace of a cluster.
pub fn namespace(cluster: usize, number: usize) -> NamespaceName {
    if number == 0 && cluster <= PARTNERS { name("shop") } else { name(&format!("ns-{cluster}-{number}")) }
}

/// Returns the grant of a cluster, signed.
pub fn grant(number: usize) -> Bytes {
    let prefix = |text: String| vec![text.parse().expect("generated prefixes are valid")];
    let mut namespaces = vec![NamePattern(format!("ns-{number}-*").into())];
    namespaces.extend((number <= PARTNERS).then(|| NamePattern("shop".into())));
    let grant = Grant {
        cluster: cluster(number),
        key: Some(key_of(number).public()),
        next_key: None,
        prefixes: prefix(format!("fd00:{number:x}::/32")),
        service_prefixes: prefix(format!("fd80:{number:x}::/112")),
        namespaces,
        exports: vec!["*".parse().expect("a pattern")],
        attributes: BTreeMap::from([("region".into(), format!("r{}", number % 10).into())]),
        not_before: WallTime::from_unix_secs(0),
        not_after: WallTime::from_unix_secs(1 << 32),
        epoch: 1,
    };
    RootRecord::Grant(Arc::new(grant)).sign(&root()).expect("it fits")
}

/// Returns the keys of all records of a cluster.
pub fn keys(cluster: usize) -> impl Iterator<Item = RecordKey> {
    let nodes = (0..NODES).map(|number| RecordKey::Node(node(number)));
    let namespaces = (0..NAMESPACES).map(move |number| RecordKey::Namespace(namespace(cluster, number)));
    let slices =
        (0..NAMESPACES).flat_map(move |number| (0..NODES).map(move |at| RecordKey::Slice(namespace(cluster, number), node(at))));
    let exports = (0..SERVICES).filter(move |_| cluster <= PARTNERS).map(|number| RecordKey::Export(service(number)));
    nodes.chain(namespaces).chain(slices).chain(exports).chain([RecordKey::Lease])
}

/// Returns a service of the shared namespace.
pub fn service(number: usize) -> ServiceId {
    ServiceId { namespace: name("shop"), name: name(&format!("s{number}")) }
}

/// Returns what the record of a key says; in every round something else, where it can.
pub fn facts(of: usize, key: &RecordKey, round: u64) -> Vec<Resource> {
    match key {
        RecordKey::Node(name) => {
            let number: usize = name.as_str()[1..].parse().expect("a generated name");
            let id = NodeId { cluster: cluster(of), name: name.clone() };
            vec![
                Resource::Node(Node {
                    id: id.clone(),
                    labels: [("topology.kubernetes.io/zone", format!("z{}", number % 3))].into_iter().collect(),
                    addresses: vec![address(&format!("2001:db8:{of:x}:{number:x}::1"))],
                    prefixes: vec![format!("fd00:{of:x}:{number:x}::/48").parse().expect("a prefix")],
                }),
                Resource::NodeLink(NodeLink {
                    id,
                    key: WireGuardKey(*key_of(of * NODES + number + 1_000_000).public().as_bytes()),
                    next_key: None,
                    endpoints: vec![(address(&format!("2001:db8:{of:x}:{number:x}::1")), 51820).into()],
                    overlay: vec![address(&format!("fd00:{of:x}:{number:x}::1"))],
                }),
            ]
        }
        RecordKey::Namespace(name) => {
            let labels = [("team", "a")].into_iter().collect();
            vec![Resource::Namespace(Namespace { cluster: cluster(of), name: name.clone(), labels })]
        }
        RecordKey::Slice(in_namespace, on) => {
            let number: usize = on.as_str()[1..].parse().expect("a generated name");
            let place = (0..NAMESPACES).find(|place| namespace(of, *place) == *in_namespace).expect("a generated name");
            (0..SLICE).map(|at| Resource::Workload(workload(of, (place, number, at), round))).collect()
        }
        RecordKey::Export(id) => vec![Resource::Export(export(of, id))],
        RecordKey::Lease => {
            let issued = WallTime::from_unix_secs(1000 + round);
            vec![Resource::Lease(Lease { cluster: cluster(of), issued, ttl_seconds: 30, policies: None })]
        }
        RecordKey::Import(_) => Vec::new(),
    }
}

/// Returns a workload by its namespace, its node, and its number there. Its pods are replaced round by round.
pub fn workload(of: usize, (place, number, at): (usize, usize, usize), round: u64) -> Workload {
    let labels: Labels =
        [("app".to_owned(), format!("app-{}", at % 5)), ("rollout".to_owned(), format!("r{}", round % 3))].into_iter().collect();
    let pod = if at == 0 { format!("w{number}-{at}-{round}") } else { format!("w{number}-{at}") };
    Workload {
        id: WorkloadId { cluster: cluster(of), namespace: namespace(of, place), name: name(&pod) },
        labels,
        service_account: "default".into(),
        node: Some(node(number)),
        host_network: false,
        addresses: vec![address(&format!("fd00:{of:x}:{number:x}::{:x}", 16 + place * SLICE + at))],
        ports: Vec::new(),
    }
}

/// Returns the endpoints of a service.
pub fn endpoints(of: usize) -> Vec<Endpoint> {
    let endpoint = |number: usize| Endpoint {
        addresses: vec![address(&format!("fd00:{of:x}:{number:x}::11"))],
        ready: true,
        terminating: false,
        hostname: None,
        node: Some(node(number)),
        ports: vec![EndpointPort { name: None, protocol: Protocol::Tcp, port: Some(8080) }],
    };
    (0..ENDPOINTS).map(endpoint).collect()
}

fn export(of: usize, id: &ServiceId) -> Export {
    Export {
        cluster: cluster(of),
        id: id.clone(),
        created: Some(WallTime::from_unix_secs(1 + of as u64)),
        kind: ServiceKind::ClusterIp,
        ports: vec![ServicePort { name: None, protocol: Protocol::Tcp, port: 80, app_protocol: None }],
        affinity: SessionAffinity::None,
        traffic: Traffic::default(),
        publish_not_ready: false,
        endpoints: endpoints(of),
    }
}

/// Returns what the own cluster's sources say: nodes, workloads, exported services, and a policy for each namespace.
pub fn own_facts() -> Vec<Resource> {
    let local = |key: &RecordKey| matches!(key, RecordKey::Node(_) | RecordKey::Namespace(_) | RecordKey::Slice(..));
    let mut all: Vec<Resource> = keys(0).filter(local).flat_map(|key| facts(0, &key, 0)).collect();
    for id in (0..SERVICES).map(service) {
        let cluster = cluster(0);
        all.push(Resource::Service(Service {
            cluster: cluster.clone(),
            id: id.clone(),
            kind: ServiceKind::ClusterIp,
            addresses: Vec::new(),
            ports: vec![ServicePort { name: None, protocol: Protocol::Tcp, port: 80, app_protocol: None }],
            affinity: SessionAffinity::None,
            traffic: Traffic::default(),
            publish_not_ready: false,
            external_name: None,
        }));
        let name = format!("{}-1", id.name).parse().expect("a name");
        let endpoints = endpoints(0);
        all.push(Resource::EndpointSlice(EndpointSlice { cluster: cluster.clone(), name, service: id.clone(), endpoints }));
        all.push(Resource::ServiceExport(ServiceExport { cluster, id, created: None, traffic: Default::default() }));
    }
    for number in 0..NAMESPACES {
        let peer = NetworkPolicyPeer::Workloads { namespaces: None, pods: Some(Selector::ALL) };
        all.push(Resource::NetworkPolicy(Arc::new(NetworkPolicy {
            scope: PolicyScope::Cluster(cluster(0)),
            namespace: namespace(0, number),
            name: "same".parse().expect("a name"),
            subject: Selector::ALL,
            ingress: Some(vec![NetworkPolicyRule { peers: vec![peer], ports: Vec::new() }]),
            egress: None,
        })));
    }
    all
}

/// Signs the record of a key.
pub fn record(of: usize, key: RecordKey, round: u64, root: &PublicKey) -> Bytes {
    let version = Version { incarnation: 1, counter: 1 + round };
    let resources = facts(of, &key, round);
    let record = Record { cluster: cluster(of), version, key, resources };
    record.sign(root, &key_of(of)).expect("it fits")
}
