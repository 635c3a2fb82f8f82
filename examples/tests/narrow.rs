//! Agents that follow what can matter to their node, and no more: real agents of three clusters.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::manifests::{exported_service, namespace, network_policy, node as node_manifest, pod, write_fleet};
use common::{build, configure, eventually, fetch_until, finish, may_build_labs, node, workload};
use landbridge::api::StateSummary;
use landbridge::config::InterestConfig;
use landbridge::lab::fleet::Fleet;
use landbridge::lab::nodes::Underlay;
use mesh_core::FlowRecord;
use mesh_lab::probe::{ProbeFailure, ProbeResult};

const DB: &str = "http://db.shop.svc.clusterset.local:5432/";
const DB_ADDRESS: &str = "http://10.2.1.10:5432/";
/// The node of the database: narrow, as all but the next.
const NARROW: &str = "west/node-1";
/// Its neighbour follows everything, to compare.
const WIDE: &str = "west/node-2";

/// West exports a database to whoever has the namespace shop: east has it, and north has not.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let east = namespace("shop")
        + &namespace("guest")
        + &namespace("team")
        + &node_manifest(1, 1)
        + &pod("shop", "web", "10.1.1.10", 8080)
        + &pod("guest", "visitor", "10.1.1.20", 8080)
        + &pod("team", "stranger", "10.1.1.30", 8080);
    let west = namespace("shop")
        + &node_manifest(2, 1)
        + &node_manifest(2, 2)
        + &pod("shop", "db", "10.2.1.10", 5432)
        + &exported_service("shop", "db", "10.2.1.10", 5432);
    let north = namespace("ops") + &node_manifest(3, 1) + &pod("ops", "tool", "10.3.1.10", 8080);
    let grant = |number: u8, namespaces: &str| {
        format!(
            "{{prefixes: [10.{number}.0.0/16], service_prefixes: [100.80.{number}.0/24], namespaces: [{namespaces}], exports: [shop/*]}}"
        )
    };
    let clusters = [
        ("east", &*grant(1, "shop, guest, team"), east),
        ("west", &*grant(2, "shop"), west),
        ("north", &*grant(3, "shop, ops"), north),
    ];
    write_fleet(directory.path(), "narrow", &clusters);
    directory
}

fn facts(fleet: &Fleet, of: &str) -> BTreeMap<String, usize> {
    fleet.ask::<StateSummary>(&node(of), "/state").unwrap().facts
}

fn knows(fleet: &Fleet, kind: &str, count: usize) -> bool {
    facts(fleet, NARROW).get(kind) == Some(&count)
}

fn count(fleet: &Fleet, of: impl Fn(&landbridge::api::Status) -> Option<u64>) -> u64 {
    of(&fleet.status(&node(NARROW)).unwrap()).unwrap_or(0)
}

/// What the database's node tells of packets from a workload.
fn told(fleet: &Fleet, of: &str) -> Vec<FlowRecord> {
    let addresses = fleet.addresses(&workload(of));
    let mut flows = fleet.flows().unwrap();
    flows.retain(|flow| flow.node == node(NARROW) && addresses.contains(&flow.source.address));
    flows
}

fn dropped(result: &ProbeResult) -> bool {
    result.failure == Some(ProbeFailure::Timeout)
}

