use mesh_core::{Now, Protocol};
use proptest::prelude::*;

use super::*;
use crate::packet::parse;
use crate::test_packets::udp;

fn entry(port: u16, deadline: u64) -> Entry {
    let packet = parse(&udp(("10.1.0.5", port), ("10.2.0.9", 53), b"")).expect("valid");
    let mut entry = Entry::new(packet.tuple, &packet, Now::default());
    entry.deadline = Time::from_nanos(deadline * 1_000_000_000);
    entry
}

fn seconds(seconds: u64) -> Time {
    Time::from_nanos(seconds * 1_000_000_000)
}

#[test]
fn both_directions_find_the_flow() {
    let mut table = FlowTable::new(10);
    let tuple = entry(1000, 5).tuple;
    assert!(table.insert(entry(1000, 5)).is_none());
    let slot = table.find(&tuple).expect("inserted");
    assert_eq!(table.find(&tuple.reversed()), Some(slot));
    assert_eq!(table.find(&FiveTuple { protocol: Protocol::Tcp, ..tuple }), None);
    assert_eq!(table.remove(slot).map(|entry| entry.tuple), Some(tuple));
    assert_eq!((table.find(&tuple), table.len()), (None, 0));
}

#[test]
fn a_full_table_gives_up_the_flow_that_would_end_first() {
    let mut table = FlowTable::new(2);
    assert!(table.insert(entry(1, 8000)).is_none());
    assert!(table.insert(entry(2, 60)).is_none());
    let evicted = table.insert(entry(3, 60)).expect("full");
    assert_eq!((evicted.tuple.source_port, table.len()), (2, 2), "not the established one");
}

proptest! {
    /// The wheel against the plain rule: a flow is there until its latest deadline.
    #[test]
    fn flows_end_at_their_latest_deadline(edits in prop::collection::vec((0u16..8, 1u64..50), 1..60)) {
        let mut table = FlowTable::new(100);
        let mut model: BTreeMap<u16, u64> = BTreeMap::new();
        for (step, (port, ahead)) in edits.into_iter().enumerate() {
            let now = step as u64;
            while let Some(ended) = table.expire(seconds(now)) {
                let deadline = model.remove(&ended.tuple.source_port);
                prop_assert!(deadline.is_some_and(|deadline| deadline <= now));
            }
            prop_assert!(model.values().all(|deadline| *deadline > now));
            prop_assert!(table.next_deadline().is_none_or(|next| model.values().all(|d| next <= seconds(*d))));
            match table.find(&entry(port, 0).tuple) {
                Some(slot) => table.set_deadline(slot, seconds(now + ahead)),
                None => prop_assert!(table.insert(entry(port, now + ahead)).is_none()),
            }
            model.insert(port, now + ahead);
            prop_assert_eq!(table.len(), model.len());
        }
    }
}
