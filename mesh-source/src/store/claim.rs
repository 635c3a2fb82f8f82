//! Who may put the records of a cluster: one at a time, each with a higher incarnation than all before.

use std::fmt;

use mesh_core::ClusterName;

use super::StoreError;

/// The say over a cluster's records in a store, until it is lost or dropped.
///
/// The incarnation is a fencing token: records signed with it are newer than all that earlier holders signed.
#[derive(Debug)]
pub struct Claim {
    cluster: ClusterName,
    incarnation: u64,
    fence: i64,
    hold: Box<dyn Hold>,
}

/// What a store keeps of a claim on the holder's side; dropping it gives the claim back.
pub trait Hold: fmt::Debug + Send + Sync {
    /// Tells whether the claim is held, as far as that is known here and now.
    fn is_held(&self) -> bool;
}

/// Why there is no claim.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Somebody holds it.
    #[error("the claim on cluster {cluster} is held by {holder}")]
    Held {
        /// The cluster.
        cluster: ClusterName,
        /// The holder's name.
        holder: String,
    },
    /// The store does not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Claim {
    /// Makes a claim that was won in a store; `fence` is how the store knows it again.
    pub fn new(cluster: ClusterName, incarnation: u64, fence: i64, hold: impl Hold + 'static) -> Claim {
        Claim { cluster, incarnation, fence, hold: Box::new(hold) }
    }

    /// Returns the cluster.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Returns the incarnation, which no other claim on the cluster in this store ever had.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Returns what the store gave the claim to know it again.
    pub fn fence(&self) -> i64 {
        self.fence
    }

    /// Tells whether the claim is held, as far as that is known here. The store knows better: a put under a lost claim fails.
    pub fn is_held(&self) -> bool {
        self.hold.is_held()
    }

    /// Returns the error of a put under this claim once it is lost.
    pub fn lost(&self) -> StoreError {
        StoreError::ClaimLost { cluster: self.cluster.clone() }
    }
}
