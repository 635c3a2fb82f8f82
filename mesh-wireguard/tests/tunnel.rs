//! Two nodes with real devices, over a veth pair.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "common/netns.rs"]
mod netns;
#[path = "common/node.rs"]
mod node;

use std::net::SocketAddr;

use mesh_core::Prefix;
use mesh_dataplane::{Local, Op, Scope, Tunnel};
use mesh_wireguard::{Guard, ServiceRules, UserTunnel, UserTunnelConfig};
use netns::{Netns, eventually, possible};
use node::{Node, apply, echo, introduce, reaches, service, services, tcp, udp, udp_of};

fn pair() -> (Node, Node) {
    let nodes = (Node::new(1), Node::new(2));
    nodes.0.connect(&nodes.1);
    nodes
}

fn endpoint(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

fn carries_everything_over(at_a: &str, at_b: &str) {
    if !possible(&["ip", "ping"]) {
        return;
    }
    let (a, b) = pair();
    let (client, server) = (a.pod(5), b.pod(6));
    echo(&server.netns, 7000, "s");
    let (mut tunnel_a, mut tunnel_b) = (a.start(), b.start());
    introduce(&mut tunnel_a, &b, endpoint(at_b));
    introduce(&mut tunnel_b, &a, endpoint(at_a));
    for address in server.addresses {
        eventually("ping", || client.netns.ping(&address.to_string()));
    }
    reaches(&client.netns, &server.addresses, 7000);
    // The node itself speaks with its overlay address.
    reaches(&a.netns, &server.addresses, 7000);
    let stats = tunnel_a.stats().unwrap();
    assert_eq!(stats.peers.len(), 1);
    assert_eq!(stats.peers[0].endpoint, endpoint(at_b));
    assert!(stats.peers[0].last_handshake.is_some() && stats.peers[0].rx_bytes > 100_000 && stats.peers[0].tx_bytes > 100_000);
    // Both call at once: an answer may come for a call that was given up.
    let refused = stats.engine.refused;
    assert_eq!(refused.total() - refused.no_session, 0, "{stats:?}");
    assert!(std::iter::from_fn(|| tunnel_a.poll_flow()).any(|record| record.allowed), "flows are on record");
}

#[test]
fn carries_both_families_over_ipv4() {
    carries_everything_over("192.0.2.1:51820", "192.0.2.2:51820");
}

#[test]
fn carries_both_families_over_ipv6() {
    carries_everything_over("[2001:db8::1]:51820", "[2001:db8::2]:51820");
}

/// Megabytes each way at once: segments are merged, split and merged again on their way.
#[test]
fn bulk_data_arrives_whole_between_devices_with_and_without_offload() {
    if !possible(&["ip"]) {
        return;
    }
    for offload in [[true, true], [true, false], [false, true], [false, false]] {
        let (mut a, mut b) = pair();
        [a.offload, b.offload] = offload;
        let (client, server) = (a.pod(5), b.pod(6));
        echo(&server.netns, 7000, "s");
        let (mut tunnel_a, mut tunnel_b) = (a.start(), b.start());
        introduce(&mut tunnel_a, &b, endpoint("192.0.2.2:51820"));
        introduce(&mut tunnel_b, &a, endpoint("192.0.2.1:51820"));
        reaches(&client.netns, &server.addresses, 7000);
        for address in server.addresses {
            assert_eq!(tcp(&client.netns, address, 7000, 16 << 20).unwrap(), "s", "{offload:?}");
            udp_of(&client.netns, address, 7000, &[0, 1, 63, 64, 1000, 1372, 1391, 1392, 1399]).unwrap();
        }
        for tunnel in [&tunnel_a, &tunnel_b] {
            let stats = tunnel.stats().unwrap();
            // A handshake may have come before its sender was known, an answer after its call was given up.
            let refused = stats.engine.refused;
            assert_eq!((stats.io.tun_errors, refused.total() - refused.no_session), (0, 0), "{offload:?}: {stats:?}");
        }
    }
}

#[test]
fn conforms() {
    if !possible(&[]) {
        return;
    }
    let netns = std::sync::Arc::new(Netns::new());
    mesh_dataplane::conformance::conformance(&mut || {
        let tunnel = netns.run(|| {
            let guard = Guard {
                table: mesh_wireguard::TABLE,
                device: mesh_wireguard::DEVICE.into(),
                prefixes: Default::default(),
                local: Default::default(),
                except: Default::default(),
            };
            guard.down().unwrap();
            ServiceRules::open().unwrap().remove().unwrap();
            let config = UserTunnelConfig::new(mesh_wireguard::NodeKey::from_bytes([9; 32]));
            // The programs that other tests begin have copies of the old tunnel's socket for a moment.
            let mut tunnel = None;
            eventually("the port is free", || {
                tunnel = UserTunnel::start(config.clone()).ok();
                tunnel.is_some()
            });
            tunnel.unwrap()
        });
        Box::new(tunnel)
    });
}

#[test]
fn a_restarted_agent_finds_what_the_one_before_left_and_shakes_hands_at_once() {
    if !possible(&["ip"]) {
        return;
    }
    let (a, b) = pair();
    let server = b.pod(6);
    echo(&server.netns, 7000, "s");
    let (mut tunnel_a, mut tunnel_b) = (a.start(), b.start());
    introduce(&mut tunnel_a, &b, endpoint("192.0.2.2:51820"));
    // B only ever hears from A: it learns the endpoint, also after A moves to another port.
    introduce(&mut tunnel_b, &a, None);
    reaches(&a.netns, &server.addresses, 7000);

    let guarded = tunnel_a.observe().unwrap().guarded;
    drop(tunnel_a);
    assert!(!a.netns.ip("link show").contains("landbridge0"), "the device goes with the tunnel");
    let handshakes = tunnel_b.stats().unwrap().engine.handshakes;
    let mut tunnel_a = a.start_at(51999);
    assert_eq!(tunnel_a.observe().unwrap().guarded, guarded, "what was guarded is still guarded");
    introduce(&mut tunnel_a, &b, endpoint("192.0.2.2:51820"));
    reaches(&a.netns, &server.addresses, 7000);
    let stats = tunnel_b.stats().unwrap();
    assert!(stats.engine.handshakes > handshakes);
    assert_eq!(stats.peers[0].endpoint, endpoint("192.0.2.1:51999"));
}

#[test]
fn services_are_translated_on_the_clients_node() {
    if !possible(&["ip"]) {
        return;
    }
    let (a, b) = pair();
    let (client, one, two) = (a.pod(5), b.pod(6), b.pod(7));
    echo(&one.netns, 7001, "1");
    echo(&two.netns, 7002, "2");
    let (mut tunnel_a, mut tunnel_b) = (a.start(), b.start());
    introduce(&mut tunnel_a, &b, endpoint("192.0.2.2:51820"));
    introduce(&mut tunnel_b, &a, endpoint("192.0.2.1:51820"));
    let both = |family: usize| vec![(one.addresses[family], 7001), (two.addresses[family], 7002)];
    let table = [service("10.3.9.9", 80, &both(0)), service("fd00:3:9::9", 80, &both(1)), service("10.3.9.9", 81, &[])];
    apply(&mut tunnel_a, &[services(table.into_iter().flatten())]);
    for address in ["10.3.9.9", "fd00:3:9::9"].map(|text| text.parse().unwrap()) {
        // From a workload, and from the node itself.
        for from in [&client.netns, &a.netns] {
            reaches(from, &[address], 80);
            let mut names = std::collections::BTreeSet::new();
            eventually("both backends get connections", || {
                names.insert(tcp(from, address, 80, 10).unwrap());
                names.len() == 2
            });
        }
    }
    let refused = tcp(&client.netns, "10.3.9.9".parse().unwrap(), 81, 1).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "no ready backend: reset");
    let refused = udp(&client.netns, "10.3.9.9".parse().unwrap(), 81).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "no ready backend: port unreachable");

    // A changed table keeps the connections that exist, and another program's tables.
    a.netns.command("nft add table inet foreign");
    let (address, kept) = ("10.3.9.9".parse().unwrap(), one.addresses[0]);
    let mut stream = a.netns.run(move || std::net::TcpStream::connect(SocketAddr::new(address, 80))).unwrap();
    apply(&mut tunnel_a, &[services(service("10.3.9.9", 80, &[(kept, 7001)]))]);
    use std::io::{Read, Write};
    let mut answer = [0; 6];
    stream.write_all(b"still").unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[1..], b"still");
    assert!((0..10).all(|_| tcp(&client.netns, address, 80, 10).is_ok_and(|name| name == "1")));
    let tables = a.netns.command("nft list tables").1;
    assert!(!std::path::Path::new("/usr/sbin/nft").exists() || tables.contains("inet foreign"), "{tables}");
}

