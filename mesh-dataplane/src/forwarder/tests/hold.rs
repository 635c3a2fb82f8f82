//! The first packet: what waits for an identity, what becomes of it, and what bounds it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::hold::Released;
use super::*;
use crate::counters::HoldCounters;

/// A workload of which nothing is known yet.
const LATE: (&str, u16) = (UNKNOWN, 4000);

impl Node {
    /// Its slice has arrived.
    fn introduce(&mut self, address: &str) {
        let name = address.replace(['.', ':'], "-");
        self.fleet.workload(&format!("west/shop/w{name}"), "n1", &[address]);
        self.forwarder.apply(&Op::SetPolicy(self.fleet.policy().clone()));
    }

    fn released(&mut self) -> Vec<Released> {
        std::iter::from_fn(|| self.forwarder.poll_released()).collect()
    }

    fn wants(&mut self) -> Vec<(String, String)> {
        std::iter::from_fn(|| self.forwarder.poll_want()).map(|want| (want.address.to_string(), want.node.to_string())).collect()
    }

    fn hold(&self) -> HoldCounters {
        self.forwarder.counters().hold
    }

    fn pass(&mut self, millis: u64) {
        let wait = Duration::from_millis(millis);
        self.now = Now { time: self.now.time + wait, wall: self.now.wall + wait };
        self.forwarder.handle_timeout(self.now);
    }
}

fn deliver(packet: &[u8]) -> Released {
    Released::Deliver(packet.into())
}

#[test]
fn a_packet_that_outruns_its_identity_waits_for_it() {
    let mut node = Node::new();
    let syn = tcp(LATE, (CART, 80), SYN, 7);
    assert_eq!(node.receive(&syn), Inbound::Held);
    assert_eq!(node.wants(), [(UNKNOWN.into(), "west/n1".into())]);
    assert!(node.released().is_empty());
    node.pass(500);
    node.introduce(UNKNOWN);
    assert_eq!(node.released(), [deliver(&syn)]);
    assert_eq!(node.hold(), HoldCounters { held: 1, released: 1, ..HoldCounters::default() });
    assert_eq!(node.forwarder.counters().delivered.packets, 1);
    let [opened] = &node.records()[..] else { panic!("one record") };
    assert_eq!((opened.event, opened.allowed), (FlowEvent::Opened, true), "and nobody was told of a denial");
    assert_eq!(node.receive(&tcp(LATE, (CART, 80), ACK, 8)), Inbound::Deliver, "it is a flow like any other");
    node.wait(5);
    assert_eq!((node.forwarder.counters().drops.total(), node.wants()), (0, vec![]));
}

#[test]
fn an_identity_that_policy_denies_is_denied_by_that_policy() {
    let mut node = Node::new();
    assert_eq!(node.receive(&tcp(LATE, (WEB, 22), SYN, 7)), Inbound::Held);
    node.introduce(UNKNOWN);
    assert!(node.released().is_empty());
    let [denied] = &node.records()[..] else { panic!("one record") };
    assert_eq!((denied.event, denied.reason.as_str()), (FlowEvent::Denied, "isolated-by-network-policy"));
    assert!(denied.source.workload.is_some(), "by then both ends have a name");
    assert_eq!(node.hold(), HoldCounters { held: 1, denied: 1, ..HoldCounters::default() });
    assert_eq!(node.forwarder.counters().drops.get(DropReason::Policy), 1);
}

#[test]
fn a_destination_is_waited_for_as_well_and_packets_keep_their_order() {
    let mut node = Node::new();
    let packets: Vec<_> = (0..5u8).map(|n| udp((WEB, 1), LATE, &[n])).collect();
    assert!(packets.iter().all(|packet| node.send(packet) == Outbound::Held));
    node.introduce(UNKNOWN);
    let sent: Vec<_> = packets.iter().map(|packet| Released::Send(node.west, packet[..].into())).collect();
    assert_eq!(node.released(), sent);
    assert_eq!(node.forwarder.counters().sent.packets, 5);
}

#[test]
fn a_change_of_something_else_lets_nothing_go() {
    let mut node = Node::new();
    assert_eq!(node.receive(&udp(LATE, (CART, 2), b"")), Inbound::Held);
    node.fleet.isolate("cart", Some(true), None);
    node.program();
    node.introduce("10.2.0.78");
    assert!(node.released().is_empty());
    assert_eq!(node.hold().waiting, 1);
}

#[test]
fn a_packet_whose_path_went_away_is_not_let_go() {
    let mut node = Node::new();
    assert_eq!(node.receive(&udp(LATE, (CART, 2), b"")), Inbound::Held);
    node.forwarder.apply(&Op::SetRoute(prefix("10.2.0.0/24"), node_id("west/n2")));
    node.introduce(UNKNOWN);
    assert!(node.released().is_empty());
    assert_eq!(node.forwarder.counters().drops.get(DropReason::ForeignSource), 1);
}

