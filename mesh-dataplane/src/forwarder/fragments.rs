//! Which connection later fragments belong to (SEMANTICS §2.14).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashMap;
use mesh_core::{FiveTuple, Protocol, Time};

/// How long later fragments are expected: they leave their sender together. (Reassembly gives them 30 to 60 s.)
const LIFETIME: Duration = Duration::from_secs(10);
/// How many fragmented packets may be under way: the identification of IPv4 has no more values for a pair of hosts.
const CAPACITY: usize = 16_384;

/// A fragmented packet. The protocol is a part of it in IPv4 (RFC 791), and does no harm in IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    id: u32,
}

/// The tuples of first fragments that were let through, oldest first.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    tuples: HashMap<Key, (FiveTuple, Time), foldhash::fast::RandomState>,
    order: VecDeque<(Key, Time)>,
}

impl Fragments {
    /// Remembers a first fragment that was let through.
    pub(super) fn insert(&mut self, tuple: FiveTuple, id: u32, now: Time) {
        self.expire(now);
        if self.order.len() >= CAPACITY
            && let Some((key, deadline)) = self.order.pop_front()
        {
            self.forget(key, deadline);
        }
        let (key, deadline) = (key(&tuple, id), now + LIFETIME);
        self.tuples.insert(key, (tuple, deadline));
        self.order.push_back((key, deadline));
    }

    /// Forgets a packet: a first fragment of the same name was refused.
    pub(super) fn remove(&mut self, tuple: &FiveTuple, id: u32) {
        self.tuples.remove(&key(tuple, id));
    }

    /// Returns the tuple of the first fragment.
    pub(super) fn find(&self, later: &FiveTuple, id: u32, now: Time) -> Option<FiveTuple> {
        self.tuples.get(&key(later, id)).filter(|(_, deadline)| *deadline > now).map(|(tuple, _)| *tuple)
    }

    pub(super) fn expire(&mut self, now: Time) {
        while let Some((key, deadline)) = self.order.front().copied()
            && deadline <= now
        {
            self.order.pop_front();
            self.forget(key, deadline);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.order.front().map(|(_, deadline)| *deadline)
    }

    /// Forgets what `deadline` belongs to: a newer packet of the same name has a later one.
    fn forget(&mut self, key: Key, deadline: Time) {
        if self.tuples.get(&key).is_some_and(|(_, current)| *current == deadline) {
            self.tuples.remove(&key);
        }
    }
}

fn key(tuple: &FiveTuple, id: u32) -> Key {
    Key { source: tuple.source, destination: tuple.destination, protocol: tuple.protocol, id }
}
