//! WireGuard that is not ours, on the other side of our tunnel or of another one: wireguard-go, and the kernel's by `wg`.
#![allow(dead_code, reason = "each test uses its part")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::netns::{Netns, eventually};
use crate::node::{Node, echo, introduce, reaches};

/// Which implementation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    WireGuardGo,
    Kernel,
}

/// A running one; it is gone when this is dropped.
pub(crate) struct Foreign<'a> {
    netns: &'a Netns,
    device: String,
    /// wireguard-go's process and its control socket.
    process: Option<(Child, PathBuf)>,
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        match self.process.take() {
            Some((mut process, socket)) => {
                let _ = process.kill();
                let _ = process.wait();
                let _ = std::fs::remove_file(socket);
            }
            None => drop(self.netns.command(&format!("ip link delete {}", self.device))),
        }
    }
}

impl<'a> Foreign<'a> {
    /// Starts it as node `own`, with `other` as its peer; `endpoint` where it shall begin.
    pub(crate) fn start(kind: Kind, own: &'a Node, other: &Node, endpoint: Option<&str>) -> Foreign<'a> {
        let device = format!("wg{}-{}", std::process::id() % 10_000_000, own.netns.tid() % 1000);
        let mut running = Foreign { netns: &own.netns, device: device.clone(), process: None };
        match kind {
            Kind::Kernel => drop(own.netns.ip(&format!("link add {device} type wireguard"))),
            Kind::WireGuardGo => {
                let name = device.clone();
                let child = own.netns.run(move || {
                    let mut command = Command::new("wireguard-go");
                    // Where the kernel has WireGuard, it asks to be told that it is wanted all the same.
                    command.args(["-f", &name]).env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
                    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("wireguard-go is installed")
                });
                let socket = PathBuf::from(format!("/var/run/wireguard/{device}.sock"));
                running.process = Some((child, socket.clone()));
                eventually("wireguard-go listens", || socket.exists());
            }
        }
        let key = std::env::temp_dir().join(format!("{device}.key"));
        std::fs::write(&key, own.key.to_base64().as_bytes()).expect("there is room");
        let allowed = other.prefixes().map(|prefix| prefix.to_string()).join(",");
        let endpoint = endpoint.map(|endpoint| format!("endpoint {endpoint} persistent-keepalive 1")).unwrap_or_default();
        let peer = format!("peer {} allowed-ips {allowed} {endpoint}", other.key.public());
        let line = format!("wg set {device} listen-port 51820 private-key {} {peer}", key.display());
        let (ok, text) = own.netns.command(&line);
        std::fs::remove_file(&key).expect("it was written");
        assert!(ok, "{line}: {text}");
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

/// Where two nodes find each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Underlay {
    /// Of node 1, ours.
    ours: &'static str,
    /// Of node 2, the other.
    theirs: &'static str,
}

pub(crate) const V4: Underlay = Underlay { ours: "192.0.2.1:51820", theirs: "192.0.2.2:51820" };
pub(crate) const V6: Underlay = Underlay { ours: "[2001:db8::1]:51820", theirs: "[2001:db8::2]:51820" };

/// TCP and UDP of both families, both ways, between the user tunnel and a node of `kind`, also after the one that
/// answered the first handshake has restarted.
pub(crate) fn interoperates(kind: Kind, underlay: Underlay, ours_begins: bool) {
    let (ours, theirs) = (Node::new(1), Node::new(2));
    ours.connect(&theirs);
    echo(&ours.netns, 7000, "o");
    echo(&theirs.netns, 7000, "t");
    let running = Foreign::start(kind, &theirs, &ours, (!ours_begins).then_some(underlay.ours));
    let mut tunnel = ours.start();
    let theirs_at = underlay.theirs.parse().expect("an address");
    introduce(&mut tunnel, &theirs, ours_begins.then_some(theirs_at));
    reaches(&ours.netns, &theirs.overlay(), 7000);
    reaches(&theirs.netns, &ours.overlay(), 7000);
    if ours_begins {
        // Their restart: the session that we have is worth nothing to them.
        let before = tunnel.stats().expect("it runs").engine.handshakes;
        drop(running);
        let _running = Foreign::start(kind, &theirs, &ours, Some(underlay.ours));
        reaches(&theirs.netns, &ours.overlay(), 7000);
        assert!(tunnel.stats().expect("it runs").engine.handshakes > before);
    } else {
        // Our restart: the session that they have is worth nothing to us.
        drop(tunnel);
        let mut tunnel = ours.start();
        introduce(&mut tunnel, &theirs, Some(theirs_at));
        reaches(&ours.netns, &theirs.overlay(), 7000);
    }
}
