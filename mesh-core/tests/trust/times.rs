//! What time and the root do to grants, records and leases.

use std::sync::Arc;

use mesh_core::policy::PolicyScope;
use mesh_core::state::Freshness;
use mesh_core::{
    Bytes, Event, Located, RecordKey, RefusalReason, Resource, RootRecord, SecretKey, ServiceImport, SourceId, WallTime,
};

use crate::fixture::*;

#[test]
fn a_grant_ends_at_its_time_with_no_event() {
    let mut state = granted();
    accept(&mut state, &node_record("east", 1, 1));
    accept(&mut state, &namespace("east", 1, "shop", "x"));
    accept(&mut state, &slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]));
    let end = now(100_000);
    assert_eq!(state.poll_timeout(), Some(end.time));
    assert!(state.handle_timeout(now(99_999)).is_empty() && knows(&state, "east/shop/web-0"));
    let change = state.handle_timeout(end);
    assert!(change.dirty.contains(&workload_key("east/shop/web-0")));
    assert_eq!(reasons(&change), [RefusalReason::GrantExpired; 3]);
    assert_eq!(count(&state, RefusalReason::GrantExpired), 3);
    assert!(!knows(&state, "east/shop/web-0") && state.facts().grants.is_empty());
    assert_eq!(located(&state, "10.1.1.5"), Located::Pending, "never external");
    assert_eq!(tell_at(&mut state, &sign(&namespace("east", 3, "team-a", "x")), 100_001), [RefusalReason::GrantExpired]);
    // A successor brings back what is still the last word.
    let mut next = grant("east");
    (next.not_before, next.not_after) = (end.wall, WallTime::from_unix_secs(T0 + 200_000));
    assert_eq!(tell_at(&mut state, &signed_grant(next), 100_002), []);
    assert!(knows(&state, "east/shop/web-0"));
}

#[test]
fn a_grant_of_the_future_begins_at_its_time() {
    let mut state = state_of("north");
    let mut later = grant("east");
    later.not_before = now(50).wall;
    assert_eq!(tell(&mut state, &signed_grant(later)), []);
    assert_eq!(tell(&mut state, &sign(&namespace("east", 1, "shop", "x"))), [RefusalReason::GrantExpired]);
    assert_eq!(state.poll_timeout(), Some(now(50).time));
    let _ = state.handle_timeout(now(50));
    assert_eq!((state.facts().namespaces.len(), state.refused().count()), (1, 0));
}

#[test]
fn a_revoked_grant_is_void_at_once() {
    let mut state = granted();
    accept(&mut state, &node_record("east", 1, 1));
    accept(&mut state, &node_record("west", 1, 1));
    assert_eq!(tell(&mut state, &revocation("east", 2)), [RefusalReason::Revoked], "its node is refused now");
    assert_eq!(state.facts().nodes.len(), 1);
    assert_eq!(tell(&mut state, &sign(&namespace("east", 3, "shop", "x"))), [RefusalReason::Revoked]);
    assert_eq!(count(&state, RefusalReason::Revoked), 2);
    assert_eq!(located(&state, "10.1.1.1"), Located::Pending);
    // Neither the old grant nor another of its epoch helps; one of the new epoch does.
    assert_eq!(tell(&mut state, &signed_grant(grant("east"))), []);
    let mut wide = grant("east");
    wide.not_after = WallTime::from_unix_secs(T0 + 300_000);
    assert_eq!(tell(&mut state, &signed_grant(wide.clone())), [RefusalReason::Revoked]);
    assert_eq!(state.facts().nodes.len(), 1);
    wide.epoch = 2;
    assert_eq!(tell(&mut state, &signed_grant(wide)), []);
    assert_eq!(state.facts().nodes.len(), 2);
    assert_eq!(tell(&mut state, &revocation("east", 1)), [RefusalReason::Replayed]);
}

#[test]
fn records_wait_for_their_grant() {
    let mut state = state_of("north");
    assert_eq!(tell(&mut state, &sign(&node_record("east", 1, 1))), [RefusalReason::NoGrant]);
    let early = slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]);
    assert_eq!(tell(&mut state, &sign(&early)), [RefusalReason::NoGrant]);
    assert_eq!(tell(&mut state, &sign(&namespace("east", 3, "shop", "x"))), [RefusalReason::NoGrant]);
    assert_eq!(count(&state, RefusalReason::NoGrant), 3);
    assert!(state.facts().nodes.is_empty());
    let change = state.apply(Event::Record(signed_grant(grant("east"))), now(0));
    assert!(change.dirty.contains(&workload_key("east/shop/web-0")) && change.refusals.is_empty());
    assert!(knows(&state, "east/shop/web-0"));
}

