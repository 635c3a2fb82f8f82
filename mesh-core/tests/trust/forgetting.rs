//! What has ceased to matter is forgotten, and what was seen of it is not.

use mesh_core::interest::{Topic, Topics};
use mesh_core::{Bytes, Located, RecordKey, RefusalReason, State};

use crate::fixture::*;

fn told() -> (State, Vec<Bytes>) {
    let mut state = granted();
    let mut records = Vec::new();
    for name in ["east", "west"] {
        let id = |pod: &str| format!("{name}/{pod}");
        let at = |last: u8| format!("10.{}.1.{last}", net(name));
        records.extend(
            [
                node_record(name, 1, 1),
                namespace(name, 2, "shop", "one"),
                namespace(name, 2, "team-a", "one"),
                slice(name, 3, 1, vec![workload(&id("shop/a"), 1, &at(5))]),
                slice(name, 4, 1, vec![workload(&id("team-a/b"), 1, &at(6))]),
                lease(name, 5, 0),
            ]
            .iter()
            .map(sign),
        );
    }
    for record in &records {
        assert_eq!(tell(&mut state, record), []);
    }
    (state, records)
}

fn topics(topics: impl IntoIterator<Item = Topic>) -> Topics {
    topics.into_iter().collect()
}

#[test]
fn what_is_forgotten_is_as_if_it_was_never_told() {
    let (mut state, records) = told();
    let change = state.forget(&topics([
        Topic::Cluster(cluster("west")),
        Topic::Members(cluster("east")),
        Topic::Slices(cluster("east"), "shop".parse().expect("a name")),
    ]));
    assert_eq!(change.dirty.into_iter().collect::<Vec<_>>(), [workload_key("east/team-a/b")]);
    assert!(knows(&state, "east/shop/a") && !knows(&state, "east/team-a/b") && knows(&state, "west/team-a/b"));
    assert_eq!(located(&state, "10.1.1.6"), Located::Pending, "its address is the fleet's all the same");
    let change = state.forget(&topics([Topic::Cluster(cluster("west"))]));
    assert_eq!(reasons(&change), [], "nothing is refused because its node is forgotten first");
    let mut other = granted();
    for record in &records[6..] {
        assert_eq!(tell(&mut other, record), []);
    }
    assert_eq!((state.facts(), state.refused().count()), (other.facts(), 0));
    assert_eq!(state.forget(&topics([Topic::Cluster(cluster("west"))])).dirty.len(), 0, "there is nothing more to forget");
}

#[test]
fn what_returns_is_believed_and_what_is_older_is_not() {
    let (mut state, records) = told();
    let whole = state.facts().clone();
    let older = sign(&slice("east", 2, 1, vec![workload("east/shop/a", 1, "10.1.1.9")]));
    let _ = state.forget(&topics([]));
    assert!(state.facts().workloads.is_empty() && state.facts().nodes.is_empty());
    let slice_key: RecordKey = "slice/shop/n1".parse().expect("a key");
    assert_eq!(state.record_version(&cluster("east"), &slice_key).map(|version| version.counter), Some(3));
    assert_eq!(tell(&mut state, &older), [RefusalReason::Replayed], "a store that was rolled back");
    for record in &records {
        assert_eq!(tell(&mut state, record), []);
    }
    assert_eq!(*state.facts(), whole);
    // A newer one needs no return of what it replaces.
    let _ = state.forget(&topics([Topic::Members(cluster("east"))]));
    accept(&mut state, &slice("east", 9, 1, vec![workload("east/shop/c", 1, "10.1.1.7")]));
    assert!(knows(&state, "east/shop/c") && !knows(&state, "east/shop/a"));
}

#[test]
fn a_twin_of_what_is_forgotten_is_still_proof() {
    let (mut state, _) = told();
    let _ = state.forget(&topics([]));
    let twin = sign(&slice("east", 3, 1, vec![workload("east/shop/a", 1, "10.1.1.99")]));
    assert_eq!(tell(&mut state, &twin), [RefusalReason::Equivocation]);
    assert!(state.is_quarantined(&cluster("east")));
}

#[test]
fn a_snapshot_has_what_is_known_and_nothing_of_what_is_forgotten() {
    let (mut state, _) = told();
    let _ = state.forget(&topics([Topic::Cluster(cluster("west"))]));
    let mut restored = state_of("north");
    let change = restored.restore(&state.snapshot(), now(0)).expect("restores");
    assert_eq!(reasons(&change), []);
    assert_eq!(restored.facts(), state.facts());
}
