//! One publisher for each cluster, and what the others make of its words.

use mesh_core::{
    Bytes, Endpoint, EndpointSlice, Event, Key, NodeLink, Now, Publisher, RecordKey, RefusalReason, Resource, RestoreError,
    Service, ServiceExport, ServiceImport, ServiceKind, SessionAffinity, SourceId, State, WireGuardKey,
};

use crate::fixture::*;

fn source() -> SourceId {
    SourceId("manifests".into())
}

fn set(state: &mut State, resource: Resource) {
    let _ = state.apply(Event::Set(source(), resource), now(0));
}

fn unset(state: &mut State, key: Key) {
    let _ = state.apply(Event::Unset(source(), key), now(0));
}

fn service(name: &str) -> [Resource; 3] {
    let id: mesh_core::ServiceId = format!("shop/{name}").parse().expect("an id");
    let endpoint = |address: &str| Endpoint {
        addresses: vec![address.parse().expect("an address")],
        ready: true,
        terminating: false,
        hostname: None,
        node: None,
        ports: Vec::new(),
    };
    [
        Resource::Service(Service {
            cluster: cluster("east"),
            id: id.clone(),
            kind: ServiceKind::ClusterIp,
            addresses: Vec::new(),
            ports: Vec::new(),
            affinity: SessionAffinity::None,
            traffic: mesh_core::Traffic::default(),
            publish_not_ready: false,
            external_name: None,
        }),
        Resource::ServiceExport(ServiceExport {
            cluster: cluster("east"),
            id: id.clone(),
            created: None,
            traffic: Default::default(),
        }),
        Resource::EndpointSlice(EndpointSlice {
            cluster: cluster("east"),
            name: format!("{name}-1").parse().expect("a name"),
            service: id,
            // The second one is a host-network pod's.
            endpoints: vec![endpoint("10.1.1.5"), endpoint("192.0.2.1")],
        }),
    ]
}

/// The state of east's publisher: a node with its link, a workload, an exported service, and things outside its grant.
fn east() -> State {
    let mut state = state_of("east");
    let _ = state.apply(Event::Begin(source()), now(0));
    assert_eq!(tell(&mut state, &signed_grant(grant("east"))), []);
    let Resource::Node(n1) = node("east", 1) else { unreachable!() };
    let link = NodeLink {
        id: n1.id.clone(),
        key: WireGuardKey([3; 32]),
        next_key: None,
        endpoints: Vec::new(),
        overlay: vec!["10.1.1.1".parse().expect("an address")],
    };
    set(&mut state, Resource::Node(n1));
    set(&mut state, Resource::NodeLink(link));
    set(&mut state, workload("east/shop/web-0", 1, "10.1.1.5"));
    set(&mut state, workload("east/bank/web-0", 1, "10.1.1.6"));
    set(&mut state, workload("east/team-a/lost", 1, "10.1.2.6"));
    for resource in service("db").into_iter().chain(service("web")) {
        set(&mut state, resource);
    }
    let _ = state.apply(Event::Synced(source()), now(0));
    state
}

fn publisher(incarnation: u64) -> Publisher {
    Publisher::new(cluster("east"), key_of("east"), root().public(), incarnation)
}

/// Publishes what is so now: nothing was noted.
fn publish(publisher: &mut Publisher, state: &State, now: Now) -> Vec<(RecordKey, Bytes)> {
    publisher.look_again();
    publisher.update(state, now)
}

fn keys(records: &[(RecordKey, Bytes)]) -> Vec<String> {
    records.iter().map(|(key, _)| key.to_string()).collect()
}

fn deliver(records: &[(RecordKey, Bytes)], to: &mut State) {
    for (_, bytes) in records {
        assert_eq!(tell(to, bytes), []);
    }
}

fn at(seconds: u64) -> Now {
    now(seconds)
}

