//! Which backend takes a connection: priority groups by nearness, overflow between them, and a consistent choice inside.
//!
//! ```text
//!   candidates ─> groups: node | zone | cluster | region | anywhere   (from the service's first one on)
//!                   │ shares: a group with enough healthy backends takes all, what it cannot carry goes to the next
//!                   └─> slots: for each the backend with the best score ─> hash of the client picks the slot
//! ```
//!
//! The choice is a function of the candidates alone: every node that sees the same ones as near makes the same slots, whatever
//! the order in which they came to be. A backend's scores do not depend on the others, so that where one goes only its own
//! slots move.

use std::net::IpAddr;

use mesh_core::Locality;

mod slots;
#[cfg(test)]
mod tests;

use self::slots::{Entrant, GATE_SEED, permutation, slot_count};

/// A group carries all that comes to it while its healthy part, times this, is the whole of it (in percent; Envoy's
/// overprovisioning factor): below 72 % healthy the rest goes to the next group.
pub const OVERPROVISIONING: u64 = 140;

/// The whole of the connections to a service, in the parts in which shares are counted.
pub const WHOLE: u64 = 1_000_000;

/// Chooses between the backends of a service.
///
/// ```
/// use mesh_core::Locality;
/// use mesh_dataplane::balancer::{Balancer, Candidate, Standing};
///
/// let candidate = |last, locality, standing| Candidate { address: [10, 0, 0, last].into(), port: 80, locality, weight: 100, standing };
/// let near = [1, 2].map(|last| candidate(last, Locality::Cluster, Standing::Healthy));
/// let far = candidate(9, Locality::Anywhere, Standing::Healthy);
/// let balancer = Balancer { first: Locality::Cluster, node_only: false };
/// let balance = balancer.balance(&[near[0], near[1], far]);
/// assert_eq!(balance.backends, [([10, 0, 0, 1].into(), 80), ([10, 0, 0, 2].into(), 80)]);
///
/// // One of two is not enough: 30 % go to the next group.
/// let lame = candidate(2, Locality::Cluster, Standing::Unready);
/// let balance = balancer.balance(&[near[0], lame, far]);
/// assert_eq!(balance.groups.iter().map(|group| group.share).collect::<Vec<_>>(), [700_000, 300_000]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balancer {
    /// The first group: backends as near as this, or nearer, are alike.
    pub first: Locality,
    /// Backends on the client's node, or none (`internalTrafficPolicy: Local`).
    pub node_only: bool,
}

/// A backend that could take connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// How near it is.
    pub locality: Locality,
    /// Its weight among the backends of its group; 0 takes connections where nobody else does.
    pub weight: u16,
    /// Whether it can take connections.
    pub standing: Standing,
}

/// Whether a backend can take connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Ready, as far as is known in reach.
    Healthy,
    /// Ready by its cluster's word, and out of reach: used when nothing is healthy anywhere.
    Demoted,
    /// Not ready: takes nothing, and its group has to do without it.
    Unready,
    /// Going away, and not ready: takes nothing new, and is no part of its group any more.
    Leaving,
}

/// What was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The backends that take new connections, in order, each once.
    pub backends: Vec<(IpAddr, u16)>,
    /// For each slot the index of its backend; a single backend has one slot, no backend none.
    pub slots: Vec<u16>,
    /// The groups, nearest first, without empty ones.
    pub groups: Vec<Group>,
    /// Nothing is healthy: the backends are demoted ones.
    pub last_resort: bool,
}

/// A priority group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which.
    pub locality: Locality,
    /// How many of its backends are healthy.
    pub healthy: usize,
    /// How many backends it has, those that leave left out.
    pub total: usize,
    /// Its share of new connections, of [`WHOLE`].
    pub share: u64,
}

