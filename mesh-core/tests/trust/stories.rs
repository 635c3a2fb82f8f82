//! Ways to lie, and what becomes of them.

use std::sync::Arc;

use mesh_core::{
    Bytes, Event, Key, Located, NodeLink, RecordKey, RefusalReason, Resource, RootRecord, SecretKey, ServiceImport, WireGuardKey,
};

use crate::fixture::*;

#[test]
fn an_honest_cluster_is_believed() {
    let mut state = housed();
    accept(&mut state, &node_record("east", 1, 1));
    accept(&mut state, &slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]));
    accept(&mut state, &namespace("east", 3, "shop", "blue"));
    accept(
        &mut state,
        &record("east", 4, RecordKey::Export("shop/db".parse().expect("id")), vec![export("shop/db", "10.1.1.5")]),
    );
    assert!(matches!(located(&state, "10.1.1.5"), Located::Workload(_)));
    assert_eq!(located(&state, "10.1.1.6"), Located::Pending);
    assert_eq!(located(&state, "10.9.1.6"), Located::External);
    assert!(matches!(located(&state, "192.0.2.1"), Located::Node(_)));
    assert!(state.namespace_exists(&cluster("east"), &"shop".parse().expect("a name")));
    assert_eq!(state.exports().len(), 1);
    assert!(state.refusal_counts().is_empty());
    // The same bytes again say nothing new.
    assert!(state.apply(Event::Record(sign(&node_record("east", 1, 1))), now(0)).is_empty());
}

#[test]
fn the_record_behind_an_address_can_be_handed_on_as_it_was_signed() {
    let mut state = housed();
    accept(&mut state, &node_record("east", 1, 1));
    let address = |text: &str| text.parse().expect("an address");
    let slice_with = |version, last: &str| slice("east", version, 1, vec![workload("east/shop/web-0", 1, last)]);
    accept(&mut state, &slice_with(2, "10.1.1.5"));
    assert_eq!(state.signed_slice_of(address("10.1.1.5")), Some(&sign(&slice_with(2, "10.1.1.5"))));
    accept(&mut state, &slice_with(3, "10.1.1.6"));
    assert_eq!(state.signed_slice_of(address("10.1.1.5")), None, "it moved");
    let bytes = state.signed_slice_of(address("10.1.1.6")).expect("it is there").clone();
    // The namespace of a workload comes along: who asks may not know it, and believes nothing of it without.
    let home = state.signed_namespace_of(address("10.1.1.6")).expect("it is there").clone();
    let mut other = granted();
    accept(&mut other, &node_record("east", 1, 1));
    for bytes in [home, bytes] {
        assert!(other.apply(Event::Record(bytes), now(0)).refusals.is_empty(), "whoever hands it on");
    }
    assert!(matches!(located(&other, "10.1.1.6"), Located::Workload(_)));
    assert_eq!(state.signed_namespace_of(address("10.1.1.5")), None);
    let own = workload("north/shop/own", 1, "10.3.1.5");
    let _ = other.apply(Event::Set(mesh_core::SourceId("manifests".into()), own), now(0));
    assert_eq!(other.signed_slice_of(address("10.3.1.5")), None, "nobody signed what only a plain source says");
}

#[test]
fn a_forged_signature_is_refused() {
    let mut state = housed();
    accept(&mut state, &node_record("east", 1, 1));
    let honest = slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]);
    let mut bytes = sign(&honest).to_vec();
    *bytes.last_mut().expect("not empty") ^= 1;
    assert_eq!(tell(&mut state, &bytes.into()), [RefusalReason::BadSignature]);
    // Signed right, but by a key that no grant names.
    let stranger = SecretKey::from_bytes([99; 32]);
    assert_eq!(tell(&mut state, &honest.sign(&root().public(), &stranger).expect("fits")), [RefusalReason::BadSignature]);
    // A cluster that signs itself a grant.
    let own = RootRecord::Grant(Arc::new(grant("east")));
    let mut forged = own.sign(&key_of("east")).expect("fits");
    assert_eq!(tell(&mut state, &forged), [RefusalReason::ForeignFleet]);
    forged = Bytes::from_static(b"nonsense");
    assert_eq!(tell(&mut state, &forged), [RefusalReason::Malformed]);
    assert_eq!(count(&state, RefusalReason::BadSignature), 2);
    assert!(!knows(&state, "east/shop/web-0"));
}

