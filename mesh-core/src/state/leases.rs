//! What time does to the state: grants begin and end, and clusters fall silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Freshness, State, Trust};
use crate::{Change, ClusterName, Key, Lease, Now, Resource, Time, WallTime};

/// How far ahead of this clock a lease may be dated: what clocks disagree by when nobody looks after them.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);
/// The longest time that a lease counts for, whatever it says.
pub const MAX_LEASE_TTL: Duration = Duration::from_secs(300);
/// A cluster is stale after this many times its lease's time to live without a new one.
pub const STALE_AFTER: u32 = 3;
/// A cluster is expired after this long without a lease: an outage that nobody ended on the day it began.
pub const EXPIRED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// When each cluster is to be looked at next: a grant begins or ends, or a lease runs out.
#[derive(Clone, Debug, Default)]
pub(super) struct Due {
    by_cluster: BTreeMap<ClusterName, WallTime>,
    in_order: BTreeSet<(WallTime, ClusterName)>,
}

impl Due {
    fn set(&mut self, cluster: &ClusterName, at: Option<WallTime>) {
        if let Some(before) = self.by_cluster.remove(cluster) {
            self.in_order.remove(&(before, cluster.clone()));
        }
        if let Some(at) = at {
            self.by_cluster.insert(cluster.clone(), at);
            self.in_order.insert((at, cluster.clone()));
        }
    }

    fn first(&self) -> Option<WallTime> {
        self.in_order.first().map(|(at, _)| *at)
    }

    fn until(&self, now: WallTime) -> Vec<ClusterName> {
        self.in_order.iter().take_while(|(at, _)| *at <= now).map(|(_, cluster)| cluster.clone()).collect()
    }
}

impl Lease {
    /// Returns when the lease's cluster becomes suspect, stale and expired.
    fn limits(&self) -> [WallTime; 3] {
        let ttl = Duration::from_secs(self.ttl_seconds.into()).min(MAX_LEASE_TTL);
        [self.issued + ttl, self.issued + ttl * STALE_AFTER, self.issued + EXPIRED_AFTER]
    }

    /// Returns how fresh the lease's cluster is at `now`.
    pub fn freshness(&self, now: WallTime) -> Freshness {
        let [suspect, stale, expired] = self.limits();
        match now {
            now if now < suspect => Freshness::Live,
            now if now < stale => Freshness::Suspect,
            now if now < expired => Freshness::Stale,
            _ => Freshness::Expired,
        }
    }
}

impl State {
    /// Takes notice of the time: grants begin and end, leases run out. A cluster's `Key::Lease` is dirty when its freshness
    /// is another one.
    pub fn handle_timeout(&mut self, now: Now) -> Change {
        let mut change = Change::default();
        self.advance(now, &mut change);
        change
    }

    /// Returns when `handle_timeout` has something to do next, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.due.first().map(|deadline| self.now.time + deadline.since(self.now.wall))
    }

    /// Returns how fresh the facts of `cluster` are at `now`. The own cluster's always are, and everybody's without a fleet; a
    /// cluster whose lease was never seen is expired.
    pub fn freshness(&self, cluster: &ClusterName, now: WallTime) -> Freshness {
        match &self.config.trust {
            Trust::Signed { cluster: own, .. } if own != cluster => {
                self.facts.leases.get(cluster).map_or(Freshness::Expired, |lease| lease.freshness(now))
            }
            _ => Freshness::Live,
        }
    }

    pub(super) fn advance(&mut self, now: Now, change: &mut Change) {
        let back = now.wall < self.now.wall;
        self.now = now;
        let due = if back { self.ledger.clusters.keys().cloned().collect() } else { self.due.until(now.wall) };
        for cluster in due {
            self.settle(&cluster, change);
            self.refresh(&Key::Lease(cluster.clone()), change);
            self.watch(&cluster, change);
        }
    }

    /// Notes how fresh `name` is, and what moment changes something about it next.
    pub(super) fn watch(&mut self, name: &ClusterName, change: &mut Change) {
        let now = self.now.wall;
        let Some(cluster) = self.ledger.clusters.get(name).filter(|cluster| !cluster.grants.is_empty()) else { return };
        let grants = cluster.grants.iter().flat_map(|granted| [granted.grant.not_before, granted.grant.not_after]);
        let offers = self.offered.get(&Key::Lease(name.clone()));
        let leases = offers.into_iter().flatten().filter_map(|(_, resource)| match resource {
            Resource::Lease(lease) => Some(lease),
            _ => None,
        });
        let leases = leases.flat_map(|lease| [lease.issued - MAX_CLOCK_SKEW].into_iter().chain(lease.limits()));
        let next = grants.chain(leases).filter(|at| *at > now).min();
        self.due.set(name, next);
        let freshness = self.freshness(name, now);
        if self.freshness.get(name) != Some(&freshness) {
            change.dirty.insert(Key::Lease(name.clone()));
            self.freshness.insert(name.clone(), freshness);
        }
    }
}
