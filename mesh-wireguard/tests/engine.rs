//! Two engines back to back, without devices.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "common/pair.rs"]
mod pair;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{
    CrossClusterDefault, Event, Grant, NamePattern, NodeId, Now, Resource, Settings, SourceId, State, StateConfig, Trust,
    WallTime, WireGuardKey, Workload,
};
use mesh_dataplane::{Op, Peer, PeerKeys};
use mesh_policy::Compiler;
use mesh_wireguard::NodeKey;
use mesh_wireguard::batch::{Datagrams, Packets};
use mesh_wireguard::session::{BoringKey, BoringSession, PlainKey, PlainSession, Session};
use pair::{Pair, packet};
use proptest::prelude::*;

fn boring(keys: [NodeKey; 2]) -> Pair<BoringSession> {
    Pair::new(keys.clone().map(BoringKey::new), keys.map(|key| key.public()))
}

fn plain() -> Pair<PlainSession> {
    let keys = [WireGuardKey([1; 32]), WireGuardKey([2; 32])];
    Pair::new(keys.map(PlainKey), keys)
}

fn node_keys() -> [NodeKey; 2] {
    [NodeKey::from_bytes([1; 32]), NodeKey::from_bytes([2; 32])]
}

fn exchanges_packets<S: Session>(mut pair: Pair<S>) {
    pair.introduce();
    pair.settle();
    assert!(pair.engines.iter().all(|engine| engine.stats().engine.handshakes >= 1), "both sides know of the handshake");
    for len in [64, 1400] {
        for ipv4 in [true, false] {
            assert_eq!(pair.carry(0, &packet(0, 1, ipv4, len)), [packet(0, 1, ipv4, len)]);
            assert_eq!(pair.carry(1, &packet(1, 0, ipv4, len)), [packet(1, 0, ipv4, len)]);
        }
    }
    let stats = pair.engines[0].stats();
    assert_eq!((stats.forwarder.sent.packets, stats.forwarder.delivered.packets), (4, 4), "{stats:?}");
    assert_eq!(stats.engine.refused.total(), 0);
    assert!(stats.peers[0].last_handshake.is_some());
}

#[test]
fn boring_sessions_exchange_packets() {
    exchanges_packets(boring(node_keys()));
}

#[test]
fn plain_sessions_exchange_packets() {
    exchanges_packets(plain());
}

#[test]
fn packets_before_the_handshake_are_kept_back_and_not_lost() {
    let mut pair = boring(node_keys());
    pair.introduce();
    pair.outputs[0].clear();
    pair.outputs[1].clear();
    let mut batch = Packets::new();
    batch.push(&packet(0, 1, true, 100));
    let now = pair.now;
    pair.engines[0].handle_tun(&batch, now, &mut pair.outputs[0]);
    assert!(pair.outputs[0].datagrams.is_empty(), "a handshake is under way");
    // The initiation was lost: it is tried again after a second, and two milliseconds for each key.
    pair.now.time = pair.now.time + Duration::from_millis(1010);
    let now = pair.now;
    pair.engines[0].handle_timeout(now, &mut pair.outputs[0]);
    assert_eq!(pair.settle(), [vec![], vec![packet(0, 1, true, 100)]]);
}

