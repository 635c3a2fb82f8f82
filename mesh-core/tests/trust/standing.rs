//! What the root and the clusters say of grants and fleet policies.

use mesh_core::{
    Event, Publisher, Record, RecordKey, RefusalReason, Resource, RootRecord, SourceId, Statement, WallTime, record,
};

use crate::fixture::*;

fn policies(serial: u64) -> mesh_core::Bytes {
    RootRecord::Policies { serial, manifests: Vec::new() }.sign(&root()).expect("fits")
}

fn says(name: &str, counter: u64, policies: Option<u64>) -> Record {
    let mut record = lease(name, counter, 0);
    if let Resource::Lease(lease) = &mut record.resources[0] {
        lease.policies = policies;
    }
    record
}

#[test]
fn clusters_say_which_fleet_policies_are_in_force() {
    let mut state = granted();
    assert_eq!(state.policies_serial(), None);
    assert_eq!(tell(&mut state, &policies(17)), []);
    assert_eq!((state.policies_serial(), state.policies_active()), (Some(17), (0, 2)));
    accept(&mut state, &says("east", 1, Some(17)));
    accept(&mut state, &says("west", 1, Some(16)));
    assert_eq!(state.policies_active(), (1, 2));
    // A lease of a version that does not say, and one that has seen newer policies than this state.
    accept(&mut state, &says("east", 2, None));
    accept(&mut state, &says("west", 2, Some(18)));
    assert_eq!(state.policies_active(), (1, 2));
    // A cluster without a grant in force is none of those that matter.
    assert_eq!(tell(&mut state, &revocation("east", 2)), [RefusalReason::Revoked], "its lease");
    assert_eq!(state.policies_active(), (1, 1));
}

#[test]
fn the_standing_of_each_cluster_has_its_reason() {
    let mut state = granted();
    let standing = |state: &mesh_core::State, name: &str| {
        let found = state.standings().find(|(cluster, _)| cluster.as_str() == name).map(|(_, standing)| standing);
        found.map(|standing| (standing.grant.epoch, standing.ended, standing.revoked))
    };
    assert_eq!(standing(&state, "east"), Some((1, None, None)));
    assert_eq!(standing(&state, "north"), None);
    assert_eq!(tell(&mut state, &revocation("east", 2)), []);
    assert_eq!(standing(&state, "east"), Some((1, Some(RefusalReason::Revoked), Some(2))));
    let again = mesh_core::Grant { epoch: 2, ..grant("east") };
    assert_eq!(tell(&mut state, &signed_grant(again)), []);
    assert_eq!(standing(&state, "east"), Some((2, None, Some(2))));
    let _ = state.handle_timeout(now(200_000));
    assert_eq!(standing(&state, "west"), Some((1, Some(RefusalReason::GrantExpired), None)));
}

#[test]
fn a_publisher_says_at_once_what_its_nodes_have_in_force() {
    let mut state = state_of("east");
    let source = SourceId("manifests".into());
    for event in [Event::Record(signed_grant(grant("east"))), Event::Begin(source.clone()), Event::Synced(source)] {
        let _ = state.apply(event, now(0));
    }
    let mut publisher = Publisher::new(cluster("east"), key_of("east"), root().public(), 1);
    let said = |publisher: &mut Publisher, seconds| -> Vec<(WallTime, Option<u64>)> {
        let leases = publisher.update(&state, now(seconds)).into_iter().filter(|(key, _)| *key == RecordKey::Lease);
        let lease = |bytes: &mesh_core::Bytes| match record::open(bytes).expect("signed").into_contents().statement {
            Statement::Record(Record { resources, .. }) => match &resources[..] {
                [Resource::Lease(lease)] => (lease.issued, lease.policies),
                other => panic!("{other:?}"),
            },
            Statement::Root(other) => panic!("{other:?}"),
        };
        leases.map(|(_, bytes)| lease(&bytes)).collect()
    };
    assert_eq!(said(&mut publisher, 0), [(now(0).wall, None)]);
    publisher.acknowledge(None);
    assert_eq!(said(&mut publisher, 1), []);
    publisher.acknowledge(Some(17));
    assert_eq!(said(&mut publisher, 2), [(now(2).wall, Some(17))]);
    publisher.acknowledge(Some(17));
    assert_eq!(said(&mut publisher, 3), []);
    assert_eq!(said(&mut publisher, 13), [(now(13).wall, Some(17))]);
}
