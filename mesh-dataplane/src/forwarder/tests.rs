//! The forwarder's rules, a story each: `web` on this node, `db` on the peer `west/n1`. Nobody may open connections to `web`.

use std::time::Duration;

use mesh_core::{Direction, FlowEvent, FlowRecord, Key, Now, Time, WallTime};

use super::*;
use crate::plan::Scope;
use crate::test_fleet::*;
use crate::test_packets::*;
use crate::tunnel::Actual;

mod changes;
mod hold;
mod related;

struct Node {
    fleet: Fleet,
    forwarder: Forwarder,
    west: PeerHandle,
    now: Now,
}

impl Node {
    fn new() -> Node {
        let mut fleet = Fleet::new();
        fleet.isolate("web", Some(false), None);
        let mut node = Node {
            fleet,
            forwarder: Forwarder::new(),
            west: PeerHandle(0),
            now: Now { time: Time::ZERO, wall: WallTime::from_unix_secs(1_000) },
        };
        node.west = node.forwarder.peer(&node_id("west/n1"));
        node.program();
        node
    }

    /// Takes the plan of now over, as after a change.
    fn program(&mut self) {
        let plan = self.fleet.plan("east/n1", Scope::Node);
        for op in plan.diff(&Actual::default()) {
            self.forwarder.apply(&op);
        }
    }

    /// Begins anew, as after a restart: same plan, no flows.
    fn restart(&mut self) {
        self.forwarder = Forwarder::new();
        self.west = self.forwarder.peer(&node_id("west/n1"));
        self.program();
    }

    fn send(&mut self, packet: &[u8]) -> Outbound {
        self.forwarder.handle_outbound(packet, self.now)
    }

    fn receive(&mut self, packet: &[u8]) -> Inbound {
        self.forwarder.handle_inbound(self.west, packet, self.now)
    }

    fn wait(&mut self, seconds: u64) {
        let wait = Duration::from_secs(seconds);
        self.now = Now { time: self.now.time + wait, wall: self.now.wall + wait };
        self.forwarder.handle_timeout(self.now);
    }

    fn records(&mut self) -> Vec<FlowRecord> {
        std::iter::from_fn(|| self.forwarder.poll_flow()).collect()
    }

    fn events(&mut self) -> Vec<(FlowEvent, Direction)> {
        self.records().into_iter().map(|record| (record.event, record.direction)).collect()
    }

    /// A handshake of `web` with `db`, port 40000 to 5432.
    fn connect(&mut self) {
        assert_eq!(self.send(&tcp(CLIENT, SERVER, SYN, 0x1000)), Outbound::Send(self.west));
        assert_eq!(self.receive(&tcp(SERVER, CLIENT, SYN | ACK, 5)), Inbound::Deliver);
        assert_eq!(self.send(&tcp(CLIENT, SERVER, ACK, 0x1001)), Outbound::Send(self.west));
    }
}

const CLIENT: (&str, u16) = (WEB, 40_000);
const SERVER: (&str, u16) = (DB, 5432);

#[test]
fn only_the_opening_is_decided_and_replies_flow() {
    let mut node = Node::new();
    node.connect();
    assert_eq!(node.receive(&tcp(SERVER, CLIENT, ACK, 6)), Inbound::Deliver);
    assert_eq!(node.receive(&tcp(SERVER, (WEB, 22), SYN, 9)), Inbound::Drop(DropReason::Policy), "web is isolated");
    assert_eq!(
        node.receive(&tcp(SERVER, CLIENT, SYN, 9)),
        Inbound::Drop(DropReason::Policy),
        "nor may the server open a connection backwards through the flow"
    );
    assert_eq!(node.send(&tcp(CLIENT, SERVER, ACK, 0x1002)), Outbound::Send(node.west), "which lives on");
}

#[test]
fn a_flow_tells_of_its_beginning_and_end_with_both_ends_named() {
    let mut node = Node::new();
    node.connect();
    let [opened] = &node.records()[..] else { panic!("one record: this node is the source's only") };
    assert_eq!((opened.event, opened.direction, opened.allowed), (FlowEvent::Opened, Direction::Egress, true));
    assert!(opened.id.starts_with("1:") && opened.id.ends_with("=-00001000"), "{}", opened.id);
    let names = [&opened.source, &opened.destination].map(|end| end.workload.as_ref().map(ToString::to_string));
    assert_eq!(names, [Some("east/shop/web".into()), Some("west/shop/db".into())]);
    assert!(opened.source.identity.as_ref().is_some_and(|name| name.len() == 64));

    assert_eq!(node.send(&tcp(CLIENT, SERVER, FIN | ACK, 0x1002)), Outbound::Send(node.west));
    assert_eq!(node.receive(&tcp(SERVER, CLIENT, FIN | ACK, 6)), Inbound::Deliver);
    assert_eq!(node.send(&tcp(CLIENT, SERVER, ACK, 0x1003)), Outbound::Send(node.west));
    node.wait(11);
    let [closed] = &node.records()[..] else { panic!("one record") };
    assert_eq!((closed.event, closed.id.as_str()), (FlowEvent::Closed, opened.id.as_str()));
    assert_eq!((closed.packets_out, closed.packets_in, closed.bytes_out), (4, 2, 160));
    assert_eq!(node.forwarder.counters().flows, 0);
}

