//! Two agents of a cluster may publish: one does, and when it is killed the other one.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::fs;
use std::net::IpAddr;

use common::manifests::pod;
use common::streams::{Traffic, netns, serve};
use common::{
    build_with, configure, eventually, finish, kill, may_build_labs, node, options, shipped_fleet, workload, workloads,
};
use landbridge::api::StateSummary;
use landbridge::config::InterestConfig;
use landbridge::lab::Cancel;
use landbridge::lab::fleet::{Fleet, FleetOptions};
use mesh_core::NodeId;

fn has(fleet: &Fleet, node: &NodeId, role: &str) -> bool {
    fleet.status(node).unwrap().roles.contains(&role.to_owned())
}

/// How many lives of a publisher the agents of a node began.
fn lives(fleet: &Fleet, node: &NodeId) -> usize {
    fleet.agent(node).unwrap().log().unwrap().matches("the claim is won").count()
}

/// A workload more in east; the other cluster hears of it.
fn change(fleet: &Fleet, number: usize) {
    let text = pod("shop", "more", &format!("10.1.2.{}", 100 + number), 8080);
    fleet.write_manifest("east", &format!("more-{number}.yaml"), &text).unwrap();
    for west in ["west/node-1", "west/node-2"] {
        // Web, web of node-2, cart and outsider are there from the beginning.
        eventually("the change is known in the other cluster", || workloads(fleet, &node(west), "east") == 4 + number);
    }
}

/// The addresses of what the fleet offers, as a node of east sees them.
fn services(fleet: &Fleet, node: &NodeId) -> Vec<(String, Vec<IpAddr>)> {
    let state: StateSummary = fleet.ask(node, "/state").unwrap();
    state.services.into_iter().map(|service| (service.id, service.addresses)).collect()
}

#[test]
fn the_other_one_publishes_when_the_publisher_is_killed() {
    if !may_build_labs() {
        return;
    }
    let directory = shipped_fleet();
    fs::write(directory.path().join("clusters/east/web-2.yaml"), pod("shop", "web", "10.1.2.11", 8080)).unwrap();
    // To count workloads, every node follows all of them.
    let mut fleet = build_with(directory.path(), FleetOptions { interest: InterestConfig::Wide, ..options("takeover") });
    let nodes = ["east/node-1", "east/node-2"].map(node);
    let (mut publisher, mut mirror) = (None, None);
    configure(&fleet, &nodes[0], |config| (publisher, mirror) = (config.publisher.clone(), config.mirror.clone()));
    configure(&fleet, &nodes[1], |config| (config.publisher, config.mirror) = (publisher, mirror));
    fleet.guard("up").unwrap();
    fleet.start_agents().unwrap();
    fleet.wait_ready(&Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    eventually("one publishes", || nodes.iter().any(|node| has(&fleet, node, "publisher")));
    let [first, second] = if has(&fleet, &nodes[0], "publisher") { [0, 1] } else { [1, 0] }.map(|at| &nodes[at]);
    assert!(has(&fleet, second, "standby"));
    eventually("the database has its address", || services(&fleet, second).iter().any(|(id, _)| id == "shop/db"));
    change(&fleet, 1);
    let before = services(&fleet, second);

    serve(&netns(&fleet, &workload("west/shop/db-0")), 5432, "");
    let client = if second.name.as_str() == "node-1" { "east/shop/web-0" } else { "east/shop/web-11" };
    let traffic = Traffic::start(&fleet, client, "west/shop/db-0", 5432);
    kill(&fleet, first);
    eventually("the other one publishes", || has(&fleet, second, "publisher"));
    change(&fleet, 2);
    traffic.goes_on();

    // The one that was killed stands by when it is back, whatever changes.
    fleet.start_agent(first).unwrap();
    fleet.wait_node_ready(first, &Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    change(&fleet, 3);
    for number in 4..=6 {
        change(&fleet, number);
        assert!(has(&fleet, first, "standby") && has(&fleet, second, "publisher"));
    }
    assert_eq!((lives(&fleet, first), lives(&fleet, second)), (1, 1));
    println!("{:?}", traffic.finish());

    // And takes over in its turn, from what it finds: what it remembers itself is old by now.
    kill(&fleet, second);
    eventually("the first one publishes again", || has(&fleet, first, "publisher"));
    change(&fleet, 7);
    assert_eq!(services(&fleet, first), before);
    fleet.start_agent(second).unwrap();
    fleet.wait_node_ready(second, &Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    change(&fleet, 8);
    eventually("one publishes and one stands by", || has(&fleet, first, "publisher") && has(&fleet, second, "standby"));
    for each in fleet.nodes() {
        let status = fleet.status(&each).unwrap();
        assert!(!status.refusals.contains_key("equivocation"), "{each}: {:?}", status.refusals);
    }
    finish(fleet);
}
