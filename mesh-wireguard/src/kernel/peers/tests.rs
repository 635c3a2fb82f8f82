use mesh_dataplane::PeerKeys;

use super::*;
use crate::netlink::wireguard::PeerState;

fn key(number: u8) -> WireGuardKey {
    WireGuardKey([number; 32])
}

fn node(number: u8) -> NodeId {
    format!("west/node-{number}").parse().unwrap()
}

fn peer(current: u8, next: Option<u8>, endpoints: &[&str]) -> Peer {
    let endpoints = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
    Peer { keys: PeerKeys { current: key(current), next: next.map(key) }, endpoints }
}

fn prefix(number: u8) -> Prefix {
    format!("10.{number}.0.0/24").parse().unwrap()
}

fn at(seconds: u64) -> WallTime {
    WallTime::from_unix_secs(1_000_000 + seconds)
}

/// The peers of this process, and the kernel's.
#[derive(Default)]
struct World {
    peers: Peers,
    device: Device,
}

impl World {
    fn set(&mut self, node: &NodeId, peer: &Peer, now: u64) {
        let (known, changes) = self.peers.set(node, peer, &self.device, at(now));
        changes.iter().for_each(|change| self.device.note(change));
        self.peers.insert(node, known);
    }

    fn route(&mut self, prefix: Prefix, node: &NodeId) {
        let active = self.peers.active(node).unwrap();
        self.device.note(&PeerChange { allow: vec![prefix], ..PeerChange::new(Verb::Update, active) });
        self.peers.route(prefix, Some(node));
    }

    fn remove(&mut self, node: &NodeId) {
        let changes = self.peers.remove(node, &self.device);
        changes.iter().for_each(|change| self.device.note(change));
        self.peers.forget(node);
    }

    fn follow(&mut self, now: u64) {
        let changes = self.peers.follow(&self.device, at(now));
        changes.iter().for_each(|change| self.device.note(change));
    }

    fn routed(&mut self) -> BTreeMap<Prefix, NodeId> {
        let overlay = self.device.allowed.keys().map(|prefix| (*prefix, true)).collect();
        self.peers.routed(&self.device, &overlay)
    }

    fn state(&mut self, number: u8) -> &mut PeerState {
        self.device.peers.get_mut(&key(number)).unwrap()
    }

    /// The agent ends, and another one begins.
    fn restart(&mut self) {
        self.peers = Peers::default();
        self.follow(0);
    }
}

#[test]
fn the_next_key_has_no_prefixes_until_it_is_the_one_that_shakes_hands() {
    let mut world = World::default();
    let rotating = peer(1, Some(2), &["192.0.2.1:1"]);
    world.set(&node(1), &rotating, 0);
    world.route(prefix(1), &node(1));
    world.state(1).last_handshake = Some(at(1));
    world.follow(2);
    assert_eq!((world.state(1).keepalive, world.state(2).keepalive, world.state(2).endpoint), (25, 0, None));
    assert_eq!(world.device.allowed[&prefix(1)], key(1));

    world.state(2).last_handshake = Some(at(3));
    world.follow(4);
    assert_eq!(world.device.allowed[&prefix(1)], key(2), "its prefixes follow");
    assert_eq!((world.state(1).keepalive, world.state(2).keepalive), (0, 25), "nobody has the old key any more");
    assert_eq!(world.routed(), BTreeMap::from([(prefix(1), node(1))]));
    assert_eq!(world.peers.programmed(&world.device), BTreeMap::from([(node(1), rotating)]));

    // The plan says the same later: the session stays.
    world.set(&node(1), &peer(2, None, &["192.0.2.1:1"]), 5);
    assert_eq!(world.device.peers.keys().collect::<Vec<_>>(), [&key(2)]);
    assert_eq!(world.state(2).last_handshake, Some(at(3)));
    assert_eq!(world.device.allowed[&prefix(1)], key(2));
}

#[test]
fn another_key_takes_over_prefixes_and_place() {
    let mut world = World::default();
    world.set(&node(1), &peer(1, None, &["192.0.2.1:1"]), 0);
    world.route(prefix(1), &node(1));
    world.state(1).endpoint = Some("192.0.2.7:7".parse().unwrap());
    world.set(&node(1), &peer(2, None, &["192.0.2.1:1"]), 1);
    assert_eq!(world.device.peers.len(), 1);
    assert_eq!(world.state(2).endpoint, Some("192.0.2.7:7".parse().unwrap()), "where it was heard last");
    assert_eq!(world.device.allowed[&prefix(1)], key(2));
}

#[test]
fn what_the_kernel_has_heard_stays_until_the_plan_has_another_place() {
    let mut world = World::default();
    world.set(&node(1), &peer(1, None, &["192.0.2.1:1"]), 0);
    let roamed = Some("192.0.2.7:7".parse().unwrap());
    world.state(1).endpoint = roamed;
    world.set(&node(1), &peer(1, Some(2), &["192.0.2.1:1"]), 1);
    assert_eq!(world.state(1).endpoint, roamed);
    world.restart();
    world.set(&node(1), &peer(1, Some(2), &["192.0.2.1:1"]), 1);
    assert_eq!(world.state(1).endpoint, roamed, "also after a restart");
    world.set(&node(1), &peer(1, None, &["192.0.2.9:9"]), 2);
    assert_eq!(world.state(1).endpoint, Some("192.0.2.9:9".parse().unwrap()));
    world.set(&node(2), &peer(3, None, &[]), 2);
    assert_eq!((world.state(3).endpoint, world.state(3).keepalive), (None, 0), "it calls, when it wants to be called");
}