/// A policy that knows who is behind the addresses of some of the two engines, and lets everybody through.
fn knowing(engines: &[usize]) -> Op {
    let settings = Settings { cross_cluster_default: Some(CrossClusterDefault::Allow), ..Settings::default() };
    let config = StateConfig { fleet: "".into(), trust: Trust::Declared, settings, domains: Default::default() };
    let (mut state, mut compiler) = (State::new(config), Compiler::new());
    let mut set = |resource| {
        let change = state.apply(Event::Set(SourceId("test".into()), resource), Now::default());
        assert!(change.refusals.is_empty(), "{change:?}");
        compiler.update(&state, &change);
    };
    for n in 0..2 {
        set(Resource::Grant(Arc::new(Grant {
            cluster: format!("c{n}").parse().unwrap(),
            key: None,
            next_key: None,
            prefixes: vec![format!("10.{n}.0.0/16").parse().unwrap()],
            service_prefixes: Vec::new(),
            namespaces: vec![NamePattern("*".into())],
            exports: Vec::new(),
            attributes: Default::default(),
            not_before: WallTime::from_unix_secs(0),
            not_after: WallTime::from_unix_secs(u32::MAX.into()),
            epoch: 0,
        })));
    }
    for n in engines {
        set(Resource::Workload(Workload {
            id: format!("c{n}/shop/web").parse().unwrap(),
            labels: Default::default(),
            service_account: "default".into(),
            node: Some("node".parse().unwrap()),
            host_network: false,
            addresses: vec![format!("10.{n}.0.9").parse().unwrap()],
            ports: Vec::new(),
        }));
    }
    Op::SetPolicy(compiler.current().clone())
}

#[test]
fn a_packet_waits_for_its_identity_at_either_end_and_leaves_with_it() {
    let mut pair = plain();
    pair.introduce();
    pair.settle();
    let first = packet(0, 1, true, 100);
    // The sender's engine does not know the receiver.
    pair.apply(0, &knowing(&[0]));
    pair.apply(1, &knowing(&[1]));
    assert!(pair.carry(0, &first).is_empty());
    let want = pair.engines[0].poll_want().expect("somebody is to be asked");
    assert_eq!((want.address.to_string(), want.node.to_string()), ("10.1.0.9".into(), "c1/node".into()));
    pair.apply(0, &knowing(&[0, 1]));
    // Nor does the receiver's know the sender.
    assert_eq!(pair.settle(), [Vec::<Vec<u8>>::new(), Vec::new()]);
    let want = pair.engines[1].poll_want().expect("somebody is to be asked");
    assert_eq!((want.address.to_string(), want.node.to_string()), ("10.0.0.9".into(), "c0/node".into()));
    pair.apply(1, &knowing(&[0, 1]));
    assert_eq!(pair.outputs[1].packets.iter().collect::<Vec<_>>(), [&first[..]]);
    let holds = [0, 1].map(|n| pair.engines[n].stats().forwarder.hold);
    assert!(holds.iter().all(|hold| (hold.held, hold.released, hold.waiting) == (1, 1, 0)), "{holds:?}");
}

#[test]
fn an_endpoint_moves_with_authentic_packets_only() {
    let mut pair = boring(node_keys());
    pair.introduce();
    pair.settle();
    let elsewhere: SocketAddr = "198.51.100.7:1000".parse().unwrap();
    let mut batch = Packets::new();
    batch.push(&packet(0, 1, true, 100));
    let now = pair.now;
    pair.engines[0].handle_tun(&batch, now, &mut pair.outputs[0]);
    let (_, bytes) = pair.outputs[0].datagrams.iter().next().unwrap();
    let bytes = bytes.to_vec();
    let mut forged = bytes.clone();
    forged[20] ^= 1;
    for (bytes, endpoint) in [(&forged, pair.addresses[0]), (&bytes, elsewhere), (&bytes, elsewhere)] {
        let mut wire = Datagrams::new();
        wire.push(elsewhere, bytes);
        pair.engines[1].handle_udp(&wire, now, &mut pair.outputs[1]);
        assert_eq!(pair.engines[1].stats().peers[0].endpoint, Some(endpoint));
    }
    let refused = pair.engines[1].stats().engine.refused;
    assert_eq!((refused.unauthentic, refused.replayed), (1, 1));
    assert_eq!(pair.outputs[1].packets.len(), 1);
}

