//! Congestion marks of the underlay, as two stacks with ECN see them through the tunnel.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "common/netns.rs"]
mod netns;
#[path = "common/node.rs"]
mod node;

use netns::{Netns, eventually, possible};
use node::{Node, echo, introduce, tcp};

/// Returns how many packets with a congestion mark a namespace has received, of both families.
fn congested(netns: &Netns) -> u64 {
    let table = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("IpExt:")).map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let v4 = names.zip(values).find(|(name, _)| *name == "InCEPkts").map(|(_, value)| value.parse::<u64>().unwrap()).unwrap();
    let table = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp6")).unwrap();
    let v6 = table.lines().find_map(|line| line.strip_prefix("Ip6InCEPkts")).unwrap().trim().parse::<u64>().unwrap();
    v4 + v6
}

#[test]
fn a_marked_datagram_is_a_marked_packet_and_one_that_cannot_say_it_is_dropped() {
    if !possible(&["ip", "nft"]) {
        return;
    }
    let (a, b) = (Node::new(1), Node::new(2));
    a.connect(&b);
    let (client, server) = (a.pod(5), b.pod(6));
    echo(&server.netns, 7000, "s");
    let (mut tunnel_a, mut tunnel_b) = (a.start(), b.start());
    let nft = |rule: &str| {
        let (ok, text) = b.netns.command(&format!("nft {rule}"));
        assert!(ok, "{rule}: {text}");
    };
    nft("add table netdev busy");
    nft("add chain netdev busy in { type filter hook ingress device underlay priority 0 ; }");
    for (of_a, of_b) in [("192.0.2.1:51820", "192.0.2.2:51820"), ("[2001:db8::1]:51820", "[2001:db8::2]:51820")] {
        introduce(&mut tunnel_a, &b, Some(of_b.parse().unwrap()));
        introduce(&mut tunnel_b, &a, Some(of_a.parse().unwrap()));
        for pod in [&client, &server] {
            pod.netns.sysctl("ipv4/tcp_ecn", "1");
        }
        let answers = |len| server.addresses.iter().all(|address| tcp(&client.netns, *address, 7000, len).is_ok());
        eventually("the tunnel carries", || answers(10));

        // Where nobody marks, nothing arrives marked; where a busy router does, the packets inside are, and all of them arrive.
        let before = congested(&server.netns);
        assert!(answers(1 << 20));
        assert_eq!(congested(&server.netns), before);
        nft("add rule netdev busy in udp dport 51820 ip ecn { ect0, ect1 } ip ecn set ce");
        nft("add rule netdev busy in udp dport 51820 ip6 ecn { ect0, ect1 } ip6 ecn set ce");
        assert!(answers(1 << 20));
        assert!(congested(&server.netns) > before, "the sender is told to slow down");
        assert_eq!(tunnel_b.stats().unwrap().engine.congested, 0);

        // A sender that knows nothing of marks has to see a loss. No router would mark its datagrams; one that does shows it.
        client.netns.sysctl("ipv4/tcp_ecn", "0");
        nft("flush chain netdev busy in");
        assert!(answers(10), "its datagrams carry no mark");
        nft("add rule netdev busy in udp dport 51820 ip ecn set ce");
        nft("add rule netdev busy in udp dport 51820 ip6 ecn set ce");
        assert!(!client.netns.ping(&server.addresses[0].to_string()), "it is dropped");
        assert!(tunnel_b.stats().unwrap().engine.congested > 0);
        nft("flush chain netdev busy in");
        tunnel_b = {
            drop(tunnel_b);
            b.start()
        };
    }
}