#[test]
fn workloads_of_one_node_go_through_the_tunnel_with_scope_node() {
    if !possible(&["ip", "ping"]) {
        return;
    }
    let (mut a, b) = pair();
    a.scope = Scope::Node;
    let (client, server, remote) = (a.pod(5), a.pod(6), b.pod(7));
    echo(&server.netns, 7001, "s");
    echo(&remote.netns, 7001, "r");
    let (mut tunnel_a, mut tunnel_b) = (a.start(), b.start());
    introduce(&mut tunnel_a, &b, endpoint("192.0.2.2:51820"));
    introduce(&mut tunnel_b, &a, endpoint("192.0.2.1:51820"));
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

    reaches(&client.netns, &server.addresses, 7001);
    assert!(tunnel_a.stats().unwrap().forwarder.local.packets > 0, "they went through the TUN");
    let before = tunnel_a.stats().unwrap().forwarder.local.packets;
    reaches(&client.netns, &own, 80);
    assert!(tunnel_a.stats().unwrap().forwarder.local.packets > before + 20, "services too");
    // The node itself to its own workload; a workload to another node's; from another node to this one's.
    reaches(&a.netns, &server.addresses, 7001);
    reaches(&a.netns, &own, 80);
    reaches(&client.netns, &remote.addresses, 7001);
    reaches(&client.netns, &foreign, 80);
    reaches(&remote.netns, &own, 80);
    reaches(&remote.netns, &server.addresses, 7001);
    // A workload reaches itself through its service.
    assert!(client.netns.ping(&server.addresses[0].to_string()));
}

