//! A cluster's key changes: by a grant that names both keys for a while, or at once.

use std::collections::BTreeMap;

use mesh_core::{
    Bytes, Grant, Located, Now, Publisher, Record, RecordKey, RefusalReason, Resource, RootRecord, SecretKey, State, Version,
    WallTime,
};
use proptest::prelude::*;

use crate::fixture::*;

fn next_key() -> SecretKey {
    SecretKey::from_bytes([77; 32])
}

/// The grant of east that names both keys.
fn overlap() -> Grant {
    Grant { next_key: Some(next_key().public()), not_before: WallTime::from_unix_secs(T0 - 500), ..grant("east") }
}

/// The grant of east that names the new key alone.
fn after() -> Grant {
    Grant { key: Some(next_key().public()), not_before: WallTime::from_unix_secs(T0 - 400), ..grant("east") }
}

fn sign_next(record: &Record) -> Bytes {
    record.sign(&root().public(), &next_key()).expect("fits")
}

fn team(state: &State) -> Option<String> {
    state.namespace_labels(&cluster("east"), &"shop".parse().expect("a name")).get("team").map(str::to_owned)
}

#[test]
fn of_two_keys_the_higher_version_counts_whoever_signed_it() {
    let mut state = granted();
    accept(&mut state, &namespace("east", 5, "shop", "old 5"));
    // Signed before the grant is here: kept, not believed.
    assert_eq!(tell(&mut state, &sign_next(&namespace("east", 6, "shop", "new 6"))), [RefusalReason::BadSignature]);
    assert_eq!(team(&state).as_deref(), Some("old 5"));
    assert_eq!(tell(&mut state, &signed_grant(overlap())), []);
    assert_eq!(team(&state).as_deref(), Some("new 6"));
    // The old key may go on, as it does where the publisher has not heard of the grant.
    accept(&mut state, &namespace("east", 7, "shop", "old 7"));
    assert_eq!(team(&state).as_deref(), Some("old 7"));
    assert_eq!(tell(&mut state, &sign_next(&namespace("east", 8, "shop", "new 8"))), []);
    assert_eq!(tell(&mut state, &sign(&namespace("east", 4, "shop", "old 4"))), [RefusalReason::Replayed]);
    assert_eq!(tell(&mut state, &sign_next(&namespace("east", 3, "shop", "new 3"))), [RefusalReason::Replayed]);
    assert_eq!(team(&state).as_deref(), Some("new 8"));
    // A tombstone of either key ends what the other said.
    accept(&mut state, &record("east", 9, RecordKey::Namespace("shop".parse().expect("a name")), Vec::new()));
    assert_eq!(state.facts().namespaces.len(), 0);
    assert_eq!(tell(&mut state, &signed_grant(after())), []);
    assert_eq!(team(&state).as_deref(), Some("new 8"), "the old key has no say any more, nor has its tombstone");
    assert_eq!(tell(&mut state, &sign(&namespace("east", 10, "shop", "thief"))), [RefusalReason::BadSignature]);
}

#[test]
fn a_lie_of_either_key_is_the_clusters_and_ends_with_the_key() {
    let mut state = granted();
    assert_eq!(tell(&mut state, &signed_grant(overlap())), []);
    assert_eq!(tell(&mut state, &sign_next(&namespace("east", 2, "shop", "new"))), []);
    // The same version of two keys is no proof: who has one of them must not be able to silence the other with it.
    assert_eq!(tell(&mut state, &sign(&namespace("east", 2, "shop", "old"))), [RefusalReason::Replayed]);
    assert_eq!(team(&state).as_deref(), Some("new"), "of equal versions the next key's counts");
    assert_eq!(tell(&mut state, &sign(&namespace("east", 2, "shop", "twin"))), [RefusalReason::Equivocation]);
    assert!(state.is_quarantined(&cluster("east")) && state.facts().namespaces.is_empty());
    assert_eq!(tell(&mut state, &signed_grant(after())), []);
    assert!(!state.is_quarantined(&cluster("east")));
    assert_eq!(team(&state).as_deref(), Some("new"));
}

