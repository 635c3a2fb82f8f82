use std::collections::BTreeMap;

use mesh_core::{
    ClusterName, Grant, Labels, NamePattern, Namespace, Node, Now, Record, RootRecord, SecretKey, Settings, StateConfig, Time,
    Version, WallTime, Workload,
};
use tokio::net::TcpListener;

use super::*;
use crate::agent::pull::wire::Said;

fn root() -> SecretKey {
    SecretKey::from_bytes([7; 32])
}

fn east() -> ClusterName {
    "east".parse().expect("a name")
}

fn now() -> Now {
    Now { time: Time::ZERO, wall: WallTime::from_unix_secs(1000) }
}

fn want() -> Want {
    Want { address: "10.1.1.5".parse().expect("an address"), node: "east/n1".parse().expect("a node") }
}

fn sign(key: RecordKey, resource: Resource) -> Bytes {
    let record = Record { cluster: east(), version: Version { incarnation: 1, counter: 1 }, key, resources: vec![resource] };
    record.sign(&root().public(), &SecretKey::from_bytes([1; 32])).expect("fits")
}

fn namespace(name: &str) -> Bytes {
    let name: mesh_core::NamespaceName = name.parse().expect("a name");
    let resource = Namespace { cluster: east(), name: name.clone(), labels: [("team", "a")].into_iter().collect() };
    sign(RecordKey::Namespace(name), Resource::Namespace(resource))
}

fn slice() -> Bytes {
    let workload = Workload {
        id: "east/fresh/web-0".parse().expect("a workload"),
        labels: Labels::default(),
        service_account: "default".into(),
        node: Some(want().node.name),
        host_network: false,
        addresses: vec![want().address],
        ports: Vec::new(),
    };
    sign(RecordKey::Slice(workload.id.namespace.clone(), want().node.name), Resource::Workload(workload))
}

/// A state of north that knows the node, and nothing of what is on it.
fn north() -> State {
    let trust = Trust::Signed { root: root().public(), cluster: "north".parse().expect("a name") };
    let config = StateConfig { fleet: "test".into(), trust, settings: Settings::default(), domains: BTreeMap::new() };
    let mut state = State::new(config);
    let grant = Grant {
        cluster: east(),
        key: Some(SecretKey::from_bytes([1; 32]).public()),
        next_key: None,
        prefixes: vec!["10.1.0.0/16".parse().expect("a prefix")],
        service_prefixes: Vec::new(),
        namespaces: vec![NamePattern("*".into())],
        exports: Vec::new(),
        attributes: BTreeMap::new(),
        not_before: WallTime::from_unix_secs(0),
        not_after: WallTime::from_unix_secs(100_000),
        epoch: 1,
    };
    let node = Node {
        id: want().node,
        labels: Labels::default(),
        addresses: Vec::new(),
        prefixes: vec!["10.1.1.0/24".parse().expect("a prefix")],
    };
    let node = sign(RecordKey::Node(want().node.name), Resource::Node(node));
    for bytes in [RootRecord::Grant(Arc::new(grant)).sign(&root()).expect("fits"), node] {
        assert_eq!(state.apply(Event::Record(bytes), now()).refusals, []);
    }
    state
}

/// Puts the question to a node that answers so; returns what the state was told.
async fn pulled(said: Said) -> (Vec<Event>, Arc<PullCounters>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let to = listener.local_addr().expect("bound");
    let (sender, mut events) = mpsc::channel(8);
    let counters = Arc::new(PullCounters::default());
    let answer = async {
        let (mut stream, _) = listener.accept().await.expect("asked");
        assert_eq!(wire::read_question(&mut stream).await.expect("a question"), want().address);
        wire::write_answer(&mut stream, &said).await.expect("written");
    };
    tokio::join!(put(want(), to, sender, counters.clone()), answer);
    (std::iter::from_fn(|| events.try_recv().ok()).collect(), counters)
}

fn counted(counters: &PullCounters) -> Vec<&'static str> {
    counters.iter().filter(|(_, count)| *count > 0).map(|(name, _)| name).collect()
}

#[tokio::test]
async fn a_workload_of_a_namespace_that_nobody_knew_is_known_by_one_answer() {
    let (told, counters) = pulled(Said { slice: Some(slice()), namespace: Some(namespace("fresh")) }).await;
    assert_eq!(counted(&counters), ["pulled"]);
    let mut state = north();
    for event in told {
        assert_eq!(state.apply(event, now()).refusals, [], "the namespace comes first");
    }
    assert!(matches!(state.locate(want().address), Located::Workload(_)));
    let labels = state.namespace_labels(&east(), &"fresh".parse().expect("a name"));
    assert_eq!(labels.get("team"), Some("a"), "and is judged by its labels");
}

#[tokio::test]
async fn a_slice_alone_waits_for_its_namespace() {
    let (told, counters) = pulled(Said { slice: Some(slice()), namespace: None }).await;
    assert_eq!((told.len(), counted(&counters)), (1, vec!["pulled"]));
    let mut state = north();
    for event in told {
        let _ = state.apply(event, now());
    }
    assert_eq!(state.locate(want().address), Located::Pending);
    assert_eq!(state.apply(Event::Record(namespace("fresh")), now()).refusals, []);
    assert!(matches!(state.locate(want().address), Located::Workload(_)));
}

#[tokio::test]
async fn an_answer_about_something_else_is_not_told() {
    let said = |slice: Option<Bytes>, namespace: Option<Bytes>| Said { slice, namespace };
    for (said, became) in [
        (said(Some(slice()), Some(namespace("other"))), "refused"),
        (said(Some(slice()), Some(slice())), "refused"),
        (said(Some(namespace("fresh")), Some(namespace("fresh"))), "refused"),
        (said(Some(slice()), Some(Bytes::from_static(b"nonsense"))), "refused"),
        (said(None, Some(namespace("fresh"))), "unknown"),
        (said(None, None), "unknown"),
    ] {
        let (told, counters) = pulled(said).await;
        assert_eq!((told.len(), counted(&counters)), (0, vec![became]));
    }
}
