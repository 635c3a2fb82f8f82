//! Against wireguard-go, another implementation.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "common/netns.rs"]
mod netns;
#[path = "common/node.rs"]
mod node;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use netns::{Netns, eventually, possible};
use node::{Node, echo, introduce, reaches};

/// wireguard-go on the device `wg0` of a namespace; it is killed when this is dropped.
struct WireGuardGo {
    process: Child,
    socket: PathBuf,
}

impl Drop for WireGuardGo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl WireGuardGo {
    /// Starts it as node `own`, with `other` as its peer; `endpoint` where it shall begin.
    fn start(own: &Node, other: &Node, endpoint: Option<&str>) -> WireGuardGo {
        let device = format!("wg{}-{}", std::process::id() % 10_000_000, own.netns.tid() % 1000);
        let name = device.clone();
        let child = own.netns.run(move || {
            Command::new("wireguard-go").args(["-f", &name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        });
        let running = WireGuardGo { process: child, socket: format!("/var/run/wireguard/{device}.sock").into() };
        eventually("wireguard-go listens", || running.socket.exists());
        let key = std::env::temp_dir().join(format!("{device}.key"));
        std::fs::write(&key, own.key.to_base64().as_bytes()).unwrap();
        let allowed = other.prefixes().map(|prefix| prefix.to_string()).join(",");
        let endpoint = endpoint.map(|endpoint| format!("endpoint {endpoint} persistent-keepalive 1")).unwrap_or_default();
        let peer = format!("peer {} allowed-ips {allowed} {endpoint}", other.key.public());
        set(&own.netns, &format!("wg set {device} listen-port 51820 private-key {} {peer}", key.display()));
        std::fs::remove_file(&key).unwrap();
        for address in own.overlay() {
            own.netns.ip(&format!("addr add {address} dev {device}{}", if address.is_ipv6() { " nodad" } else { "" }));
        }
        own.netns.ip(&format!("link set {device} mtu 1420 up"));
        for prefix in other.prefixes() {
            own.netns.ip(&format!("route add {prefix} dev {device}"));
        }
        running
    }
}

fn set(netns: &Netns, line: &str) {
    let (ok, text) = netns.command(line);
    assert!(ok, "{line}: {text}");
}

fn interoperates(ours_begins: bool) {
    if !possible(&["ip", "wireguard-go", "wg"]) {
        return;
    }
    let (ours, theirs) = (Node::new(1), Node::new(2));
    ours.connect(&theirs);
    echo(&ours.netns, 7000, "o");
    echo(&theirs.netns, 7000, "t");
    let endpoint = |begins: bool, text: &'static str| begins.then_some(text);
    let running = WireGuardGo::start(&theirs, &ours, endpoint(!ours_begins, "192.0.2.1:51820"));
    let mut tunnel = ours.start();
    introduce(&mut tunnel, &theirs, endpoint(ours_begins, "192.0.2.2:51820").map(|text| text.parse().unwrap()));
    reaches(&ours.netns, &theirs.overlay(), 7000);
    reaches(&theirs.netns, &ours.overlay(), 7000);
    if ours_begins {
        // Their restart: the session that we have is worth nothing to them.
        let before = tunnel.stats().unwrap().engine.handshakes;
        drop(running);
        let _running = WireGuardGo::start(&theirs, &ours, Some("192.0.2.1:51820"));
        reaches(&theirs.netns, &ours.overlay(), 7000);
        assert!(tunnel.stats().unwrap().engine.handshakes > before);
    } else {
        // Our restart: the session that they have is worth nothing to us.
        drop(tunnel);
        let mut tunnel = ours.start();
        introduce(&mut tunnel, &theirs, Some("192.0.2.2:51820".parse().unwrap()));
        reaches(&ours.netns, &theirs.overlay(), 7000);
    }
}

#[test]
fn begins_a_handshake_with_wireguard_go() {
    interoperates(true);
}

#[test]
fn answers_a_handshake_of_wireguard_go() {
    interoperates(false);
}