#[test]
fn nothing_is_gone_for_a_moment_while_the_publisher_changes_its_key() {
    let (mut east, mut north) = (state_of("east"), granted());
    let mut publisher = Publisher::new(cluster("east"), key_of("east"), root().public(), 1);
    publisher.set_next_key(next_key());
    let source = mesh_core::SourceId("manifests".into());
    let _ = east.apply(mesh_core::Event::Record(signed_grant(grant("east"))), now(0));
    let _ = east.apply(mesh_core::Event::Begin(source.clone()), now(0));
    for resource in [node("east", 1), workload("east/shop/web-0", 1, "10.1.1.5")] {
        let _ = east.apply(mesh_core::Event::Set(source.clone(), resource), now(0));
    }
    let _ = east.apply(mesh_core::Event::Synced(source), now(0));
    let deliver = |publisher: &mut Publisher, east: &State, north: &mut State, seconds: u64| {
        let records = publisher.update(east, now(seconds));
        for (_, bytes) in &records {
            assert_eq!(tell_at(north, bytes, seconds), []);
            assert!(matches!(located(north, "10.1.1.5"), Located::Workload(_)) || seconds == 0);
        }
        records.len()
    };
    assert_eq!(deliver(&mut publisher, &east, &mut north, 0), 4);
    let signer = |publisher: &mut Publisher, east: &State, seconds| {
        let lease = publisher.update(east, now(seconds)).pop().expect("a lease").1;
        mesh_core::record::open(&lease).expect("a record").signer
    };
    assert_eq!(signer(&mut publisher, &east, 11), key_of("east").public(), "no grant names the next key yet");
    for (seconds, grant) in [(20, overlap()), (50, after())] {
        for state in [&mut north, &mut east] {
            assert_eq!(tell_at(state, &signed_grant(grant.clone()), seconds), []);
        }
        assert!(knows(&north, "east/shop/web-0"));
        let signed = deliver(&mut publisher, &east, &mut north, seconds);
        // All that stands is signed anew, once.
        assert_eq!(signed, if seconds == 20 { 4 } else { 1 });
        assert_eq!(signer(&mut publisher, &east, seconds + 11), next_key().public());
    }
    assert!(knows(&north, "east/shop/web-0"));
}

#[test]
fn a_restart_in_the_middle_of_a_change_knows_both_keys() {
    let mut state = granted();
    assert_eq!(tell(&mut state, &signed_grant(overlap())), []);
    accept(&mut state, &node_record("east", 1, 1));
    assert_eq!(tell(&mut state, &sign_next(&namespace("east", 2, "shop", "new"))), []);
    let mut again = state_of("north");
    assert_eq!(again.restore(&state.snapshot(), now(1)).expect("a snapshot").refusals, []);
    assert_eq!(again.facts(), state.facts());
    assert_eq!((again.facts().nodes.len(), again.facts().namespaces.len()), (1, 1));
}

/// What is told in some order, and what is to follow from it.
fn history() -> Vec<(Option<(bool, Record)>, Bytes)> {
    let mut all = Vec::new();
    let mut say = |by_next: bool, record: Record| {
        let bytes = if by_next { sign_next(&record) } else { sign(&record) };
        all.push((Some((by_next, record)), bytes));
    };
    for (round, by_next) in [(0, false), (1, false), (2, true), (3, false), (4, true), (5, true)] {
        let at = round * 10;
        say(by_next, node_record("east", at + 1, 1));
        let name = format!("east/shop/web-{round}");
        say(by_next, slice("east", at + 2, 1, vec![workload("east/shop/web", 1, "10.1.1.5"), workload(&name, 1, "10.1.1.6")]));
        say(by_next, namespace("east", at + 3, "shop", &format!("round {round}")));
    }
    say(true, record("east", 24, RecordKey::Namespace("team-a".parse().expect("a name")), Vec::new()));
    say(false, namespace("east", 14, "team-a", "over"));
    all.extend([grant("east"), overlap(), after()].map(|grant| (None, signed_grant(grant))));
    all
}

