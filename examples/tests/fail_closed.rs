//! Nothing leaves a node in plaintext, and nothing denied arrives.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::time::Duration;

use common::{build, demo_fleet, eventually, fetch_until, finish, may_build_labs, node, shipped_fleet, start, workload};
use landbridge::lab::Cancel;
use landbridge::lab::nodes::Underlay;
use mesh_lab::probe::ProbeResult;
use mesh_lab::{Capture, CaptureFilter, CaptureOptions};

const DB: &str = "http://10.2.1.10:5432/";
const DB_V6: &str = "http://[fd00:10:2:1::10]:5432/";
const SHORT: Duration = Duration::from_millis(400);

/// The control: the underlay does route the fleet's prefixes, so a test that sees no plaintext has seen something.
#[test]
fn without_the_guard_the_underlay_carries_plaintext() {
    if !may_build_labs() {
        return;
    }
    let fleet = build("unguarded", shipped_fleet().path(), Underlay::V4);
    let capture = fleet.capture_underlay().unwrap();
    fleet.start_servers().unwrap();
    let result = fetch_until(&fleet, "east/shop/web-0", DB, ProbeResult::is_ok);
    assert!(result.is_ok());
    fetch_until(&fleet, "east/shop/web-0", DB_V6, ProbeResult::is_ok);
    let report = capture.stop().unwrap();
    assert!(report.other > 0 && report.wireguard == 0, "{report}");
    finish(fleet);
}

#[test]
fn with_the_guard_there_is_no_plaintext_before_during_and_after_the_agents() {
    if !may_build_labs() {
        return;
    }
    let mut fleet = build("guarded", shipped_fleet().path(), Underlay::V4);
    let capture = fleet.capture_underlay().unwrap();
    fleet.guard("up").unwrap();
    fleet.start_servers().unwrap();
    let try_both = |fleet: &landbridge::lab::fleet::Fleet| {
        for url in [DB, DB_V6, "http://db.shop.svc.clusterset.local:5432/", "http://100.80.200.200:80/", "http://10.1.2.10:8080/"]
        {
            let result = fleet.probe(&workload("east/shop/web-0"), url, SHORT).unwrap();
            assert!(!result.is_ok(), "no agent runs, and {url} answered: {result:?}");
        }
    };
    try_both(&fleet);
    start(&mut fleet);
    fetch_until(&fleet, "east/shop/web-0", DB, ProbeResult::is_ok);
    fetch_until(&fleet, "east/shop/web-0", DB_V6, ProbeResult::is_ok);
    // No service has this address: it belongs to the fleet all the same, and must not leave by the default route.
    fleet.probe(&workload("east/shop/web-0"), "http://100.80.200.200:80/", SHORT).unwrap();
    for node in fleet.nodes() {
        fleet.agent(&node).unwrap().kill().unwrap();
        eventually("the agent is dead", || !fleet.agent(&node).unwrap().is_running());
    }
    try_both(&fleet);
    let report = capture.stop().unwrap();
    assert!(report.is_clean() && report.by_type.data > 0, "{report}");
    fleet.down().unwrap();
}

/// Between policy load and shutdown no packet of a denied connection is seen in the destination's namespace.
#[test]
fn a_denied_connection_never_arrives() {
    if !may_build_labs() {
        return;
    }
    let fleet = demo_fleet("denied");
    let from = fleet.addresses(&workload("east/guest/outsider-0"));
    let netns = fleet.lab().workload("west", "shop", "db-0").unwrap();
    let captures: Vec<_> = from
        .iter()
        .map(|address| {
            let options = CaptureOptions { filter: Some(CaptureFilter::default().from(*address)), ..CaptureOptions::default() };
            Capture::start_with(&netns, options).unwrap()
        })
        .collect();
    let web = fleet.addresses(&workload("east/shop/web-0"))[0];
    let allowed = CaptureOptions { filter: Some(CaptureFilter::default().from(web)), ..CaptureOptions::default() };
    let allowed = Capture::start_with(&netns, allowed).unwrap();
    let original = fleet.read_manifest("west", "db-in.yaml").unwrap();
    for round in 0..6 {
        for url in [DB, DB_V6] {
            let result = fleet.probe(&workload("east/guest/outsider-0"), url, SHORT).unwrap();
            assert!(!result.is_ok(), "{result:?}");
        }
        // Policy changes all the while, between two that both deny the outsider.
        let edited = original.replace("app: web", if round % 2 == 0 { "app: report" } else { "app: web" });
        fleet.write_manifest("west", "db-in.yaml", &edited).unwrap();
    }
    fleet.write_manifest("west", "db-in.yaml", &original).unwrap();
    fetch_until(&fleet, "east/shop/web-0", DB, ProbeResult::is_ok);
    for capture in captures {
        let report = capture.stop().unwrap();
        assert!(report.matched == 0 && report.drops == 0, "{report}");
    }
    assert!(allowed.stop().unwrap().matched > 0, "the capture sees what is allowed");
    finish(fleet);
}

/// A restart takes nothing of the guard away, not even for a moment.
#[test]
fn restarting_an_agent_opens_nothing() {
    if !may_build_labs() {
        return;
    }
    let mut fleet = demo_fleet("restart-guard");
    let capture = fleet.capture_underlay().unwrap();
    let east = node("east/node-1");
    for _ in 0..3 {
        fleet.agent(&east).unwrap().kill().unwrap();
        fleet.probe(&workload("east/shop/web-0"), DB, SHORT).unwrap();
        fleet.start_agent(&east).unwrap();
        fleet.wait_node_ready(&east, &Cancel::default()).unwrap();
        fetch_until(&fleet, "east/shop/web-0", DB, ProbeResult::is_ok);
    }
    let report = capture.stop().unwrap();
    assert!(report.is_clean(), "{report}");
    finish(fleet);
}
