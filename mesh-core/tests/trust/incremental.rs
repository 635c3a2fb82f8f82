//! What a publisher signs when it is told what changed is what it signs when it looks at everything.

use mesh_core::{
    Change, Endpoint, EndpointSlice, Event, Export, Key, Namespace, NodeLink, Publisher, RecordKey, Resource, Service,
    ServiceExport, ServiceImport, ServiceKind, SessionAffinity, SourceId, State, Traffic, WallTime, WireGuardKey,
};
use proptest::prelude::*;

use crate::fixture::*;

#[derive(Clone, Debug)]
enum Step {
    Set(Box<Resource>),
    Unset(Key),
    /// West exports a service; or nothing: a tombstone.
    West(u8, bool),
    /// The root signs another grant for the own cluster.
    Grant(u8),
    Begin,
    Synced,
    /// The publisher's own records come back from the store.
    ReadBack,
    Publish,
}

const NAMESPACES: [&str; 3] = ["shop", "team-a", "bank"];

fn id(number: u8) -> mesh_core::ServiceId {
    format!("{}/s{}", NAMESPACES[usize::from(number % 4 / 2)], number % 6).parse().expect("an id")
}

fn kind(number: u8) -> ServiceKind {
    [ServiceKind::ClusterIp, ServiceKind::ClusterIp, ServiceKind::Headless, ServiceKind::ExternalName][usize::from(number % 4)]
}

fn west_export(number: u8) -> Export {
    Export {
        cluster: cluster("west"),
        id: id(number),
        created: Some(WallTime::from_unix_secs(T0)),
        kind: ServiceKind::ClusterIp,
        ports: Vec::new(),
        affinity: SessionAffinity::None,
        traffic: Traffic::default(),
        publish_not_ready: false,
        endpoints: Vec::new(),
    }
}

fn resource((which, a, b, c): (u8, u8, u8, u8)) -> Resource {
    let east = cluster("east");
    let namespace = NAMESPACES[usize::from(a % 3)];
    let node_name = format!("n{}", b % 3);
    match which {
        0 => {
            let Resource::Node(mut node) = node("east", b % 3) else { unreachable!() };
            if c % 4 == 0 {
                node.prefixes = vec![prefix("10.1.7.0/24")];
            }
            Resource::Node(node)
        }
        1 => Resource::NodeLink(NodeLink {
            id: mesh_core::NodeId { cluster: east, name: node_name.parse().expect("a name") },
            key: WireGuardKey([c % 3; 32]),
            next_key: None,
            endpoints: Vec::new(),
            overlay: vec![format!("10.1.{}.1", b % 3).parse().expect("an address")],
        }),
        2 | 3 => {
            let id = format!("east/{namespace}/w{}", c % 4);
            let Resource::Workload(mut workload) = workload(&id, b % 3, &format!("10.1.{}.{}", b % 3, c % 8)) else {
                unreachable!()
            };
            workload.host_network = c % 16 == 5;
            if c % 16 == 6 {
                workload.node = None;
            }
            Resource::Workload(workload)
        }
        4 => Resource::Namespace(Namespace {
            cluster: east,
            name: namespace.parse().expect("a name"),
            labels: [("team", if c % 2 == 0 { "x" } else { "y" })].into_iter().collect(),
        }),
        5 => Resource::Service(Service {
            cluster: east,
            id: id(b),
            kind: kind(c),
            addresses: Vec::new(),
            ports: Vec::new(),
            affinity: SessionAffinity::None,
            traffic: Traffic::default(),
            publish_not_ready: false,
            external_name: None,
        }),
        6 => Resource::ServiceExport(ServiceExport { cluster: east, id: id(b), created: None, traffic: Default::default() }),
        7 => Resource::EndpointSlice(EndpointSlice {
            cluster: east,
            // The same slice may come to be another service's.
            name: format!("slice-{}", a % 3).parse().expect("a name"),
            service: id(b),
            endpoints: vec![Endpoint {
                addresses: vec![format!("10.{}.1.{c}", 1 + c % 2).parse().expect("an address")],
                ready: true,
                terminating: false,
                hostname: None,
                node: None,
                ports: Vec::new(),
            }],
        }),
        _ => Resource::ServiceImport(ServiceImport {
            cluster: east,
            id: id(b),
            // In the range that addresses are given from: manifests get in the way, and two may name one address.
            addresses: (c % 3 != 0).then(|| format!("100.80.1.{}", 1 + c % 6).parse().expect("an address")).into_iter().collect(),
        }),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let some = || (0u8..9, any::<u8>(), any::<u8>(), any::<u8>()).prop_map(resource);
    prop_oneof![
        12 => some().prop_map(|resource| Step::Set(Box::new(resource))),
        5 => some().prop_map(|resource| Step::Unset(resource.key())),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(service, gone)| Step::West(service, gone)),
        1 => (0u8..4).prop_map(Step::Grant),
        1 => Just(Step::Begin),
        2 => Just(Step::Synced),
        1 => Just(Step::ReadBack),
        6 => Just(Step::Publish),
    ]
}

