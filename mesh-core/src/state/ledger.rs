//! Everything signed that is known: grants, revocations and records with their versions, admitted or not.
//!
//! What follows from the ledger depends on what is in it and on the time, not on the order in which it came: grants are
//! ranked, records are kept by signer until their signer has a say, and a version's digest is remembered for a while after
//! the version is superseded, so that its twin is still recognised as proof of equivocation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::{ClusterName, Grant, Key, NamespaceName, ObjectName, PublicKey, Record, RecordKey, Version, WallTime};

/// The bytes kept for signers without a say, of all clusters together: enough for a fleet's records to outrun its grants,
/// not enough for a stranger to fill the memory. What does not fit is refused, and told again by the next resync.
pub(super) const MAX_WAITING_BYTES: usize = 16 << 20;
/// The records kept of one signer.
const MAX_RECORDS: usize = 1 << 18;
/// The grants kept of one cluster, highest rank first: the one in force, its successors, and a few that they replaced.
const MAX_GRANTS: usize = 16;
/// The versions of a record's key whose digests are remembered.
const MAX_SEEN: usize = 8;
/// What a record costs beside its bytes, about.
const OVERHEAD: usize = 512;

pub(super) type Sha = [u8; 32];
/// Orders the grants of a cluster: epoch, then beginning, end and digest. The highest one that has begun decides.
type Rank = (u64, WallTime, WallTime, Sha);

#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    pub(super) clusters: BTreeMap<ClusterName, Cluster>,
    pub(super) policies: Option<Policies>,
}

/// The fleet policies in force.
#[derive(Clone, Debug)]
pub(super) struct Policies {
    pub(super) serial: u64,
    pub(super) digest: Sha,
    pub(super) bytes: Bytes,
    pub(super) keys: Vec<Key>,
}

/// What is known of one cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    pub(super) grants: BTreeMap<Rank, (Arc<Grant>, Bytes)>,
    /// The first epoch that counts, and the statement that says so.
    pub(super) revoked: Option<(u64, Bytes)>,
    pub(super) signers: BTreeMap<PublicKey, Signer>,
}

/// What one key signed for a cluster, whether it has a say or not.
#[derive(Clone, Debug, Default)]
pub(super) struct Signer {
    pub(super) records: BTreeMap<RecordKey, Held>,
    pub(super) evidence: Vec<Evidence>,
    /// The namespaces of each node's slices.
    slices: BTreeMap<ObjectName, BTreeSet<NamespaceName>>,
    bytes: usize,
}

/// The newest record of a key.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) version: Version,
    pub(super) bytes: Bytes,
    pub(super) keys: Vec<Key>,
    /// Another record has this version too: neither is believed.
    pub(super) disputed: bool,
    seen: BTreeMap<Version, Sha>,
}

/// Proof that a key signed two records with one version.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    pub(super) key: RecordKey,
    pub(super) version: Version,
    pub(super) digests: [Sha; 2],
    /// The later one of the two.
    pub(super) bytes: Bytes,
    /// The grants' epoch then, once a grant names the key: grants of later epochs are not touched.
    pub(super) epoch: Option<u64>,
}

/// How the root stands to a cluster at a time.
#[derive(Clone, Debug)]
pub(super) enum Standing<'a> {
    /// No grant was ever seen.
    Unknown,
    /// Not begun, or over.
    NotInForce,
    Revoked,
    InForce(&'a Arc<Grant>),
}

/// What a record turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// Newer than what was held: the version and keys of that, and whether the new one has a twin already.
    New {
        old: Option<(Version, Vec<Key>)>,
        disputed: bool,
    },
    /// Known already.
    Known,
    /// Older than the held version.
    Replayed(Version),
    /// A twin.
    Equivocation,
    OverLimit,
}

impl Cluster {
    /// Returns the grant that decides at `now`: the highest that has begun, else the highest.
    pub(super) fn deciding(&self, now: WallTime) -> Option<&Arc<Grant>> {
        let begun = self.grants.values().rev().find(|(grant, _)| grant.not_before <= now);
        begun.or_else(|| self.grants.values().next_back()).map(|(grant, _)| grant)
    }

