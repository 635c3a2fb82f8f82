//! A cluster leaves a running fleet by a revocation, and another one joins it: real namespaces, real traffic.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::operator::{cluster, desired, meshctl_fleet, name_keys};
use common::streams::{self, netns, round, serve};
use common::{
    PATIENCE, build, build_with, eventually, fetch_until, finish, may_build_labs, meshctl, node, options, shipped_fleet, workload,
};
use landbridge::config::InterestConfig;
use landbridge::lab::Cancel;
use landbridge::lab::fleet::{Fleet, FleetOptions};
use landbridge::lab::nodes::Underlay;
use mesh_lab::probe::ProbeResult;

/// What must hold: a revocation is effective everywhere within this.
const PROMISE: Duration = Duration::from_secs(5);
/// An opening that was not answered after this long was dropped; one that is allowed takes a few milliseconds.
const OPENING: Duration = Duration::from_millis(400);

/// Opens a connection from the web server of east, where somebody answers.
fn open(fleet: &Fleet, to: SocketAddr) -> Option<TcpStream> {
    streams::open(&netns(fleet, &workload("east/shop/web-0")), to, OPENING).ok()
}

fn is_alive(stream: &mut TcpStream) -> bool {
    round(stream).is_ok()
}

#[test]
fn a_revoked_cluster_is_out_within_seconds_and_stays_out() {
    if !may_build_labs() {
        return;
    }
    // No servers: the test's own takes the database's port.
    let mut fleet = build("revoke", shipped_fleet().path(), Underlay::V4);
    fleet.guard("up").unwrap();
    fleet.start_agents().unwrap();
    fleet.wait_ready(&Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    let (east, west) = (cluster("east"), node("west/node-1"));
    let server = workload("west/shop/db-0");
    let address = SocketAddr::new(fleet.addresses(&server)[0], 5432);
    serve(&netns(&fleet, &server), 5432, "");
    let mut established = None;
    eventually("openings are allowed", || {
        established = open(&fleet, address);
        established.is_some()
    });
    let mut established = established.unwrap();
    assert!(is_alive(&mut established) && open(&fleet, address).is_some(), "allowed before");

    let told = meshctl_fleet(&fleet, "revoke", &["east"]);
    let revoked = Instant::now();
    println!("{told}");
    let (mut opening, mut flow) = (None, None);
    while opening.is_none() || flow.is_none() {
        if opening.is_none() && open(&fleet, address).is_none() {
            opening = Some(revoked.elapsed());
        }
        if flow.is_none() && !is_alive(&mut established) {
            flow = Some(revoked.elapsed());
        }
        assert!(revoked.elapsed() < PROMISE + PATIENCE, "still allowed: opening {opening:?}, flow {flow:?}");
    }
    println!(
        "denied after the revocation was in the stores: openings {opening:?}, the established flow {flow:?} (found by silence of {OPENING:?})"
    );
    assert!(opening.max(flow) < Some(PROMISE), "openings {opening:?}, the established flow {flow:?}");

    // Nothing in its favour from here on: not after a while, not after a restart of who polices, not by signing again.
    let none = |fleet: &Fleet, established: &mut TcpStream| {
        assert!(open(fleet, address).is_none(), "an opening of the revoked cluster was allowed");
        assert!(!is_alive(established), "a flow of the revoked cluster went on");
    };
    (0..3).for_each(|_| none(&fleet, &mut established));
    let status = fleet.status(&west).unwrap();
    assert!(status.clusters.iter().all(|cluster| cluster.name != east), "{:?}", status.clusters);
    fleet.agent(&west).unwrap().kill().unwrap();
    fleet.start_agent(&west).unwrap();
    eventually("the agent is ready again", || {
        none(&fleet, &mut established);
        fleet.status(&west).is_ok_and(|status| status.health.ready)
    });
    name_keys(&fleet, &["east", "west"]);
    let again = meshctl_fleet(&fleet, "grant", &[]);
    assert!(again.contains("cluster east is revoked below epoch 1"), "{again}");
    (0..3).for_each(|_| none(&fleet, &mut established));

    // A grant of the new epoch lets it back in.
    let path = desired(&fleet).join("fleet.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\n  east:\n", "\n  east:\n    epoch: 1\n")).unwrap();
    meshctl_fleet(&fleet, "grant", &[]);
    eventually("openings are allowed again", || open(&fleet, address).is_some());
    finish(fleet);
}