#[test]
fn guard_holds_before_the_start_and_after_the_end() {
    if !possible(&["ip", "ping", "nft"]) {
        return;
    }
    let (a, b) = pair();
    let (client, server) = (a.pod(5), b.pod(6));
    // The underlay knows the way, so that a missing guard shows.
    for (prefix, via) in [("10.2.0.0/16", "192.0.2.2"), ("fd00:2::/32", "2001:db8::2")] {
        a.netns.ip(&format!("route add {prefix} via {via}"));
    }
    for (prefix, via) in [("10.1.0.0/16", "192.0.2.1"), ("fd00:1::/32", "2001:db8::1")] {
        b.netns.ip(&format!("route add {prefix} via {via}"));
    }
    // Everything on the underlay that is not WireGuard or a neighbour's.
    for rule in [
        "add table netdev watch",
        "add chain netdev watch in { type filter hook ingress device underlay priority 0 ; }",
        "add rule netdev watch in udp dport 51820 accept",
        "add rule netdev watch in ip saddr 10.0.0.0/8 counter",
        "add rule netdev watch in ip6 saddr fd00::/16 counter",
    ] {
        let (ok, text) = b.netns.command(&format!("nft {rule}"));
        assert!(ok, "{rule}: {text}");
    }
    let in_the_clear = || b.netns.command("nft list table netdev watch").1.matches("counter packets 0").count() < 2;
    let addresses = server.addresses.map(|address| address.to_string());
    let guard = Guard {
        table: mesh_wireguard::TABLE,
        device: mesh_wireguard::DEVICE.into(),
        prefixes: a.guarded(),
        local: a.prefixes().into(),
        except: a.prefixes().into(),
    };
    let up = guard.clone();
    a.netns.run(move || (up.up().unwrap(), up.up().unwrap()));
    let status = guard.clone();
    let status = a.netns.run(move || status.status().unwrap());
    assert!(status.rules && status.guarded == guard.prefixes && status.excepted == guard.except, "{status:?}");
    let blocked = || addresses.iter().all(|address| !client.netns.ping(address) && !a.netns.ping(address));
    assert!(blocked() && !in_the_clear(), "before the start");

    let (mut tunnel_a, mut tunnel_b) = (a.start(), b.start());
    assert!(blocked() && !in_the_clear(), "without a peer");
    introduce(&mut tunnel_a, &b, endpoint("192.0.2.2:51820"));
    introduce(&mut tunnel_b, &a, endpoint("192.0.2.1:51820"));
    eventually("the tunnel carries", || addresses.iter().all(|address| client.netns.ping(address)));
    assert!(!in_the_clear(), "through the tunnel");
    drop(tunnel_a);
    assert!(blocked() && !in_the_clear(), "after the end");
    drop(tunnel_b);

    let down = guard.clone();
    a.netns.run(move || down.down().unwrap());
    let status = a.netns.run(move || guard.status().unwrap());
    assert_eq!(status, Default::default());
    let guard_b = Guard {
        table: mesh_wireguard::TABLE,
        device: mesh_wireguard::DEVICE.into(),
        prefixes: Default::default(),
        local: Default::default(),
        except: Default::default(),
    };
    b.netns.run(move || guard_b.down().unwrap());
    eventually("the underlay carries again", || addresses.iter().all(|address| client.netns.ping(address)));
    assert!(in_the_clear(), "the watch works");
}

