//! Packets that follow another's verdict: ICMP errors and later fragments.

use super::*;

#[test]
fn an_icmp_error_follows_the_connection_that_it_quotes() {
    let mut node = Node::new();
    let ours = tcp(CLIENT, SERVER, SYN, 0x1000);
    let too_big = |quoted: &[u8]| icmp("10.2.0.1", WEB, (3, 4), [0, 0, 5, 0], &quoted[..28]);
    assert_eq!(node.receive(&too_big(&ours)), Inbound::Drop(DropReason::UnrelatedError), "about nothing that is open");
    node.connect();
    assert_eq!(node.receive(&too_big(&ours)), Inbound::Deliver, "from a router on the way, isolated as web is");
    assert_eq!(
        node.receive(&too_big(&tcp(SERVER, CLIENT, ACK, 0))),
        Inbound::Drop(DropReason::UnrelatedError),
        "about a packet that web did not send"
    );
    let theirs = tcp(SERVER, CLIENT, ACK, 5);
    let unreachable = icmp(WEB, DB, (3, 3), [0; 4], &theirs[..28]);
    assert_eq!(node.send(&unreachable), Outbound::Send(node.west), "and the other way");
    let elsewhere = icmp("10.3.0.1", WEB, (3, 4), [0, 0, 5, 0], &ours[..28]);
    let other = node.forwarder.peer(&node_id("west/n2"));
    assert_eq!(
        node.forwarder.handle_inbound(other, &elsewhere, node.now),
        Inbound::Drop(DropReason::UnrelatedError),
        "from a node that the packet never came to"
    );
    let forged = icmp("10.3.0.1", WEB, (3, 4), [0, 0, 5, 0], &ours[..28]);
    assert_eq!(node.receive(&forged), Inbound::Drop(DropReason::ForeignSource));

    node.fleet.isolate("web", Some(false), Some(false));
    node.program();
    assert_eq!(node.receive(&too_big(&ours)), Inbound::Drop(DropReason::UnrelatedError), "nor about one that has been cut");
}

#[test]
fn later_fragments_follow_the_first() {
    let mut node = Node::new();
    let long = udp((WEB, 1000), (DB, 53), &[0; 64]);
    let [first, later] = fragments_v4(&long, 77, 32);
    assert_eq!(node.send(&later), Outbound::Drop(DropReason::FragmentWithoutFirst));
    assert_eq!(node.send(&first), Outbound::Send(node.west));
    assert_eq!(node.send(&later), Outbound::Send(node.west));
    let [_, other] = fragments_v4(&long, 78, 32);
    assert_eq!(node.send(&other), Outbound::Drop(DropReason::FragmentWithoutFirst), "another packet");
    node.wait(11);
    assert_eq!(node.send(&later), Outbound::Drop(DropReason::FragmentWithoutFirst), "too late");

    let denied = fragments_v4(&udp((DB, 1000), (WEB, 99), &[0; 64]), 5, 32);
    assert_eq!(node.receive(&denied[0]), Inbound::Drop(DropReason::Policy));
    assert_eq!(node.receive(&denied[1]), Inbound::Drop(DropReason::FragmentWithoutFirst));
}

#[test]
fn later_fragments_of_a_cut_flow_are_dropped() {
    let mut node = Node::new();
    let long = udp((WEB6, 1000), (DB6, 53), &[0; 64]);
    assert_eq!(node.send(&fragment_v6(&long, 1, 0, true)), Outbound::Send(node.west));
    assert_eq!(node.send(&fragment_v6(&long, 1, 9, false)), Outbound::Send(node.west));
    node.fleet.isolate("web", None, Some(false));
    node.program();
    assert_eq!(node.send(&fragment_v6(&long, 1, 9, false)), Outbound::Drop(DropReason::FragmentWithoutFirst));
}

#[test]
fn an_allowed_packet_lends_its_name_to_no_other() {
    let mut node = Node::new();
    assert_eq!(node.send(&udp((WEB, 1000), (DB, 53), b"?")), Outbound::Send(node.west));
    let answer = fragments_v4(&udp((DB, 53), (WEB, 1000), &[0; 64]), 5, 32);
    let attack = fragments_v4(&udp((DB, 53), (WEB, 99), &[0; 64]), 5, 32);
    assert_eq!(node.receive(&answer[0]), Inbound::Deliver);
    assert_eq!(node.receive(&attack[0]), Inbound::Drop(DropReason::Policy));
    assert_eq!(node.receive(&attack[1]), Inbound::Drop(DropReason::FragmentWithoutFirst), "the name is tainted");
}

#[test]
fn who_refuses_connections_is_told_and_who_answers_again_is_too() {
    let mut node = Node::new();
    let told = |node: &mut Node| std::iter::from_fn(|| node.forwarder.poll_opening()).map(|o| o.refused).collect::<Vec<_>>();
    let client = |port| (CLIENT.0, port);
    let syn = |node: &mut Node, port| node.send(&tcp(client(port), SERVER, SYN, 0x1000));
    let reply = |node: &mut Node, port, flags| node.receive(&tcp(SERVER, client(port), flags, 0x2000));
    assert_eq!(syn(&mut node, 4001), Outbound::Send(node.west));
    assert_eq!(reply(&mut node, 4001, SYN | ACK), Inbound::Deliver);
    assert!(told(&mut node).is_empty(), "nobody asks about who never refused");
    assert_eq!(syn(&mut node, 4002), Outbound::Send(node.west));
    assert_eq!(reply(&mut node, 4002, RST | ACK), Inbound::Deliver);
    assert_eq!(reply(&mut node, 4002, RST | ACK), Inbound::Deliver);
    assert_eq!(told(&mut node), [true], "once for one opening");
    let datagram = udp((WEB, 1000), (SERVER.0, SERVER.1), b"x");
    assert_eq!(node.send(&datagram), Outbound::Send(node.west));
    for (code, expected) in [(4, &[][..]), (13, &[]), (3, &[true])] {
        assert_eq!(node.receive(&icmp(DB, WEB, (3, code), [0; 4], &datagram[..28])), Inbound::Deliver);
        assert_eq!(told(&mut node), expected, "code {code}");
    }
    assert_eq!(syn(&mut node, 4003), Outbound::Send(node.west));
    assert_eq!(reply(&mut node, 4003, SYN | ACK), Inbound::Deliver);
    assert_eq!(told(&mut node), [false]);
    node.wait(61);
    assert!(told(&mut node).is_empty(), "silence says nothing");
}
