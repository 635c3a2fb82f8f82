//! The first packet: held while an identity is on its way, decided when it is there.
//!
//! ```text
//!  packet ─ decide ─ identity-pending ─> Queue ─┬─ identities arrive ─> decide ─> poll_released, or dropped for its reason
//!                         │                     └─ 2 s pass ─────────> dropped: identity-pending
//!                         └─> Wants ─> poll_want ─> somebody asks the node that has the address
//! ```
//!
//! A packet gets here only after its source was found to be its sender's and its destination to be where it may go: a cluster
//! without a grant in force has no routes, so its packets never wait. What waits is bounded in packets, bytes and time: in all,
//! for each sender, and for each address.

use std::collections::VecDeque;
use std::net::IpAddr;

use mesh_core::{Now, Time};
use mesh_policy::End;

use self::queue::{Held, Queue};
use self::wants::Wants;
use super::{Forwarder, PeerHandle};
use crate::counters::{DropReason, HoldCounters};
use crate::flow_table::Owner;
use crate::packet;

mod queue;
mod wants;

pub use self::wants::Want;

/// A packet that has waited for an identity, and is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// Encrypt it to this peer.
    Send(PeerHandle, Box<[u8]>),
    /// Write it to the TUN.
    Deliver(Box<[u8]>),
}

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct Hold {
    pub(super) queue: Queue,
    wants: Wants,
    released: VecDeque<Released>,
    counters: HoldCounters,
}

impl Hold {
    pub(super) fn counters(&self) -> HoldCounters {
        HoldCounters { waiting: self.queue.len() as u64, ..self.counters }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        [self.queue.next_deadline(), self.wants.next_deadline()].into_iter().flatten().min()
    }
}

impl Forwarder {
    /// Returns the next packet that has waited for an identity and is allowed: after each
    /// [`apply`](Forwarder::apply) there may be some. They come in the order in which they arrived.
    pub fn poll_released(&mut self) -> Option<Released> {
        self.hold.released.pop_front()
    }

    /// Returns the next address whose identity packets wait for, and the node to ask for it.
    ///
    /// An address is told again, less and less often, while packets wait for it; how many are told in a second is bounded, in
    /// all and for each node.
    pub fn poll_want(&mut self) -> Option<Want> {
        self.hold.wants.pop()
    }

    /// Holds a packet of `from` that was decided to be pending; returns the reason to drop it where it cannot wait.
    #[cold]
    pub(super) fn wait(&mut self, from: Owner, bytes: &[u8], now: Now) -> Result<(), DropReason> {
        let Some(held) = self.arrival(from, bytes, now) else {
            return Err(self.give_up(from, bytes, now));
        };
        let addresses = held.waits_for();
        if !self.hold.queue.push(held) {
            self.hold.counters.no_room += 1;
            return Err(self.give_up(from, bytes, now));
        }
        self.hold.counters.held += 1;
        for address in addresses {
            if let Some(Owner::Peer(peer)) = self.routes.owner(address)
                && let Some(node) = self.routes.node(peer)
            {
                self.hold.wants.note(address, peer, node, now.time);
            }
        }
        Ok(())
    }

    /// Returns what is to be held of a packet; `None` where no end of it is pending (any more).
    fn arrival(&self, from: Owner, bytes: &[u8], now: Now) -> Option<Held> {
        let policy = self.policy.as_deref()?;
        let packet = packet::parse(bytes).ok()?;
        let ends = [packet.tuple.source, packet.tuple.destination];
        let waits_for = ends.map(|address| (policy.end(address) == End::Pending).then_some(address));
        let bytes = bytes.get(..packet.len as usize)?;
        waits_for.iter().any(Option::is_some).then(|| Held::new(from, packet.tuple.source, waits_for, now.time, bytes))
    }

    /// Decides what waited for identities that are known now.
    pub(super) fn decide_held(&mut self) {
        let Some(policy) = self.policy.clone() else { return };
        let is_known = |address: IpAddr| policy.end(address) != End::Pending;
        self.hold.wants.forget(is_known);
        let now = self.latest;
        for held in self.hold.queue.take_where(is_known) {
            match self.handle(held.from, &held.bytes, now) {
                Ok((to, len)) => {
                    self.hold.counters.released += 1;
                    let released = match (held.from, to) {
                        (Owner::Local, Owner::Peer(peer)) => {
                            self.counters.sent.add(len.into());
                            Released::Send(peer, held.bytes)
                        }
                        (Owner::Local, Owner::Local) => {
                            self.counters.local.add(len.into());
                            Released::Deliver(held.bytes)
                        }
                        (Owner::Peer(_), _) => {
                            self.counters.delivered.add(len.into());
                            Released::Deliver(held.bytes)
                        }
                    };
                    self.hold.released.push_back(released);
                }
                Err(reason) => {
                    self.hold.counters.denied += 1;
                    self.counters.drops.count(reason);
                }
            }
        }
    }

    /// Drops what has waited for too long, and asks again for what is still waited for.
    pub(super) fn expire_held(&mut self, now: Now) {
        while let Some(held) = self.hold.queue.expire(now.time) {
            self.hold.counters.expired += 1;
            let reason = self.give_up(held.from, &held.bytes, now);
            self.counters.drops.count(reason);
        }
        let Hold { queue, wants, .. } = &mut self.hold;
        wants.handle_timeout(|address| queue.is_waited_for(address), now.time);
    }
}