#[test]
fn who_speaks_for_no_such_address_is_not_waited_for() {
    let mut node = Node::new();
    assert_eq!(node.receive(&udp(("10.3.0.77", 1), (CART, 2), b"")), Inbound::Drop(DropReason::ForeignSource), "another node's");
    assert_eq!(node.send(&udp((WEB, 1), ("10.3.1.77", 2), b"")), Outbound::Drop(DropReason::NoRoute), "nobody's");
    assert_eq!((node.hold(), node.wants()), (HoldCounters::default(), vec![]));
}

#[test]
fn later_fragments_wait_behind_the_first() {
    let mut node = Node::new();
    let parts = fragments_v4(&udp(LATE, (CART, 53), &[0; 64]), 5, 32);
    assert_eq!((node.receive(&parts[0]), node.receive(&parts[1])), (Inbound::Held, Inbound::Held));
    node.introduce(UNKNOWN);
    assert_eq!(node.released(), [deliver(&parts[0]), deliver(&parts[1])]);
}

#[test]
fn an_identity_is_asked_for_again_less_and_less_often_and_never_in_vain() {
    let mut node = Node::new();
    let mut asked = Vec::new();
    for step in 0..300u64 {
        if step.is_multiple_of(10) {
            assert_eq!(node.receive(&tcp(LATE, (CART, 80), SYN, 7)), Inbound::Held);
        }
        asked.extend(node.wants().iter().map(|_| step));
        node.pass(100);
    }
    assert_eq!(asked, [0, 2, 6, 14, 30, 62, 126, 226], "in tenths of a second");
    (0..3).for_each(|_| node.wait(60));
    assert_eq!((node.wants(), node.forwarder.poll_timeout(), node.hold().waiting), (vec![], None, 0), "nothing waits");
    assert_eq!(node.receive(&tcp(LATE, (CART, 80), SYN, 7)), Inbound::Held);
    assert_eq!(node.wants().len(), 1);
    // The address is another node's now, which was not asked yet.
    node.forwarder.apply(&Op::SetRoute(prefix("10.2.0.0/24"), node_id("west/n2")));
    let other = node.forwarder.peer(&node_id("west/n2"));
    assert_eq!(node.forwarder.handle_inbound(other, &tcp(LATE, (CART, 80), SYN, 7), node.now), Inbound::Held);
    assert_eq!(node.wants(), [(UNKNOWN.into(), "west/n2".into())]);
}

#[test]
fn a_flood_takes_its_senders_room_and_nobody_elses() {
    let mut node = Node::new();
    let mut held = 0;
    for n in 0..20_000u32 {
        let source = format!("10.2.{}.{}", n % 2, n / 2 % 250 + 1);
        held += u32::from(node.receive(&udp((&source, 1), (CART, 2), &[0; 1000])) == Inbound::Held);
        assert!(node.forwarder.hold.queue.sizes().1 <= 256 << 10);
    }
    assert_eq!(u64::from(held), node.hold().held);
    assert!((200..=256).contains(&held), "{held}");
    assert_eq!(node.forwarder.counters().drops.get(DropReason::IdentityPending), node.hold().no_room);
    assert!(node.wants().len() <= 32, "nor is the node asked for each of them");
    let other = node.forwarder.peer(&node_id("west/n2"));
    let packet = udp(("10.3.0.9", 1), (CART, 2), b"");
    assert_eq!(node.forwarder.handle_inbound(other, &packet, node.now), Inbound::Held);
    assert_eq!(node.send(&udp((CART, 1), ("10.3.0.9", 2), b"")), Outbound::Held);
    assert_eq!(node.wants(), [("10.3.0.9".into(), "west/n2".into())], "once for both");
    node.wait(2);
    assert_eq!((node.hold().waiting, node.forwarder.hold.queue.sizes()), (0, (0, 0, 0, 0)));
}

/// What happens to a node, in the order of the steps.
#[derive(Clone, Debug)]
enum Step {
    /// A datagram from one of the late workloads to `cart`, which takes everything, or to `web`, which takes nothing.
    Receive {
        late: u8,
        port: u16,
        to_cart: bool,
        len: usize,
    },
    /// A datagram from `web` or `cart` to one of them.
    Send {
        late: u8,
        from_cart: bool,
        len: usize,
    },
    Introduce(u8),
    Pass(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4usize..64, 1000usize..1400];
    prop_oneof![
        6 => (0u8..6, 1u16..3, any::<bool>(), len.clone())
            .prop_map(|(late, port, to_cart, len)| Step::Receive { late, port, to_cart, len }),
        3 => (0u8..6, any::<bool>(), len).prop_map(|(late, from_cart, len)| Step::Send { late, from_cart, len }),
        1 => (0u8..6).prop_map(Step::Introduce),
        2 => prop_oneof![1u64..100, 500u64..1500].prop_map(Step::Pass),
    ]
}