/// Says in other words what is to be believed: per thing, the highest version of those whose signer the highest grant names.
fn expected(told: &[&(Option<(bool, Record)>, Bytes)]) -> BTreeMap<RecordKey, (Version, Vec<Resource>)> {
    let grants = [after(), overlap(), grant("east")].map(signed_grant);
    let Some(grant) = grants.iter().position(|grant| told.iter().any(|(_, bytes)| bytes == grant)) else {
        return BTreeMap::new();
    };
    let has_say = |by_next: bool| if by_next { grant <= 1 } else { grant >= 1 };
    let mut best: BTreeMap<RecordKey, (Version, Vec<Resource>)> = BTreeMap::new();
    for (_, record) in told.iter().filter_map(|(record, _)| record.as_ref()).filter(|(by_next, _)| has_say(*by_next)) {
        let known = best.entry(record.key.clone()).or_insert_with(|| (record.version, record.resources.clone()));
        if known.0 < record.version {
            *known = (record.version, record.resources.clone());
        }
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// After each step what is believed is what the grant and the versions say, whatever came before; and what both keys say
    /// all along is never gone while the keys that said it have a say.
    #[test]
    fn keys_change_in_any_order_of_arrival(order in Just((0..history().len()).collect::<Vec<_>>()).prop_shuffle()) {
        let history = history();
        let mut state = state_of("north");
        let mut told = Vec::new();
        for index in order {
            told.push(&history[index]);
            let _ = tell(&mut state, &history[index].1);
            let expected = expected(&told);
            let has_node = expected.keys().any(|key| matches!(key, RecordKey::Node(_)));
            let has_home = expected.contains_key(&RecordKey::Namespace("shop".parse().expect("a name")));
            let resources = || expected.values().flat_map(|(_, resources)| resources);
            let workloads: Vec<_> = resources().filter_map(|r| match r {
                Resource::Workload(workload) if has_node && has_home => Some(workload),
                _ => None,
            }).collect();
            let namespaces: Vec<_> = resources().filter_map(|r| match r { Resource::Namespace(n) => Some(n), _ => None }).collect();
            prop_assert_eq!(state.facts().workloads.values().collect::<Vec<_>>(), workloads);
            prop_assert_eq!(state.facts().namespaces.values().collect::<Vec<_>>(), namespaces);
            prop_assert_eq!(state.facts().nodes.len(), usize::from(has_node));
            prop_assert!(!state.is_quarantined(&cluster("east")));
        }
        // A restart, and everything told once more, changes nothing.
        let facts = state.facts().clone();
        let mut again = state_of("north");
        let at: Now = now(1);
        let _ = again.restore(&state.snapshot(), at).expect("a snapshot");
        for (_, bytes) in &history {
            let _ = tell_at(&mut again, bytes, 1);
        }
        prop_assert_eq!(&facts, again.facts());
    }
}

#[test]
fn fleet_yaml_names_the_next_key() {
    let text = |next: &str| format!("clusters: {{east: {{key: {}, next_key: {next}}}}}", key_of("east").public());
    let fleet = mesh_core::manifest::parse_fleet("fleet.yaml", &text(&next_key().public().to_string())).expect("valid");
    let grant = fleet.grants().remove(0);
    assert_eq!(grant.keys().collect::<Vec<_>>(), [key_of("east").public(), next_key().public()]);
    let opened = mesh_core::record::open(&RootRecord::Grant(grant.clone().into()).sign(&root()).expect("fits")).expect("opens");
    assert_eq!(opened.statement, mesh_core::Statement::Root(RootRecord::Grant(grant.into())));
    assert!(mesh_core::manifest::parse_fleet("fleet.yaml", &text("x")).is_err());
}