#[test]
fn strangers_cannot_fill_the_memory() {
    let mut state = state_of("north");
    let big: Vec<_> = (0..2000).map(|i| workload(&format!("east/shop/web-{i}"), 1, "10.1.1.5")).collect();
    let refused_at = (0..400u64).position(|round| {
        let mut seed = [42; 32];
        seed[..8].copy_from_slice(&round.to_be_bytes());
        let stranger = slice("east", 1, 1, big.clone()).sign(&root().public(), &SecretKey::from_bytes(seed)).expect("fits");
        tell(&mut state, &stranger) == [RefusalReason::OverLimit]
    });
    assert!(refused_at.is_some_and(|round| round > 10), "{refused_at:?}");
    // A cluster with a grant is not held up by it.
    assert_eq!(tell(&mut state, &signed_grant(grant("east"))), []);
    accept(&mut state, &node_record("east", 1, 1));
}

#[test]
fn a_rotated_key_speaks_and_the_old_one_no_longer() {
    let mut state = granted();
    accept(&mut state, &namespace("east", 1, "shop", "old key"));
    let new_key = SecretKey::from_bytes([77; 32]);
    let mut rotated = grant("east");
    (rotated.epoch, rotated.key) = (2, Some(new_key.public()));
    let early = namespace("east", 1, "shop", "new key").sign(&root().public(), &new_key).expect("fits");
    assert_eq!(tell(&mut state, &early), [RefusalReason::BadSignature]);
    assert_eq!(tell(&mut state, &signed_grant(rotated)), []);
    let team = |state: &mesh_core::State| {
        let labels = state.namespace_labels(&cluster("east"), &"shop".parse().expect("a name"));
        labels.get("team").map(str::to_owned)
    };
    assert_eq!(team(&state).as_deref(), Some("new key"));
    assert_eq!(tell(&mut state, &sign(&namespace("east", 9, "shop", "thief"))), [RefusalReason::BadSignature]);
    assert_eq!(team(&state).as_deref(), Some("new key"));
}

#[test]
fn reserved_labels_are_dropped_and_counted() {
    let mut state = granted();
    let Resource::Namespace(mut forged) = namespace("east", 1, "shop", "x").resources.remove(0) else { unreachable!() };
    forged.labels = forged.labels.with([("cluster-mesh.io/cluster", "west"), ("cluster-mesh.io/region", "us")]);
    let forged = record("east", 1, RecordKey::Namespace(forged.name.clone()), vec![Resource::Namespace(forged)]);
    assert_eq!(tell(&mut state, &sign(&forged)), [RefusalReason::NotAllowedHere; 2]);
    let labels = state.namespace_labels(&cluster("east"), &"shop".parse().expect("a name"));
    assert_eq!((labels.get("cluster-mesh.io/cluster"), labels.get("cluster-mesh.io/region")), (Some("east"), Some("eu")));
}

#[test]
fn a_silent_cluster_grows_stale_and_its_facts_stay() {
    let mut state = granted();
    let east = cluster("east");
    accept(&mut state, &node_record("east", 1, 1));
    assert_eq!(state.freshness(&east, now(0).wall), Freshness::Expired, "never heard");
    assert_eq!(state.freshness(&cluster("north"), now(0).wall), Freshness::Live, "the own cluster");
    accept(&mut state, &lease("east", 2, 0));
    let lease_key = mesh_core::Key::Lease(east.clone());
    for (seconds, expected) in [(30, Freshness::Suspect), (90, Freshness::Stale), (86_400, Freshness::Expired)] {
        assert_eq!(state.poll_timeout(), Some(now(seconds).time));
        assert!(state.handle_timeout(now(seconds - 1)).is_empty());
        assert!(state.handle_timeout(now(seconds)).dirty.contains(&lease_key));
        assert_eq!(state.freshness(&east, now(seconds).wall), expected);
    }
    assert_eq!(state.facts().nodes.len(), 1, "facts fail static");
    assert_eq!(tell_at(&mut state, &sign(&lease("east", 3, 86_401)), 86_401), []);
    assert_eq!(state.freshness(&east, now(86_401).wall), Freshness::Live);
}

