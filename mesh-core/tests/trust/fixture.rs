//! A fleet of three clusters: `north` looks on, `east` and `west` speak.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::record::{RecordKey, Version};
use mesh_core::{
    Bytes, Change, ClusterName, Endpoint, Event, Export, Grant, Key, Lease, Namespace, Node, NodeId, Now, Prefix, Record,
    RefusalReason, Resource, RootRecord, SecretKey, ServiceKind, SessionAffinity, Settings, State, StateConfig, Time, Trust,
    WallTime, Workload,
};

pub(crate) const T0: u64 = 1_800_000_000;

pub(crate) fn root() -> SecretKey {
    SecretKey::from_bytes([7; 32])
}

pub(crate) fn key_of(cluster: &str) -> SecretKey {
    SecretKey::from_bytes([cluster.as_bytes()[0]; 32])
}

pub(crate) fn cluster(name: &str) -> ClusterName {
    name.parse().expect("a cluster")
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

pub(crate) fn now(seconds: u64) -> Now {
    Now { time: Time::from_nanos(seconds * 1_000_000_000), wall: WallTime::from_unix_secs(T0 + seconds) }
}

/// The first network byte of a cluster's prefixes.
pub(crate) fn net(name: &str) -> u8 {
    match name {
        "east" => 1,
        "west" => 2,
        _ => 3,
    }
}

pub(crate) fn grant(name: &str) -> Grant {
    Grant {
        cluster: cluster(name),
        key: Some(key_of(name).public()),
        next_key: None,
        prefixes: vec![prefix(&format!("10.{}.0.0/16", net(name)))],
        service_prefixes: vec![prefix(&format!("100.80.{}.0/24", net(name)))],
        namespaces: vec![mesh_core::NamePattern("shop".into()), mesh_core::NamePattern("team-*".into())],
        exports: vec!["shop/db".parse().expect("a pattern")],
        attributes: BTreeMap::from([("region".into(), "eu".into())]),
        not_before: WallTime::from_unix_secs(T0 - 1000),
        not_after: WallTime::from_unix_secs(T0 + 100_000),
        epoch: 1,
    }
}

pub(crate) fn signed_grant(grant: Grant) -> Bytes {
    RootRecord::Grant(Arc::new(grant)).sign(&root()).expect("fits")
}

pub(crate) fn revocation(name: &str, epoch: u64) -> Bytes {
    RootRecord::Revocation { cluster: cluster(name), epoch }.sign(&root()).expect("fits")
}

pub(crate) fn state_of(own: &str) -> State {
    State::new(StateConfig {
        fleet: "demo".into(),
        trust: Trust::Signed { root: root().public(), cluster: cluster(own) },
        settings: Settings::default(),
        domains: BTreeMap::new(),
    })
}

/// A state of `north` that knows the grants of `east` and `west`.
pub(crate) fn granted() -> State {
    let mut state = state_of("north");
    for name in ["east", "west"] {
        assert_eq!(tell(&mut state, &signed_grant(grant(name))), []);
    }
    state
}

/// A state that also knows the namespaces `shop` and `team-a` of both, for what is told of their workloads.
pub(crate) fn housed() -> State {
    let mut state = granted();
    for (name, space) in [("east", "shop"), ("east", "team-a"), ("west", "shop"), ("west", "team-a")] {
        accept(&mut state, &namespace(name, 0, space, "a"));
    }
    state
}

pub(crate) fn record(name: &str, counter: u64, key: RecordKey, resources: Vec<Resource>) -> Record {
    Record { cluster: cluster(name), version: Version { incarnation: 1, counter }, key, resources }
}

pub(crate) fn sign(record: &Record) -> Bytes {
    record.sign(&root().public(), &key_of(record.cluster.as_str())).expect("fits")
}

/// Node `n1` with the prefix `10.x.1.0/24`, and so on.
pub(crate) fn node(name: &str, number: u8) -> Resource {
    Resource::Node(Node {
        id: NodeId { cluster: cluster(name), name: format!("n{number}").parse().expect("a name") },
        labels: [("zone", "a")].into_iter().collect(),
        addresses: vec![format!("192.0.2.{number}").parse().expect("an address")],
        prefixes: vec![prefix(&format!("10.{}.{number}.0/24", net(name)))],
    })
}

pub(crate) fn node_record(name: &str, counter: u64, number: u8) -> Record {
    let key = RecordKey::Node(format!("n{number}").parse().expect("a name"));
    record(name, counter, key, vec![node(name, number)])
}

pub(crate) fn workload(id: &str, node: u8, address: &str) -> Resource {
    Resource::Workload(Workload {
        id: id.parse().expect("a workload"),
        labels: [("app", "web")].into_iter().collect(),
        service_account: "web".into(),
        node: Some(format!("n{node}").parse().expect("a name")),
        host_network: false,
        addresses: vec![address.parse().expect("an address")],
        ports: Vec::new(),
    })
}

/// A slice of the namespace of the first of `workloads`, else of `shop`.
pub(crate) fn slice(name: &str, counter: u64, node: u8, workloads: Vec<Resource>) -> Record {
    let namespace = match workloads.first() {
        Some(Resource::Workload(workload)) => workload.id.namespace.clone(),
        _ => "shop".parse().expect("a name"),
    };
    record(name, counter, RecordKey::Slice(namespace, format!("n{node}").parse().expect("a name")), workloads)
}

pub(crate) fn namespace(name: &str, counter: u64, namespace: &str, label: &str) -> Record {
    let resource = Resource::Namespace(Namespace {
        cluster: cluster(name),
        name: namespace.parse().expect("a name"),
        labels: [("team", label)].into_iter().collect(),
    });
    record(name, counter, RecordKey::Namespace(namespace.parse().expect("a name")), vec![resource])
}

pub(crate) fn lease(name: &str, counter: u64, seconds: u64) -> Record {
    let lease = Lease { cluster: cluster(name), issued: now(seconds).wall, ttl_seconds: 30, policies: None };
    record(name, counter, RecordKey::Lease, vec![Resource::Lease(lease)])
}

pub(crate) fn reasons(change: &Change) -> Vec<RefusalReason> {
    change.refusals.iter().map(|refusal| refusal.reason).collect()
}

/// Tells the state at second 0; returns why it refused.
pub(crate) fn tell(state: &mut State, bytes: &Bytes) -> Vec<RefusalReason> {
    tell_at(state, bytes, 0)
}

pub(crate) fn tell_at(state: &mut State, bytes: &Bytes, seconds: u64) -> Vec<RefusalReason> {
    reasons(&state.apply(Event::Record(bytes.clone()), now(seconds)))
}

/// Tells a record at second 0 and expects no refusal.
pub(crate) fn accept(state: &mut State, record: &Record) {
    assert_eq!(tell(state, &sign(record)), [], "{} {}", record.cluster, record.key);
}

pub(crate) fn count(state: &State, reason: RefusalReason) -> u64 {
    state.refusal_counts().get(&reason).copied().unwrap_or_default()
}

pub(crate) fn knows(state: &State, id: &str) -> bool {
    state.facts().workloads.contains_key(&id.parse().expect("a workload"))
}

pub(crate) fn workload_key(id: &str) -> Key {
    Key::Workload(id.parse().expect("a workload"))
}

pub(crate) fn located<'a>(state: &'a State, address: &str) -> mesh_core::Located<'a> {
    state.locate(address.parse().expect("an address"))
}

/// East's export of a service with one backend.
pub(crate) fn export(id: &str, address: &str) -> Resource {
    Resource::Export(Export {
        cluster: cluster("east"),
        id: id.parse().expect("a service"),
        created: Some(now(0).wall),
        kind: ServiceKind::ClusterIp,
        ports: Vec::new(),
        affinity: SessionAffinity::None,
        traffic: mesh_core::Traffic::default(),
        publish_not_ready: false,
        endpoints: vec![Endpoint {
            addresses: vec![address.parse().expect("an address")],
            ready: true,
            terminating: false,
            hostname: None,
            node: None,
            ports: Vec::new(),
        }],
    })
}
