//! What lies on the disk between two lives.

use mesh_core::{RefusalReason, SnapshotError, Trust};

use super::*;

/// Returns where `part` is in `bytes`.
fn find(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).position(|window| window == part).expect("it is there")
}

lies! {
    rollback_after_a_restart: "waits for a restart and tells what was taken back before" => [Replayed], |v| {
        v.hear(&sign(&slice("east", 9, 1, Vec::new())));
        v.restart();
        v.lie(&sign(&slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")])), RefusalReason::Replayed);
    };
    snapshot_edited: "changes the state file while the agent is down" => [], |v| {
        let good = v.state.snapshot();
        for at in (0..good.len()).step_by(7) {
            let mut edited = good.clone();
            edited[at] ^= 1;
            let mut state = state_of("north");
            assert!(state.restore(&edited, now(0)).is_err(), "byte {at}");
            assert!(state.facts().grants.is_empty() && state.usage().clusters == 0, "byte {at}: nothing of it is taken");
        }
        v.lies += 1;
    };
    snapshot_edited_and_sealed: "changes a record in the state file, and the checksum with it" => [BadSignature], |v| {
        let mut edited = v.state.snapshot();
        let at = find(&edited, b"blue");
        edited[at..at + 4].copy_from_slice(b"good");
        reseal(&mut edited);
        v.state = state_of("north").with_limits(LIMITS);
        let refused = reasons(&v.state.restore(&edited, now(0)).expect("well formed"));
        let waits = RefusalReason::UnknownNamespace;
        assert_eq!(refused, [RefusalReason::BadSignature, waits], "signatures are verified again, and nobody is without labels");
        v.refused.extend(refused);
        v.lies += 1;
        // What was edited is lost until it is told again; nothing is made up.
        v.hear(&sign(&namespace("east", 3, "shop", "blue")));
        assert_eq!(v.state.facts(), Victim::new().state.facts());
        v.believe();
    };
    snapshot_of_another_fleet: "puts another fleet's state file in place of the own" => [], |v| {
        let mut config = v.state.config().clone();
        config.trust = Trust::Signed { root: SecretKey::from_bytes([8; 32]).public(), cluster: cluster("north") };
        let other = State::new(config).snapshot();
        assert_eq!(v.state.restore(&other, now(0)), Err(SnapshotError::ForeignFleet));
        v.lies += 1;
    };
    snapshot_rolled_back: "puts an older state file in place of the last one" => [], |v| {
        // What was learned since is lost, and with it the knowledge that older records are old: this is promised only where the
        // file is the last one. What it promises is that the last word counts as soon as anybody tells it, in whatever order.
        let old = v.state.snapshot();
        v.hear(&sign(&namespace("east", 9, "shop", "green")));
        let newest = v.state.facts().clone();
        v.state = state_of("north").with_limits(LIMITS);
        let _ = v.state.restore(&old, now(0)).expect("a snapshot");
        let _ = v.told(Event::Record(sign(&namespace("east", 9, "shop", "green"))));
        assert_eq!(v.state.facts(), &newest);
        assert_eq!(tell(&mut v.state, &sign(&namespace("east", 3, "shop", "blue"))), [RefusalReason::Replayed]);
    };
    snapshot_from_long_ago: "brings back an agent after a month, or with its clock at 1970" => [], |v| {
        let old = v.state.snapshot();
        for (name, seconds) in [("a day", 86_400), ("most of the grant", 99_000)] {
            let mut state = state_of("north");
            let _ = state.restore(&old, now(seconds)).expect("a snapshot");
            assert_eq!((state.facts().namespaces.len(), state.facts().workloads.len()), (2, 2), "{name}: it fails static");
            assert_eq!(state.freshness(&cluster("east"), now(seconds).wall), Freshness::Expired, "{name}: nobody is live");
        }
        let mut state = state_of("north");
        let _ = state.restore(&old, mesh_core::Now::default()).expect("a snapshot");
        assert_eq!(state.facts().workloads.len(), 0, "no grant has begun");
        assert!(matches!(located(&state, "10.1.1.5"), mesh_core::Located::Pending), "and nothing of the fleet is external");
        let _ = state.handle_timeout(now(0));
        assert_eq!(state.facts(), v.state.facts(), "as soon as the clock is right it is all there");
        v.lies += 1;
    };
}
