//! What time does to the state: grants begin and end, and clusters fall silent.

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
        self.deadline.map(|deadline| self.now.time + deadline.since(self.now.wall))
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
        if !back && self.deadline.is_none_or(|deadline| now.wall < deadline) {
            return;
        }
        for cluster in self.ledger.clusters.keys().cloned().collect::<Vec<_>>() {
            self.settle(&cluster, change);
            self.refresh(&Key::Lease(cluster), change);
        }
        self.watch_time(change);
    }

    /// Notes what freshness the clusters have, and what moment changes something next.
    pub(super) fn watch_time(&mut self, change: &mut Change) {
        let now = self.now.wall;
        let mut next: Option<WallTime> = None;
        let mut soon = |at: WallTime| {
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        };
        for (name, cluster) in self.ledger.clusters.iter().filter(|(_, cluster)| !cluster.grants.is_empty()) {
            for (grant, _) in cluster.grants.values() {
                soon(grant.not_before);
                soon(grant.not_after);
            }
            let leases =
                self.offered.get(&Key::Lease(name.clone())).into_iter().flat_map(|by| by.iter().map(|(_, resource)| resource));
            for resource in leases {
                let Resource::Lease(lease) = resource else { continue };
                soon(lease.issued - MAX_CLOCK_SKEW);
                lease.limits().into_iter().for_each(&mut soon);
            }
            let freshness = self.freshness(name, now);
            if self.freshness.get(name) != Some(&freshness) {
                change.dirty.insert(Key::Lease(name.clone()));
                self.freshness.insert(name.clone(), freshness);
            }
        }
        self.deadline = next;
    }
}
