//! Forwards packets between two nodes in memory: real WireGuard sessions, policy and flow records; no device, no socket.
//!
//!     cargo run -p landbridge --example forward

use std::error::Error;
use std::net::SocketAddr;

use mesh_core::manifest::Checked;
use mesh_core::{Change, Event, NodeLink, Now, Resource, SourceId};
use mesh_dataplane::{Actual, Planner, Scope};
use mesh_policy::Compiler;
use mesh_wireguard::NodeKey;
use mesh_wireguard::batch::{Datagrams, Output, Packets};
use mesh_wireguard::engine::Engine;
use mesh_wireguard::session::{BoringKey, BoringSession};

/// A node with one workload that only `app: web` may reach.
fn manifests(net: u8, app: &str) -> String {
    format!(
        "
{{apiVersion: v1, kind: Node, metadata: {{name: node}}, spec: {{podCIDRs: [10.{net}.0.0/24]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: {app}, namespace: shop, labels: {{app: {app}}}}}, spec: {{nodeName: node}}, status: {{podIP: 10.{net}.0.5}}}}
---
{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: web-only, namespace: shop}},
 spec: {{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: web}}}}}}]}}]}}}}
"
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    let (east, west) = (manifests(1, "web"), manifests(2, "db"));
    let files = [("clusters/east/all.yaml", east.as_str()), ("clusters/west/all.yaml", west.as_str())];
    let mut state = Checked::load(files).map_err(|errors| format!("{errors:#?}"))?.state;
    let (now, keys) = (Now::default(), [NodeKey::from_bytes([1; 32]), NodeKey::from_bytes([2; 32])]);
    let nodes = ["east/node", "west/node"];
    let addresses: [SocketAddr; 2] = ["192.0.2.1:51820".parse()?, "192.0.2.2:51820".parse()?];
    for ((node, key), address) in nodes.iter().zip(&keys).zip(addresses) {
        let link = NodeLink { id: node.parse()?, key: key.public(), next_key: None, endpoints: vec![address], overlay: vec![] };
        let _ = state.apply(Event::Set(SourceId("links".into()), Resource::NodeLink(link)), now);
    }
    let policy = Compiler::new().update(&state, &Change::default()).clone();

    // Each node plans for itself, and programs its engine with the difference to nothing. Handshakes begin at once.
    let mut outputs = [Output::new(), Output::new()];
    let mut engines = keys.map(|key| Engine::<BoringSession>::new(BoringKey::new(key)));
    for ((node, engine), output) in nodes.iter().zip(&mut engines).zip(&mut outputs) {
        for op in Planner::new(node.parse()?, Scope::Fleet).plan(&state, &policy).diff(&Actual::default()) {
            engine.apply(&op, now, output)?;
        }
    }
    carry(&mut engines, &mut outputs, addresses, now);

    for (from, name) in [(0, "web asks db"), (1, "db asks web, uninvited")] {
        let mut batch = Packets::new();
        batch.push(&datagram(from as u8 + 1, 2 - from as u8));
        engines[from].handle_tun(&batch, now, &mut outputs[from]);
        let arrived = carry(&mut engines, &mut outputs, addresses, now);
        println!("{name}: {arrived} packet(s) arrived");
    }
    for (node, engine) in nodes.iter().zip(&mut engines) {
        while let Some(flow) = engine.poll_flow() {
            let by = flow.rule.unwrap_or(flow.reason);
            println!("{node} {}: {} by {by}", flow.direction, if flow.allowed { "allowed" } else { "denied" });
        }
    }
    Ok(())
}

/// Carries datagrams between the engines until there are none; returns how many packets came out for a workload.
fn carry(engines: &mut [Engine<BoringSession>; 2], outputs: &mut [Output; 2], addresses: [SocketAddr; 2], now: Now) -> usize {
    let mut arrived = 0;
    while outputs.iter().any(|output| !output.datagrams.is_empty()) {
        for from in [0, 1] {
            let mut wire = Datagrams::new();
            outputs[from].datagrams.iter().for_each(|(_, bytes)| wire.push(addresses[from], bytes));
            outputs[from].clear();
            engines[1 - from].handle_udp(&wire, now, &mut outputs[1 - from]);
            arrived += outputs[1 - from].packets.len();
        }
    }
    arrived
}

/// A UDP datagram from 10.`from`.0.5 to 10.`to`.0.5, with nothing in it.
fn datagram(from: u8, to: u8) -> [u8; 28] {
    [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, from, 0, 5, 10, to, 0, 5, 0x9c, 0x40, 0, 53, 0, 8, 0, 0]
}