#[test]
fn a_workload_outside_the_grants_prefixes_is_refused() {
    let mut state = housed();
    accept(&mut state, &node_record("east", 1, 1));
    let lie = slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.2.1.5"), workload("east/shop/web-1", 1, "10.1.1.6")]);
    assert_eq!(tell(&mut state, &sign(&lie)), [RefusalReason::OutsidePrefixes]);
    assert_eq!(count(&state, RefusalReason::OutsidePrefixes), 1);
    assert!(!knows(&state, "east/shop/web-0") && knows(&state, "east/shop/web-1"), "the rest of the record stands");
    assert_eq!(located(&state, "10.2.1.5"), Located::Pending, "the address is still west's to name");
    assert_eq!(state.refused().map(|(key, _)| key.clone()).collect::<Vec<_>>(), [workload_key("east/shop/web-0")]);
}

#[test]
fn a_node_outside_the_grants_prefixes_is_refused() {
    let mut state = granted();
    let Resource::Node(mut node) = node("east", 1) else { unreachable!() };
    node.prefixes = vec![prefix("10.0.0.0/8")];
    let lie = record("east", 1, RecordKey::Node(node.id.name.clone()), vec![Resource::Node(node)]);
    assert_eq!(tell(&mut state, &sign(&lie)), [RefusalReason::OutsidePrefixes]);
    assert_eq!((count(&state, RefusalReason::OutsidePrefixes), state.facts().nodes.len()), (1, 0));
}

#[test]
fn a_node_that_takes_an_address_of_another_clusters_prefixes_is_nobody_there() {
    let mut state = granted();
    let Resource::Node(mut node) = node("east", 1) else { unreachable!() };
    node.addresses = vec!["10.2.1.5".parse().expect("an address")];
    accept(&mut state, &record("east", 1, RecordKey::Node(node.id.name.clone()), vec![Resource::Node(node)]));
    assert_eq!(located(&state, "10.2.1.5"), Located::Pending);
}

#[test]
fn a_workload_outside_its_nodes_prefixes_is_refused_until_it_is_inside() {
    let mut state = housed();
    accept(&mut state, &node_record("east", 1, 1));
    accept(&mut state, &node_record("east", 2, 2));
    let lie = slice("east", 3, 1, vec![workload("east/shop/web-0", 1, "10.1.2.5")]);
    assert_eq!(tell(&mut state, &sign(&lie)), [RefusalReason::OutsideNode]);
    assert_eq!(count(&state, RefusalReason::OutsideNode), 1);
    let Resource::Node(mut wider) = node("east", 1) else { unreachable!() };
    wider.prefixes.push(prefix("10.1.2.0/28"));
    let change = state.apply(
        Event::Record(sign(&record("east", 4, RecordKey::Node(wider.id.name.clone()), vec![Resource::Node(wider)]))),
        now(0),
    );
    assert!(change.dirty.contains(&workload_key("east/shop/web-0")) && knows(&state, "east/shop/web-0"));
}

#[test]
fn a_slice_speaks_of_its_own_namespace_and_node() {
    let mut state = housed();
    accept(&mut state, &node_record("east", 1, 1));
    let mut lie = slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]);
    for key in ["slice/team-a/n1", "slice/shop/n2"] {
        lie.key = key.parse().expect("a key");
        assert_eq!(tell(&mut state, &sign(&lie)), [RefusalReason::NotAllowedHere], "{key}");
    }
    assert!(!knows(&state, "east/shop/web-0"));
    // The slices of all namespaces are judged by their node, also when they come before it.
    let two = |pod: &str, address| vec![workload(&format!("east/{pod}"), 2, address)];
    for (counter, workloads) in [(3, two("shop/a", "10.1.2.5")), (4, two("team-a/b", "10.1.2.6"))] {
        assert_eq!(tell(&mut state, &sign(&slice("east", counter, 2, workloads))), [RefusalReason::UnknownNode]);
    }
    accept(&mut state, &node_record("east", 5, 2));
    assert!(knows(&state, "east/shop/a") && knows(&state, "east/team-a/b"));
}

#[test]
fn a_slice_before_its_node_waits_for_it() {
    let mut state = housed();
    let early = slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]);
    assert_eq!(tell(&mut state, &sign(&early)), [RefusalReason::UnknownNode]);
    accept(&mut state, &node_record("east", 1, 1));
    assert!(knows(&state, "east/shop/web-0"));
    assert_eq!(state.refused().count(), 0);
}

