//! The kernel tunnel on its own, with another one, and with the user tunnel.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_dataplane::{Op, Peer, PeerKeys, Scope, Tunnel};
use mesh_wireguard::{Guard, KernelStartError, KernelTunnel, KernelTunnelConfig, NodeKey, ServiceRules};

use crate::netns::{Netns, eventually, possible_in_kernel};
use crate::node::{Node, apply, echo, introduce, reaches, service, services, udp_of};

pub(crate) fn endpoint(node: &Node) -> Option<SocketAddr> {
    Some(format!("192.0.2.{}:51820", node.number).parse().unwrap())
}

pub(crate) fn pair() -> (Node, Node) {
    let nodes = (Node::new(1), Node::new(2));
    nodes.0.connect(&nodes.1);
    nodes
}

fn guard(prefixes: std::collections::BTreeSet<mesh_core::Prefix>) -> Guard {
    let device = mesh_wireguard::DEVICE.into();
    Guard { table: mesh_wireguard::TABLE, device, prefixes, local: Default::default(), except: Default::default() }
}

#[test]
fn conforms() {
    if !possible_in_kernel(&[]) {
        return;
    }
    let netns = Arc::new(Netns::new());
    mesh_dataplane::conformance::conformance(&mut || {
        let tunnel = netns.run(|| {
            guard(Default::default()).down().unwrap();
            ServiceRules::open().unwrap().remove().unwrap();
            KernelTunnel::start(KernelTunnelConfig::new(NodeKey::from_bytes([9; 32]))).unwrap()
        });
        Box::new(tunnel)
    });
}

/// Pods and nodes, both families, over `at` as the underlay.
fn carries(a: &Node, tunnel_a: &mut dyn Tunnel, b: &Node, tunnel_b: &mut dyn Tunnel) {
    let (client, server) = (a.pod(5), b.pod(6));
    echo(&server.netns, 7000, "s");
    introduce(tunnel_a, b, endpoint(b));
    introduce(tunnel_b, a, endpoint(a));
    reaches(&client.netns, &server.addresses, 7000);
    reaches(&a.netns, &server.addresses, 7000);
    for address in server.addresses {
        udp_of(&client.netns, address, 7000, &[0, 1, 1372, 1391, 1392, 1399, 1600]).unwrap();
    }
}

#[test]
fn two_kernel_tunnels_carry_both_families() {
    if !possible_in_kernel(&["ip"]) {
        return;
    }
    let (a, b) = pair();
    let (mut tunnel_a, mut tunnel_b) = (a.start_kernel(), b.start_kernel());
    carries(&a, &mut tunnel_a, &b, &mut tunnel_b);
    let stats = tunnel_a.stats().unwrap();
    assert_eq!(stats.peers.len(), 1);
    let peer = &stats.peers[0];
    assert_eq!((&peer.node, peer.key, peer.endpoint), (&b.id(), b.key.public(), endpoint(&b)));
    assert!(peer.last_handshake.is_some() && peer.rx_bytes > 100_000 && peer.tx_bytes > 100_000, "{peer:?}");
}

#[test]
fn kernel_and_user_tunnel_carry_both_families() {
    if !possible_in_kernel(&["ip"]) {
        return;
    }
    let (a, b) = pair();
    carries(&a, &mut a.start_kernel(), &b, &mut b.start());
    // And the other way round, where the user tunnel calls.
    let (a, b) = pair();
    carries(&a, &mut a.start(), &b, &mut b.start_kernel());
}