#[test]
fn what_is_published_is_believed_elsewhere() {
    let (state, mut north) = (east(), granted());
    let records = publish(&mut publisher(1), &state, at(0));
    let expected =
        ["node/n1", "namespace/shop", "namespace/team-a", "slice/shop/n1", "export/shop/db", "import/shop/db", "lease"];
    assert_eq!(keys(&records), expected, "nothing outside the grant");
    deliver(&records, &mut north);
    assert!(north.refusal_counts().is_empty());
    let (ours, theirs) = (state.facts(), north.facts());
    assert_eq!((&ours.nodes, &ours.links), (&theirs.nodes, &theirs.links));
    assert!(knows(&north, "east/shop/web-0") && theirs.workloads.len() == 1);
    let export = theirs.exports.values().next().expect("one export");
    assert_eq!((export.created, export.endpoints.len()), (Some(at(0).wall), 1));
    assert!(north.namespace_exists(&cluster("east"), &"team-a".parse().expect("a name")));
}

#[test]
fn what_workloads_are_judged_by_comes_before_them_and_goes_after_them() {
    let (mut state, mut publisher, mut north) = (east(), publisher(1), granted());
    deliver(&publish(&mut publisher, &state, at(0)), &mut north);
    set(&mut state, workload("east/team-b/web-0", 2, "10.1.2.9"));
    set(&mut state, node("east", 2));
    let records = publish(&mut publisher, &state, at(1));
    assert_eq!(keys(&records), ["node/n2", "namespace/team-b", "slice/team-b/n2"]);
    // Nothing is refused on the way, which would be a moment without an identity.
    deliver(&records, &mut north);
    assert!(knows(&north, "east/team-b/web-0"));
    unset(&mut state, workload_key("east/team-b/web-0"));
    unset(&mut state, node("east", 2).key());
    let records = publish(&mut publisher, &state, at(2));
    assert_eq!(keys(&records), ["slice/team-b/n2", "namespace/team-b", "node/n2"]);
    deliver(&records, &mut north);
    assert!(north.refusal_counts().is_empty() && north.facts().workloads.len() == 1);
}

#[test]
fn only_what_changed_is_signed_again() {
    let (mut state, mut publisher, mut north) = (east(), publisher(1), granted());
    deliver(&publish(&mut publisher, &state, at(0)), &mut north);
    assert!(publish(&mut publisher, &state, at(1)).is_empty());
    assert_eq!(publisher.poll_timeout(), at(10).time);
    assert_eq!(keys(&publish(&mut publisher, &state, at(10))), ["lease"]);
    set(&mut state, workload("east/shop/web-1", 1, "10.1.1.7"));
    let records = publish(&mut publisher, &state, at(11));
    assert_eq!(keys(&records), ["slice/shop/n1"]);
    deliver(&records, &mut north);
    assert!(knows(&north, "east/shop/web-1"));
    unset(&mut state, workload_key("east/shop/web-0"));
    unset(&mut state, workload_key("east/shop/web-1"));
    let records = publish(&mut publisher, &state, at(12));
    assert_eq!(keys(&records), ["slice/shop/n1"], "a tombstone");
    deliver(&records, &mut north);
    assert!(north.facts().workloads.is_empty());
    assert!(publish(&mut publisher, &state, at(13)).is_empty());
}

#[test]
fn an_export_ends_with_its_manifest_although_its_own_record_is_read_back() {
    let (mut state, mut publisher) = (east(), publisher(1));
    deliver(&publish(&mut publisher, &state, at(0)), &mut state);
    assert!(publish(&mut publisher, &state, at(1)).is_empty());
    let exported =
        |state: &State| state.exports().iter().map(|export| (export.id.to_string(), export.created)).collect::<Vec<_>>();
    assert_eq!(exported(&state)[0], ("shop/db".into(), Some(at(0).wall)), "its age is the signed one");
    unset(&mut state, Key::ServiceExport(cluster("east"), "shop/db".parse().expect("an id")));
    let gone = publish(&mut publisher, &state, at(2));
    assert_eq!(keys(&gone), ["import/shop/db", "export/shop/db"]);
    deliver(&gone, &mut state);
    assert!(exported(&state).is_empty());
}