#[test]
fn endpoints_take_turns_while_nobody_answers() {
    let mut world = World::default();
    world.set(&node(1), &peer(1, None, &["192.0.2.1:1", "[2001:db8::1]:1"]), 0);
    let mut seen = Vec::new();
    for now in [1, 20, 25, 40] {
        world.follow(now);
        seen.push(world.state(1).endpoint.unwrap().is_ipv4());
    }
    assert_eq!(seen, [true, false, false, true]);
    world.state(1).last_handshake = Some(at(41));
    for now in [60, 120, 220] {
        world.follow(now);
        assert!(world.state(1).endpoint.unwrap().is_ipv4(), "it answers here");
    }
    world.follow(221);
    assert!(world.state(1).endpoint.unwrap().is_ipv6(), "three minutes without a handshake");
}

#[test]
fn a_tunnel_does_not_carry_its_own_datagrams() {
    let mut world = World::default();
    world.set(&node(1), &peer(1, None, &[]), 0);
    world.route(prefix(1), &node(1));
    world.set(&node(2), &peer(2, None, &["10.1.0.9:1", "192.0.2.1:1"]), 0);
    assert_eq!(world.state(2).endpoint, Some("192.0.2.1:1".parse().unwrap()));
}

#[test]
fn what_an_agent_before_has_left_is_kept_by_naming_it_or_goes() {
    let mut world = World::default();
    for number in [1, 2] {
        world.set(&node(number), &peer(number, None, &["192.0.2.1:1"]), 0);
        world.route(prefix(number), &node(number));
    }
    world.route(prefix(3), &node(1));
    world.state(1).last_handshake = Some(at(1));
    world.restart();
    let left = world.peers.programmed(&world.device);
    assert_eq!(left.len(), 2);
    assert!(left.keys().all(|node| node.cluster.as_str() == "unnamed"), "{left:?}");
    let routes = world.routed();
    assert!(routes.len() == 3 && routes.values().all(|owner| left.contains_key(owner)), "{routes:?}");

    // The plan knows node 1 with one of its prefixes, and nothing of node 2.
    let kept = peer(1, None, &["192.0.2.1:1"]);
    world.set(&node(1), &kept, 2);
    assert_eq!(world.state(1).last_handshake, Some(at(1)), "the session stays");
    assert_eq!(world.device.allowed.len(), 3, "nothing is lost before the plan says so");
    world.route(prefix(1), &node(1));
    PeerChange::evict(vec![prefix(3)]).iter().for_each(|change| world.device.note(change));
    left.keys().for_each(|unnamed| world.remove(unnamed));
    assert_eq!(world.peers.programmed(&world.device), BTreeMap::from([(node(1), kept)]));
    assert_eq!(world.routed(), BTreeMap::from([(prefix(1), node(1))]));
}

#[test]
fn what_is_there_by_half_belongs_to_nobody() {
    let mut world = World::default();
    world.set(&node(1), &peer(1, None, &[]), 0);
    for number in [1, 2, 3] {
        world.route(prefix(number), &node(1));
    }
    // Somebody took a prefix from the peer, and a route from the table, and set one.
    PeerChange::evict(vec![prefix(1)]).iter().for_each(|change| world.device.note(change));
    let overlay = BTreeMap::from([(prefix(1), true), (prefix(3), false), (prefix(4), true)]);
    let routes = world.peers.routed(&world.device, &overlay);
    assert_eq!(routes.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4].map(prefix));
    assert!(routes.values().all(|owner| owner.cluster.as_str() == "unnamed"), "{routes:?}");
    // Where a peer is gone, so is its name.
    world.device.note(&PeerChange::new(Verb::Remove, key(1)));
    world.follow(1);
    assert_eq!(world.peers.programmed(&world.device), BTreeMap::new());
}

#[test]
fn a_copied_key_is_the_first_ones_until_that_goes_and_nobodys_after_the_last() {
    let mut world = World::default();
    world.set(&node(1), &peer(1, None, &["192.0.2.1:1"]), 0);
    world.set(&node(2), &peer(1, None, &["192.0.2.2:2"]), 0);
    world.route(prefix(1), &node(1));
    world.route(prefix(2), &node(2));
    assert_eq!(world.state(1).endpoint, Some("192.0.2.1:1".parse().unwrap()));
    world.remove(&node(2));
    assert_eq!(world.device.allowed.keys().copied().collect::<Vec<_>>(), [prefix(1)]);
    assert_eq!(world.routed(), BTreeMap::from([(prefix(1), node(1))]));
    world.remove(&node(1));
    assert_eq!(world.device, Device::default());
}