#[test]
fn services_and_local_traffic_with_scope_node() {
    if !possible_in_kernel(&["ip"]) {
        return;
    }
    let (mut a, b) = pair();
    a.scope = Scope::Node;
    let (client, server, remote) = (a.pod(5), a.pod(6), b.pod(7));
    echo(&server.netns, 7001, "s");
    echo(&remote.netns, 7001, "r");
    let (mut tunnel_a, mut tunnel_b) = (a.start_kernel(), b.start_kernel());
    introduce(&mut tunnel_a, &b, endpoint(&b));
    introduce(&mut tunnel_b, &a, endpoint(&a));
    let table = [
        service("10.3.9.9", 80, &[(server.addresses[0], 7001)]),
        service("fd00:3:9::9", 80, &[(server.addresses[1], 7001)]),
        service("10.3.9.8", 80, &[(remote.addresses[0], 7001)]),
        service("fd00:3:9::8", 80, &[(remote.addresses[1], 7001)]),
    ];
    apply(&mut tunnel_a, &[services(table.clone().into_iter().flatten())]);
    apply(&mut tunnel_b, &[services(table.into_iter().flatten())]);
    let addresses = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap());
    let (own, foreign) = (addresses(["10.3.9.9", "fd00:3:9::9"]), addresses(["10.3.9.8", "fd00:3:9::8"]));
    let carried = || a.netns.command("cat /sys/class/net/landbridge0/statistics/tx_packets").1;
    let before = carried();
    reaches(&client.netns, &server.addresses, 7001);
    reaches(&client.netns, &own, 80);
    reaches(&a.netns, &server.addresses, 7001);
    reaches(&a.netns, &own, 80);
    assert_eq!(carried(), before, "what is between the node's own does not pass the device");
    reaches(&client.netns, &remote.addresses, 7001);
    reaches(&client.netns, &foreign, 80);
    reaches(&remote.netns, &server.addresses, 7001);
    reaches(&remote.netns, &own, 80);

    // A workload that is gone is nowhere else, either: the node's default route leads to the other one, which would take it.
    a.netns.ip("route add default via 192.0.2.2");
    let gone = "10.1.1.99";
    assert!(a.netns.command(&format!("ip route get {gone} from 10.1.1.5 iif pod5")).1.contains("Invalid argument"), "blackhole");
    assert!(a.netns.command(&format!("ip route get {gone}")).1.contains("Invalid argument"), "blackhole");
}

/// What others have, as text.
fn foreign_things(node: &Node) -> String {
    let commands = [
        "ip -d link show dev wg-foreign",
        "wg showconf wg-foreign",
        "ip -4 route show table 7300 protocol 99",
        "ip -4 rule show priority 7305",
        "nft list table inet foreign",
    ];
    commands.map(|command| node.netns.command(command).1).join("\n")
}

#[test]
fn what_is_others_stays_as_it_is() {
    if !possible_in_kernel(&["ip", "wg", "nft"]) {
        return;
    }
    let (a, b) = pair();
    let peer = b.key.public();
    for line in [
        "ip link add wg-foreign type wireguard".to_owned(),
        format!("wg set wg-foreign listen-port 7777 peer {peer} allowed-ips 10.2.1.0/24 endpoint 192.0.2.9:9"),
        "ip route add 10.99.0.0/16 dev lo table 7300 protocol 99".to_owned(),
        "ip rule add to 10.99.0.0/16 lookup main priority 7305 protocol 99".to_owned(),
        "nft add table inet foreign".to_owned(),
    ] {
        let (ok, text) = a.netns.command(&line);
        assert!(ok, "{line}: {text}");
    }
    let before = foreign_things(&a);
    assert!(before.contains("AllowedIPs") && before.contains("10.99.0.0/16 dev lo") && before.contains("7305:"), "{before}");
    let mut tunnel = a.start_kernel();
    introduce(&mut tunnel, &b, endpoint(&b));
    apply(&mut tunnel, &[services(service("10.3.9.9", 80, &[]))]);
    let actual = tunnel.observe().unwrap();
    assert_eq!((actual.peers.len(), actual.routes.len()), (1, 2), "{actual:?}");
    assert_eq!(foreign_things(&a), before);
    apply(&mut tunnel, &[Op::DelPeer(b.id()), Op::SetGuarded(Default::default())]);
    drop(tunnel);
    a.netns.run(|| guard(Default::default()).down().unwrap());
    assert!(!a.netns.ip("link show").contains("landbridge0"), "down takes the device along");
    assert!(!a.netns.command("nft list tables").1.contains("landbridge-policy"), "and the policy");
    assert_eq!(foreign_things(&a), before);
}

#[test]
fn a_device_of_our_name_and_another_kind_is_left_alone() {
    if !possible_in_kernel(&["ip"]) {
        return;
    }
    let a = Node::new(1);
    a.netns.ip("link add landbridge0 type dummy");
    let config = KernelTunnelConfig::new(a.key.clone());
    let error = a.netns.run(move || KernelTunnel::start(config)).unwrap_err();
    assert!(matches!(&error, KernelStartError::Foreign { kind, .. } if kind == "dummy"), "{error}");
    assert!(error.to_string().contains("remove it"), "{error}");
    a.netns.run(|| guard(Default::default()).down().unwrap());
    assert!(a.netns.ip("link show").contains("landbridge0"));
}