#[test]
fn a_restarted_publisher_goes_on() {
    let (mut state, mut first, mut north) = (east(), publisher(1), granted());
    deliver(&publish(&mut first, &state, at(0)), &mut north);
    let saved = first.save();
    let restore = |incarnation| Publisher::restore(cluster("east"), key_of("east"), root().public(), incarnation, &saved);
    assert!(matches!(restore(1), Err(RestoreError::Incarnation { last: 1 })));
    let mut second = restore(2).expect("restores");
    // While it was down a workload's namespace went away.
    unset(&mut state, workload_key("east/team-a/lost"));
    let before = north.facts().clone();
    let records = publish(&mut second, &state, at(100));
    assert!(keys(&records).contains(&"namespace/team-a".to_owned()), "the tombstone");
    deliver(&records, &mut north);
    assert!(!north.namespace_exists(&cluster("east"), &"team-a".parse().expect("a name")));
    assert_eq!(north.facts().exports, before.exports, "an export keeps its age");
    assert_eq!(north.facts().service_imports, before.service_imports, "a service keeps its addresses");
    // What the first one said is over.
    let old = publish(&mut first, &state, at(101));
    assert_eq!(keys(&old)[0], "namespace/team-a");
    for (_, bytes) in old {
        assert_eq!(tell(&mut north, &bytes), [RefusalReason::Replayed]);
    }
    assert!(matches!(
        Publisher::restore(cluster("west"), key_of("east"), root().public(), 3, &saved),
        Err(RestoreError::Cluster { .. })
    ));
    assert!(matches!(Publisher::restore(cluster("east"), key_of("east"), root().public(), 3, b"{}"), Err(RestoreError::Form(_))));
}

/// The store may have lost it before anybody read it, and then only the publisher knows.
#[test]
fn a_tombstone_is_signed_again_by_later_lives_for_a_month() {
    let (mut state, mut first, mut north) = (east(), publisher(1), granted());
    let month = 30 * 24 * 3600;
    let mut long = grant("east");
    long.not_after = now(2 * month).wall;
    assert_eq!(tell(&mut state, &signed_grant(long)), []);
    deliver(&publish(&mut first, &state, at(0)), &mut north);
    unset(&mut state, workload_key("east/team-a/lost"));
    let lost = publish(&mut first, &state, at(1));
    assert!(keys(&lost).contains(&"namespace/team-a".to_owned()), "nobody reads it");
    let restore = |saved: &[u8], life| Publisher::restore(cluster("east"), key_of("east"), root().public(), life, saved);
    let mut second = restore(&first.save(), 2).expect("restores");
    let again = publish(&mut second, &state, at(100));
    deliver(&again, &mut north);
    assert!(!north.namespace_exists(&cluster("east"), &"team-a".parse().expect("a name")));

    let tombstones = |life: u64, seconds: u64, state: &State, saved: &[u8]| {
        let mut publisher = restore(saved, life).expect("restores");
        let records = publish(&mut publisher, state, at(seconds));
        (keys(&records).contains(&"namespace/team-a".to_owned()), publisher.save())
    };
    let (told, saved) = tombstones(3, 1 + month - 10, &state, &second.save());
    assert!(told, "it is remembered since it was first signed");
    let (_, saved) = tombstones(4, 1 + month + 10, &state, &saved);
    let (told, saved) = tombstones(5, 1 + month + 20, &state, &saved);
    assert!(!told, "not for ever");
    assert!(!String::from_utf8_lossy(&saved).contains("namespace/team-a"));
}

#[test]
fn nothing_is_published_or_buried_before_the_sources_have_spoken() {
    let (mut state, mut first) = (east(), publisher(1));
    let _ = publish(&mut first, &state, at(0));
    let saved = first.save();
    let mut second = Publisher::restore(cluster("east"), key_of("east"), root().public(), 2, &saved).expect("restores");
    let mut empty = state_of("east");
    assert!(publish(&mut second, &empty, at(1)).is_empty(), "no grant");
    assert_eq!(tell(&mut empty, &signed_grant(grant("east"))), []);
    let _ = empty.apply(Event::Begin(source()), now(0));
    assert_eq!(keys(&publish(&mut second, &empty, at(2))), ["lease"], "no tombstones");
    // Without its grant it has no say, and what it said is not its to bury.
    let _ = tell(&mut state, &revocation("east", 2));
    assert!(publish(&mut first, &state, at(100)).is_empty());
}

