//! How the root stands to the fleet: which grants are in force, and which clusters have its policies in force.

use std::sync::Arc;

use super::State;
use super::ledger::Standing;
use crate::{ClusterName, Grant, RefusalReason};

/// How the root stands to a cluster now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantStanding {
    /// The grant that decides: the highest that has begun, else the highest.
    pub grant: Arc<Grant>,
    /// Why it is not in force; `None` where it is.
    pub ended: Option<RefusalReason>,
    /// Grants below this epoch are void.
    pub revoked: Option<u64>,
}

impl State {
    /// Returns every cluster that ever had a grant of the root, in order, with the grant that decides.
    pub fn standings(&self) -> impl Iterator<Item = (&ClusterName, GrantStanding)> {
        let now = self.now.wall;
        self.ledger.clusters.iter().filter_map(move |(name, cluster)| {
            let grant = cluster.deciding(now)?.clone();
            let ended = match cluster.standing(now) {
                Standing::InForce(_) => None,
                Standing::Revoked => Some(RefusalReason::Revoked),
                Standing::NotInForce => Some(RefusalReason::GrantExpired),
                Standing::Unknown => Some(RefusalReason::NoGrant),
            };
            Some((name, GrantStanding { grant, ended, revoked: cluster.revoked.as_ref().map(|(epoch, _)| *epoch) }))
        })
    }

    /// Returns the serial of the fleet policies that are believed; `None` where the root has signed none.
    pub fn policies_serial(&self) -> Option<u64> {
        self.ledger.policies.as_ref().map(|policies| policies.serial)
    }

    /// Returns how many of the clusters with a grant in force have the fleet policies in force on all their nodes, by their
    /// own leases, and how many clusters there are.
    pub fn policies_active(&self) -> (usize, usize) {
        let serial = self.policies_serial();
        let clusters = self.facts.grants.keys();
        let says = |cluster: &&ClusterName| self.facts.leases.get(*cluster).is_some_and(|lease| lease.policies >= serial);
        (clusters.clone().filter(says).count(), clusters.len())
    }
}