#[test]
fn a_slice_before_its_namespace_waits_for_it() {
    let mut state = granted();
    accept(&mut state, &node_record("east", 1, 1));
    accept(&mut state, &node_record("east", 2, 2));
    // On two nodes, and beside a namespace that is known: who selects by labels that are not there must not find these.
    let early = |node: u8, id: &str, address| sign(&slice("east", 3, node, vec![workload(id, node, address)]));
    accept(&mut state, &namespace("east", 4, "team-a", "blue"));
    for (node, id, address) in [(1, "east/shop/web-0", "10.1.1.5"), (2, "east/shop/web-1", "10.1.2.5")] {
        assert_eq!(tell(&mut state, &early(node, id, address)), [RefusalReason::UnknownNamespace]);
        assert_eq!((knows(&state, id), located(&state, address)), (false, Located::Pending));
    }
    assert!(!state.namespace_exists(&cluster("east"), &"shop".parse().expect("a name")), "nothing that counts is in it");
    assert_eq!(tell(&mut state, &early(1, "east/team-a/web-2", "10.1.1.6")), []);
    let change = state.apply(Event::Record(sign(&namespace("east", 5, "shop", "blue"))), now(0));
    assert!(change.refusals.is_empty() && change.dirty.contains(&workload_key("east/shop/web-0")));
    assert!(knows(&state, "east/shop/web-0") && knows(&state, "east/shop/web-1"));
    assert_eq!(state.refused().count(), 0);
    // Other labels are not a moment without any.
    let change = state.apply(Event::Record(sign(&namespace("east", 6, "shop", "green"))), now(0));
    assert_eq!(change.dirty.into_iter().collect::<Vec<_>>(), [Key::Namespace(cluster("east"), "shop".parse().expect("a name"))]);
}

#[test]
fn a_namespaces_tombstone_makes_its_workloads_pending() {
    let mut state = housed();
    accept(&mut state, &node_record("east", 1, 1));
    accept(&mut state, &node_record("west", 1, 1));
    let told = [("east/shop/web-0", "10.1.1.5"), ("east/team-a/web-0", "10.1.1.6"), ("west/shop/web-0", "10.2.1.5")];
    for (id, address) in told {
        accept(&mut state, &slice(&id[..4], 2, 1, vec![workload(id, 1, address)]));
    }
    let gone = record("east", 3, RecordKey::Namespace("shop".parse().expect("a name")), Vec::new());
    assert_eq!(tell(&mut state, &sign(&gone)), [RefusalReason::UnknownNamespace]);
    assert_eq!(told.map(|(id, _)| knows(&state, id)), [false, true, true], "those of other namespaces and clusters stand");
    assert_eq!(located(&state, "10.1.1.5"), Located::Pending);
    // It is as it was when the namespace is, also after a restart.
    let mut again = state_of("north");
    assert_eq!(reasons(&again.restore(&state.snapshot(), now(1)).expect("a snapshot")), [RefusalReason::UnknownNamespace]);
    assert_eq!(again.facts(), state.facts());
    for mut state in [state, again] {
        assert_eq!(tell(&mut state, &sign(&namespace("east", 4, "shop", "blue"))), []);
        assert!(told.iter().all(|(id, _)| knows(&state, id)));
    }
}

#[test]
fn a_link_with_an_overlay_address_outside_its_nodes_prefixes_is_refused() {
    let mut state = granted();
    let Resource::Node(node) = node("east", 1) else { unreachable!() };
    let link = |overlay: &str| {
        let link = NodeLink {
            id: node.id.clone(),
            key: WireGuardKey([3; 32]),
            next_key: None,
            endpoints: vec!["192.0.2.1:51820".parse().expect("an address")],
            overlay: vec![overlay.parse().expect("an address")],
        };
        vec![Resource::Node(node.clone()), Resource::NodeLink(link)]
    };
    let key = RecordKey::Node(node.id.name.clone());
    assert_eq!(tell(&mut state, &sign(&record("east", 1, key.clone(), link("10.1.7.1")))), [RefusalReason::OutsideNode]);
    assert_eq!((count(&state, RefusalReason::OutsideNode), state.facts().links.len()), (1, 0));
    accept(&mut state, &record("east", 2, key, link("10.1.1.1")));
    assert!(matches!(located(&state, "10.1.1.1"), Located::Node(_)));
}

