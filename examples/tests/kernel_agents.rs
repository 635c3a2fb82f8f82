//! A fleet whose nodes have the kernel tunnel.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::time::Duration;

use common::{
    agent, build_with, configure, eventually, fetch_until, finish, kill, may_build_labs, node, options, shipped_fleet, workload,
};
use landbridge::config::{InterestConfig, TunnelSetting};
use landbridge::lab::Cancel;
use landbridge::lab::fleet::FleetOptions;
use mesh_lab::probe::ProbeResult;
use mesh_wireguard::KernelTunnel;

const DB: &str = "http://db.shop.svc.clusterset.local:5432/";

/// Tells whether this machine's kernel has what the tunnel needs; where the guest runs the test, too, it is no failure here.
fn has_kernel_tunnel() -> bool {
    let Err(error) = KernelTunnel::check() else { return true };
    let is_deferred = std::env::var_os("MESH_KERNEL_TESTS").is_some_and(|value| value == "guest");
    assert!(is_deferred || std::env::var_os("MESH_REQUIRE_ALL").is_none(), "MESH_REQUIRE_ALL is set, and: {error}");
    let text = format!("\n{}: {error}\n", if is_deferred { "DEFERRED" } else { "SKIPPED" });
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    false
}

#[test]
fn agents_choose_the_kernel_tunnel_which_goes_on_without_them() {
    if !has_kernel_tunnel() || !may_build_labs() {
        return;
    }
    let mut fleet = build_with(shipped_fleet().path(), FleetOptions { interest: InterestConfig::Wide, ..options("kernel") });
    let nodes = ["east/node-1", "east/node-2", "west/node-1", "west/node-2"].map(node);
    for node in &nodes {
        configure(&fleet, node, |config| config.tunnel = TunnelSetting::Auto);
    }
    fleet.guard("up").unwrap();
    fleet.start_agents().unwrap();
    fleet.start_servers().unwrap();
    fleet.wait_ready(&Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    for node in &nodes {
        let status = fleet.status(node).unwrap();
        assert_eq!((&*status.tunnel, &*status.tunnel_reason), ("kernel", "the kernel has WireGuard and nftables"), "{node}");
    }
    let is_denied = |fleet: &landbridge::lab::fleet::Fleet| {
        let report = workload("west/shop/report-0");
        !fleet.probe(&report, "http://10.2.1.10:5432/", Duration::from_secs(2)).unwrap().is_ok()
    };
    fetch_until(&fleet, "east/shop/web-0", DB, ProbeResult::is_ok);
    assert!(is_denied(&fleet), "db-in lets nobody but web in, on its node, too");

    // Without agents what was allowed is allowed, and nothing else; the next ones take over.
    let (east, west) = (node("east/node-1"), node("west/node-1"));
    for _ in 0..2 {
        [&east, &west].iter().for_each(|node| kill(&fleet, node));
        fetch_until(&fleet, "east/shop/web-0", "http://10.2.1.10:5432/", ProbeResult::is_ok);
        assert!(is_denied(&fleet), "no agent");
        [&east, &west].iter().for_each(|node| fleet.start_agent(node).unwrap());
        [&east, &west].iter().for_each(|node| fleet.wait_node_ready(node, &Cancel::default()).unwrap());
        fetch_until(&fleet, "east/shop/web-0", DB, ProbeResult::is_ok);
        assert!(is_denied(&fleet), "the next agent");
    }

    // Back to the user tunnel, and down.
    kill(&fleet, &east);
    configure(&fleet, &east, |config| config.tunnel = TunnelSetting::User);
    fleet.start_agent(&east).unwrap();
    fleet.wait_node_ready(&east, &Cancel::default()).unwrap();
    assert_eq!(fleet.status(&east).unwrap().tunnel, "user");
    fetch_until(&fleet, "east/shop/web-0", DB, ProbeResult::is_ok);
    kill(&fleet, &west);
    let config = fleet.socket(&west).with_file_name("agent.yaml");
    let down = fleet.command_on(&west, &agent()).unwrap().args(["guard", "down", "--config"]).arg(&config).output().unwrap();
    assert!(down.status.success(), "{down:?}");
    eventually("nothing of the kernel tunnel is left", || {
        let links = fleet.command_on(&west, std::path::Path::new("ip")).unwrap().args(["link", "show"]).output().unwrap();
        let tables = fleet.command_on(&west, std::path::Path::new("nft")).unwrap().args(["list", "tables"]).output().unwrap();
        let text = String::from_utf8_lossy(&[links.stdout, tables.stdout].concat()).into_owned();
        !text.contains("landbridge0") && !text.contains("landbridge-policy")
    });
    finish(fleet);
}