#[test]
fn a_new_connection_between_the_same_ports_is_a_new_flow() {
    let mut node = Node::new();
    node.connect();
    assert_eq!(node.send(&tcp(CLIENT, SERVER, SYN, 0x1000)), Outbound::Send(node.west), "a retransmission is not");
    assert_eq!(node.events(), [(FlowEvent::Opened, Direction::Egress)]);
    assert_eq!(node.send(&tcp(CLIENT, SERVER, SYN, 0x2000)), Outbound::Send(node.west));
    let events = [FlowEvent::Closed, FlowEvent::Opened].map(|event| (event, Direction::Egress));
    assert_eq!(node.events(), events);
}

#[test]
fn sources_must_be_who_they_say() {
    let mut node = Node::new();
    assert_eq!(node.send(&udp((DB, 1), (WEB, 2), b"")), Outbound::Drop(DropReason::Spoofed));
    assert_eq!(node.receive(&udp(("10.3.0.9", 1), (CART, 2), b"")), Inbound::Drop(DropReason::ForeignSource), "n2's prefix");
    assert_eq!(node.receive(&udp((CART, 1), (CART, 2), b"")), Inbound::Drop(DropReason::ForeignSource), "our own");
    assert_eq!(node.receive(&udp((DB, 1), ("10.3.0.9", 2), b"")), Inbound::Drop(DropReason::NotLocal));
    assert_eq!(node.send(&udp((WEB, 1), ("198.51.100.1", 2), b"")), Outbound::Drop(DropReason::NoRoute));
    assert_eq!(node.send(&udp((WEB, 1), ("224.0.0.251", 5353), b"")), Outbound::Drop(DropReason::Multicast));
    assert_eq!(node.send(&udp((WEB, 1), ("255.255.255.255", 67), b"")), Outbound::Drop(DropReason::Multicast));
    assert_eq!(node.send(&udp((WEB6, 1), ("ff02::fb", 5353), b"")), Outbound::Drop(DropReason::Multicast));
    assert_eq!(node.send(b"junk"), Outbound::Drop(DropReason::Malformed));
    assert_eq!((node.forwarder.counters().drops.total(), node.forwarder.counters().flows), (9, 0));

    // A peer cannot take part in another peer's flow either.
    node.connect();
    let other = node.forwarder.peer(&node_id("west/n2"));
    let forged = tcp(SERVER, CLIENT, ACK, 6);
    assert_eq!(node.forwarder.handle_inbound(other, &forged, node.now), Inbound::Drop(DropReason::ForeignSource));
}

#[test]
fn between_workloads_of_the_node_both_sides_decide_and_tell() {
    let mut node = Node::new();
    assert_eq!(node.send(&tcp((WEB, 1000), (CART, 80), SYN, 1)), Outbound::Local);
    assert_eq!(node.send(&tcp((CART, 80), (WEB, 1000), SYN | ACK, 1)), Outbound::Local, "the reply comes back the same way");
    let opened = [Direction::Egress, Direction::Ingress].map(|side| (FlowEvent::Opened, side));
    assert_eq!(node.events(), opened);
    assert_eq!(node.send(&tcp((CART, 1000), (WEB, 80), SYN, 1)), Outbound::Drop(DropReason::Policy));
    assert_eq!(node.events(), [(FlowEvent::Denied, Direction::Ingress)]);
    assert_eq!(node.forwarder.counters().local.packets, 2);
}

#[test]
fn an_unknown_identity_is_denied_under_its_own_name() {
    let mut node = Node::new();
    assert_eq!(node.send(&udp((WEB, 1), (UNKNOWN, 2), b"")), Outbound::Held);
    assert_eq!(node.receive(&udp((UNKNOWN, 1), (CART, 2), b"")), Inbound::Held);
    assert_eq!(node.records(), []);
    node.wait(2);
    let reasons: Vec<_> = node.records().into_iter().map(|record| (record.reason, record.direction)).collect();
    assert_eq!(reasons, [("identity-pending".into(), Direction::Egress), ("identity-pending".into(), Direction::Ingress)]);
    assert_eq!(node.forwarder.counters().drops.get(DropReason::IdentityPending), 2);
}

