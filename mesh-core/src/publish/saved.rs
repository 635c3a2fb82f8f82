//! What a publisher keeps on the disk, as JSON.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Addresses, Publisher, Recent};
use crate::{ClusterName, IdentityName, PublicKey, RecordKey, SecretKey, ServiceId, WallTime};

/// Why a publisher cannot go on from what is saved.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Not what a publisher saves.
    #[error("not a publisher's saved state")]
    Form(#[from] serde_json::Error),
    /// It is another cluster's.
    #[error("the saved state is of cluster {found}")]
    Cluster {
        /// The cluster that it names.
        found: ClusterName,
    },
    /// The incarnation was used before: records signed now could have the version of records signed then.
    #[error("incarnation {last} was used before, a higher one is needed")]
    Incarnation {
        /// The last one used.
        last: u64,
    },
}

/// No counter: the next life has a higher incarnation, so a record that is signed again makes nothing to save.
#[derive(Serialize, Deserialize)]
struct Saved {
    cluster: ClusterName,
    incarnation: u64,
    /// When each export was first signed, in nanoseconds since the Unix epoch.
    exports: BTreeMap<ServiceId, WallTime>,
    /// The clusterset addresses that were allocated.
    imports: BTreeMap<ServiceId, Vec<IpAddr>>,
    /// The records that stand.
    records: Vec<RecordKey>,
    /// The records that are gone: since when.
    #[serde(default)]
    buried: Vec<(RecordKey, WallTime)>,
    /// The addresses that rest: whose they were, and since when.
    #[serde(default)]
    freed: BTreeMap<IpAddr, (IdentityName, WallTime)>,
}

impl Publisher {
    /// Returns what the next life of the publisher needs: the same until a record comes or goes for good, an address is given or
    /// given up, or a service is exported for the first time.
    pub fn save(&self) -> Vec<u8> {
        let saved = Saved {
            cluster: self.cluster.clone(),
            incarnation: self.incarnation,
            exports: self.first_signed.clone(),
            imports: self.addresses.given.clone(),
            records: self.published.keys().cloned().collect(),
            buried: self.buried.iter().map(|(key, since)| (key.clone(), *since)).collect(),
            freed: self.recent.freed.clone(),
        };
        serde_json::to_vec_pretty(&saved).expect("names, numbers and addresses have a JSON form")
    }

    /// Makes a publisher that goes on where another one saved: exports keep their age and services their addresses, every
    /// record is signed anew, and what is gone meanwhile gets its tombstone, and so does what went in the last 30 days.
    pub fn restore(
        cluster: ClusterName,
        key: SecretKey,
        root: PublicKey,
        incarnation: u64,
        saved: &[u8],
    ) -> Result<Publisher, RestoreError> {
        let saved: Saved = serde_json::from_slice(saved)?;
        if saved.cluster != cluster {
            return Err(RestoreError::Cluster { found: saved.cluster });
        }
        if saved.incarnation >= incarnation {
            return Err(RestoreError::Incarnation { last: saved.incarnation });
        }
        let mut publisher = Publisher::new(cluster, key, root, incarnation);
        publisher.restored = saved.incarnation;
        publisher.first_signed = saved.exports;
        publisher.addresses = Addresses::restore(saved.imports);
        publisher.recent = Recent::restore(saved.freed);
        let gone = saved.buried.iter().map(|(key, _)| key.clone());
        publisher.published = saved.records.into_iter().chain(gone).map(|key| (key, None)).collect();
        publisher.buried = saved.buried.into_iter().collect();
        Ok(publisher)
    }
}
