//! What a change of policy, identity or place does to open flows, and what a restart does.

use super::*;

#[test]
fn a_flow_that_is_not_allowed_any_more_ends_at_its_next_packet() {
    let mut node = Node::new();
    node.connect();
    node.records();
    node.fleet.isolate("web", Some(false), Some(false));
    node.program();
    assert_eq!(node.receive(&tcp(SERVER, CLIENT, ACK, 6)), Inbound::Drop(DropReason::Policy), "whichever way it goes");
    let [cut] = &node.records()[..] else { panic!("one record") };
    assert_eq!((cut.event, cut.direction, cut.allowed), (FlowEvent::Cut, Direction::Egress, false));
    assert_eq!(cut.reason, "isolated-by-network-policy");
    assert_eq!(node.send(&tcp(CLIENT, SERVER, ACK, 0x1002)), Outbound::Drop(DropReason::Policy));
}

#[test]
fn silent_flows_are_cut_as_well() {
    let mut node = Node::new();
    node.connect();
    node.records();
    node.fleet.isolate("web", Some(false), Some(false));
    node.program();
    assert!(node.forwarder.poll_timeout().is_some_and(|due| due <= node.now.time), "there is work now");
    node.wait(0);
    assert_eq!(node.events(), [(FlowEvent::Cut, Direction::Egress)]);
}

#[test]
fn a_change_that_allows_the_flow_still_does_not_touch_it() {
    let mut node = Node::new();
    node.connect();
    node.records();
    for number in 0..20 {
        node.fleet.isolate("cart", Some(number % 2 == 0), None);
        node.program();
    }
    assert_eq!(node.receive(&tcp(SERVER, CLIENT, ACK, 6)), Inbound::Deliver);
    node.wait(9_000);
    let [closed] = &node.records()[..] else { panic!("one record") };
    assert_eq!((closed.event, closed.packets_in), (FlowEvent::Closed, 2));
}

#[test]
fn a_rule_is_named_by_the_set_that_it_was_decided_by() {
    let mut node = Node::new();
    node.fleet.isolate("web", Some(false), Some(true));
    node.program();
    node.connect();
    node.fleet.isolate("cart", Some(true), Some(true));
    node.program();
    node.wait(9_000);
    let rules: Vec<_> = node.records().into_iter().map(|record| (record.event, record.rule)).collect();
    let rule = Some("east/NetworkPolicy/shop/web/egress[0]".to_owned());
    assert_eq!(rules, [(FlowEvent::Opened, rule.clone()), (FlowEvent::Closed, rule)]);
}

#[test]
fn a_workload_that_is_gone_takes_its_flows_along_and_is_still_named() {
    let mut node = Node::new();
    node.connect();
    node.records();
    node.fleet.unset(Key::Workload("west/shop/db".parse().expect("valid")));
    node.program();
    node.wait(0);
    let [cut] = &node.records()[..] else { panic!("one record") };
    assert_eq!((cut.event, cut.reason.as_str()), (FlowEvent::Cut, "identity-pending"));
    assert_eq!(cut.destination.workload.as_ref().map(ToString::to_string).as_deref(), Some("west/shop/db"));
}

#[test]
fn a_route_that_moves_takes_the_flow_along_to_the_new_peer_only() {
    let mut node = Node::new();
    node.connect();
    let other = node.forwarder.peer(&node_id("west/n2"));
    node.forwarder.apply(&Op::SetRoute(prefix("10.2.0.0/24"), node_id("west/n2")));
    assert_eq!(node.send(&tcp(CLIENT, SERVER, ACK, 0x1002)), Outbound::Send(other));
    assert_eq!(node.receive(&tcp(SERVER, CLIENT, ACK, 6)), Inbound::Drop(DropReason::ForeignSource));
    node.forwarder.apply(&Op::DelPeer(node_id("west/n2")));
    assert_eq!(node.send(&tcp(CLIENT, SERVER, ACK, 0x1003)), Outbound::Drop(DropReason::NoRoute));
}

#[test]
fn a_flow_of_a_workload_that_left_the_node_is_closed() {
    let mut node = Node::new();
    node.connect();
    node.records();
    let mut local = node.fleet.plan("east/n1", Scope::Node).local;
    local.prefixes.clear();
    node.forwarder.apply(&Op::SetLocal(local));
    assert_eq!(node.send(&tcp(CLIENT, SERVER, ACK, 0x1002)), Outbound::Drop(DropReason::Spoofed));
    assert_eq!(node.events(), [(FlowEvent::Closed, Direction::Egress)]);
}

#[test]
fn connections_outlive_a_restart_if_their_opening_is_allowed() {
    for reply_first in [false, true] {
        let mut node = Node::new();
        node.connect();
        node.restart();
        if reply_first {
            assert_eq!(node.receive(&tcp(SERVER, CLIENT, ACK, 6)), Inbound::Deliver, "decided as the reply that it is");
        }
        assert_eq!(node.send(&tcp(CLIENT, SERVER, ACK, 0x1002)), Outbound::Send(node.west));
        assert_eq!(node.receive(&tcp(SERVER, CLIENT, ACK, 7)), Inbound::Deliver);
        let [opened] = &node.records()[..] else { panic!("one record") };
        assert_eq!((opened.event, opened.recovered, opened.source.port), (FlowEvent::Opened, true, 40_000));
        assert!(opened.id.ends_with('='), "without the sequence number that nobody saw: {}", opened.id);
    }
}

#[test]
fn a_segment_of_a_connection_that_nobody_may_open_is_denied() {
    let mut node = Node::new();
    node.fleet.isolate("web", Some(false), Some(false));
    node.restart();
    assert_eq!(node.receive(&tcp(SERVER, CLIENT, ACK, 6)), Inbound::Drop(DropReason::Policy));
    assert_eq!(node.send(&tcp(CLIENT, SERVER, ACK, 6)), Outbound::Drop(DropReason::Policy));
    assert_eq!(node.receive(&tcp(SERVER, CLIENT, SYN | ACK, 6)), Inbound::Drop(DropReason::NoFlow));
    let mut open = Node::new();
    assert_eq!(open.receive(&tcp(SERVER, CLIENT, RST | ACK, 6)), Inbound::Deliver, "a reset ends what the workload still holds");
    assert_eq!(open.forwarder.counters().flows, 0, "and leaves nothing behind");
}

#[test]
fn applying_the_plan_again_changes_nothing() {
    let mut node = Node::new();
    node.connect();
    node.wait(0);
    let before = node.forwarder.poll_timeout();
    node.program();
    assert_eq!(node.forwarder.poll_timeout(), before, "no flow is decided again");
}