/// The own cluster's grant, in a few sizes; its clusterset range has room for two, or six, or nobody.
fn sized(size: u8, epoch: u64) -> mesh_core::Grant {
    let mut grant = grant("east");
    grant.epoch = epoch;
    grant.exports = vec!["*".parse().expect("a pattern")];
    grant.service_prefixes = match size {
        0 => vec![prefix("100.80.1.0/29"), prefix("fd00:80:1::/126")],
        1 => vec![prefix("100.80.1.0/30")],
        2 => Vec::new(),
        _ => vec![prefix("100.80.1.0/29")],
    };
    if size == 3 {
        grant.namespaces = vec![mesh_core::NamePattern("shop".into())];
    }
    grant
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noted_changes_are_all_that_a_publisher_needs(steps in prop::collection::vec(step(), 1..60)) {
        let source = SourceId("manifests".into());
        let mut state = state_of("east");
        let new = || Publisher::new(cluster("east"), key_of("east"), root().public(), 1);
        let (mut noting, mut looking) = (new(), new());
        let mut west_grant = grant("west");
        west_grant.exports = vec!["*".parse().expect("a pattern")];
        let mut published = Vec::new();
        let (mut counter, mut epoch) = (0, 1);
        let apply = |state: &mut State, noting: &mut Publisher, event, at| {
            let change: Change = state.apply(event, now(at));
            noting.note(&change);
        };
        apply(&mut state, &mut noting, Event::Record(signed_grant(sized(0, 1))), 0);
        apply(&mut state, &mut noting, Event::Record(signed_grant(west_grant)), 0);
        let steps = [Step::Synced, Step::Publish].into_iter().chain(steps).chain([Step::Synced, Step::Publish, Step::Publish]);
        for (at, step) in steps.enumerate() {
            let at = at as u64;
            let event = match step {
                Step::Set(resource) => Event::Set(source.clone(), *resource),
                Step::Unset(key) => Event::Unset(source.clone(), key),
                Step::West(service, gone) => {
                    counter += 1;
                    let resources = if gone { Vec::new() } else { vec![Resource::Export(west_export(service))] };
                    Event::Record(sign(&record("west", counter, RecordKey::Export(id(service)), resources)))
                }
                Step::Grant(size) => {
                    epoch += 1;
                    Event::Record(signed_grant(sized(size, epoch)))
                }
                Step::Begin => Event::Begin(source.clone()),
                Step::Synced => Event::Synced(source.clone()),
                Step::ReadBack => {
                    for (_, bytes) in std::mem::take(&mut published) {
                        apply(&mut state, &mut noting, Event::Record(bytes), at);
                    }
                    continue;
                }
                Step::Publish => {
                    looking.look_again();
                    let (noted, looked) = (noting.update(&state, now(at)), looking.update(&state, now(at)));
                    let keys = |records: &[(RecordKey, mesh_core::Bytes)]| {
                        records.iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>()
                    };
                    prop_assert_eq!(keys(&noted), keys(&looked));
                    prop_assert_eq!(&noted, &looked);
                    prop_assert_eq!(noting.save(), looking.save());
                    published.extend(noted);
                    continue;
                }
            };
            apply(&mut state, &mut noting, event, at);
        }
    }
}

/// A change concerns the records that say something of it, and no others are derived.
#[test]
fn a_workload_changes_the_slice_of_its_namespace_and_node_only() {
    let source = SourceId("manifests".into());
    let mut state = state_of("east");
    let mut publisher = Publisher::new(cluster("east"), key_of("east"), root().public(), 1);
    assert_eq!(tell(&mut state, &signed_grant(grant("east"))), []);
    for resource in [
        node("east", 1),
        node("east", 2),
        workload("east/shop/a", 1, "10.1.1.5"),
        workload("east/team-a/b", 1, "10.1.1.6"),
        workload("east/shop/c", 2, "10.1.2.5"),
    ] {
        let _ = state.apply(Event::Set(source.clone(), resource), now(0));
    }
    let _ = state.apply(Event::Synced(source.clone()), now(0));
    let keys = |publisher: &mut Publisher, state: &State| {
        publisher.update(state, now(1)).into_iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>()
    };
    let slices = ["slice/shop/n1", "slice/shop/n2", "slice/team-a/n1"];
    assert_eq!(keys(&mut publisher, &state).iter().filter(|key| key.starts_with("slice")).collect::<Vec<_>>(), slices);
    // The pod moves: the slice that it enters is signed before the tombstone of the one that it leaves.
    publisher.note(&state.apply(Event::Set(source.clone(), workload("east/team-a/b", 2, "10.1.2.6")), now(1)));
    assert_eq!(keys(&mut publisher, &state), ["slice/team-a/n2", "slice/team-a/n1"]);
    // What is not noted is not looked at.
    let change = state.apply(Event::Set(source.clone(), workload("east/shop/a", 1, "10.1.1.9")), now(1));
    assert_eq!(keys(&mut publisher, &state), [""; 0]);
    publisher.note(&change);
    assert_eq!(keys(&mut publisher, &state), ["slice/shop/n1"]);
    // A node's prefixes judge the workloads of all namespaces on it.
    let Resource::Node(mut moved) = node("east", 2) else { unreachable!() };
    moved.prefixes = vec![prefix("10.1.9.0/24")];
    publisher.note(&state.apply(Event::Set(source, Resource::Node(moved)), now(1)));
    assert_eq!(keys(&mut publisher, &state), ["node/n2", "slice/team-a/n2", "slice/shop/n2"]);
}