#[test]
fn clusterset_addresses_are_distinct_stable_and_the_manifests_first() {
    let (mut state, mut publisher) = (state_of("east"), publisher(1));
    let mut wide = grant("east");
    wide.exports = vec!["shop/*".parse().expect("a pattern")];
    wide.service_prefixes = vec![prefix("100.80.1.0/27"), prefix("fd00:80:1::/112")];
    assert_eq!(tell(&mut state, &signed_grant(wide)), []);
    for resource in (0..20).flat_map(|number| service(&format!("s{number}"))) {
        set(&mut state, resource);
    }
    let _ = state.apply(Event::Synced(source()), now(0));
    let mut deliver_back = |state: &mut State, seconds| deliver(&publish(&mut publisher, &state.clone(), at(seconds)), state);
    deliver_back(&mut state, 0);
    let imports = |state: &State| state.facts().service_imports.clone();
    let first = imports(&state);
    let all: std::collections::BTreeSet<_> = first.values().flat_map(|import| &import.addresses).collect();
    assert_eq!((first.len(), all.len()), (20, 40), "two families each, no address twice");
    // Another service goes and one gets its addresses from a manifest: nobody else moves.
    unset(&mut state, Key::ServiceExport(cluster("east"), "shop/s3".parse().expect("an id")));
    let manifest = ServiceImport {
        cluster: cluster("east"),
        id: "shop/s4".parse().expect("an id"),
        addresses: vec!["100.99.0.4".parse().expect("an address")],
    };
    set(&mut state, Resource::ServiceImport(manifest.clone()));
    deliver_back(&mut state, 1);
    let second = imports(&state);
    assert_eq!(second.len(), 19);
    for (key, import) in &second {
        if key.1 == manifest.id {
            assert_eq!(import.addresses, manifest.addresses);
        } else {
            assert_eq!(Some(import), first.get(key));
        }
    }
}

/// A grant of six addresses.
fn narrow() -> Bytes {
    let mut narrow = grant("east");
    narrow.exports = vec!["shop/*".parse().expect("a pattern")];
    narrow.service_prefixes = vec![prefix("100.80.1.0/29")];
    signed_grant(narrow)
}

/// A publisher's state in which `names` are exported and the cluster may give out six addresses.
fn exporting(names: &[&str]) -> State {
    let mut state = state_of("east");
    assert_eq!(tell(&mut state, &narrow()), []);
    let _ = state.apply(Event::Begin(source()), now(0));
    for resource in names.iter().flat_map(|name| service(name)) {
        set(&mut state, resource);
    }
    let _ = state.apply(Event::Synced(source()), now(0));
    state
}

/// Publishes, and returns the address of each service as the records say it.
fn allocated(publisher: &mut Publisher, state: &mut State, seconds: u64) -> std::collections::BTreeMap<String, std::net::IpAddr> {
    deliver(&publish(publisher, &state.clone(), at(seconds)), state);
    let imports = state.facts().service_imports.values();
    imports.map(|import| (import.id.name.to_string(), import.addresses[0])).collect()
}

/// Two services whose names lead to one address, the second before the first in order.
fn colliding() -> [String; 2] {
    let wanted = |name: &str| allocated(&mut publisher(1), &mut exporting(&[name]), 0)[name];
    let first = "m".to_owned();
    let same = (0..).map(|number| format!("a{number}")).find(|name| wanted(name) == wanted(&first));
    [first, same.expect("one in six")]
}

#[test]
fn two_services_that_hash_to_one_address_keep_theirs_across_restarts() {
    let [first, second] = colliding();
    let (mut state, mut publisher) = (exporting(&[&first]), publisher(1));
    let alone = allocated(&mut publisher, &mut state, 0);
    for resource in service(&second) {
        set(&mut state, resource);
    }
    let both = allocated(&mut publisher, &mut state, 1);
    assert_eq!(both[&first], alone[&first], "who was there stays, whatever the names");
    assert_ne!(both[&first], both[&second]);
    // The next life reads the services in another order, and a third one that nobody has given an address yet.
    let mut restarted = exporting(&["z", &second, &first]);
    let restore = |saved: &[u8], life| Publisher::restore(cluster("east"), key_of("east"), root().public(), life, saved);
    let mut next = restore(&publisher.save(), 2).expect("restores");
    let third = allocated(&mut next, &mut restarted, 2);
    assert_eq!((third[&first], third[&second]), (both[&first], both[&second]));
    let distinct: std::collections::BTreeSet<_> = third.values().collect();
    assert_eq!(distinct.len(), 3);
    // The first one ends while the publisher is away: the second does not move into its place.
    let mut next = restore(&next.save(), 3).expect("restores");
    let mut restarted = exporting(&[&second, "z"]);
    assert_eq!(allocated(&mut next, &mut restarted, 3)[&second], both[&second]);
}

