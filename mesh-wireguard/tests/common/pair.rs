//! Two engines with a perfect wire between them.
#![allow(dead_code, reason = "each user takes its part")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Change, NodeId, Now, Prefix, Settings, State, StateConfig, Time, Trust, WallTime, WireGuardKey};
use mesh_dataplane::{Local, Op, Peer, PeerKeys, Scope};
use mesh_policy::{Compiler, PolicySet};
use mesh_wireguard::batch::{Datagrams, Output, Packets};
use mesh_wireguard::engine::Engine;
use mesh_wireguard::session::Session;

/// Engine `n` has node `c<n>/node`, the address 192.0.2.<n+1>, and the prefixes 10.<n>.0.0/16 and fd00:<n>::/32.
pub(crate) struct Pair<S: Session> {
    pub(crate) engines: [Engine<S>; 2],
    pub(crate) outputs: [Output; 2],
    pub(crate) nodes: [NodeId; 2],
    pub(crate) addresses: [SocketAddr; 2],
    pub(crate) keys: [WireGuardKey; 2],
    pub(crate) now: Now,
}

fn prefixes(index: usize) -> [Prefix; 2] {
    [format!("10.{index}.0.0/16"), format!("fd00:{index}::/32")].map(|text| text.parse().expect("a prefix"))
}

pub(crate) fn allow_all() -> Arc<PolicySet> {
    let config = StateConfig { fleet: "".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
    Compiler::new().update(&State::new(config), &Change::default()).clone()
}

impl<S: Session> Pair<S> {
    pub(crate) fn new(local: [S::Local; 2], keys: [WireGuardKey; 2]) -> Pair<S> {
        let mut pair = Pair {
            engines: local.map(Engine::new),
            outputs: [Output::new(), Output::new()],
            nodes: ["c0/node", "c1/node"].map(|text| text.parse().expect("a node")),
            addresses: ["192.0.2.1:51820", "192.0.2.2:51820"].map(|text| text.parse().expect("an address")),
            keys,
            now: Now { time: Time::from_nanos(1), wall: WallTime::from_unix_secs(1_800_000_000) },
        };
        (0..2).for_each(|index| pair.prepare(index));
        pair
    }

    fn prepare(&mut self, index: usize) {
        let (node, prefixes) = (self.nodes[index].clone(), prefixes(index).into());
        let local = Local { node, prefixes, overlay: Vec::new(), scope: Scope::Cluster };
        self.apply(index, &Op::SetPolicy(allow_all()));
        self.apply(index, &Op::SetLocal(local));
    }

    pub(crate) fn apply(&mut self, index: usize, op: &Op) {
        self.engines[index].apply(op, self.now, &mut self.outputs[index]).expect("the peer is known");
    }

    /// Puts a new engine in the place of one, as after a restart.
    pub(crate) fn replace(&mut self, index: usize, local: S::Local) {
        self.engines[index] = Engine::new(local);
        self.outputs[index].clear();
        self.prepare(index);
    }

    /// Tells engine `of` of the other one.
    pub(crate) fn set_peer(&mut self, of: usize, other: usize, keys: PeerKeys) {
        let peer = Peer { keys, endpoints: vec![self.addresses[other]] };
        self.apply(of, &Op::SetPeer(self.nodes[other].clone(), peer));
        for prefix in prefixes(other) {
            self.apply(of, &Op::SetRoute(prefix, self.nodes[other].clone()));
        }
    }

    pub(crate) fn introduce(&mut self) {
        let keys = self.keys.map(|current| PeerKeys { current, next: None });
        self.set_peer(0, 1, keys[1]);
        self.set_peer(1, 0, keys[0]);
    }

    /// Carries what one engine has to say now to the other one.
    pub(crate) fn pass(&mut self, from: usize) {
        let mut wire = Datagrams::new();
        let arriving = self.outputs[from].datagrams.iter().filter(|(to, _)| *to == self.addresses[1 - from]);
        arriving.for_each(|(_, bytes)| wire.push(self.addresses[from], bytes));
        self.outputs[from].datagrams.clear();
        self.engines[1 - from].handle_udp(&wire, self.now, &mut self.outputs[1 - from]);
    }

    /// Carries what both engines have to say now to the other one: it crosses on the way.
    pub(crate) fn exchange(&mut self) {
        let said = std::mem::take(&mut self.outputs[1]);
        self.pass(0);
        let answers = std::mem::replace(&mut self.outputs[1], said);
        self.pass(1);
        self.outputs[1] = answers;
    }

    /// Lets time pass for both engines.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.now.time = self.now.time + time;
        for (engine, output) in self.engines.iter_mut().zip(&mut self.outputs) {
            engine.handle_timeout(self.now, output);
        }
    }

    /// Carries datagrams to and fro until there is none, those to other addresses into the void; returns the packets that came
    /// out of each engine.
    pub(crate) fn settle(&mut self) -> [Vec<Vec<u8>>; 2] {
        let mut delivered = [Vec::new(), Vec::new()];
        while self.outputs.iter().any(|output| !output.datagrams.is_empty()) {
            for from in 0..2 {
                self.pass(from);
                let packets = &mut self.outputs[1 - from].packets;
                delivered[1 - from].extend(packets.iter().map(<[u8]>::to_vec));
                packets.clear();
            }
        }
        delivered
    }

    /// Sends a packet into one engine; returns what comes out of the other.
    pub(crate) fn carry(&mut self, from: usize, packet: &[u8]) -> Vec<Vec<u8>> {
        let mut batch = Packets::new();
        batch.push(packet);
        self.engines[from].handle_tun(&batch, self.now, &mut self.outputs[from]);
        self.settle().into_iter().nth(1 - from).expect("two engines")
    }
}

/// Returns a UDP packet of `len` bytes, IP header included, between workloads of two engines.
pub(crate) fn packet(from: usize, to: usize, ipv4: bool, len: usize) -> Vec<u8> {
    let address = |index: usize| -> IpAddr {
        let text = if ipv4 { format!("10.{index}.0.9") } else { format!("fd00:{index}::9") };
        text.parse().expect("an address")
    };
    let mut bytes = vec![0; len];
    let header = match (address(from), address(to)) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes[0] = 0x45;
            bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            (bytes[8], bytes[9]) = (64, 17);
            bytes[12..16].copy_from_slice(&source.octets());
            bytes[16..20].copy_from_slice(&destination.octets());
            20
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            (bytes[6], bytes[7]) = (17, 64);
            bytes[8..24].copy_from_slice(&source.octets());
            bytes[24..40].copy_from_slice(&destination.octets());
            40
        }
        _ => unreachable!("both of one family"),
    };
    // The lower one's port is 4000: the two directions are one flow.
    let (source, destination) = if from < to { (4000u16, 5000u16) } else { (5000, 4000) };
    bytes[header..header + 2].copy_from_slice(&source.to_be_bytes());
    bytes[header + 2..header + 4].copy_from_slice(&destination.to_be_bytes());
    bytes[header + 4..header + 6].copy_from_slice(&((len - header) as u16).to_be_bytes());
    bytes
}
