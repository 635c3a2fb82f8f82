//! The underlay between nodes: what happens to a datagram on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::rng::Rng;

/// How long a NAT remembers a mapping that nothing uses.
const MAPPING: u64 = 60_000_000_000;
/// The shortest and the usual longest way, in nanoseconds.
const NEAR: u64 = 300_000;
const FAR: u64 = 12_000_000;

/// What is wrong with the underlay, and its NATs.
#[derive(Debug, Default)]
pub struct Network {
    /// From a node to a node nothing passes.
    pub cuts: BTreeSet<(usize, usize)>,
    /// Clusters from which nothing leaves, and into which nothing comes.
    pub mute: BTreeSet<usize>,
    /// See above.
    pub deaf: BTreeSet<usize>,
    /// Percent.
    pub loss: u32,
    /// Percent.
    pub duplicates: u32,
    /// Nanoseconds.
    pub jitter: u64,
    /// The largest datagram that passes; 0: any.
    pub mtu: usize,
    /// By node: the public port, and until when, by far end.
    mappings: BTreeMap<usize, Mapping>,
    next_port: u16,
}

#[derive(Debug, Default)]
struct Mapping {
    port: u16,
    far: BTreeMap<SocketAddr, u64>,
}

/// A datagram's way.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// When it arrives.
    pub at: u64,
}

impl Network {
    /// Tells whether something is wrong.
    pub fn is_faulty(&self) -> bool {
        !self.cuts.is_empty()
            || !self.mute.is_empty()
            || !self.deaf.is_empty()
            || (self.loss, self.duplicates, self.jitter, self.mtu) != (0, 0, 0, 0)
    }

    /// Mends everything; NATs keep their mappings.
    pub fn mend(&mut self) {
        self.cuts.clear();
        self.mute.clear();
        self.deaf.clear();
        (self.loss, self.duplicates, self.jitter, self.mtu) = (0, 0, 0, 0);
    }

    /// Tells whether anything passes from a cluster to another.
    pub fn passes(&self, from: usize, to: usize) -> bool {
        from == to || !(self.mute.contains(&from) || self.deaf.contains(&to))
    }

    /// Returns when a datagram's copies arrive: none, one, or two of them.
    pub fn ways(&self, now: u64, (from, to): (usize, usize), len: usize, rng: &mut Rng) -> Vec<Way> {
        let lost = self.cuts.contains(&(from, to)) || rng.chance(self.loss) || (self.mtu > 0 && len > self.mtu);
        if lost {
            return Vec::new();
        }
        let copies = if rng.chance(self.duplicates) { 2 } else { 1 };
        (0..copies).map(|_| Way { at: now + rng.between(NEAR, FAR) + rng.below(self.jitter + 1) }).collect()
    }

    /// Returns the address from which a datagram of a node behind a NAT comes, and opens the way back.
    pub fn leave(&mut self, node: usize, own: SocketAddr, far: SocketAddr, now: u64) -> SocketAddr {
        let next = &mut self.next_port;
        let mapping = self.mappings.entry(node).or_insert_with(|| {
            *next = next.wrapping_add(1);
            Mapping { port: 20_000 + *next % 20_000, far: BTreeMap::new() }
        });
        mapping.far.insert(far, now + MAPPING);
        SocketAddr::new(own.ip(), mapping.port)
    }

    /// Tells whether the NAT of a node lets a datagram to `port` from `far` in.
    pub fn enters(&self, node: usize, port: u16, far: SocketAddr, now: u64) -> bool {
        self.mappings
            .get(&node)
            .is_some_and(|mapping| mapping.port == port && mapping.far.get(&far).is_some_and(|end| now < *end))
    }

    /// Makes the NATs forget.
    pub fn rebind(&mut self) {
        self.mappings.clear();
    }
}