impl Balancer {
    /// Chooses between `candidates`; of several with one address and port the best counts.
    pub fn balance(&self, candidates: &[Candidate]) -> Balance {
        let mut sorted: Vec<Candidate> =
            candidates.iter().filter(|candidate| !self.node_only || candidate.locality == Locality::Node).copied().collect();
        let key = |c: &Candidate| (c.address, c.port, c.standing, c.locality, std::cmp::Reverse(c.weight));
        sorted.sort_by_key(key);
        sorted.dedup_by_key(|candidate| (candidate.address, candidate.port));
        let mut groups = self.groups(&sorted);
        let last_resort = groups.iter().all(|group| group.healthy == 0);
        let count = slot_count(sorted.iter().filter(|candidate| candidate.standing != Standing::Leaving).count());
        let takes = |candidate: &Candidate| if last_resort { is_usable(candidate) } else { is_healthy(candidate) };
        let slots = if last_resort {
            slots::choose(count, &entrants(sorted.iter().filter(|candidate| takes(candidate))), |_| true)
        } else {
            share(&mut groups);
            self.slots_of_groups(count, &sorted, &groups)
        };
        let mut backends: Vec<(IpAddr, u16)> = slots.iter().flatten().copied().collect();
        backends.sort_unstable();
        backends.dedup();
        let index = |slot: Option<(IpAddr, u16)>| {
            let place = backends.binary_search(&slot?).ok()?;
            u16::try_from(place).ok()
        };
        let mut slots: Vec<u16> = slots.into_iter().filter_map(index).collect();
        slots.truncate(if backends.len() == 1 { 1 } else { slots.len() });
        Balance { last_resort: last_resort && !backends.is_empty(), backends, slots, groups }
    }

    fn group(&self, candidate: &Candidate) -> Locality {
        candidate.locality.max(self.first)
    }

    fn groups(&self, candidates: &[Candidate]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for candidate in candidates.iter().filter(|candidate| candidate.standing != Standing::Leaving) {
            let locality = self.group(candidate);
            let place = groups.partition_point(|group| group.locality < locality);
            if groups.get(place).is_none_or(|group| group.locality != locality) {
                groups.insert(place, Group { locality, healthy: 0, total: 0, share: 0 });
            }
            groups[place].total += 1;
            groups[place].healthy += usize::from(is_healthy(candidate));
        }
        groups
    }

    /// Gives each slot to the group in whose share it lies, and there to a backend. Where shares move, only the slots between
    /// the old and the new limit change their group.
    fn slots_of_groups(&self, count: usize, candidates: &[Candidate], groups: &[Group]) -> Vec<Option<(IpAddr, u16)>> {
        let gate = permutation(count, GATE_SEED);
        let mut slots = vec![None; count];
        let mut begin = 0;
        for group in groups {
            let end = begin + group.share;
            let inside = |slot: usize| {
                let at = u64::from(gate[slot]) * WHOLE;
                begin * count as u64 <= at && at < end * count as u64
            };
            let members =
                entrants(candidates.iter().filter(|candidate| is_healthy(candidate) && self.group(candidate) == group.locality));
            if group.share > 0 {
                for (slot, chosen) in slots.iter_mut().zip(slots::choose(count, &members, inside)) {
                    *slot = slot.or(chosen);
                }
            }
            begin = end;
        }
        slots
    }
}

/// Divides [`WHOLE`] between the groups: each takes what it can carry of what those before it left.
fn share(groups: &mut [Group]) {
    let carries = |group: &Group| (WHOLE * OVERPROVISIONING / 100 * group.healthy as u64 / group.total as u64).min(WHOLE);
    let total: u64 = groups.iter().map(carries).sum::<u64>().min(WHOLE);
    let mut left = WHOLE;
    for group in groups.iter_mut() {
        // All of them together may carry less than comes; it comes all the same.
        group.share = (carries(group) * WHOLE / total).min(left);
        left -= group.share;
    }
    if let Some(group) = groups.iter_mut().find(|group| group.share > 0) {
        group.share += left;
    }
}

fn is_healthy(candidate: &Candidate) -> bool {
    candidate.standing == Standing::Healthy && candidate.weight > 0
}

fn is_usable(candidate: &Candidate) -> bool {
    matches!(candidate.standing, Standing::Healthy | Standing::Demoted)
}

fn entrants<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Vec<Entrant> {
    candidates
        .map(|candidate| Entrant { at: (candidate.address, candidate.port), weight: candidate.weight.max(1).into() })
        .collect()
}