#[test]
fn a_lease_of_the_future_does_not_keep_a_dead_cluster_alive() {
    let mut state = granted();
    assert_eq!(tell(&mut state, &sign(&lease("east", 1, 5000))), [RefusalReason::Future]);
    assert_eq!(count(&state, RefusalReason::Future), 1);
    assert_eq!(state.freshness(&cluster("east"), now(0).wall), Freshness::Expired);
}

#[test]
fn clocks_that_disagree_by_minutes_change_no_fact() {
    // East's clock is right; the others are four minutes behind, right, and four minutes ahead.
    let told = [node_record("east", 1, 1), slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")])];
    let skewed = |behind: u64, ahead: u64| {
        let mut state = housed();
        let at = |seconds: u64| 1000 + seconds - behind + ahead;
        for bytes in told.iter().chain(&[lease("east", 3, 1000)]).map(sign) {
            assert_eq!(tell_at(&mut state, &bytes, at(0)), []);
        }
        assert_eq!(tell_at(&mut state, &sign(&lease("east", 4, 1010)), at(10)), []);
        (state.facts().clone(), state.freshness(&cluster("east"), now(at(10)).wall))
    };
    let (behind, right, ahead) = (skewed(240, 0), skewed(0, 0), skewed(0, 240));
    assert!(behind.0 == right.0 && right.0 == ahead.0);
    // To a clock that is ahead every lease has run out: that demotes only where no probe says that the path is alive.
    assert_eq!([behind.1, right.1, ahead.1], [Freshness::Live, Freshness::Live, Freshness::Stale]);
}

#[test]
fn the_own_clusters_facts_come_from_plain_sources() {
    let mut state = state_of("east");
    assert_eq!(tell(&mut state, &signed_grant(grant("east"))), []);
    accept(&mut state, &node_record("east", 1, 1));
    assert!(state.facts().nodes.is_empty(), "its records are not asked");
    let import = ServiceImport {
        cluster: cluster("east"),
        id: "shop/db".parse().expect("id"),
        addresses: vec!["100.80.1.9".parse().expect("an address")],
    };
    accept(&mut state, &record("east", 2, RecordKey::Import(import.id.clone()), vec![Resource::ServiceImport(import)]));
    assert_eq!(state.facts().service_imports.len(), 1, "but the addresses that its publisher allocated");
    assert!(!state.namespace_exists(&cluster("east"), &"shop".parse().expect("a name")), "which make no namespace exist");
    let plain = SourceId("manifests".into());
    let mut set = |resource| reasons(&state.apply(Event::Set(plain.clone(), resource), now(0)));
    assert_eq!(set(node("east", 1)), []);
    assert_eq!(set(node("west", 1)), [RefusalReason::ForeignCluster]);
    assert_eq!(set(Resource::Grant(Arc::new(grant("east")))), [RefusalReason::NotAllowedHere]);
    assert_eq!(state.facts().nodes.len(), 1);
}

const POLICY: &str =
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: NAME, namespace: shop}\nspec: {podSelector: {}}\n";

fn policies(serial: u64, text: &str) -> Bytes {
    RootRecord::Policies { serial, manifests: vec![("deny.yaml".into(), text.into())] }.sign(&root()).expect("fits")
}

#[test]
fn fleet_policies_are_the_roots_latest_and_whole() {
    let mut state = granted();
    assert_eq!(tell(&mut state, &policies(2, &POLICY.replace("NAME", "second"))), []);
    assert_eq!(tell(&mut state, &policies(1, &POLICY.replace("NAME", "first"))), [RefusalReason::Replayed]);
    let names = |state: &mesh_core::State| -> Vec<_> {
        state.facts().network_policies.keys().map(|(scope, _, name)| (scope.clone(), name.to_string())).collect()
    };
    assert_eq!(names(&state), [(PolicyScope::Fleet, "second".to_owned())]);
    let broken = format!("{}---\n{}", POLICY.replace("NAME", "third"), POLICY.replace("NAME", "Not A Name"));
    assert_eq!(tell(&mut state, &policies(3, &broken)), [RefusalReason::Malformed]);
    assert_eq!(names(&state), [(PolicyScope::Fleet, "second".to_owned())], "a broken set changes nothing");
    assert_eq!(tell(&mut state, &policies(4, &POLICY.replace("NAME", "fourth"))), []);
    assert_eq!(names(&state), [(PolicyScope::Fleet, "fourth".to_owned())]);
}