    pub(super) fn standing(&self, now: WallTime) -> Standing<'_> {
        match self.deciding(now) {
            None => Standing::Unknown,
            Some(grant) if self.revoked.as_ref().is_some_and(|(epoch, _)| grant.epoch < *epoch) => Standing::Revoked,
            Some(grant) if grant.is_valid_at(now) => Standing::InForce(grant),
            Some(_) => Standing::NotInForce,
        }
    }

    /// Tells whether the deciding grant's key has signed two records with one version since the grant's epoch began.
    pub(super) fn is_quarantined(&self, now: WallTime) -> bool {
        let Some(grant) = self.deciding(now) else { return false };
        let signer = grant.key.and_then(|key| self.signers.get(&key));
        signer.is_some_and(|signer| signer.evidence.iter().any(|e| e.epoch.is_none_or(|epoch| epoch >= grant.epoch)))
    }

    /// Tells whether some known grant names `key`.
    pub(super) fn names(&self, key: &PublicKey) -> bool {
        self.grants.values().any(|(grant, _)| grant.key.as_ref() == Some(key))
    }

    /// Takes a grant in; tells whether it was kept.
    pub(super) fn note_grant(&mut self, grant: Arc<Grant>, digest: Sha, bytes: Bytes) -> bool {
        let rank = (grant.epoch, grant.not_before, grant.not_after, digest);
        if let Some(signer) = grant.key.and_then(|key| self.signers.get_mut(&key)) {
            for evidence in &mut signer.evidence {
                evidence.epoch.get_or_insert(grant.epoch);
            }
        }
        self.grants.insert(rank, (grant, bytes));
        if self.grants.len() > MAX_GRANTS {
            self.grants.pop_first();
        }
        self.grants.contains_key(&rank)
    }

    /// Takes in a record that `signer` signed for this cluster; `room` is how many bytes more it may bring.
    pub(super) fn note(&mut self, signer: &PublicKey, record: &Record, digest: Sha, bytes: &Bytes, room: usize) -> Noted {
        let epoch = self.grants.values().filter(|(g, _)| g.key.as_ref() == Some(signer)).map(|(g, _)| g.epoch).max();
        let known = self.signers.get(signer);
        let fits = bytes.len() + OVERHEAD <= room
            && known.is_none_or(|s| s.records.len() < MAX_RECORDS || s.records.contains_key(&record.key));
        if !fits {
            return Noted::OverLimit;
        }
        let signer = self.signers.entry(*signer).or_default();
        let twin = |e: &Evidence| e.key == record.key && e.version == record.version && e.digests.contains(&digest);
        let disputed = signer.evidence.iter().any(twin);
        let Some(held) = signer.records.get_mut(&record.key) else {
            signer.bytes += bytes.len() + OVERHEAD;
            if let RecordKey::Slice(namespace, node) = &record.key {
                signer.slices.entry(node.clone()).or_default().insert(namespace.clone());
            }
            signer.records.insert(record.key.clone(), Held::new(record, digest, bytes, disputed));
            return Noted::New { old: None, disputed };
        };
        if record.version > held.version {
            let mut new = Held::new(record, digest, bytes, disputed);
            new.seen = std::mem::take(&mut held.seen);
            new.see(record.version, digest);
            let old = std::mem::replace(held, new);
            signer.bytes = (signer.bytes + bytes.len()).saturating_sub(old.bytes.len());
            return Noted::New { old: Some((old.version, old.keys)), disputed };
        }
        let is_held = record.version == held.version;
        match held.seen.get(&record.version).copied() {
            Some(seen) if seen == digest || disputed => {
                held.disputed |= is_held && disputed;
                if is_held { Noted::Known } else { Noted::Replayed(held.version) }
            }
            Some(seen) => {
                held.disputed |= is_held;
                // One proof for each epoch is enough.
                if !signer.evidence.iter().any(|e| e.epoch >= epoch) {
                    let (key, version, bytes) = (record.key.clone(), record.version, bytes.clone());
                    signer.bytes += bytes.len();
                    signer.evidence.push(Evidence { key, version, digests: [seen, digest], bytes, epoch });
                }
                Noted::Equivocation
            }
            None => {
                held.see(record.version, digest);
                Noted::Replayed(held.version)
            }
        }
    }
}

impl Signer {
    /// Returns the slices of `node`.
    pub(super) fn slices_of(&self, node: &ObjectName) -> impl Iterator<Item = &Held> {
        let namespaces = self.slices.get(node).into_iter().flatten();
        namespaces.filter_map(|namespace| self.records.get(&RecordKey::Slice(namespace.clone(), node.clone())))
    }
}

impl Held {
    fn new(record: &Record, digest: Sha, bytes: &Bytes, disputed: bool) -> Held {
        let keys = record.resources.iter().map(crate::Resource::key).collect();
        let seen = BTreeMap::from([(record.version, digest)]);
        Held { version: record.version, bytes: bytes.clone(), keys, disputed, seen }
    }

    fn see(&mut self, version: Version, digest: Sha) {
        self.seen.insert(version, digest);
        if self.seen.len() > MAX_SEEN {
            self.seen.pop_first();
        }
    }
}

impl Ledger {
    /// Returns how many bytes more signers without a say may bring.
    pub(super) fn waiting_room(&self) -> usize {
        let waiting = self.clusters.values().flat_map(|c| c.signers.iter().filter(|(key, _)| !c.names(key)));
        MAX_WAITING_BYTES.saturating_sub(waiting.map(|(_, signer)| signer.bytes).sum())
    }

    pub(super) fn standing(&self, cluster: &ClusterName, now: WallTime) -> Standing<'_> {
        self.clusters.get(cluster).map_or(Standing::Unknown, |cluster| cluster.standing(now))
    }
}