#[test]
fn agents_follow_what_can_matter_and_decide_as_if_they_knew_everything() {
    if !may_build_labs() {
        return;
    }
    let mut fleet = build("narrow", directory().path(), Underlay::V4);
    configure(&fleet, &node(WIDE), |config| config.interest = InterestConfig::Wide);
    fleet.guard("up").unwrap();
    fleet.start_agents().unwrap();
    fleet.start_servers().unwrap();

    // A service of another cluster, by its name.
    let result = fetch_until(&fleet, "east/shop/web-10", DB, ProbeResult::is_ok);
    assert_eq!(result.field("server").unwrap(), "west/shop/db-10");
    for each in fleet.nodes() {
        eventually("ready", || fleet.status(&each).is_ok_and(|status| status.health.ready));
    }
    // Of north nothing is known; of east the nodes, the namespaces, and who is in the namespace that is exported to it.
    eventually("the wide one knows all", || facts(&fleet, WIDE)["workloads"] == 5 && facts(&fleet, WIDE)["nodes"] == 4);
    let of = |node: &str| ["workloads", "nodes", "namespaces", "grants"].map(|kind| facts(&fleet, node)[kind]);
    eventually("the narrow one knows a part", || (of(NARROW), of(WIDE)) == ([2, 3, 4, 3], [5, 4, 5, 3]));
    println!("narrow {:?}\nwide   {:?}", facts(&fleet, NARROW), facts(&fleet, WIDE));
    let peers = |of: &str| fleet.peers(&node(of)).unwrap().into_iter().map(|peer| peer.node.cluster.to_string());
    assert!(peers(NARROW).all(|cluster| cluster != "north") && peers(WIDE).any(|cluster| cluster == "north"));
    let result = fleet.probe(&workload("north/ops/tool-10"), DB, Duration::from_secs(2)).unwrap();
    assert_eq!(result.failure, Some(ProbeFailure::NameNotFound), "north has no such namespace");

    // The export lets every namespace of east in, and nobody followed this one: its first packet waits for its identity.
    let held = count(&fleet, |status| status.holds.get("held").copied());
    let result = fleet.probe(&workload("east/guest/visitor-20"), DB_ADDRESS, Duration::from_secs(20)).unwrap();
    assert!(result.is_ok(), "{result:?}");
    println!("a first packet was held, and answered after {} ms", result.elapsed_ms);
    eventually("it was held", || count(&fleet, |status| status.holds.get("held").copied()) > held);
    eventually("it was pulled", || count(&fleet, |status| status.pulls.get("pulled").copied()) >= 1);
    eventually("it is told", || !told(&fleet, "east/guest/visitor-20").is_empty());
    for flow in told(&fleet, "east/guest/visitor-20") {
        assert_eq!((flow.allowed, &flow.source.workload), (true, &Some(workload("east/guest/visitor-20"))), "{flow:#?}");
    }

    // A policy that names the tools of north, and one there that lets them call: both sides begin to follow each other.
    let shop = "[{namespaceSelector: {matchLabels: {team: shop}}, podSelector: {matchLabels: {app: web}}}, \
                {namespaceSelector: {matchLabels: {team: ops}}}]";
    let tool = || fleet.probe(&workload("north/ops/tool-10"), DB_ADDRESS, Duration::from_secs(1)).unwrap();
    assert!(dropped(&tool()));
    fleet.write_manifest("west", "db-in.yaml", &network_policy("shop", "db-in", "db", ("ingress", shop))).unwrap();
    let shop = "[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}]";
    fleet.write_manifest("north", "tool-out.yaml", &network_policy("ops", "tool-out", "tool", ("egress", shop))).unwrap();
    fetch_until(&fleet, "north/ops/tool-10", DB_ADDRESS, ProbeResult::is_ok);
    eventually("north is followed", || knows(&fleet, "nodes", 4) && knows(&fleet, "workloads", 4));

    // Whom the policy lets nobody in for is denied by it, and not by ignorance: its identity was asked for as well.
    let result = fleet.probe(&workload("east/team/stranger-30"), DB_ADDRESS, Duration::from_millis(2500)).unwrap();
    assert!(dropped(&result), "{result:?}");
    eventually("the denial is told", || !told(&fleet, "east/team/stranger-30").is_empty());
    for flow in told(&fleet, "east/team/stranger-30") {
        assert_eq!((flow.allowed, &*flow.reason), (false, "isolated-by-network-policy"), "{flow:#?}");
        assert_eq!(flow.source.workload, Some(workload("east/team/stranger-30")));
    }

    // A workload in the exported namespace makes a service appear in north, by name, and west let it in.
    let web = namespace("shop") + &pod("shop", "web", "10.3.1.20", 8080);
    fleet.write_manifest("north", "web.yaml", &web).unwrap();
    fleet.sync_workloads().unwrap();
    fetch_until(&fleet, "north/shop/web-20", DB, ProbeResult::is_ok);
    eventually("it is followed", || knows(&fleet, "workloads", 6));

    // Who takes the visitor's place is denied by the policy of now: what was pulled once is followed for a while.
    let visitor = fleet.read_manifest("east", "all.yaml").unwrap();
    fleet
        .write_manifest("east", "all.yaml", &visitor.replace("10.1.1.20", "10.1.1.21").replace("visitor-20", "visitor-21"))
        .unwrap();
    fleet.sync_workloads().unwrap();
    eventually("the change is known", || {
        let pulled: Vec<String> = told(&fleet, "east/guest/visitor-21").into_iter().map(|flow| flow.reason).collect();
        let result = fleet.probe(&workload("east/guest/visitor-21"), DB_ADDRESS, Duration::from_secs(1)).unwrap();
        assert!(dropped(&result), "{result:?}");
        pulled.iter().any(|reason| reason == "isolated-by-network-policy")
    });
    fetch_until(&fleet, "east/shop/web-10", DB, ProbeResult::is_ok);
    finish(fleet);
}
