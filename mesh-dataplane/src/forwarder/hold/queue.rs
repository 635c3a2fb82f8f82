//! The packets that wait, in the order in which they came, and who has how much of the room.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashMap;
use mesh_core::Time;

use crate::flow_table::Owner;
use crate::forwarder::PeerHandle;

/// How much may wait, and how long.
#[derive(Clone, Copy, Debug)]
pub(in crate::forwarder) struct Limits {
    /// Packets in all, of one sender, and for one address.
    pub(in crate::forwarder) packets: usize,
    pub(in crate::forwarder) of_sender: usize,
    pub(in crate::forwarder) for_address: usize,
    /// Bytes in all, and of one sender.
    pub(in crate::forwarder) bytes: usize,
    pub(in crate::forwarder) bytes_of_sender: usize,
    /// Longer than a client's first retransmission, which comes after one second, and far shorter than its patience.
    pub(in crate::forwarder) time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            packets: 4_096,
            of_sender: 256,
            for_address: 32,
            bytes: 4 << 20,
            bytes_of_sender: 256 << 10,
            time: Duration::from_secs(2),
        }
    }
}

/// Who sent a packet, as far as the room is concerned: another node, or a workload of this one by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sender {
    Peer(PeerHandle),
    Address(IpAddr),
}

/// A packet that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) from: Owner,
    pub(super) bytes: Box<[u8]>,
    sender: Sender,
    /// Source and destination, where they are what is waited for.
    waits_for: [Option<IpAddr>; 2],
    arrived: Time,
}

impl Held {
    pub(super) fn new(from: Owner, source: IpAddr, waits_for: [Option<IpAddr>; 2], arrived: Time, bytes: &[u8]) -> Held {
        let sender = match from {
            Owner::Peer(peer) => Sender::Peer(peer),
            Owner::Local => Sender::Address(source),
        };
        Held { from, bytes: bytes.into(), sender, waits_for, arrived }
    }

    /// Returns the addresses whose identity is waited for.
    pub(super) fn waits_for(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.waits_for.into_iter().flatten()
    }
}

/// The packets that wait.
#[derive(Debug, Default)]
pub(in crate::forwarder) struct Queue {
    pub(in crate::forwarder) limits: Limits,
    packets: VecDeque<Held>,
    bytes: usize,
    /// Packets and bytes of each sender.
    senders: HashMap<Sender, (usize, usize), foldhash::fast::RandomState>,
    /// How many packets wait for each address.
    addresses: HashMap<IpAddr, usize, foldhash::fast::RandomState>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Takes a packet in; tells whether there was room.
    pub(super) fn push(&mut self, held: Held) -> bool {
        let (limits, len) = (&self.limits, held.bytes.len());
        let (packets, bytes) = self.senders.get(&held.sender).copied().unwrap_or_default();
        let fits = self.packets.len() < limits.packets
            && self.bytes + len <= limits.bytes
            && packets < limits.of_sender
            && bytes + len <= limits.bytes_of_sender
            && held.waits_for().all(|address| self.addresses.get(&address).is_none_or(|count| *count < limits.for_address));
        if fits {
            self.bytes += len;
            self.senders.insert(held.sender, (packets + 1, bytes + len));
            held.waits_for().for_each(|address| *self.addresses.entry(address).or_default() += 1);
            self.packets.push_back(held);
        }
        fits
    }

    /// Takes out the packets of which everything that they wait for is known, in order.
    pub(super) fn take_where(&mut self, is_known: impl Fn(IpAddr) -> bool) -> Vec<Held> {
        if !self.addresses.keys().any(|address| is_known(*address)) {
            return Vec::new();
        }
        let packets = std::mem::take(&mut self.packets);
        let (ready, waiting) = packets.into_iter().partition(|held| held.waits_for().all(&is_known));
        self.packets = waiting;
        let ready: VecDeque<Held> = ready;
        ready.iter().for_each(|held| self.leave(held));
        ready.into()
    }

    /// Takes out a packet that has waited for too long.
    pub(super) fn expire(&mut self, now: Time) -> Option<Held> {
        if self.next_deadline()? > now {
            return None;
        }
        let held = self.packets.pop_front()?;
        self.leave(&held);
        Some(held)
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.packets.front().map(|held| held.arrived + self.limits.time)
    }

    pub(super) fn is_waited_for(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    fn leave(&mut self, held: &Held) {
        self.bytes -= held.bytes.len();
        if let Some((packets, bytes)) = self.senders.get_mut(&held.sender) {
            (*packets, *bytes) = (*packets - 1, *bytes - held.bytes.len());
            if *packets == 0 {
                self.senders.remove(&held.sender);
            }
        }
        for address in held.waits_for() {
            let Some(count) = self.addresses.get_mut(&address) else { continue };
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
    }

    #[cfg(test)]
    pub(in crate::forwarder) fn sizes(&self) -> (usize, usize, usize, usize) {
        (self.packets.len(), self.bytes, self.senders.len(), self.addresses.len())
    }
}
