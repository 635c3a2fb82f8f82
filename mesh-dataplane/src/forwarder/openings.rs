//! What became of the openings of connections by this node's workloads: who refuses them, and who does no more.
//!
//! A refusal is the other end's word (a reset, an ICMP error), never silence. Who never refuses costs one look at an empty set
//! for each connection.

use std::collections::VecDeque;
use std::net::IpAddr;

use hashbrown::HashSet;

use super::{Forwarder, Owner};
use crate::flow_table::Progress;
use crate::packet::{Icmp, Packet};

/// How many ends that refuse are remembered, and how many openings wait to be fetched; beyond, further ones are not told.
const MAX_SUSPECTS: usize = 1024;
const MAX_WAITING: usize = 1024;

/// What became of the opening of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// To whom it was.
    pub to: (IpAddr, u16),
    /// It was refused; else answered, after one that was refused.
    pub refused: bool,
}

#[derive(Debug, Default)]
pub(super) struct Openings {
    suspects: HashSet<(IpAddr, u16), foldhash::fast::RandomState>,
    waiting: VecDeque<Opening>,
}

impl Openings {
    pub(super) fn pop(&mut self) -> Option<Opening> {
        self.waiting.pop_front()
    }

    fn note(&mut self, to: (IpAddr, u16), refused: bool) {
        let tell = if refused {
            self.suspects.contains(&to) || self.suspects.len() < MAX_SUSPECTS && self.suspects.insert(to)
        } else {
            !self.suspects.is_empty() && self.suspects.remove(&to)
        };
        if tell && self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(Opening { to, refused });
        }
    }
}

impl Forwarder {
    /// Returns what became of the next opening that this node's workloads have sent.
    pub fn poll_opening(&mut self) -> Option<Opening> {
        self.openings.pop()
    }

    /// Looks at the first packet that comes back.
    pub(super) fn answered(&mut self, slot: u32, before: Progress, packet: &Packet) {
        let Some(entry) = self.flows.get(slot).filter(|entry| before == Progress::Opening && entry.tuple != packet.tuple) else {
            return;
        };
        if entry.source == Some(Owner::Local) {
            let to = (entry.tuple.destination, entry.tuple.destination_port);
            self.openings.note(to, entry.progress == Progress::Reset);
        }
    }

    /// Looks at an error about a flow's packet.
    pub(super) fn errored(&mut self, slot: u32, icmp: Icmp) {
        let Some(entry) = self.flows.get(slot).filter(|entry| entry.progress == Progress::Opening) else { return };
        // Unreachable host, protocol or port (RFC 792), address or port (RFC 4443): not a packet too big, nor a prohibition.
        let is_unreachable = match entry.tuple.source {
            IpAddr::V4(_) => icmp.kind == 3 && matches!(icmp.code, 1..=3),
            IpAddr::V6(_) => icmp.kind == 1 && matches!(icmp.code, 3 | 4),
        };
        if is_unreachable && entry.source == Some(Owner::Local) {
            self.openings.note((entry.tuple.destination, entry.tuple.destination_port), true);
        }
    }
}