#[test]
fn who_copies_a_nodes_key_gains_nothing_and_takes_nothing_away() {
    // Of the names, one comes before the victim's and one after it.
    for liar in ["a/liar", "z/liar"] {
        let liar: NodeId = liar.parse().unwrap();
        let claim = |pair: &mut Pair<BoringSession>, endpoint: &str| {
            let peer = Peer { keys: PeerKeys { current: pair.keys[1], next: None }, endpoints: vec![endpoint.parse().unwrap()] };
            pair.apply(0, &Op::SetPeer(liar.clone(), peer));
            pair.apply(0, &Op::SetRoute("10.9.0.0/16".parse().unwrap(), liar.clone()));
        };
        let flows = |pair: &mut Pair<BoringSession>| {
            assert_eq!(pair.carry(1, &packet(1, 0, true, 100)), [packet(1, 0, true, 100)]);
            assert_eq!(pair.carry(0, &packet(0, 1, true, 101)), [packet(0, 1, true, 101)]);
        };
        let mut pair = boring(node_keys());
        claim(&mut pair, "203.0.113.9:51820");
        pair.introduce();
        pair.settle();
        flows(&mut pair);
        for turn in 0..3 {
            claim(&mut pair, &format!("203.0.113.{turn}:51820"));
            flows(&mut pair);
        }
        pair.apply(0, &Op::DelPeer(liar.clone()));
        flows(&mut pair);
        claim(&mut pair, "203.0.113.9:51820");
        // The key proves no more than what its node may say.
        let victim = pair.nodes[1].clone();
        pair.apply(0, &Op::DelPeer(victim));
        assert!(pair.carry(1, &packet(1, 0, true, 100)).is_empty());
        let stats = pair.engines[0].stats();
        assert_eq!(stats.forwarder.drops.total(), 1, "{stats:?}");
    }
}

#[test]
fn the_tunnel_does_not_carry_its_own_datagrams() {
    let mut pair = boring(node_keys());
    let (outside, inside) = (pair.addresses[1], "10.1.0.77:51820".parse().unwrap());
    // The route comes after the peer, and makes its first endpoint useless.
    let peer = Peer { keys: PeerKeys { current: pair.keys[1], next: None }, endpoints: vec![inside, outside] };
    let node = pair.nodes[1].clone();
    pair.apply(0, &Op::SetPeer(node.clone(), peer.clone()));
    pair.outputs[0].clear();
    pair.apply(0, &Op::SetRoute("10.1.0.0/16".parse().unwrap(), node.clone()));
    assert_eq!(pair.engines[0].stats().peers[0].endpoint, None);
    pair.set_peer(1, 0, PeerKeys { current: pair.keys[0], next: None });
    pair.settle();
    assert_eq!(pair.engines[0].stats().peers[0].endpoint, Some(outside));
    // Nor does a peer get there by moving.
    let mut batch = Packets::new();
    batch.push(&packet(1, 0, true, 100));
    let now = pair.now;
    pair.engines[1].handle_tun(&batch, now, &mut pair.outputs[1]);
    let mut wire = Datagrams::new();
    pair.outputs[1].datagrams.iter().for_each(|(_, bytes)| wire.push(inside, bytes));
    pair.engines[0].handle_udp(&wire, now, &mut pair.outputs[0]);
    assert_eq!(pair.outputs[0].packets.len(), 1, "it is authentic");
    assert_eq!(pair.engines[0].stats().peers[0].endpoint, Some(outside));
    pair.apply(0, &Op::SetPeer(node, Peer { endpoints: vec![inside], ..peer }));
    assert_eq!(pair.engines[0].stats().peers[0].endpoint, Some(outside));
}

#[test]
fn a_handshake_that_the_peer_does_not_finish_is_begun_anew() {
    let mut pair = boring(node_keys());
    pair.introduce();
    let initiation = pair.outputs[1].datagrams.iter().next().map(|(_, bytes)| bytes.to_vec()).unwrap();
    let mut wire = Datagrams::new();
    wire.push("198.51.100.7:1000".parse().unwrap(), &initiation);
    let now = pair.now;
    pair.engines[0].handle_udp(&wire, now, &mut pair.outputs[0]);
    // The answer is lost, or the initiation was an old one from somewhere else.
    let mut called = Vec::new();
    for _ in 0..8 {
        pair.outputs[0].clear();
        pair.now.time = pair.now.time + Duration::from_secs(1);
        let now = pair.now;
        pair.engines[0].handle_timeout(now, &mut pair.outputs[0]);
        called.extend(pair.outputs[0].datagrams.iter().map(|(to, _)| to));
    }
    assert!(called.contains(&pair.addresses[1]), "{called:?}");
}