#[test]
fn without_a_policy_nothing_passes() {
    let fleet = Fleet::new();
    let mut forwarder = Forwarder::new();
    for op in fleet.plan("east/n1", Scope::Node).diff(&Actual::default()).iter().filter(|op| !matches!(op, Op::SetPolicy(_))) {
        forwarder.apply(op);
    }
    let packet = udp((WEB, 1), (DB, 2), b"");
    assert_eq!(forwarder.handle_outbound(&packet, Now::default()), Outbound::Drop(DropReason::NoPolicy));
}

#[test]
fn repeats_of_a_refusal_are_counted_into_one_record() {
    let mut node = Node::new();
    let syn = tcp(SERVER, (WEB, 22), SYN, 9);
    for _ in 0..3 {
        assert_eq!(node.receive(&syn), Inbound::Drop(DropReason::Policy));
    }
    let first = node.records();
    assert_eq!(first.iter().map(|record| record.packets_out).collect::<Vec<_>>(), [1], "the first is told at once");
    assert_eq!((first[0].rule.as_deref(), first[0].reason.as_str()), (None, "isolated-by-network-policy"));
    node.wait(5);
    let repeats = node.records();
    assert_eq!(repeats.iter().map(|record| (record.event, record.packets_out)).collect::<Vec<_>>(), [(FlowEvent::Denied, 2)]);
    node.wait(5);
    assert_eq!((node.records(), node.forwarder.poll_timeout()), (vec![], None), "and then there is nothing to tell");
}

#[test]
fn datagrams_and_echoes_end_by_time() {
    let mut node = Node::new();
    let (question, answer) = (udp(CLIENT, (DB, 53), b"?"), udp((DB, 53), CLIENT, b"!"));
    assert_eq!(node.receive(&answer), Inbound::Drop(DropReason::Policy), "no answer without a question");
    assert_eq!(node.send(&question), Outbound::Send(node.west));
    assert_eq!(node.receive(&answer), Inbound::Deliver);
    node.wait(179);
    assert_eq!(node.receive(&answer), Inbound::Deliver);
    node.wait(181);
    assert_eq!(node.receive(&answer), Inbound::Drop(DropReason::Policy));
    for (a, b) in [(WEB, DB), (WEB6, DB6)] {
        assert_eq!(node.receive(&echo(b, a, false)), Inbound::Drop(DropReason::NoFlow));
        assert_eq!(node.send(&echo(a, b, true)), Outbound::Send(node.west));
        assert_eq!(node.receive(&echo(b, a, false)), Inbound::Deliver);
        assert_eq!(node.receive(&echo(b, a, true)), Inbound::Drop(DropReason::Policy), "a ping back is its own flow");
        node.wait(31);
        assert_eq!(node.receive(&echo(b, a, false)), Inbound::Drop(DropReason::NoFlow));
    }
}

#[test]
fn a_full_table_closes_flows_and_opens_nothing() {
    let mut node = Node::new();
    node.forwarder = Forwarder::with_flows(10);
    node.west = node.forwarder.peer(&node_id("west/n1"));
    node.program();
    node.connect();
    for port in 0..100 {
        assert_eq!(node.send(&tcp((WEB, port), SERVER, SYN, 1)), Outbound::Send(node.west));
    }
    let counters = node.forwarder.counters();
    assert_eq!((counters.opened, counters.evicted, counters.flows), (101, 91, 10));
    assert_eq!(node.receive(&tcp(SERVER, CLIENT, ACK, 6)), Inbound::Deliver, "the established one is not displaced by a flood");
    assert_eq!(counters.recovered + node.forwarder.counters().recovered, 0);
    assert_eq!(node.receive(&tcp(SERVER, (WEB, 22), SYN, 1)), Inbound::Drop(DropReason::Policy));
}

#[test]
fn lost_records_are_counted() {
    let mut node = Node::new();
    for port in 0..20_000 {
        assert_eq!(node.send(&udp((WEB, port), (DB, 53), b"")), Outbound::Send(node.west));
    }
    let told = node.records().len() as u64;
    assert_eq!(told + node.forwarder.counters().records_lost, 20_000);
    assert!(told > 0 && told < 20_000);
}
