//! Refusals: the first is told at once, its repeats within a while are counted into one further record.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;
use mesh_core::{Direction, FiveTuple, FlowRecord, Now, Time};

use super::records::Records;

/// How long repeats are gathered: a client's first three SYN retransmissions.
const WINDOW: Duration = Duration::from_secs(5);
/// How many refusals are gathered at a time; a refusal beyond them is told by itself, so nothing goes uncounted.
const CAPACITY: usize = 4_096;

type Key = (FiveTuple, Direction);

/// Refusals told lately.
#[derive(Debug, Default)]
pub(super) struct Denials {
    told: HashMap<Key, Repeats, foldhash::fast::RandomState>,
    order: VecDeque<(Time, Key)>,
}

/// The record of a refusal, with the counts of its repeats since it was told.
#[derive(Debug)]
struct Repeats(FlowRecord);

impl Denials {
    /// Counts a refused packet of `len` bytes; `make` makes the record of this packet alone.
    pub(super) fn note(&mut self, key: Key, len: u32, now: Now, records: &mut Records, make: impl FnOnce() -> FlowRecord) {
        if let Some(Repeats(record)) = self.told.get_mut(&key) {
            if record.packets_out == 0 {
                record.first = now.wall;
            }
            record.packets_out += 1;
            record.bytes_out += u64::from(len);
            record.last = now.wall;
            return;
        }
        if self.told.len() >= CAPACITY {
            records.push(make);
            return;
        }
        let record = make();
        let repeats = FlowRecord { packets_out: 0, bytes_out: 0, ..record.clone() };
        records.push(|| record);
        self.told.insert(key, Repeats(repeats));
        self.order.push_back((now.time + WINDOW, key));
    }

    /// Tells the repeats whose time has come. Where there were some, more are expected and gathered on.
    pub(super) fn expire(&mut self, now: Time, records: &mut Records) {
        while let Some((deadline, key)) = self.order.front().copied()
            && deadline <= now
        {
            self.order.pop_front();
            let Some(Repeats(record)) = self.told.get_mut(&key) else { continue };
            if record.packets_out == 0 {
                self.told.remove(&key);
                continue;
            }
            records.push(|| record.clone());
            (record.packets_out, record.bytes_out) = (0, 0);
            self.order.push_back((now + WINDOW, key));
        }
    }

    /// Tells all repeats: what is refused from now on may be refused for another reason.
    pub(super) fn flush(&mut self, records: &mut Records) {
        for (_, key) in self.order.drain(..) {
            if let Some(Repeats(record)) = self.told.remove(&key)
                && record.packets_out > 0
            {
                records.push(|| record);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.order.front().map(|(deadline, _)| *deadline)
    }
}
