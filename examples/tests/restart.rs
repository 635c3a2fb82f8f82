//! Connections outlive the agents.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use common::{build, eventually, finish, kill, may_build_labs, node, shipped_fleet, workload};
use landbridge::lab::Cancel;
use landbridge::lab::nodes::Underlay;
use mesh_lab::transfer::{self, TransferOptions};

#[test]
fn a_transfer_across_clusters_finishes_while_both_agents_are_killed_and_restarted() {
    if !may_build_labs() {
        return;
    }
    // No servers: the transfer's own listener takes the database's port.
    let mut fleet = build("transfer", shipped_fleet().path(), Underlay::V4);
    fleet.guard("up").unwrap();
    fleet.start_agents().unwrap();
    fleet.wait_ready(&Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    let (client, server) = (workload("east/shop/web-0"), workload("west/shop/db-0"));
    let server_netns = fleet.lab().workload("west", "shop", "db-0").unwrap();
    let client_netns = fleet.lab().workload("east", "shop", "web-0").unwrap();
    let address = SocketAddr::new(fleet.addresses(&server)[0], 5432);
    let listener = server_netns.run(|| TcpListener::bind(address)).unwrap().unwrap();
    let options = TransferOptions { bytes: 8 << 20, rate: 1 << 20, seed: 7, stall: Duration::from_secs(60) };
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| transfer::receive(&listener, options.stall));
        let sender = scope.spawn(|| client_netns.run(|| transfer::send(address, options, |_| {})).unwrap());
        let (east, west) = (node("east/node-1"), node("west/node-1"));
        eventually("the transfer has begun", || {
            let flows = fleet.flows().unwrap();
            flows.iter().any(|flow| flow.source.workload.as_ref() == Some(&client) && flow.destination.port == 5432)
        });
        for agent in [&east, &west] {
            kill(&fleet, agent);
        }
        for agent in [&east, &west] {
            fleet.start_agent(agent).unwrap();
        }
        assert!(!sender.is_finished(), "the transfer was still going on when the agents died");
        for agent in [&east, &west] {
            fleet.wait_node_ready(agent, &Cancel::default()).unwrap();
        }
        let sent = sender.join().unwrap().unwrap();
        let received = receiver.join().unwrap().unwrap();
        println!("sent {sent:?}\nreceived {received:?}");
        assert_eq!((sent.bytes, sent.checksum), (received.bytes, received.checksum));
        assert_eq!(received.bytes, options.bytes);
    });
    let recovered = fleet.flows().unwrap().iter().any(|flow| flow.recovered && flow.destination.port == 5432);
    assert!(recovered, "the flow was taken up in the middle");
    finish(fleet);
}
