//! A restart in the middle of things.

use std::sync::Arc;

use mesh_core::{Bytes, RecordError, RecordKey, RefusalReason, SecretKey, SnapshotError, State, record};
use proptest::prelude::*;

use crate::fixture::*;

/// A state that has seen something of everything.
fn lived() -> State {
    let mut state = granted();
    accept(&mut state, &node_record("east", 1, 1));
    accept(&mut state, &namespace("east", 1, "shop", "blue"));
    accept(&mut state, &slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]));
    accept(&mut state, &slice("east", 3, 1, vec![workload("east/shop/web-1", 1, "10.1.1.6")]));
    accept(&mut state, &namespace("east", 4, "team-a", "blue"));
    accept(&mut state, &record("east", 5, RecordKey::Namespace("team-a".parse().expect("a name")), Vec::new()));
    accept(&mut state, &lease("east", 6, 0));
    accept(&mut state, &namespace("west", 1, "shop", "one"));
    assert_eq!(tell(&mut state, &sign(&namespace("west", 1, "shop", "two"))), [RefusalReason::Equivocation]);
    state
}

fn restarted() -> State {
    let mut state = state_of("north");
    let change = state.restore(&lived().snapshot(), now(5)).expect("a snapshot");
    assert!(!change.dirty.is_empty());
    state
}

fn namespaces(state: &State) -> Vec<String> {
    state.facts().namespaces.keys().map(|(cluster, name)| format!("{cluster}/{name}")).collect()
}

#[test]
fn a_restart_knows_what_was_known() {
    let (before, after) = (lived(), restarted());
    assert_eq!(before.facts(), after.facts());
    assert!(after.is_quarantined(&cluster("west")) && !after.is_quarantined(&cluster("east")));
    assert_eq!(after.snapshot(), before.snapshot());
}

#[test]
fn what_was_verified_already_need_not_be_again() {
    let (snapshot, mut asked) = (lived().snapshot(), 0);
    let mut state = state_of("north");
    let mut open = |bytes: &Bytes| {
        asked += 1;
        record::open(bytes).map(Arc::new)
    };
    state.restore_with(&snapshot, now(5), &mut open).map(|_| ()).expect("a snapshot");
    assert!(asked >= 6, "{asked}");
    assert_eq!(state.facts(), restarted().facts());
    // Nothing is believed past the one who is asked; evidence that is none makes the whole snapshot worthless.
    let mut nothing = |_: &Bytes| Err(RecordError::Form("no".into()));
    let mut state = state_of("north");
    assert!(state.restore_with(&snapshot, now(5), &mut nothing).is_err());
    assert!(state.facts().grants.is_empty());
}

#[test]
fn a_record_from_before_the_restart_is_still_a_replay() {
    let mut state = restarted();
    let old = slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")]);
    assert_eq!(tell_at(&mut state, &sign(&old), 6), [RefusalReason::Replayed]);
    // Also where only a tombstone is left.
    assert_eq!(tell_at(&mut state, &sign(&namespace("east", 4, "team-a", "blue")), 6), [RefusalReason::Replayed]);
    assert_eq!(count(&state, RefusalReason::Replayed), 2);
    assert!(!knows(&state, "east/shop/web-0"));
    assert_eq!(namespaces(&state), ["east/shop"]);
}

#[test]
fn a_quarantine_outlives_a_restart_and_ends_with_it_as_before() {
    let mut state = restarted();
    assert_eq!(tell_at(&mut state, &sign(&namespace("west", 2, "shop", "three")), 6), [RefusalReason::Quarantined]);
    let mut next = grant("west");
    next.epoch = 2;
    assert_eq!(tell_at(&mut state, &signed_grant(next), 6), []);
    assert_eq!(namespaces(&state), ["east/shop", "west/shop"]);
    // One restart more: the disputed record of another key stays disputed.
    let mut again = state_of("north");
    again.restore(&state.snapshot(), now(7)).map(|_| ()).expect("a snapshot");
    assert_eq!(again.facts(), state.facts());
}

#[test]
fn a_disputed_record_stays_disputed_after_a_new_epoch_and_a_restart() {
    let mut state = lived();
    let mut next = grant("west");
    next.epoch = 2;
    assert_eq!(tell(&mut state, &signed_grant(next)), []);
    assert!(!state.is_quarantined(&cluster("west")) && namespaces(&state) == ["east/shop"]);
    let mut again = state_of("north");
    again.restore(&state.snapshot(), now(5)).map(|_| ()).expect("a snapshot");
    assert!(!again.is_quarantined(&cluster("west")) && namespaces(&again) == ["east/shop"]);
}

#[test]
fn a_grant_that_ended_while_the_agent_was_down_is_over() {
    let mut state = state_of("north");
    let _ = state.restore(&lived().snapshot(), now(100_000)).expect("a snapshot");
    assert!(state.facts().grants.is_empty() && state.facts().nodes.is_empty());
    // Its namespace, node, workload and lease; west is quarantined, so nothing of it is asked.
    assert_eq!(count(&state, RefusalReason::GrantExpired), 4);
}

#[test]
fn revocations_and_policies_are_in_it() {
    let mut state = granted();
    let _ = tell(&mut state, &revocation("east", 2));
    let mut again = state_of("north");
    again.restore(&state.snapshot(), now(1)).map(|_| ()).expect("a snapshot");
    assert_eq!(tell(&mut again, &sign(&namespace("east", 1, "shop", "x"))), [RefusalReason::Revoked]);
}

#[test]
fn what_is_no_snapshot_says_so() {
    let good = lived().snapshot();
    let mut state = state_of("north");
    assert_eq!(state.restore(b"", now(0)), Err(SnapshotError::Header));
    assert_eq!(state.restore(&[0; 100], now(0)), Err(SnapshotError::Header));
    let mut other = good.clone();
    other[7] = 9;
    assert_eq!(state.restore(&other, now(0)), Err(SnapshotError::Version { found: 9 }));
    let root = SecretKey::from_bytes([8; 32]).public();
    let mut config = state.config().clone();
    config.trust = mesh_core::Trust::Signed { root, cluster: cluster("north") };
    assert_eq!(State::new(config.clone()).restore(&good, now(0)), Err(SnapshotError::ForeignFleet));
    config.trust = mesh_core::Trust::Open;
    assert_eq!(State::new(config).restore(&good, now(0)), Err(SnapshotError::NoFleet));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn corruption_is_found(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>(), truncate: bool) {
        let mut bytes = lived().snapshot();
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        } else {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let mut state = state_of("north");
        prop_assert!(state.restore(&bytes, now(0)).is_err());
        prop_assert!(state.facts().grants.is_empty(), "a broken snapshot leaves nothing behind");
    }
}