#[test]
fn a_namespace_outside_the_grant_is_refused() {
    let mut state = granted();
    accept(&mut state, &node_record("east", 1, 1));
    assert_eq!(tell(&mut state, &sign(&namespace("east", 2, "bank", "x"))), [RefusalReason::OutsideNamespaces]);
    let lie = slice("east", 3, 1, vec![workload("east/bank/web-0", 1, "10.1.1.5")]);
    assert_eq!(tell(&mut state, &sign(&lie)), [RefusalReason::OutsideNamespaces]);
    assert_eq!(count(&state, RefusalReason::OutsideNamespaces), 2);
    assert!(!state.namespace_exists(&cluster("east"), &"bank".parse().expect("a name")));
    assert_eq!(located(&state, "10.1.1.5"), Located::Pending);
}

#[test]
fn an_export_outside_the_grant_is_refused() {
    let mut state = granted();
    let lie = |id: &str, counter, address| {
        record("east", counter, RecordKey::Export(id.parse().expect("id")), vec![export(id, address)])
    };
    assert_eq!(tell(&mut state, &sign(&lie("shop/web", 1, "10.1.1.5"))), [RefusalReason::OutsideExports]);
    // An allowed service with somebody else's backend: diverted traffic.
    assert_eq!(tell(&mut state, &sign(&lie("shop/db", 2, "10.2.1.5"))), [RefusalReason::OutsidePrefixes]);
    assert_eq!((count(&state, RefusalReason::OutsideExports), count(&state, RefusalReason::OutsidePrefixes)), (1, 1));
    assert!(state.exports().is_empty());
}

#[test]
fn allocated_addresses_outside_the_service_prefixes_are_refused() {
    let mut state = granted();
    let import = ServiceImport {
        cluster: cluster("east"),
        id: "shop/db".parse().expect("id"),
        addresses: vec!["10.2.0.1".parse().expect("an address")],
    };
    let lie = record("east", 1, RecordKey::Import(import.id.clone()), vec![Resource::ServiceImport(import)]);
    assert_eq!(tell(&mut state, &sign(&lie)), [RefusalReason::OutsidePrefixes]);
    assert_eq!(count(&state, RefusalReason::OutsidePrefixes), 1);
}

#[test]
fn a_replayed_record_is_refused() {
    let mut state = granted();
    let (old, new) = (namespace("east", 1, "shop", "old"), namespace("east", 2, "shop", "new"));
    accept(&mut state, &old);
    accept(&mut state, &new);
    assert_eq!(tell(&mut state, &sign(&old)), [RefusalReason::Replayed]);
    // An older incarnation is older, whatever its counter.
    let mut revenant = namespace("east", 1000, "shop", "older");
    revenant.version.incarnation = 0;
    assert_eq!(tell(&mut state, &sign(&revenant)), [RefusalReason::Replayed]);
    assert_eq!(count(&state, RefusalReason::Replayed), 2);
    let labels = state.namespace_labels(&cluster("east"), &"shop".parse().expect("a name"));
    assert_eq!((labels.get("team"), labels.get("cluster-mesh.io/region")), (Some("new"), Some("eu")));
}

#[test]
fn a_tombstone_ends_a_fact_and_is_not_undone() {
    let mut state = housed();
    accept(&mut state, &node_record("east", 1, 1));
    let told = slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]);
    accept(&mut state, &told);
    accept(&mut state, &slice("east", 3, 1, Vec::new()));
    assert!(!knows(&state, "east/shop/web-0"));
    assert_eq!(located(&state, "10.1.1.5"), Located::Pending);
    assert_eq!(tell(&mut state, &sign(&told)), [RefusalReason::Replayed]);
    assert!(!knows(&state, "east/shop/web-0"));
    // Its node goes: what was judged by its prefixes has nothing to stand on.
    accept(&mut state, &slice("east", 4, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]));
    let gone = record("east", 5, RecordKey::Node("n1".parse().expect("a name")), Vec::new());
    assert_eq!(tell(&mut state, &sign(&gone)), [RefusalReason::UnknownNode]);
    assert!(!knows(&state, "east/shop/web-0"));
}

#[test]
fn a_workload_that_moved_is_where_the_newer_record_says() {
    let mut state = housed();
    accept(&mut state, &node_record("east", 1, 1));
    accept(&mut state, &node_record("east", 2, 2));
    accept(&mut state, &slice("east", 4, 2, vec![workload("east/shop/web-0", 2, "10.1.2.5")]));
    accept(&mut state, &slice("east", 3, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]));
    assert!(matches!(located(&state, "10.1.2.5"), Located::Workload(_)));
    assert_eq!(located(&state, "10.1.1.5"), Located::Pending);
}

