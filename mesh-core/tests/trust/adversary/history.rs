//! What was said once is told again, in another order, changed, or two ways: stores, mirrors and clusters with two faces.

use mesh_core::{RecordKey, SourceId, Version};

use super::*;

fn incarnation(mut record: mesh_core::Record, incarnation: u64) -> mesh_core::Record {
    record.version = Version { incarnation, ..record.version };
    record
}

/// Something of everything, in the order in which it was signed.
fn told() -> Vec<Bytes> {
    let at = |counter, seconds| lease("east", counter, seconds);
    let all = [
        node_record("east", 5, 2),
        slice("east", 6, 2, vec![workload("east/shop/b", 2, "10.1.2.5")]),
        slice("east", 7, 2, vec![workload("east/shop/c", 2, "10.1.2.6")]),
        namespace("east", 8, "team-a", "one"),
        record("east", 9, RecordKey::Namespace("team-a".parse().expect("a name")), Vec::new()),
        namespace("east", 10, "team-b", "two"),
        at(11, 10),
        at(12, 20),
    ];
    all.iter().map(sign).collect()
}

fn store() -> SourceId {
    SourceId("store".into())
}

lies! {
    replayed_record: "tells an older record again" => [Replayed], |v| {
        v.hear(&sign(&namespace("east", 9, "shop", "green")));
        v.lie(&sign(&namespace("east", 3, "shop", "blue")), RefusalReason::Replayed);
    };
    older_incarnation: "tells a record of an earlier life with a high counter" => [Replayed], |v| {
        v.hear(&sign(&incarnation(namespace("east", 1, "shop", "green"), 2)));
        v.lie(&sign(&namespace("east", u64::MAX, "shop", "blue")), RefusalReason::Replayed);
    };
    replayed_lease: "tells an older lease again, to keep a dead cluster alive" => [Replayed], |v| {
        v.hear(&sign(&lease("east", 9, 20)));
        v.at(60);
        v.lie(&sign(&lease("east", 4, 0)), RefusalReason::Replayed);
        assert_eq!(v.freshness("east"), Freshness::Suspect);
    };
    undone_tombstone: "tells again what was taken back" => [Replayed], |v| {
        v.hear(&sign(&slice("east", 9, 1, Vec::new())));
        assert!(!v.knows("east/shop/web-0"));
        v.lie(&sign(&slice("east", 2, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5")])), RefusalReason::Replayed);
    };
    equivocation: "signs two records with one version" => [Equivocation, Quarantined], |v| {
        v.lie(&sign(&namespace("east", 3, "shop", "red")), RefusalReason::Equivocation);
        v.believe();
        assert!(v.state.is_quarantined(&cluster("east")) && !v.knows("east/shop/web-0") && v.knows("west/shop/web-0"));
        v.lie(&sign(&namespace("east", 9, "shop", "green")), RefusalReason::Quarantined);
    };
    equivocation_after_a_restart: "signs the second of two records when the victim has restarted" => [Equivocation], |v| {
        v.restart();
        v.lie(&sign(&namespace("east", 3, "shop", "red")), RefusalReason::Equivocation);
        v.believe();
        v.restart();
        assert!(v.state.is_quarantined(&cluster("east")) && !v.knows("east/shop/web-0"));
    };
    equivocation_through_two_stores: "tells two stores two things, between which a mirror copies" => [Equivocation], |v| {
        let (one, other) = (sign(&namespace("east", 9, "team-a", "one")), sign(&namespace("east", 9, "team-a", "other")));
        let mut elsewhere = v.state.clone();
        v.hear(&one);
        assert_eq!(tell(&mut elsewhere, &other), []);
        v.lie(&other, RefusalReason::Equivocation);
        assert_eq!(tell(&mut elsewhere, &one), [RefusalReason::Equivocation]);
        v.believe();
        assert_eq!(v.state.facts(), elsewhere.facts(), "both know, and believe neither");
        assert!(clusters().map(|name| v.state.is_quarantined(&name)) == [true, false]);
    };
    mirror_edits: "changes a byte of a record on its way, any byte" => [BadSignature, Malformed], |v| {
        let honest = sign(&namespace("east", 9, "shop", "red"));
        for at in 0..honest.len() {
            let mut edited = honest.to_vec();
            edited[at] ^= 1;
            assert_ne!(v.told(Event::Record(edited.into())), [], "byte {at}");
        }
    };
    mirror_cuts: "cuts a record short, anywhere" => [Malformed], |v| {
        let honest = sign(&namespace("east", 9, "shop", "red"));
        for len in 0..honest.len() {
            v.lie(&honest.slice(..len), RefusalReason::Malformed);
        }
    };
    mirror_wraps: "writes another envelope around the same words" => [], |v| {
        let honest = sign(&namespace("east", 3, "shop", "blue"));
        let wrapped: Bytes = [&honest[..], &[0x78, 0x01]].concat().into();
        assert_eq!(v.told(Event::Record(wrapped)), []);
        assert!(!v.state.is_quarantined(&cluster("east")), "no proof against the cluster");
    };
    mirror_reorders: "tells everything backwards, some of it twice" => [Replayed], |v| {
        let mut straight = v.state.clone();
        for bytes in told() {
            let _ = tell_at(&mut straight, &bytes, 20);
        }
        v.at(20);
        for bytes in told().iter().rev().chain(&told()[2..5]) {
            let _ = v.told(Event::Record(bytes.clone()));
        }
        assert_eq!(v.state.facts(), straight.facts());
        v.believe();
    };
    mirror_swaps_paths: "puts each record where another one belongs" => [], |v| {
        // The path is not part of what is told: a record says itself what it is about.
        v.hear(&sign(&namespace("east", 9, "team-a", "x")));
        for bytes in [sign(&namespace("east", 9, "team-a", "x")), sign(&namespace("east", 3, "shop", "blue"))] {
            assert_eq!(v.told(Event::Record(bytes)), []);
        }
    };
    mirror_drops: "says nothing any more, and then that it has nothing" => [], |v| {
        let _ = v.told(Event::Begin(store()));
        let _ = v.told(Event::Synced(store()));
        assert!(v.knows("east/shop/web-0"), "an empty store ends nothing that is believed");
        v.at(86_400);
        assert!(v.knows("east/shop/web-0"), "fail static");
        assert_eq!(v.freshness("east"), Freshness::Expired, "and it shows");
    };
    store_from_an_old_backup: "restores a store from an old backup, tells it whole, and never the newer" => [Replayed], |v| {
        let backup = v.state.clone();
        for bytes in told() {
            let _ = tell_at(&mut v.state, &bytes, 20);
        }
        v.at(20);
        let _ = v.told(Event::Begin(store()));
        for bytes in [namespace("east", 3, "shop", "blue"), slice("east", 6, 2, vec![workload("east/shop/b", 2, "10.1.2.5")]),
            namespace("east", 8, "team-a", "one"), lease("east", 4, 0)].iter().map(sign)
        {
            let _ = v.told(Event::Record(bytes));
        }
        let _ = v.told(Event::Synced(store()));
        assert_ne!(v.state.facts(), backup.facts());
    };
    version_at_its_end: "steals the cluster's key and signs the highest version there is, so that nobody comes after" => [Replayed], |v| {
        let last = Version { incarnation: u64::MAX, counter: u64::MAX };
        let mut stolen = namespace("east", 9, "shop", "thief");
        stolen.version = last;
        let _ = v.told(Event::Record(sign(&stolen)));
        v.believe();
        v.lie(&sign(&namespace("east", 10, "shop", "honest")), RefusalReason::Replayed);
        // A key that is lost is replaced at once, not with an overlap: then its versions are nothing.
        let key = SecretKey::from_bytes([77; 32]);
        v.hear(&signed_grant(mesh_core::Grant { key: Some(key.public()), epoch: 2, ..grant("east") }));
        v.hear(&sign_by(&namespace("east", 1, "shop", "honest"), &key));
        assert_eq!(v.state.record_version(&cluster("east"), &stolen.key), Some(Version { incarnation: 1, counter: 1 }));
        assert_eq!(tell(&mut v.state, &sign(&namespace("east", 11, "shop", "thief"))), [RefusalReason::BadSignature]);
    };
}