#[test]
fn a_restarted_peer_whose_first_data_is_lost_is_called() {
    let keys = node_keys();
    let mut pair = boring(keys.clone());
    pair.introduce();
    pair.settle();
    assert_eq!(pair.carry(0, &packet(0, 1, true, 100)).len(), 1);
    // B starts again and calls; A answers; what would tell A that B has the new keys is lost.
    pair.now.time = pair.now.time + Duration::from_secs(2);
    pair.replace(1, BoringKey::new(keys[1].clone()));
    let current = PeerKeys { current: keys[0].public(), next: None };
    pair.set_peer(1, 0, current);
    pair.pass(1);
    pair.pass(0);
    pair.outputs[1].clear();
    // B has nothing to say. A goes on with keys that B has lost, until it calls.
    assert!(pair.carry(0, &packet(0, 1, true, 100)).is_empty());
    for _ in 0..8 {
        pair.now.time = pair.now.time + Duration::from_millis(250);
        let now = pair.now;
        pair.engines[0].handle_timeout(now, &mut pair.outputs[0]);
        pair.settle();
    }
    assert_eq!(pair.carry(0, &packet(0, 1, true, 100)).len(), 1);
}

#[test]
fn an_answer_that_a_later_handshake_has_overtaken_is_refused() {
    let keys = node_keys();
    let mut pair = boring(keys.clone());
    pair.introduce();
    // A's call reaches B, whose answer is held back on the way; B's own call is lost.
    pair.outputs[1].clear();
    pair.pass(0);
    let (address, now) = (pair.addresses[1], pair.now);
    let mut held = Datagrams::new();
    pair.outputs[1].datagrams.iter().for_each(|(_, bytes)| held.push(address, bytes));
    assert_eq!(held.len(), 1);
    pair.outputs[1].clear();
    // B starts again and shakes hands with A. Then the answer of its former life arrives.
    pair.replace(1, BoringKey::new(keys[1].clone()));
    pair.set_peer(1, 0, PeerKeys { current: keys[0].public(), next: None });
    pair.settle();
    assert_eq!(pair.carry(0, &packet(0, 1, true, 100)).len(), 1);
    pair.engines[0].handle_udp(&held, now, &mut pair.outputs[0]);
    assert_eq!(pair.engines[0].stats().engine.refused.total(), 0, "nobody did wrong");
    assert_eq!(pair.carry(0, &packet(0, 1, true, 101)).len(), 1, "the keys are those that B has");
}

/// A's call is answered by B, which loses its sessions and calls in its turn. A answers that, and only then the first answer
/// arrives: A goes over to keys that B has lost, and hears it by others. It was seed 99328 of the simulator.
#[test]
fn the_answer_of_a_former_life_that_crosses_a_call_of_the_next_does_not_last() {
    for restarted in 0..2 {
        let keys = node_keys();
        let mut pair = boring(keys.clone());
        pair.introduce();
        let (a, b) = (1 - restarted, restarted);
        pair.outputs[b].clear();
        pair.pass(a);
        let mut held = Datagrams::new();
        pair.outputs[b].datagrams.iter().for_each(|(_, bytes)| held.push(pair.addresses[b], bytes));
        assert_eq!(held.len(), 1);
        pair.replace(b, BoringKey::new(keys[b].clone()));
        pair.set_peer(b, a, PeerKeys { current: keys[a].public(), next: None });
        pair.pass(b);
        // A's session has to see time pass: boringtun takes the younger of two handshakes, and reads its clock here only.
        pair.wait(Duration::from_millis(250));
        let now = pair.now;
        pair.engines[a].handle_udp(&held, now, &mut pair.outputs[a]);
        pair.settle();
        for _ in 0..8 {
            pair.wait(Duration::from_millis(250));
            pair.settle();
        }
        assert_eq!(pair.carry(a, &packet(a, b, true, 100)).len(), 1, "node {b} restarted");
        assert_eq!(pair.carry(b, &packet(b, a, true, 100)).len(), 1, "node {b} restarted");
    }
}

