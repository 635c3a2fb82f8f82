//! A remote cluster as its publisher signs it: the input of the benchmarks of records and of what a state keeps of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use mesh_core::{
    Bytes, ClusterName, Event, Grant, NamePattern, NamedPort, Namespace, NamespaceName, Node, NodeId, NodeLink, Now, ObjectName,
    Prefix, Protocol, Record, RecordKey, Resource, RootRecord, SecretKey, Settings, State, StateConfig, Trust, Version, WallTime,
    WireGuardKey, Workload, WorkloadId,
};

/// The workloads of a slice: half of a busy node, in one namespace.
pub const SLICE: u32 = 50;

/// The namespaces.
const NAMESPACES: u32 = 100;

/// A cluster of so many nodes, each with one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The nodes.
    pub nodes: u32,
}

fn root() -> SecretKey {
    SecretKey::from_bytes([1; 32])
}

fn key() -> SecretKey {
    SecretKey::from_bytes([2; 32])
}

impl Remote {
    /// Returns the moment of all events.
    pub fn now() -> Now {
        Now { wall: WallTime::from_unix_secs(10), ..Now::default() }
    }

    /// Returns a state of another cluster that knows the grant of this one and nothing else.
    pub fn state() -> State {
        let trust = Trust::Signed { root: root().public(), cluster: ClusterName::new("here").expect("a name") };
        let config = StateConfig { fleet: "bench".into(), trust, settings: Settings::default(), domains: BTreeMap::new() };
        let mut state = State::new(config);
        let grant = Grant {
            cluster: cluster(),
            key: Some(key().public()),
            next_key: None,
            prefixes: vec!["10.0.0.0/8".parse().expect("a prefix")],
            service_prefixes: Vec::new(),
            namespaces: vec![NamePattern("*".into())],
            exports: Vec::new(),
            attributes: BTreeMap::new(),
            not_before: WallTime::from_unix_secs(0),
            not_after: WallTime::from_unix_secs(1000),
            epoch: 1,
        };
        tell(&mut state, RootRecord::Grant(Arc::new(grant)).sign(&root()).expect("a grant of reasonable size"));
        state
    }

    /// Returns the records in their first version, what others are judged by first.
    pub fn records(&self) -> Vec<Bytes> {
        let nodes = (0..self.nodes).map(|number| node(number, 1));
        let namespaces = (0..self.nodes.min(NAMESPACES)).map(|number| namespace(number, 1));
        nodes.chain(namespaces).chain((0..self.nodes).map(|number| slice(number, 2))).collect()
    }
}

/// Tells the state a record that it believes.
pub fn tell(state: &mut State, bytes: Bytes) {
    let change = state.apply(Event::Record(bytes), Remote::now());
    assert!(change.refusals.is_empty(), "{:?}", change.refusals);
}

/// Returns the signed record of a node and its link.
pub fn node(number: u32, counter: u64) -> Bytes {
    let id = NodeId { cluster: cluster(), name: node_name(number) };
    let labels = [("kubernetes.io/arch", "amd64"), ("topology.kubernetes.io/zone", "a"), ("kubernetes.io/os", "linux")];
    let address = IpAddr::V4(Ipv4Addr::from(0xc000_0200 + number));
    let node = Node {
        id: id.clone(),
        labels: labels.into_iter().collect(),
        addresses: vec![address],
        prefixes: vec![Prefix::new(workload_address(number, 0), 24).expect("short enough")],
    };
    let link = NodeLink {
        id: id.clone(),
        key: WireGuardKey([number as u8; 32]),
        next_key: None,
        endpoints: vec![(address, 51820).into()],
        overlay: vec![workload_address(number, 254)],
    };
    sign(counter, RecordKey::Node(id.name), vec![Resource::Node(node), Resource::NodeLink(link)])
}

/// Returns the signed record of a namespace.
pub fn namespace(number: u32, counter: u64) -> Bytes {
    let (name, labels) = (namespace_name(number), [("team", "a")].into_iter().collect());
    let resource = Namespace { cluster: cluster(), name: name.clone(), labels };
    sign(counter, RecordKey::Namespace(name), vec![Resource::Namespace(resource)])
}

/// Returns the signed record of a node's slice: ten deployments of five replicas, with the labels that Kubernetes gives them.
pub fn slice(number: u32, counter: u64) -> Bytes {
    let namespace = namespace_name(number);
    let workload = |index: u32| {
        let (app, hash) = (format!("app-{}", index % 10), format!("{:010x}", (u64::from(index % 10) + 1) * 0x9e37_79b9));
        let labels = [
            ("app.kubernetes.io/name", app.as_str()),
            ("app.kubernetes.io/part-of", namespace.as_str()),
            ("pod-template-hash", hash.as_str()),
            ("tier", "backend"),
        ];
        Resource::Workload(Workload {
            id: WorkloadId {
                cluster: cluster(),
                namespace: namespace.clone(),
                name: format!("{app}-{hash}-{number}-{index}").parse().expect("a name"),
            },
            labels: labels.into_iter().collect(),
            service_account: app.as_str().into(),
            node: Some(node_name(number)),
            host_network: false,
            addresses: vec![workload_address(number, index + 1)],
            ports: vec![NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        })
    };
    let key = RecordKey::Slice(namespace.clone(), node_name(number));
    sign(counter, key, (0..SLICE).map(workload).collect())
}

fn cluster() -> ClusterName {
    ClusterName::new("there").expect("a name")
}

fn namespace_name(number: u32) -> NamespaceName {
    format!("team-{}", number % NAMESPACES).parse().expect("a name")
}

fn node_name(number: u32) -> ObjectName {
    format!("node-{number}").parse().expect("a name")
}

fn workload_address(node: u32, index: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + (node << 8) + index).into()
}

fn sign(counter: u64, key: RecordKey, resources: Vec<Resource>) -> Bytes {
    let record = Record { cluster: cluster(), version: Version { incarnation: 1, counter }, key, resources };
    record.sign(&root().public(), &self::key()).expect("a record of reasonable size")
}