#[test]
fn a_device_that_was_removed_is_made_again_and_nothing_leaks_meanwhile() {
    if !possible_in_kernel(&["ip"]) {
        return;
    }
    let (a, b) = pair();
    let server = b.pod(6);
    echo(&server.netns, 7000, "s");
    let (mut tunnel_a, mut tunnel_b) = (a.start_kernel(), b.start_kernel());
    introduce(&mut tunnel_a, &b, endpoint(&b));
    introduce(&mut tunnel_b, &a, endpoint(&a));
    apply(&mut tunnel_a, &[services(service("172.30.0.9", 80, &[(server.addresses[0], 7000)]))]);
    reaches(&a.netns, &server.addresses, 7000);
    let before = tunnel_a.observe().unwrap();
    assert!(before.services.is_some() && before.local.is_some() && before.routes.len() == 2);

    a.netns.ip("link delete landbridge0");
    let way = a.netns.command("ip route get 10.2.1.6").1;
    assert!(way.contains("Invalid argument"), "a blackhole: {way}");
    let failed = tunnel_a.apply(&[Op::SetRoute(b.prefixes()[0], b.id())]);
    assert_eq!(failed.len(), 1, "nothing pretends to be there");
    let (mut tunnel_a, after) = a.netns.run(move || {
        let after = tunnel_a.observe().unwrap();
        (tunnel_a, after)
    });
    assert_eq!((after.peers.len(), after.routes.len()), (0, 0));
    assert_eq!((&after.guarded, &after.services, &after.local), (&before.guarded, &before.services, &before.local));
    let peer = Peer { keys: PeerKeys { current: b.key.public(), next: None }, endpoints: endpoint(&b).into_iter().collect() };
    let routes = b.prefixes().map(|prefix| Op::SetRoute(prefix, b.id()));
    apply(&mut tunnel_a, &[Op::SetPeer(b.id(), peer)]);
    apply(&mut tunnel_a, &routes);
    assert_eq!(tunnel_a.observe().unwrap(), before);
    reaches(&a.netns, &server.addresses, 7000);
}

#[test]
fn a_device_that_was_taken_down_or_changed_is_put_right() {
    if !possible_in_kernel(&["ip", "wg"]) {
        return;
    }
    let (a, b) = pair();
    let mut tunnel = a.start_kernel();
    introduce(&mut tunnel, &b, endpoint(&b));
    let key = a.netns.command("wg show landbridge0 public-key").1;
    a.netns.ip("link set landbridge0 down mtu 1300");
    for line in ["wg set landbridge0 listen-port 4444 fwmark 0x1 private-key /dev/null", "ip rule delete priority 7301"] {
        let (ok, text) = a.netns.command(line);
        assert!(ok, "{line}: {text}");
    }
    let actual = tunnel.observe().unwrap();
    assert!(actual.routes.values().all(|node| *node != b.id()), "routes are gone, prefixes are there: {actual:?}");
    let link = a.netns.ip("link show landbridge0");
    assert!(link.contains("mtu 1420") && link.contains(",UP"), "{link}");
    let shown = |what: &str| a.netns.command(&format!("wg show landbridge0 {what}")).1;
    assert_eq!((shown("listen-port").trim(), shown("fwmark").trim(), shown("public-key")), ("51820", "off", key));
    assert!(a.netns.ip("rule show").contains("7301:"));
    // The key was taken away, and the sessions with it; the peer is still there.
    assert_eq!(actual.peers.keys().collect::<Vec<_>>(), [&b.id()]);
    apply(&mut tunnel, &[Op::SetLocal(a.local())]);
    apply(&mut tunnel, &b.prefixes().map(|prefix| Op::SetRoute(prefix, b.id())));
    let actual = tunnel.observe().unwrap();
    assert_eq!((actual.routes.len(), actual.local), (2, Some(a.local())));
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    if !possible_in_kernel(&["ip"]) {
        return;
    }
    let a = Node::new(1);
    let _taken = a.netns.run(|| std::net::UdpSocket::bind("0.0.0.0:51820").unwrap());
    let config = KernelTunnelConfig::new(a.key.clone());
    let error = a.netns.run(move || KernelTunnel::start(config)).unwrap_err();
    assert!(matches!(error, KernelStartError::Port { port: 51820, .. }), "{error}");
    // Another one tries until the device is as it shall be.
    drop(_taken);
    eventually("the port is free", || {
        let config = KernelTunnelConfig::new(a.key.clone());
        a.netns.run(move || KernelTunnel::start(config)).is_ok()
    });
}
