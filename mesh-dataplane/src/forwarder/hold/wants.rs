//! Which identities are asked for, of whom, and how often.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashMap;
use mesh_core::rate::{Bucket, Rate};
use mesh_core::{NodeId, Time};

use crate::forwarder::PeerHandle;

/// The second question about an address comes this long after the first, each further one after twice the time, up to
/// [`LONGEST`]. A node may be asked before its own publisher has signed what it is asked for: within the two seconds for which
/// a packet waits, four questions are put.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);
/// How many addresses are remembered: those that packets wait for (two of a packet at most), and those asked for lately.
const REMEMBERED: usize = 16_384;
/// Questions in a second, and at once, to one node and in all. A slice holds many addresses: honest traffic needs few.
const TO_NODE: Rate = Rate { per_second: 16, burst: 32 };
const IN_ALL: Rate = Rate { per_second: 256, burst: 256 };
/// Questions that nobody fetched.
const MAX_TOLD: usize = 1024;

/// An address whose identity packets wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The address.
    pub address: IpAddr,
    /// The node that it is behind, by the routes: who has its workload knows who it is.
    pub node: NodeId,
}

#[derive(Debug)]
struct Asked {
    node: (PeerHandle, NodeId),
    times: u32,
    /// When it may be asked for again.
    next: Time,
    /// It is among those that are due then.
    is_due: bool,
}

#[derive(Debug, Default)]
pub(super) struct Wants {
    asked: HashMap<IpAddr, Asked, foldhash::fast::RandomState>,
    /// When to look at an address again: one entry for each that packets wait for.
    due: BTreeSet<(Time, IpAddr)>,
    nodes: HashMap<PeerHandle, Bucket, foldhash::fast::RandomState>,
    all: Bucket,
    told: VecDeque<Want>,
}

impl Wants {
    pub(super) fn pop(&mut self) -> Option<Want> {
        self.told.pop_front()
    }

    /// Notes that a packet waits for `address`, which is behind `node`: asks at once where it was not asked for lately.
    pub(super) fn note(&mut self, address: IpAddr, peer: PeerHandle, node: &NodeId, now: Time) {
        if self.asked.len() >= REMEMBERED && !self.asked.contains_key(&address) {
            self.asked.retain(|_, asked| asked.is_due);
            if self.asked.len() >= REMEMBERED {
                return;
            }
        }
        let fresh = || Asked { node: (peer, node.clone()), times: 0, next: now, is_due: false };
        let asked = self.asked.entry(address).or_insert_with(fresh);
        if asked.node.0 != peer {
            // The address moved: who has it now was not asked yet.
            self.due.remove(&(asked.next, address));
            *asked = fresh();
        }
        if asked.next <= now {
            self.ask(address, now);
        } else if !asked.is_due {
            asked.is_due = true;
            self.due.insert((asked.next, address));
        }
    }

    /// Asks again for what is due and waited for.
    pub(super) fn handle_timeout(&mut self, is_waited_for: impl Fn(IpAddr) -> bool, now: Time) {
        while let Some((next, address)) = self.due.first().copied()
            && next <= now
        {
            self.due.pop_first();
            let Some(asked) = self.asked.get_mut(&address) else { continue };
            asked.is_due = false;
            if is_waited_for(address) {
                self.ask(address, now);
            }
        }
    }

    /// Forgets the addresses that are known now.
    pub(super) fn forget(&mut self, is_known: impl Fn(IpAddr) -> bool) {
        self.told.retain(|want| !is_known(want.address));
        self.asked.retain(|address, asked| {
            let known = is_known(*address);
            if known {
                self.due.remove(&(asked.next, *address));
            }
            !known
        });
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.due.first().map(|(next, _)| *next)
    }

    fn ask(&mut self, address: IpAddr, now: Time) {
        let Some(asked) = self.asked.get_mut(&address) else { return };
        let (peer, node) = &asked.node;
        if self.nodes.len() >= REMEMBERED && !self.nodes.contains_key(peer) {
            self.nodes.retain(|_, bucket| !bucket.is_full(TO_NODE, now));
        }
        if asked.is_due {
            self.due.remove(&(asked.next, address));
        }
        let of_node = self.nodes.entry(*peer).or_default();
        if of_node.has(TO_NODE, now) && self.all.has(IN_ALL, now) && self.told.len() < MAX_TOLD {
            of_node.take();
            self.all.take();
            self.told.push_back(Want { address, node: node.clone() });
            asked.next = now + FIRST.saturating_mul(1 << asked.times.min(16)).min(LONGEST);
            asked.times = asked.times.saturating_add(1);
        } else {
            asked.next = now + FIRST;
        }
        asked.is_due = true;
        self.due.insert((asked.next, address));
    }
}
