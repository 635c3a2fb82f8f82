//! IPv4 and IPv6, inside the tunnel and outside of it.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use common::{build, fetch_until, finish, may_build_labs, shipped_fleet, start};
use landbridge::lab::nodes::Underlay;
use mesh_lab::probe::ProbeResult;

#[test]
fn both_families_cross_clusters_over_both_families() {
    if !may_build_labs() {
        return;
    }
    for (underlay, name) in [(Underlay::V4, "over-v4"), (Underlay::V6, "over-v6")] {
        let mut fleet = build(name, shipped_fleet().path(), underlay);
        let capture = fleet.capture_underlay().unwrap();
        start(&mut fleet);
        for url in ["http://10.2.1.10:5432/", "http://[fd00:10:2:1::10]:5432/", "http://db.shop.svc.clusterset.local:5432/"] {
            let result = fetch_until(&fleet, "east/shop/web-0", url, ProbeResult::is_ok);
            let client = result.field("client").unwrap();
            assert!(client.contains("10.1.1.10") || client.contains("fd00:10:1:1::10"), "the source address is kept: {client}");
        }
        for node in fleet.nodes() {
            let peers: Vec<landbridge::api::Peer> = fleet.peers(&node).unwrap();
            let expected = |peer: &landbridge::api::Peer| peer.endpoint.unwrap().is_ipv6() == (underlay == Underlay::V6);
            assert!(peers.len() == 3 && peers.iter().all(expected), "{node}: {peers:?}");
        }
        let report = capture.stop().unwrap();
        assert!(report.is_clean() && report.by_type.data > 0, "{report}");
        finish(fleet);
    }
}