#[test]
fn an_allocated_address_gives_way_to_a_manifest_that_names_it() {
    let (mut state, mut publisher) = (exporting(&["api", "web"]), publisher(1));
    let before = allocated(&mut publisher, &mut state, 0);
    // Also before the service that it is for is exported by anybody.
    let manifest =
        ServiceImport { cluster: cluster("east"), id: "shop/late".parse().expect("an id"), addresses: vec![before["api"]] };
    set(&mut state, Resource::ServiceImport(manifest));
    let after = allocated(&mut publisher, &mut state, 1);
    assert_eq!((after["late"], after["web"]), (before["api"], before["web"]));
    assert!(after["api"] != after["late"] && after["api"] != after["web"], "{after:?}");
}

#[test]
fn a_full_range_leaves_services_without_an_address_and_nobody_with_anothers() {
    let names: Vec<String> = (0..8).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (mut state, mut publisher) = (exporting(&names), publisher(1));
    let full = allocated(&mut publisher, &mut state, 0);
    let distinct: std::collections::BTreeSet<_> = full.values().collect();
    assert_eq!((full.len(), distinct.len()), (6, 6));
    // One ends: its address is free for one that had none, not in the same breath but the next time.
    let gone = full.keys().next().expect("six").clone();
    unset(&mut state, Key::ServiceExport(cluster("east"), format!("shop/{gone}").parse().expect("an id")));
    assert_eq!(allocated(&mut publisher, &mut state, 1).len(), 5);
    let after = allocated(&mut publisher, &mut state, 2);
    assert_eq!(after.len(), 6);
    for (name, address) in full.iter().filter(|(name, _)| **name != gone) {
        assert_eq!(after[name], *address, "{name} moved");
    }
}

/// The publisher of another node takes over, which remembers nothing: what the first one put into the store is what it goes on from.
#[test]
fn a_successor_goes_on_from_what_it_finds_in_the_store() {
    let [one, two] = colliding();
    let (mut state, mut first) = (exporting(&[&one]), publisher(1));
    let mut store = publish(&mut first, &state, at(0));
    for resource in service(&two) {
        set(&mut state, resource);
    }
    store.extend(publish(&mut first, &state, at(1)));
    let imports = |records: &[(RecordKey, Bytes)]| {
        let mut told = state_of("east");
        assert_eq!(tell(&mut told, &narrow()), []);
        deliver(records, &mut told);
        told.facts().clone()
    };
    let before = imports(&store);
    assert_eq!(before.service_imports.len(), 2);
    // A record that nobody stands behind, one that a former key signed, and one that is another cluster's.
    let buried = namespace("east", 99, "team-old", "x");
    store.push((buried.key.clone(), sign(&buried)));
    let former = namespace("east", 98, "team-former", "x");
    store.push((former.key.clone(), former.sign(&root().public(), &key_of("west")).expect("fits")));
    let foreign = namespace("west", 1, "team-west", "x");
    store.push((foreign.key.clone(), sign(&foreign)));

    let mut second = publisher(2);
    store.iter().for_each(|(_, bytes)| second.adopt(bytes));
    let records = publish(&mut second, &state, at(100));
    let names = keys(&records);
    assert!(names.contains(&"namespace/team-old".to_owned()) && names.contains(&"namespace/team-former".to_owned()), "{names:?}");
    assert!(!names.contains(&"namespace/team-west".to_owned()), "{names:?}");
    let after = imports(&records);
    assert_eq!(after.service_imports, before.service_imports, "services keep their addresses");
    assert_eq!(after.exports, before.exports, "exports keep their age");

    // What is found later changes nothing of what is being said, and a tombstone needs no other one.
    store.iter().chain(&records).for_each(|(_, bytes)| second.adopt(bytes));
    let again = keys(&publish(&mut second, &state, at(101)));
    assert_eq!(again, ["namespace/team-old", "namespace/team-former"], "an old backup brought them back");
    let tombstones: Vec<_> = records.iter().filter(|(key, _)| key.to_string().starts_with("namespace/team-")).collect();
    tombstones.iter().for_each(|(_, bytes)| second.adopt(bytes));
    assert!(publish(&mut second, &state, at(102)).is_empty());
}