/// What a reference says of a packet that is held.
struct Expected {
    until: Time,
    is_allowed: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever comes: what is let go is allowed and in order, what is allowed in time is let go, and the room is bounded.
    #[test]
    fn what_waits_is_let_go_exactly_when_it_is_allowed_in_time(steps in prop::collection::vec(any_step(), 1..120)) {
        let mut node = Node::new();
        let limits = &mut node.forwarder.hold.queue.limits;
        (limits.packets, limits.of_sender, limits.for_address) = (12, 8, 5);
        (limits.bytes, limits.bytes_of_sender) = (9_000, 6_000);
        let limits = *limits;
        let address = |late: u8| format!("10.2.0.{}", 100 + late);
        let (mut known, mut number) = ([false; 6], 0u32);
        let mut waiting: BTreeMap<u32, (u8, Expected)> = BTreeMap::new();
        let mut last: BTreeMap<(IpAddr, u16, IpAddr), u32> = BTreeMap::new();
        for step in steps {
            let mut passed: Vec<Vec<u8>> = Vec::new();
            // The packet, whose identity it depends on, whether policy allows it, whether it is held, whether it passed.
            let mut came = None;
            match step {
                Step::Receive { late, port, to_cart, len } => {
                    number += 1;
                    let (source, to) = (address(late), if to_cart { CART } else { WEB });
                    let packet = udp((&source, port), (to, 53), &[&number.to_be_bytes()[..], &vec![0; len]].concat());
                    let fate = node.receive(&packet);
                    came = Some((packet, late, to_cart, fate == Inbound::Held, fate == Inbound::Deliver));
                }
                Step::Send { late, from_cart, len } => {
                    number += 1;
                    let (to, from) = (address(late), if from_cart { CART } else { WEB });
                    let packet = udp((from, 1000), (&to, 9), &[&number.to_be_bytes()[..], &vec![0; len]].concat());
                    let fate = node.send(&packet);
                    came = Some((packet, late, true, fate == Outbound::Held, fate == Outbound::Send(node.west)));
                }
                Step::Introduce(late) => {
                    known[usize::from(late)] = true;
                    node.introduce(&address(late));
                }
                Step::Pass(millis) => node.pass(millis),
            }
            if let Some((packet, late, is_allowed, is_held, has_passed)) = came {
                prop_assert_eq!(has_passed, known[usize::from(late)] && is_allowed, "what is known is decided at once");
                if has_passed {
                    passed.push(packet);
                } else if is_held {
                    waiting.insert(number, (late, Expected { until: node.now.time + limits.time, is_allowed }));
                }
            }
            passed.extend(node.released().into_iter().map(|released| match released {
                Released::Send(_, packet) | Released::Deliver(packet) => packet.into_vec(),
            }));
            for packet in passed {
                let tuple = packet::parse(&packet).expect("our own").tuple;
                let number = u32::from_be_bytes(packet[28..32].try_into().expect("four bytes"));
                let before = last.insert((tuple.source, tuple.source_port, tuple.destination), number);
                prop_assert!(before.is_none_or(|before| before < number), "in order");
                if let Some((late, expected)) = waiting.remove(&number) {
                    prop_assert!(expected.is_allowed && known[usize::from(late)] && node.now.time < expected.until);
                }
            }
            waiting.retain(|_, (late, expected)| {
                let decided = known[usize::from(*late)];
                assert!(!(decided && expected.is_allowed), "allowed in time, and not let go");
                !decided && node.now.time < expected.until
            });
            let (packets, bytes, senders, addresses) = node.forwarder.hold.queue.sizes();
            prop_assert_eq!(packets, waiting.len());
            prop_assert!(packets <= limits.packets && bytes <= limits.bytes && senders <= packets && addresses <= 6);
            let hold = node.hold();
            prop_assert_eq!(hold.held, hold.released + hold.denied + hold.expired + hold.waiting);
            let drops = node.forwarder.counters().drops;
            prop_assert_eq!(drops.get(DropReason::IdentityPending), hold.expired + hold.no_room);
        }
        node.wants();
        node.pass(60_000);
        prop_assert_eq!(node.forwarder.hold.queue.sizes(), (0, 0, 0, 0));
    }
}
