//! The publisher of a cluster: from its facts to signed records, each signed anew only when it says something else.
//!
//! There is one publisher for each cluster, and it holds the cluster's key. A version is (incarnation, counter): the caller
//! keeps the incarnation beside the key and hands out a higher one each time a publisher starts, so that two lives of a
//! publisher never sign one version twice, which the fleet would take for a lie.
//!
//! Facts outside the cluster's own grant are not published: nobody would believe them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::{
    ClusterName, Lease, Now, PublicKey, Record, RecordKey, Resource, SecretKey, ServiceId, SignError, State, Time, Version,
    WallTime,
};

mod derive;
mod saved;

pub use self::saved::RestoreError;

/// How long a lease is good for. A third of it passes between two of them, so that two may be lost.
pub const LEASE_TTL_SECONDS: u32 = 30;

/// Signs the records of one cluster.
#[derive(Debug)]
pub struct Publisher {
    cluster: ClusterName,
    key: SecretKey,
    root: PublicKey,
    incarnation: u64,
    counter: u64,
    /// What was signed last for each key; `None` for what an earlier life of the publisher signed.
    published: BTreeMap<RecordKey, Option<Vec<Resource>>>,
    memory: Memory,
    leased: Option<Time>,
    unsigned: BTreeMap<RecordKey, SignError>,
}

/// What outlives a publisher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Memory {
    /// When each export was first signed.
    exports: BTreeMap<ServiceId, WallTime>,
    /// The clusterset addresses that were allocated.
    imports: BTreeMap<ServiceId, Vec<IpAddr>>,
}

impl Publisher {
    /// Makes a publisher that has published nothing. `incarnation` was never used before with this key.
    pub fn new(cluster: ClusterName, key: SecretKey, root: PublicKey, incarnation: u64) -> Publisher {
        Publisher {
            cluster,
            key,
            root,
            incarnation,
            counter: 0,
            published: BTreeMap::new(),
            memory: Memory::default(),
            leased: None,
            unsigned: BTreeMap::new(),
        }
    }

    /// Returns the records that are to be handed out: those that say something else than before, tombstones of what is gone,
    /// and a lease when it is time for one.
    ///
    /// Nothing is published without a grant in force that names this publisher's key, and nothing but leases while a source
    /// of the state is telling (a cluster is not empty because nobody has spoken yet). Write [`Publisher::save`] to the disk
    /// before handing the records out.
    pub fn update(&mut self, state: &State, now: Now) -> Vec<(RecordKey, Bytes)> {
        let grant = state.facts().grants.get(&self.cluster).filter(|grant| grant.key == Some(self.key.public()));
        let Some(grant) = grant else { return Vec::new() };
        let mut records = Vec::new();
        if state.is_settled() {
            let wanted = derive::derive(state, grant, &mut self.memory, now.wall);
            let gone: Vec<_> = self.published.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
            for (key, resources) in wanted {
                if self.published.get(&key).and_then(Option::as_ref) != Some(&resources) {
                    records.extend(self.sign(key, resources));
                }
            }
            for key in gone {
                records.extend(self.sign(key.clone(), Vec::new()));
                self.published.remove(&key);
            }
        }
        if self.poll_timeout() <= now.time {
            let lease = Lease { cluster: self.cluster.clone(), issued: now.wall, ttl_seconds: LEASE_TTL_SECONDS };
            records.extend(self.sign(RecordKey::Lease, vec![Resource::Lease(lease)]));
            self.published.remove(&RecordKey::Lease);
            self.leased = Some(now.time);
        }
        records
    }

    /// Returns when the next lease is due.
    pub fn poll_timeout(&self) -> Time {
        let period = Duration::from_secs((LEASE_TTL_SECONDS / 3).into());
        self.leased.map_or(Time::ZERO, |leased| leased + period)
    }

    /// Returns the records that could not be signed, because they are larger than any reader accepts; what was signed of
    /// them before still stands.
    pub fn unsigned(&self) -> &BTreeMap<RecordKey, SignError> {
        &self.unsigned
    }

    fn sign(&mut self, key: RecordKey, resources: Vec<Resource>) -> Option<(RecordKey, Bytes)> {
        let version = Version { incarnation: self.incarnation, counter: self.counter + 1 };
        let record = Record { cluster: self.cluster.clone(), version, key, resources };
        match record.sign(&self.root, &self.key) {
            Ok(bytes) => {
                self.counter += 1;
                self.unsigned.remove(&record.key);
                self.published.insert(record.key.clone(), Some(record.resources));
                Some((record.key, bytes))
            }
            Err(error) => {
                self.unsigned.insert(record.key, error);
                None
            }
        }
    }
}