/// The manifests of a third cluster: one node, one workload that may ask the database of west.
fn write_north(directory: &Path) {
    let north = directory.join("clusters/north");
    fs::create_dir_all(&north).unwrap();
    let east = directory.join("clusters/east");
    let adapt = |text: String| text.replace("10.1.", "10.3.").replace("172.31.1", "172.31.3").replace("fd00:31:1", "fd00:31:3");
    for (from, to) in [("nodes.yaml", "nodes.yaml"), ("web-0.yaml", "web-0.yaml"), ("namespaces.yaml", "namespaces.yaml")] {
        let text = adapt(fs::read_to_string(east.join(from)).unwrap().replace("fd00:10:1:", "fd00:10:3:"));
        let one = if from == "nodes.yaml" { text.split("\n---\n").next().unwrap().to_owned() + "\n" } else { text };
        fs::write(north.join(to), one).unwrap();
    }
    let path = directory.join("fleet.yaml");
    let grant = "  north:\n    prefixes: [10.3.0.0/16, \"fd00:10:3::/48\"]\n    namespaces: [shop, guest]\n";
    fs::write(&path, fs::read_to_string(&path).unwrap() + grant).unwrap();
}

#[test]
fn a_third_cluster_joins_a_running_fleet() {
    if !may_build_labs() {
        return;
    }
    let directory = shipped_fleet();
    write_north(directory.path());
    // Nothing of east matters to north; that it hears of it all the same, and has a tunnel to it, is asked for.
    let mut fleet = build_with(directory.path(), FleetOptions { interest: InterestConfig::Wide, ..options("join") });
    // The lab made its machines; of the fleet it is no part: no key, no grant, in no file.
    let north = cluster("north");
    fs::remove_file(fleet.cluster_key(&north)).unwrap();
    for name in ["east", "north", "west"] {
        let _ = fs::remove_file(fleet.store(&cluster(name)).join("fleet/grant__north.rec"));
    }
    let path = desired(&fleet).join("fleet.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.find("  north:\n").unwrap()]).unwrap();
    name_keys(&fleet, &["east", "west"]);
    fleet.guard("up").unwrap();
    fleet.start_servers().unwrap();
    let all = fleet.nodes();
    for node in all.iter().filter(|node| node.cluster != north) {
        fleet.start_agent(node).unwrap();
    }
    let db = "http://10.2.1.10:5432/";
    fetch_until(&fleet, "east/shop/web-0", db, ProbeResult::is_ok);

    // In the cluster: one command, one file. The root's owner: one command.
    let key = fleet.cluster_key(&north);
    let output = Command::new(meshctl())
        .args(["fleet", "join"])
        .arg(desired(&fleet))
        .args(["--cluster", "north", "--prefix", "10.3.0.0/16", "--prefix", "fd00:10:3::/48"])
        .args(["--namespace", "shop", "--key"])
        .arg(&key)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let granted = meshctl_fleet(&fleet, "grant", &[]);
    assert!(granted.contains("signed fleet/grant__north.rec"), "{granted}");
    assert!(!granted.contains("signed fleet/grant__east"), "nobody else is signed again: {granted}");
    for node in all.iter().filter(|node| node.cluster == north) {
        fleet.start_agent(node).unwrap();
    }
    fleet.wait_ready(&Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    let result = fetch_until(&fleet, "north/shop/web-0", db, ProbeResult::is_ok);
    assert_eq!(result.field("server").unwrap(), "west/shop/db-0");
    // Its own grant has no namespace guest, whatever its manifests have.
    let east = fleet.status(&node("east/node-2")).unwrap();
    assert_eq!(east.clusters.len(), 3);

    // Every node says which fleet policies it has in force, and every node hears of all clusters.
    eventually("the policies are active everywhere", || {
        let policies = fleet.status(&node("east/node-2")).unwrap().policies.unwrap();
        (policies.active, policies.clusters) == (3, 3)
    });
    let shown = meshctl_fleet(&fleet, "show", &[]);
    println!("{shown}{}", meshctl_fleet(&fleet, "verify", &[]));
    assert!(shown.contains("active in 3 of 3"), "{shown}");
    fetch_until(&fleet, "east/shop/web-0", db, ProbeResult::is_ok);
    finish(fleet);
}