#[test]
fn random_bytes_crash_nothing() {
    if !possible(&["ip"]) {
        return;
    }
    let (a, b) = pair();
    let server = b.pod(6);
    echo(&server.netns, 7000, "s");
    let (mut tunnel_a, mut tunnel_b) = (a.start(), b.start());
    introduce(&mut tunnel_a, &b, endpoint("192.0.2.2:51820"));
    introduce(&mut tunnel_b, &a, endpoint("192.0.2.1:51820"));
    reaches(&a.netns, &server.addresses, 7000);
    let mut seed = 7u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as u8
    };
    let noise: Vec<Vec<u8>> = (0..2000)
        .map(|round| {
            let mut bytes: Vec<u8> = (0..usize::from(next()) + usize::from(next())).map(|_| next()).collect();
            if round % 2 == 0 && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&[round as u8 / 2 % 5, 0, 0, 0]);
                bytes.resize([148, 92, 64, 100][round / 2 % 4], 0);
            }
            bytes
        })
        .collect();
    let to_port = noise.clone();
    a.netns.run(move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        to_port.iter().for_each(|bytes| drop(socket.send_to(bytes, "192.0.2.2:51820")));
    });
    // Onto the device itself, as raw IP packets (protocol 255, then nonsense).
    a.netns.run(move || {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(255.into())).unwrap();
        let to = SocketAddr::from(([10, 2, 1, 6], 0)).into();
        noise.iter().for_each(|bytes| drop(socket.send_to(bytes, &to)));
    });
    eventually("the noise was counted", || tunnel_b.stats().is_ok_and(|stats| stats.engine.refused.malformed > 100));
    reaches(&a.netns, &server.addresses, 7000);
}

#[test]
fn a_foreign_table_of_our_name_is_left_alone() {
    if !possible(&["nft"]) {
        return;
    }
    let a = Node::new(1);
    let mut tunnel = a.start();
    assert!(a.netns.command("nft add table inet landbridge").0);
    assert!(a.netns.command("nft add chain inet landbridge mine").0);
    let failed = tunnel.apply(&[services(service("10.3.9.9", 80, &[]))]);
    assert!(failed.iter().any(|(_, error)| error.to_string().contains("not ours")), "{failed:?}");
    assert!(a.netns.command("nft list table inet landbridge").1.contains("chain mine"));
    assert!(tunnel.observe().unwrap().services.is_none());
    assert!(a.netns.run(|| ServiceRules::open().unwrap().remove()).is_err());
}

#[test]
fn what_comes_out_of_the_tunnel_does_not_leave_in_the_clear() {
    if !possible(&["ip"]) {
        return;
    }
    let (a, b) = pair();
    let client = a.pod(5);
    let outside = Netns::new();
    b.netns.connect("uplink", &outside, "uplink");
    b.netns.ip("addr add 198.51.100.1/24 dev uplink");
    outside.ip("addr add 198.51.100.2/24 dev uplink");
    b.netns.ip("route add default via 198.51.100.2");
    // Whoever is out there would answer to the addresses of node B's pods.
    outside.ip("addr add 10.2.1.66/32 dev lo");
    outside.ip("route add default via 198.51.100.1");
    echo(&outside, 7000, "o");
    let (mut tunnel_a, mut tunnel_b) = (a.start(), b.start());
    introduce(&mut tunnel_a, &b, endpoint("192.0.2.2:51820"));
    introduce(&mut tunnel_b, &a, endpoint("192.0.2.1:51820"));
    let server = b.pod(6);
    echo(&server.netns, 7000, "s");
    reaches(&client.netns, &server.addresses, 7000);
    // A pod that is gone: of its address nothing is left but the default route.
    for _ in 0..3 {
        assert!(!client.netns.ping("10.2.1.66"));
    }
}