#[test]
fn calls_that_cross_are_settled_by_a_third_one() {
    let mut pair = boring(node_keys());
    pair.introduce();
    pair.exchange();
    pair.exchange();
    let handshakes = |pair: &Pair<BoringSession>| pair.engines.each_ref().map(|engine| engine.stats().engine.handshakes);
    assert_eq!(handshakes(&pair), [1, 1], "each has the answer to its own call");
    pair.settle();
    assert_eq!(handshakes(&pair), [2, 2]);
    for _ in 0..8 {
        pair.wait(Duration::from_millis(250));
        pair.settle();
    }
    assert_eq!(handshakes(&pair), [2, 2], "and no more");
}

#[test]
fn a_peer_that_switches_to_its_next_key_is_followed() {
    let [a, b] = node_keys();
    let next = NodeKey::from_bytes([3; 32]);
    let mut pair = boring([a.clone(), b.clone()]);
    pair.introduce();
    pair.settle();
    // B announces its next key; nothing changes yet.
    let both = PeerKeys { current: b.public(), next: Some(next.public()) };
    pair.set_peer(0, 1, both);
    assert_eq!(pair.carry(0, &packet(0, 1, true, 100)).len(), 1);
    // B switches: a new engine with the next key shakes hands, and A answers by it.
    pair.replace(1, BoringKey::new(next.clone()));
    pair.set_peer(1, 0, PeerKeys { current: a.public(), next: None });
    pair.settle();
    assert_eq!(pair.carry(1, &packet(1, 0, true, 100)).len(), 1);
    assert_eq!(pair.carry(0, &packet(0, 1, true, 101)).len(), 1);
    assert_eq!(pair.engines[0].stats().peers[0].key, next.public());
    // The old key goes; packets still flow.
    pair.set_peer(0, 1, PeerKeys { current: next.public(), next: None });
    assert_eq!(pair.carry(0, &packet(0, 1, true, 102)).len(), 1);
}

#[test]
fn a_removed_peer_is_not_heard_any_more() {
    let mut pair = boring(node_keys());
    pair.introduce();
    pair.settle();
    let now = pair.now;
    let node = pair.nodes[0].clone();
    pair.engines[1].apply(&Op::DelPeer(node), now, &mut pair.outputs[1]).unwrap();
    assert!(pair.carry(0, &packet(0, 1, true, 100)).is_empty());
    assert_eq!(pair.engines[1].stats().engine.refused.no_session, 1);
    assert!(pair.engines[1].peers().is_empty());
}

#[test]
fn a_silent_peer_is_tried_at_each_of_its_endpoints() {
    let mut pair = boring(node_keys());
    let endpoints: Vec<SocketAddr> = ["192.0.2.8:1", "[2001:db8::8]:1"].map(|text| text.parse().unwrap()).into();
    let keys = PeerKeys { current: WireGuardKey([7; 32]), next: None };
    let (node, mut now) = (pair.nodes[1].clone(), pair.now);
    pair.engines[0].apply(&Op::SetPeer(node, Peer { keys, endpoints: endpoints.clone() }), now, &mut pair.outputs[0]).unwrap();
    for _ in 0..3 {
        now.time = now.time + Duration::from_millis(1010);
        pair.engines[0].handle_timeout(now, &mut pair.outputs[0]);
    }
    let tried: Vec<SocketAddr> = pair.outputs[0].datagrams.iter().map(|(address, _)| address).collect();
    assert_eq!(tried, [endpoints[0], endpoints[1], endpoints[0], endpoints[1]]);
}

#[test]
fn a_silent_sender_keeps_the_session_alive() {
    let mut pair = plain();
    pair.introduce();
    pair.settle();
    pair.now.time = pair.now.time + Duration::from_secs(26);
    let now = pair.now;
    pair.engines[0].handle_timeout(now, &mut pair.outputs[0]);
    assert_eq!(pair.outputs[0].datagrams.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [32]);
}

