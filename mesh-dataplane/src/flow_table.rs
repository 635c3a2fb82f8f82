//! The flows that are open, found by the tuple of a packet in either direction.

use std::collections::BTreeMap;
use std::time::Duration;

use hashbrown::HashMap;
use mesh_core::{FiveTuple, Time};

mod entry;

pub(crate) use self::entry::{Entry, FlowTraffic, Owner, Progress};

/// Flows by tuple, in a slab whose slots are reused; bounded, and with a timer wheel of whole seconds.
///
/// A flow holds one live ticket of the wheel. A deadline that moves away is noticed when the ticket comes up, which is then
/// exchanged; a deadline that comes nearer takes a new ticket and leaves the old one to be ignored.
#[derive(Debug)]
pub(crate) struct FlowTable {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    index: HashMap<FiveTuple, u32, foldhash::fast::RandomState>,
    wheel: BTreeMap<u64, Vec<u32>>,
    capacity: usize,
}

/// How many tickets an eviction looks at before it takes the flow in hand.
const EVICTION_TRIES: usize = 16;

impl FlowTable {
    pub(crate) fn new(capacity: usize) -> FlowTable {
        let capacity = capacity.clamp(1, u32::MAX as usize);
        FlowTable { slots: Vec::new(), free: Vec::new(), index: HashMap::default(), wheel: BTreeMap::new(), capacity }
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns how many slots there are, flows in them or not.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Returns the slot of the flow that packets of `tuple`, in this direction or the other, belong to.
    pub(crate) fn find(&self, tuple: &FiveTuple) -> Option<u32> {
        self.index.get(&canonical(*tuple)).copied()
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Adds a flow whose tuple has none; returns the flow that had to give way.
    pub(crate) fn insert(&mut self, mut entry: Entry) -> Option<Entry> {
        let evicted = if self.index.len() >= self.capacity { self.evict() } else { None };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("the capacity is below u32::MAX")
        });
        entry.ticket = ticket_for(entry.deadline);
        self.wheel.entry(entry.ticket).or_default().push(slot);
        self.index.insert(canonical(entry.tuple), slot);
        self.slots[slot as usize] = Some(entry);
        evicted
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.slots.get_mut(slot as usize)?.take()?;
        self.index.remove(&canonical(entry.tuple));
        self.free.push(slot);
        Some(entry)
    }

    /// Sets when the flow ends unless more of it is seen.
    pub(crate) fn set_deadline(&mut self, slot: u32, deadline: Time) {
        let Some(entry) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        entry.deadline = deadline;
        let ticket = ticket_for(deadline);
        if ticket < entry.ticket {
            entry.ticket = ticket;
            self.wheel.entry(ticket).or_default().push(slot);
        }
    }

    /// Removes and returns one flow whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Time) -> Option<Entry> {
        loop {
            let second = *self.wheel.first_key_value()?.0;
            if time_of(second) > now {
                return None;
            }
            let Some(slot) = self.pop_ticket(second) else { continue };
            if self.get(slot).is_some_and(|entry| entry.deadline <= now) {
                return self.remove(slot);
            }
            self.renew(slot);
        }
    }

    /// Returns when the next deadline may pass.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.wheel.first_key_value().map(|(second, _)| time_of(*second))
    }

    /// Removes the flow that would end first: closed ones have the nearest deadlines, then half-open ones, and established
    /// connections the farthest, so a flood of openings displaces itself.
    fn evict(&mut self) -> Option<Entry> {
        let mut tries = 0;
        loop {
            let second = *self.wheel.first_key_value()?.0;
            let Some(slot) = self.pop_ticket(second) else { continue };
            tries += 1;
            let moved = self.get(slot).is_some_and(|entry| ticket_for(entry.deadline) > second);
            if !moved || tries >= EVICTION_TRIES {
                return self.remove(slot);
            }
            self.renew(slot);
        }
    }

    /// Takes a ticket of `second`; `None` where it was a stale one.
    fn pop_ticket(&mut self, second: u64) -> Option<u32> {
        let tickets = self.wheel.get_mut(&second)?;
        let slot = tickets.pop();
        if tickets.is_empty() {
            self.wheel.remove(&second);
        }
        slot.filter(|slot| self.get(*slot).is_some_and(|entry| entry.ticket == second))
    }

    fn renew(&mut self, slot: u32) {
        let Some(entry) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        entry.ticket = ticket_for(entry.deadline);
        self.wheel.entry(entry.ticket).or_default().push(slot);
    }
}

/// The first whole second at which `deadline` has passed.
fn ticket_for(deadline: Time) -> u64 {
    deadline.as_nanos().div_ceil(Duration::from_secs(1).as_nanos() as u64)
}

fn time_of(second: u64) -> Time {
    Time::from_nanos(second.saturating_mul(Duration::from_secs(1).as_nanos() as u64))
}

/// One tuple for both directions of a connection.
fn canonical(tuple: FiveTuple) -> FiveTuple {
    let reversed = tuple.reversed();
    if (reversed.source, reversed.source_port) < (tuple.source, tuple.source_port) { reversed } else { tuple }
}

#[cfg(test)]
mod tests;