#[test]
fn equivocation_quarantines_the_cluster_until_a_new_epoch() {
    let mut state = granted();
    accept(&mut state, &node_record("east", 1, 1));
    accept(&mut state, &namespace("east", 2, "shop", "blue"));
    accept(&mut state, &slice("east", 3, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]));
    accept(&mut state, &namespace("east", 4, "team-a", "blue"));
    accept(&mut state, &node_record("west", 1, 1));
    let twin = sign(&namespace("east", 4, "team-a", "red"));
    assert_eq!(tell(&mut state, &twin), [RefusalReason::Equivocation]);
    assert_eq!(count(&state, RefusalReason::Equivocation), 1);
    assert!(state.is_quarantined(&cluster("east")) && !state.is_quarantined(&cluster("west")));
    assert!(state.facts().namespaces.is_empty() && !knows(&state, "east/shop/web-0"));
    assert_eq!(state.facts().nodes.len(), 1, "west's node stands");
    assert_eq!(located(&state, "10.1.1.5"), Located::Pending);
    let later = sign(&namespace("east", 5, "team-b", "blue"));
    assert_eq!(tell(&mut state, &later), [RefusalReason::Quarantined]);
    assert_eq!(count(&state, RefusalReason::Quarantined), 1);

    let mut again = grant("east");
    again.epoch = 2;
    assert_eq!(tell(&mut state, &signed_grant(again)), []);
    assert!(!state.is_quarantined(&cluster("east")) && knows(&state, "east/shop/web-0"));
    let namespaces: Vec<_> = state.facts().namespaces.keys().map(|(_, name)| name.to_string()).collect();
    assert_eq!(namespaces, ["shop", "team-b"], "neither of the twins is believed, what came later is");
    // The twin is known: it proves nothing against the new epoch.
    assert_eq!(tell(&mut state, &twin), []);
    assert!(!state.is_quarantined(&cluster("east")));
    accept(&mut state, &namespace("east", 6, "team-a", "green"));
}

#[test]
fn a_late_twin_of_a_superseded_record_is_equivocation_too() {
    let mut state = granted();
    accept(&mut state, &namespace("east", 1, "shop", "blue"));
    accept(&mut state, &namespace("east", 2, "shop", "green"));
    assert_eq!(tell(&mut state, &sign(&namespace("east", 1, "shop", "red"))), [RefusalReason::Equivocation]);
    assert_eq!(count(&state, RefusalReason::Equivocation), 1);
}

#[test]
fn another_envelope_around_the_same_words_is_no_equivocation() {
    let mut state = granted();
    let told = sign(&namespace("east", 1, "shop", "blue"));
    assert_eq!(tell(&mut state, &told), []);
    // An unknown field behind the others, as a store in the middle could put it there.
    let wrapped: Bytes = [&told[..], &[0x78, 0x01]].concat().into();
    assert_eq!(tell(&mut state, &wrapped), []);
    assert!(!state.is_quarantined(&cluster("east")));
}

#[test]
fn a_record_about_another_cluster_is_refused() {
    let mut state = granted();
    // In the name of another cluster.
    let lie = namespace("west", 1, "shop", "x").sign(&root().public(), &key_of("east")).expect("fits");
    assert_eq!(tell(&mut state, &lie), [RefusalReason::ForeignCluster]);
    // In its own name, about another cluster.
    let lie = record("east", 1, RecordKey::Node("n1".parse().expect("a name")), vec![node("west", 1)]);
    assert_eq!(tell(&mut state, &sign(&lie)), [RefusalReason::ForeignCluster]);
    assert_eq!(count(&state, RefusalReason::ForeignCluster), 2);
    // Under a key that is about something else.
    let lie = record("east", 1, RecordKey::Lease, vec![node("east", 1)]);
    assert_eq!(tell(&mut state, &sign(&lie)), [RefusalReason::NotAllowedHere]);
    assert!(state.facts().nodes.is_empty() && state.facts().namespaces.is_empty());
}

#[test]
fn a_record_of_another_fleet_is_refused() {
    let mut state = granted();
    let other = SecretKey::from_bytes([8; 32]);
    let lie = namespace("east", 1, "shop", "x").sign(&other.public(), &key_of("east")).expect("fits");
    assert_eq!(tell(&mut state, &lie), [RefusalReason::ForeignFleet]);
    let mut wide = grant("east");
    wide.prefixes = vec![prefix("0.0.0.0/0")];
    let lie = RootRecord::Grant(Arc::new(wide)).sign(&other).expect("fits");
    assert_eq!(tell(&mut state, &lie), [RefusalReason::ForeignFleet]);
    assert_eq!(count(&state, RefusalReason::ForeignFleet), 2);
}
