//! Somebody who speaks without a say, or beyond the time for which he had one.

use std::sync::Arc;

use mesh_core::{Grant, Located, RecordKey, Resource, RootRecord, WallTime};

use super::*;

fn tombstone(name: &str, counter: u64) -> mesh_core::Record {
    record(name, counter, RecordKey::Namespace("shop".parse().expect("a name")), Vec::new())
}

/// A grant of everything, for who would like to have it.
fn wide(name: &str) -> Grant {
    Grant { prefixes: vec![prefix("0.0.0.0/0")], epoch: 9, ..grant(name) }
}

lies! {
    stranger_forges_a_node: "signs a record of another cluster's node with a key that nobody granted" => [BadSignature], |v| {
        v.lie(&sign_by(&node_record("east", 9, 2), &stranger()), RefusalReason::BadSignature);
    };
    stranger_before_any_grant: "speaks for a cluster that is not in the fleet" => [NoGrant], |v| {
        v.lie(&sign_by(&record("evil", 9, RecordKey::Node("n1".parse().expect("a name")), vec![node("evil", 1)]), &stranger()),
            RefusalReason::NoGrant);
    };
    cluster_speaks_for_another: "signs a record in another cluster's name" => [ForeignCluster], |v| {
        v.lie(&sign_by(&namespace("west", 9, "shop", "red"), &key_of("east")), RefusalReason::ForeignCluster);
    };
    foreign_facts_in_an_own_record: "puts another cluster's facts into its own record" => [ForeignCluster], |v| {
        let lie = record("east", 9, RecordKey::Node("n1".parse().expect("a name")), vec![node("west", 1)]);
        v.lie(&sign(&lie), RefusalReason::ForeignCluster);
    };
    foreign_lease: "signs a lease for another cluster, to make it seem alive" => [ForeignCluster], |v| {
        v.at(100);
        v.lie(&sign_by(&lease("west", 9, 100), &key_of("east")), RefusalReason::ForeignCluster);
        assert_eq!(v.freshness("west"), Freshness::Stale);
    };
    foreign_tombstone: "signs a tombstone for what another cluster said, with its own key and a stranger's" => [ForeignCluster, BadSignature], |v| {
        v.lie(&sign_by(&tombstone("west", 9), &key_of("east")), RefusalReason::ForeignCluster);
        v.lie(&sign_by(&tombstone("west", 9), &stranger()), RefusalReason::BadSignature);
    };
    another_signature_on_true_words: "takes a true record and puts its own signature on it" => [ForeignCluster, BadSignature], |v| {
        let honest = sign(&namespace("west", 9, "shop", "red"));
        v.lie(&resign(&honest, &key_of("east")), RefusalReason::ForeignCluster);
        v.lie(&resign(&honest, &stranger()), RefusalReason::BadSignature);
    };
    self_made_grant: "signs a grant of everything with its cluster key, for this fleet and one of its own" => [BadSignature, ForeignFleet], |v| {
        v.lie(&resign(&signed_grant(wide("east")), &key_of("east")), RefusalReason::BadSignature);
        let own = RootRecord::Grant(Arc::new(wide("east"))).sign(&key_of("east")).expect("fits");
        v.lie(&own, RefusalReason::ForeignFleet);
    };
    self_made_revocation: "signs a revocation of another cluster, and fleet policies, with its cluster key" => [BadSignature], |v| {
        v.lie(&resign(&revocation("west", 9), &key_of("east")), RefusalReason::BadSignature);
        let none = RootRecord::Policies { serial: 99, manifests: Vec::new() }.sign(&root()).expect("fits");
        v.lie(&resign(&none, &key_of("east")), RefusalReason::BadSignature);
    };
    another_fleet: "brings records and grants of another fleet, with the same names and keys" => [ForeignFleet], |v| {
        let other = SecretKey::from_bytes([8; 32]);
        v.lie(&namespace("east", 9, "shop", "red").sign(&other.public(), &key_of("east")).expect("fits"), RefusalReason::ForeignFleet);
        v.lie(&RootRecord::Grant(Arc::new(wide("east"))).sign(&other).expect("fits"), RefusalReason::ForeignFleet);
    };
    after_the_grants_end: "goes on when its grant has ended" => [GrantExpired], |v| {
        v.at(100_000);
        assert!(v.state.facts().namespaces.is_empty(), "and what it said ended with it");
        v.lie(&sign(&namespace("east", 9, "team-a", "red")), RefusalReason::GrantExpired);
    };
    before_the_grants_beginning: "speaks before its grant begins" => [GrantExpired], |v| {
        let key = SecretKey::from_bytes([66; 32]);
        let mut later = grant("south");
        (later.key, later.prefixes) = (Some(key.public()), vec![prefix("10.66.0.0/16")]);
        later.not_before = WallTime::from_unix_secs(T0 + 50);
        v.hear(&signed_grant(later));
        v.lie(&sign_by(&namespace("south", 1, "shop", "red"), &key), RefusalReason::GrantExpired);
    };
    after_a_revocation: "goes on after it was revoked, and offers its old grant again" => [Revoked], |v| {
        let _ = tell(&mut v.state, &revocation("east", 2));
        v.believe();
        assert_eq!(located(&v.state, "10.1.1.5"), Located::Pending, "nobody, and not external either");
        v.lie(&sign(&namespace("east", 9, "team-a", "red")), RefusalReason::Revoked);
        let _ = v.told(Event::Record(signed_grant(grant("east"))));
        let another = Grant { not_after: WallTime::from_unix_secs(T0 + 200_000), ..grant("east") };
        v.lie(&signed_grant(another), RefusalReason::Revoked);
    };
    older_revocation_and_grant: "offers an older revocation and an older grant than are known" => [Replayed], |v| {
        v.hear(&signed_grant(Grant { epoch: 5, ..grant("east") }));
        v.hear(&revocation("east", 4));
        v.lie(&revocation("east", 3), RefusalReason::Replayed);
        v.lie(&signed_grant(Grant { prefixes: vec![prefix("0.0.0.0/0")], epoch: 4, ..grant("east") }), RefusalReason::Replayed);
    };
    older_policies: "offers older fleet policies than are known" => [Replayed], |v| {
        let policies = |serial| RootRecord::Policies { serial, manifests: Vec::new() }.sign(&root()).expect("fits");
        v.hear(&policies(7));
        v.lie(&policies(6), RefusalReason::Replayed);
    };
    replaced_key: "goes on with a key that a later grant replaced" => [BadSignature], |v| {
        let key = SecretKey::from_bytes([77; 32]);
        v.hear(&signed_grant(Grant { key: Some(key.public()), epoch: 2, ..grant("east") }));
        v.lie(&sign(&namespace("east", 9, "shop", "red")), RefusalReason::BadSignature);
    };
    wall_clock_set_back: "sets the victim's wall clock back by a day, to before a revocation" => [Revoked], |v| {
        let _ = tell_at(&mut v.state, &revocation("east", 2), 90_000);
        v.at(90_000);
        v.at(0);
        v.lie(&sign(&namespace("east", 9, "team-a", "red")), RefusalReason::Revoked);
        assert!(!v.knows("east/shop/web-0") && v.knows("west/shop/web-0"));
    };
    contested_addresses: "uses addresses of which a part was granted to another cluster by mistake" => [Contested], |v| {
        let mut inside = grant("west");
        (inside.epoch, inside.prefixes) = (2, vec![prefix("10.2.0.0/16"), prefix("10.1.128.0/17")]);
        v.hear(&signed_grant(inside));
        let Resource::Node(mut n2) = node("east", 2) else { unreachable!() };
        n2.prefixes = vec![prefix("10.1.128.0/17")];
        let lie = record("east", 9, RecordKey::Node(n2.id.name.clone()), vec![Resource::Node(n2.clone())]);
        v.lie(&sign(&lie), RefusalReason::Contested);
        n2.prefixes = vec![prefix("10.1.64.0/18"), prefix("10.1.0.0/16")];
        let lie = record("east", 10, RecordKey::Node(n2.id.name.clone()), vec![Resource::Node(n2)]);
        v.lie(&sign(&lie), RefusalReason::Contested);
        let Resource::Node(mut theirs) = node("west", 2) else { unreachable!() };
        theirs.prefixes = vec![prefix("10.1.200.0/24")];
        v.hear(&sign(&record("west", 9, RecordKey::Node(theirs.id.name.clone()), vec![Resource::Node(theirs)])));
    };
    one_prefix_twice: "is granted the very prefix of another cluster by mistake, and takes its addresses" => [Contested], |v| {
        let mut same = grant("west");
        (same.epoch, same.prefixes) = (2, vec![prefix("10.2.0.0/16"), prefix("10.1.0.0/16")]);
        let refused = tell(&mut v.state, &signed_grant(same));
        assert!(refused.contains(&RefusalReason::Contested), "{refused:?}");
        v.believe();
        assert_eq!(located(&v.state, "10.1.1.5"), Located::Pending, "nobody has it, until the root mends it");
        assert!(v.knows("west/shop/web-0"), "what nobody else is granted stands");
        let Resource::Node(mut thief) = node("west", 2) else { unreachable!() };
        thief.prefixes = vec![prefix("10.1.1.0/24")];
        v.lie(&sign(&record("west", 9, RecordKey::Node(thief.id.name.clone()), vec![Resource::Node(thief)])), RefusalReason::Contested);
        // The end of either grant is the end of the dispute.
        let mut mended = v.state.clone();
        let _ = tell(&mut mended, &signed_grant(Grant { epoch: 3, ..grant("west") }));
        assert!(matches!(located(&mended, "10.1.1.5"), Located::Workload(_)));
    };
}