#[test]
fn sources_of_the_fleet_come_out_of_the_tunnel_or_not_at_all() {
    if !possible(&["ip"]) {
        return;
    }
    let (a, b) = pair();
    let server = b.pod(6);
    echo(&server.netns, 7000, "s");
    let mut tunnel_b = b.start();
    introduce(&mut tunnel_b, &a, endpoint("192.0.2.1:51820"));
    // Somebody on the underlay has the address of a pod of node A, and a way past the tunnel.
    let spoofed = ["10.1.1.66", "fd00:1:1::66"];
    a.netns.ip("addr add 10.1.1.66/32 dev lo");
    a.netns.ip("addr add fd00:1:1::66/128 dev lo nodad");
    a.netns.ip("route add 10.2.1.0/24 via 192.0.2.2 src 10.1.1.66");
    a.netns.ip("route add fd00:2:1::/64 via 2001:db8::2 src fd00:1:1::66");
    // Neighbour discovery would ask from the false address, and the answer would go into the tunnel.
    let link = b.netns.ip("link show underlay");
    let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    a.netns.ip(&format!("neigh replace 2001:db8::2 lladdr {mac} dev underlay"));
    let arrivals = || {
        let text = server.netns.command("cat /proc/net/snmp /proc/net/snmp6").1;
        let udp = |line: &str| line.starts_with("Udp: ") && line[5..].starts_with(|c: char| c.is_ascii_digit());
        let v4 = text.lines().find(|line| udp(line)).and_then(|line| line.split_whitespace().nth(1)).unwrap().to_owned();
        let v6 = text.lines().find(|line| line.starts_with("Udp6InDatagrams")).unwrap().to_owned();
        (v4, v6)
    };
    apply(&mut tunnel_b, &[services([])]);
    let before = arrivals();
    for (from, to) in spoofed.into_iter().zip(server.addresses) {
        a.netns.run(move || {
            let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
            for _ in 0..5 {
                socket.send_to(b"spoofed", (to, 7000)).unwrap();
            }
        });
    }
    // What is sent after them, and may come in, tells that they would have been there.
    reaches(&b.netns, &server.addresses, 7000);
    let after = arrivals();
    let digits = |text: &str| text.rsplit(char::is_whitespace).next().unwrap().parse::<u64>().unwrap();
    let arrived = (digits(&after.0) - digits(&before.0), digits(&after.1) - digits(&before.1));
    assert!(arrived.0 < 5 && arrived.1 < 5, "five spoofed ones: {arrived:?}");
}

#[test]
fn a_device_that_was_taken_down_is_brought_up_again() {
    if !possible(&["ip"]) {
        return;
    }
    let (a, b) = pair();
    let mut tunnel = a.start();
    introduce(&mut tunnel, &b, None);
    a.netns.ip("link set landbridge0 down");
    let actual = tunnel.observe().unwrap();
    assert!(actual.routes.len() < 2, "routes through a device that is down go: {:?}", actual.routes);
    let local = Local { node: a.id(), prefixes: a.prefixes().into(), overlay: a.overlay(), scope: a.scope };
    let routes = b.prefixes().map(|prefix| Op::SetRoute(prefix, b.id()));
    apply(&mut tunnel, &[Op::SetLocal(local.clone())]);
    apply(&mut tunnel, &routes);
    let actual = tunnel.observe().unwrap();
    assert_eq!((actual.routes.len(), actual.local), (2, Some(local)));
}

#[test]
fn a_prefix_that_moves_away_takes_its_rule_along() {
    if !possible(&["ip"]) {
        return;
    }
    let a = Node::new(1);
    let mut tunnel = a.start();
    let rule = |family: &str, prefix: Prefix| a.netns.ip(&format!("{family} rule show")).contains(&format!("to {prefix} "));
    let [v4, v6] = a.prefixes();
    assert!(rule("-4", v4) && rule("-6", v6));
    let local = Local { node: a.id(), prefixes: [v4].into(), overlay: Vec::new(), scope: a.scope };
    apply(&mut tunnel, &[Op::SetLocal(local.clone())]);
    assert!(rule("-4", v4) && !rule("-6", v6), "else the node's own packets to it would pass the tunnel by");
    // Also one that an agent before has left.
    a.netns.ip("rule add iif lo to 10.2.0.0/16 lookup main suppress_prefixlength 0 priority 7300 protocol 73");
    tunnel.observe().unwrap();
    assert!(!rule("-4", "10.2.0.0/16".parse().unwrap()));
}