/// What is sent into silence may be lost: a restarted peer, another path. Half a minute of it asks for a new handshake.
#[test]
fn a_peer_that_is_not_heard_is_called_again() {
    let mut pair = plain();
    pair.introduce();
    pair.settle();
    pair.now.time = pair.now.time + Duration::from_secs(31);
    let now = pair.now;
    pair.engines[0].handle_timeout(now, &mut pair.outputs[0]);
    assert_eq!(pair.outputs[0].datagrams.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [148]);
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    let kind = (0u8..6, any::<[u8; 4]>());
    let any_message = (kind, prop::collection::vec(any::<u8>(), 0..200), prop::sample::select(vec![0, 64, 92, 148, 180]));
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        any_message.prop_map(|((kind, index), mut body, len)| {
            // Receiver indices of sessions that exist, now and then.
            body.splice(0..0, [kind, 0, 0, 0, index[0], index[1] % 2, 0, 0, index[2], index[3] % 2, 0, 0]);
            if len > 0 {
                body.resize(len, 0);
            }
            body
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_crash_nothing(datagrams in prop::collection::vec(noise(), 1..30), packets in prop::collection::vec(noise(), 1..30)) {
        let mut boring = boring(node_keys());
        let mut plain = plain();
        boring.introduce();
        boring.settle();
        plain.introduce();
        plain.settle();
        hit(&mut boring, &datagrams, &packets);
        hit(&mut plain, &datagrams, &packets);
        prop_assert_eq!(boring.carry(0, &packet(0, 1, true, 100)), [packet(0, 1, true, 100)]);
    }
}

fn hit<S: Session>(pair: &mut Pair<S>, datagrams: &[Vec<u8>], packets: &[Vec<u8>]) {
    let (mut wire, mut batch, now) = (Datagrams::new(), Packets::new(), pair.now);
    datagrams.iter().for_each(|bytes| wire.push(pair.addresses[0], bytes));
    packets.iter().for_each(|bytes| batch.push(bytes));
    pair.engines[1].handle_udp(&wire, now, &mut pair.outputs[1]);
    pair.engines[1].handle_tun(&batch, now, &mut pair.outputs[1]);
    pair.outputs[1].clear();
}

#[test]
fn congestion_on_the_way_reaches_the_packet_inside() {
    let mut pair = boring(node_keys());
    pair.introduce();
    pair.settle();
    for ipv4 in [true, false] {
        let marked = |mark: u8| {
            let mut packet = packet(0, 1, ipv4, 200);
            packet[1] = if ipv4 { mark } else { mark << 4 };
            packet
        };
        // The mark inside, that on the way, and what arrives.
        for (inner, outer, expected) in [(0, 0, Some(0)), (2, 2, Some(2)), (1, 1, Some(1)), (2, 3, Some(3)), (0, 3, None)] {
            let mut batch = Packets::new();
            batch.push(&marked(inner));
            let now = pair.now;
            pair.engines[0].handle_tun(&batch, now, &mut pair.outputs[0]);
            let mut wire = Datagrams::new();
            for (_, mark, bytes) in pair.outputs[0].datagrams.iter_marked() {
                assert_eq!(mark, inner, "the datagram can be marked as the packet can");
                wire.push(pair.addresses[0], bytes);
                wire.mark(outer);
            }
            pair.outputs[0].clear();
            let before = pair.engines[1].stats().engine.congested;
            pair.engines[1].handle_udp(&wire, now, &mut pair.outputs[1]);
            let arrived: Vec<u8> =
                pair.outputs[1].packets.iter().map(|packet| if ipv4 { packet[1] } else { packet[1] >> 4 }).collect();
            pair.outputs[1].clear();
            assert_eq!(arrived, Vec::from_iter(expected), "{inner} {outer}");
            assert_eq!(pair.engines[1].stats().engine.congested - before, u64::from(expected.is_none()));
        }
    }
}
