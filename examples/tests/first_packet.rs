//! A packet that comes before its identity: held, its identity pulled from the node that it came from, and decided.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::process::Command;
use std::time::Duration;

use common::{configure, demo_fleet, eventually, fetch_until, finish, kill, may_build_labs, node, workload};
use landbridge::config::MirrorConfig;
use landbridge::lab::Cancel;
use landbridge::lab::fleet::Fleet;
use mesh_core::{FlowEvent, FlowRecord};
use mesh_lab::probe::ProbeResult;

const DB: &str = "http://10.2.1.10:5432/";
const DB_V6: &str = "http://[fd00:10:2:1::10]:5432/";
/// West, whose database is asked for, and whose mirror stops.
const WEST: &str = "west/node-1";

/// Adds a workload to a node of east, as its cluster does: from here on it may send.
fn add(fleet: &mut Fleet, namespace: &str, app: &str, last: u8) -> String {
    let name = format!("{app}-{last}");
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: node-1, containers: [{{name: main, ports: [{{containerPort: 8080}}]}}]}}\n\
         status: {{podIPs: [{{ip: 10.1.1.{last}}}, {{ip: \"fd00:10:1:1::{last}\"}}]}}\n"
    );
    fleet.write_manifest("east", &format!("{name}.yaml"), &text).unwrap();
    fleet.sync_workloads().unwrap();
    format!("east/{namespace}/{name}")
}

/// Starts the agent of west anew, with this mirror or without; returns the one before.
fn set_mirror(fleet: &mut Fleet, mirror: Option<MirrorConfig>) -> Option<MirrorConfig> {
    let west = node(WEST);
    kill(fleet, &west);
    let mut before = None;
    configure(fleet, &west, |config| before = std::mem::replace(&mut config.mirror, mirror));
    fleet.start_agent(&west).unwrap();
    fleet.wait_node_ready(&west, &Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    before
}

/// Lets west ask nobody, or lets it ask again.
fn set_questions(fleet: &Fleet, may_ask: bool) {
    let netns = fleet.lab().node("west", "node-1").unwrap();
    let verb = if may_ask { "del" } else { "add" };
    for family in ["-4", "-6"] {
        let arguments = ["-n", netns.name(), family, "rule", verb, "ipproto", "tcp", "dport", "7300", "blackhole", "pref", "10"];
        let status = Command::new("ip").args(arguments).status().unwrap();
        assert!(status.success(), "ip {arguments:?}");
    }
}

fn count(fleet: &Fleet, of: impl Fn(&landbridge::api::Status) -> Option<u64>) -> u64 {
    of(&fleet.status(&node(WEST)).unwrap()).unwrap_or(0)
}

/// What every node says of itself, for whoever has to find out why.
fn account(fleet: &Fleet) -> String {
    let of_node = |node: mesh_core::NodeId| {
        let status = fleet.status(&node).unwrap();
        let (holds, pulls) = (&status.holds, &status.pulls);
        format!("{node}: holds {holds:?}, pulls {pulls:?}, drops {:?}, refused {:?}\n", status.drops, status.refusals)
    };
    fleet.nodes().into_iter().map(of_node).collect()
}

/// What west's node tells of packets from a workload, by name.
fn told(fleet: &Fleet, of: &str) -> Vec<FlowRecord> {
    let (of, west) = (workload(of), node(WEST));
    let addresses = fleet.addresses(&of);
    let mut flows = fleet.flows().unwrap();
    flows.retain(|flow| flow.node == west && addresses.contains(&flow.source.address));
    flows
}

#[test]
fn a_first_packet_waits_for_its_identity_and_is_decided_right() {
    if !may_build_labs() {
        return;
    }
    let mut fleet = demo_fleet("first-packet");
    fetch_until(&fleet, "east/shop/web-0", DB, ProbeResult::is_ok);
    let mirror = set_mirror(&mut fleet, None);

    // Allowed, in both families: the first try succeeds, though west's store will never have the record.
    for (last, url) in [(51, DB), (52, DB_V6)] {
        let before = count(&fleet, |status| status.holds.get("held").copied());
        let web = add(&mut fleet, "shop", "web", last);
        let result = fleet.probe(&workload(&web), url, Duration::from_secs(20)).unwrap();
        assert!(result.is_ok(), "{result:?}\n{}", account(&fleet));
        eventually("the held packet is counted", || count(&fleet, |status| status.holds.get("held").copied()) > before);
        let held = count(&fleet, |status| status.holds.get("held").copied()) - before;
        println!("{url}: {held} packet(s) held, answered after {} ms", result.elapsed_ms);
        let is_opened = |flow: &FlowRecord| flow.event == FlowEvent::Opened;
        eventually("the opening is told", || told(&fleet, &web).iter().any(is_opened));
        let flows = told(&fleet, &web);
        assert!(flows.iter().all(|flow| flow.allowed), "{flows:#?}");
        let opened = flows.iter().find(|flow| is_opened(flow)).expect("it was told");
        assert_eq!(opened.rule.as_deref(), Some("west/NetworkPolicy/shop/db-in/ingress[0]"));
        assert_eq!(opened.source.workload, Some(workload(&web)));
    }
    eventually("the pulls are counted", || count(&fleet, |status| status.pulls.get("pulled").copied()) >= 2);
    assert!(fleet.metrics(&node(WEST)).unwrap().contains("landbridge_held_packets_total{outcome=\"released\"}"));

    // Denied, by the rule that denies it and not by ignorance.
    for (namespace, app, last, rule) in
        [("guest", "outsider", 61, Some("west/ClusterNetworkPolicy/guests-stay-out/ingress[0]")), ("shop", "stranger", 62, None)]
    {
        let denied = add(&mut fleet, namespace, app, last);
        let result = fleet.probe(&workload(&denied), DB, Duration::from_millis(2500)).unwrap();
        assert!(!result.is_ok(), "{result:?}");
        eventually("the denial is told", || !told(&fleet, &denied).is_empty());
        for flow in told(&fleet, &denied) {
            assert!(!flow.allowed && flow.rule.as_deref() == rule && flow.reason != "identity-pending", "{flow:#?}");
            assert_eq!(flow.source.workload, Some(workload(&denied)));
        }
    }

    // The other way: who is to get it is asked for as well. Nothing exports this workload, which says its own reason.
    let server = add(&mut fleet, "shop", "server", 63);
    let address = fleet.addresses(&workload(&server))[0];
    let result =
        fleet.probe(&workload("west/shop/db-0"), &format!("http://{address}:8080/"), Duration::from_millis(2500)).unwrap();
    assert!(!result.is_ok(), "{result:?}");
    let told_of_server = || {
        let mut flows = fleet.flows().unwrap();
        flows.retain(|flow| flow.node == node(WEST) && flow.destination.address == address);
        flows
    };
    eventually("the denial is told", || !told_of_server().is_empty());
    for flow in told_of_server() {
        assert_eq!((flow.reason.as_str(), &flow.destination.workload), ("not-exported", &Some(workload(&server))));
    }

    // Nobody can be asked: the packets wait in vain, which is counted, and the record comes when the mirror does.
    set_questions(&fleet, false);
    let web = add(&mut fleet, "shop", "web", 53);
    let result = fleet.probe(&workload(&web), DB, Duration::from_secs(4)).unwrap();
    assert!(!result.is_ok(), "{result:?}");
    eventually("what waited in vain is counted", || {
        let dropped = count(&fleet, |status| status.drops.get("identity-pending").copied());
        let expired = count(&fleet, |status| status.holds.get("expired").copied());
        dropped > 0 && expired > 0 && count(&fleet, |status| status.pulls.get("failed").copied()) > 0
    });
    assert!(told(&fleet, &web).iter().all(|flow| flow.reason == "identity-pending" && !flow.allowed));
    set_mirror(&mut fleet, mirror);
    fetch_until(&fleet, &web, DB, ProbeResult::is_ok);
    set_questions(&fleet, true);
    finish(fleet);
}
