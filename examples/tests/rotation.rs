//! A cluster's key is replaced in a running fleet, and a connection does not notice.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::fs;

use common::manifests::pod;
use common::operator::{cluster, meshctl_fleet, name_keys, split};
use common::streams::{Traffic, netns, serve};
use common::{
    build_with, eventually, finish, kill, may_build_labs, node, options, shipped_fleet, slice_record, workload, workloads,
};
use landbridge::config::InterestConfig;
use landbridge::lab::Cancel;
use landbridge::lab::fleet::{Fleet, FleetOptions};
use mesh_core::{PublicKey, SecretKey};
use mesh_source::keyfiles;
use serde_json::Value;

fn key(fleet: &Fleet, of: &str) -> SecretKey {
    keyfiles::read_signing_key(&fleet.cluster_key(&cluster(of))).unwrap()
}

/// Whether all that every store has of a cluster is signed with this key.
fn signs_with(fleet: &Fleet, of: &str, key: &PublicKey) -> bool {
    let shown: Value = serde_json::from_str(&meshctl_fleet(fleet, "show", &["--output", "json"])).unwrap();
    shown["clusters"][of]["live"]["signs_with"] == key.to_string()
}

/// As an operator does it: next, grant, promote, grant. Returns the old key.
fn rotate(fleet: &Fleet, of: &str, traffic: &Traffic) -> SecretKey {
    let (path, old) = (fleet.cluster_key(&cluster(of)), key(fleet, of));
    let file = path.to_str().unwrap();
    println!("{}", meshctl_fleet(fleet, "rotate", &["--cluster", of, "--key", file, "--next"]));
    let next = keyfiles::read_signing_key(format!("{file}.next").as_ref()).unwrap().public();
    assert!(meshctl_fleet(fleet, "grant", &[]).contains(&format!("signed fleet/grant__{of}.rec")));
    eventually("the publisher signs with the next key", || signs_with(fleet, of, &next));
    println!("{}", meshctl_fleet(fleet, "rotate", &["--cluster", of, "--key", file, "--promote"]));
    assert_eq!(key(fleet, of).public(), next);
    meshctl_fleet(fleet, "grant", &[]);
    traffic.goes_on();
    old
}

#[test]
fn keys_are_rotated_and_nobody_notices_but_who_has_the_old_one() {
    if !may_build_labs() {
        return;
    }
    let directory = shipped_fleet();
    split(directory.path());
    // To count workloads, every node follows all of them.
    let mut fleet = build_with(directory.path(), FleetOptions { interest: InterestConfig::Wide, ..options("rotate") });
    name_keys(&fleet, &["east", "west"]);
    fleet.guard("up").unwrap();
    fleet.start_agents().unwrap();
    fleet.wait_ready(&Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    serve(&netns(&fleet, &workload("west/shop/db-0")), 5432, "");
    let traffic = Traffic::start(&fleet, "east/shop/web-0", "west/shop/db-0", 5432);
    let (publisher, victim) = (node("east/node-1"), node("west/node-2"));

    // The client's cluster, the server's, and the client's again: the publishers run on all the time.
    for (number, of) in ["east", "west", "east"].into_iter().enumerate() {
        let old = rotate(&fleet, of, &traffic);
        let more = pod("shop", "more", &format!("10.1.2.{}", 100 + number), 8080);
        fleet.write_manifest("east", &format!("more-{number}.yaml"), &more).unwrap();
        eventually("what changes after it arrives", || workloads(&fleet, &victim, "east") == 4 + number);
        // Who has stolen the old key is nobody now, whatever version he writes.
        let root = keyfiles::read_signing_key(&fleet.root_key()).unwrap().public();
        let address = if of == "east" { "10.1.2.66" } else { "10.2.2.66" };
        let lie = slice_record(of, "node-2", address, (u64::MAX, 1)).sign(&root, &old).unwrap();
        let others: Vec<_> = fleet.nodes().into_iter().filter(|each| each.cluster.as_str() != of).collect();
        let refused = |node| fleet.status(node).unwrap().refusals.get("bad-signature").copied().unwrap_or(0);
        let before: Vec<u64> = others.iter().map(refused).collect();
        let place = fleet.store(&others[0].cluster).join(of).join(format!("slice__shop__stolen-{number}.rec"));
        fs::write(place, &lie).unwrap();
        for (other, before) in others.iter().zip(before) {
            eventually("the old key is refused", || refused(other) > before);
        }
        traffic.goes_on();
    }
    assert_eq!(workloads(&fleet, &victim, "east"), 6);

    // The key file is the key: a publisher that starts anew goes on with it.
    kill(&fleet, &publisher);
    fleet.start_agent(&publisher).unwrap();
    fleet.wait_node_ready(&publisher, &Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    fleet.write_manifest("east", "last.yaml", &pod("shop", "last", "10.1.2.200", 8080)).unwrap();
    eventually("the restarted publisher is believed", || workloads(&fleet, &victim, "east") == 7);
    println!("{:?}", traffic.finish());
    finish(fleet);
}
