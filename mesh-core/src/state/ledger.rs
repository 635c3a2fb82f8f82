//! Everything signed that is known: grants, revocations and records with their versions, admitted or not.
//!
//! What follows from the ledger depends on what is in it and on the time, not on the order in which it came: grants are
//! ranked, records are kept by signer until their signer has a say, and a version's digest is remembered for a while after
//! the version is superseded, so that its twin is still recognised as proof of equivocation.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::Origin;
use super::limits::{Limits, Weight};
use crate::{ClusterName, Grant, Key, NamespaceName, ObjectName, PublicKey, Record, RecordKey, Version, WallTime};

/// The grants kept of one cluster, highest rank first: the one in force, its successors, and a few that they replaced.
const MAX_GRANTS: usize = 16;
/// The versions of a record's key whose digests are remembered.
const MAX_SEEN: usize = 8;

pub(super) type Sha = [u8; 32];
/// Orders the grants of a cluster: epoch, then beginning, end and digest. The highest one that has begun decides.
type Rank = (u64, WallTime, WallTime, Sha);

#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    pub(super) clusters: BTreeMap<ClusterName, Cluster>,
    pub(super) policies: Option<Policies>,
    pub(super) limits: Limits,
    /// What the records of signers that no grant names weigh, of all clusters together.
    strangers: usize,
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
    /// By rank, lowest first; nearly always one.
    pub(super) grants: Vec<Granted>,
    /// The first epoch that counts, and the statement that says so.
    pub(super) revoked: Option<(u64, Bytes)>,
    pub(super) signers: BTreeMap<PublicKey, Signer>,
}

/// A grant, and the statement that says so.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    rank: Rank,
    pub(super) grant: Arc<Grant>,
    pub(super) bytes: Bytes,
}

/// What one key signed for a cluster, whether it has a say or not.
#[derive(Clone, Debug, Default)]
pub(super) struct Signer {
    pub(super) records: BTreeMap<RecordKey, Held>,
    pub(super) evidence: Vec<Evidence>,
    /// The namespaces of each node's slices.
    slices: BTreeMap<ObjectName, BTreeSet<NamespaceName>>,
    pub(super) weight: Weight,
}

/// The newest record of a key.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) version: Version,
    pub(super) bytes: Bytes,
    pub(super) keys: Vec<Key>,
    /// Another record has this version too: neither is believed.
    pub(super) disputed: bool,
    weight: Weight,
    /// The latest versions and their digests, in order.
    seen: Vec<(Version, Sha)>,
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
    /// Newer than what was held of its signer; and whether it has a twin already.
    New { disputed: bool },
    /// Known already.
    Known,
    /// Older than the held version.
    Replayed(Version),
    /// A twin.
    Equivocation,
}

impl Cluster {
    /// Returns the grant that decides at `now`: the highest that has begun, else the highest.
    pub(super) fn deciding(&self, now: WallTime) -> Option<&Arc<Grant>> {
        let begun = self.grants.iter().rfind(|granted| granted.grant.not_before <= now);
        begun.or_else(|| self.grants.last()).map(|granted| &granted.grant)
    }

    pub(super) fn standing(&self, now: WallTime) -> Standing<'_> {
        match self.deciding(now) {
            None => Standing::Unknown,
            Some(grant) if self.revoked.as_ref().is_some_and(|(epoch, _)| grant.epoch < *epoch) => Standing::Revoked,
            Some(grant) if grant.is_valid_at(now) => Standing::InForce(grant),
            Some(_) => Standing::NotInForce,
        }
    }

    /// Returns the keys whose records are looked at: those of the grant that decides, unless the cluster is quarantined.
    pub(super) fn speaking(&self, now: WallTime) -> Vec<PublicKey> {
        if self.is_quarantined(now) {
            Vec::new()
        } else {
            self.deciding(now).into_iter().flat_map(|grant| grant.keys()).collect()
        }
    }

    /// Returns what counts about `key` of what `speaking` signed: the highest version, and of two the later key's.
    pub(super) fn counting(&self, speaking: &[PublicKey], key: &RecordKey) -> Option<(PublicKey, &Held)> {
        let held = speaking.iter().filter_map(|signer| Some((*signer, self.signers.get(signer)?.records.get(key)?)));
        held.max_by_key(|(_, held)| held.version)
    }

    /// Tells whether a key of the deciding grant has signed two records with one version since the grant's epoch began.
    pub(super) fn is_quarantined(&self, now: WallTime) -> bool {
        let Some(grant) = self.deciding(now) else { return false };
        let mut evidence = grant.keys().filter_map(|key| self.signers.get(&key)).flat_map(|signer| &signer.evidence);
        evidence.any(|evidence| evidence.epoch.is_none_or(|epoch| epoch >= grant.epoch))
    }

    /// Tells whether some known grant names `key`.
    pub(super) fn names(&self, key: &PublicKey) -> bool {
        self.grants.iter().any(|granted| granted.grant.keys().any(|named| named == *key))
    }

    /// Returns the records that are held of the signers that a grant names and that `unwanted` picks.
    pub(super) fn held_of(&self, unwanted: impl Fn(&RecordKey) -> bool) -> BTreeSet<RecordKey> {
        let named = self.signers.iter().filter(|(signer, _)| self.names(signer)).flat_map(|(_, signer)| &signer.records);
        named.filter(|(key, held)| !held.is_forgotten() && !held.disputed && unwanted(key)).map(|(key, _)| key.clone()).collect()
    }

    /// Forgets what the record of a key said, of all signers that a grant names. That there was one, and which, is kept.
    pub(super) fn forget(&mut self, key: &RecordKey) {
        let named: BTreeSet<PublicKey> = self.signers.keys().filter(|signer| self.names(signer)).copied().collect();
        for signer in self.signers.iter_mut().filter(|(signer, _)| named.contains(signer)).map(|(_, signer)| signer) {
            let Some(held) = signer.records.get_mut(key).filter(|held| !held.disputed) else { continue };
            let whole = std::mem::replace(&mut held.weight, Weight::forgotten());
            (held.bytes, held.keys) = (Bytes::new(), Vec::new());
            signer.weight += held.weight;
            signer.weight -= whole;
        }
    }

    /// Takes a grant in; tells whether it was kept.
    pub(super) fn note_grant(&mut self, grant: Arc<Grant>, digest: Sha, bytes: Bytes) -> bool {
        let rank = (grant.epoch, grant.not_before, grant.not_after, digest);
        for key in grant.keys() {
            for evidence in self.signers.get_mut(&key).into_iter().flat_map(|signer| &mut signer.evidence) {
                evidence.epoch.get_or_insert(grant.epoch);
            }
        }
        if let Err(place) = self.grants.binary_search_by_key(&rank, |granted| granted.rank) {
            if self.grants.len() == MAX_GRANTS && place == 0 {
                return false;
            }
            self.grants.reserve_exact(1);
            self.grants.insert(place, Granted { rank, grant, bytes });
            if self.grants.len() > MAX_GRANTS {
                self.grants.remove(0);
            }
        }
        true
    }

    /// Returns what the records of the signers weigh that a grant names, each with its facts.
    fn weight(&self) -> usize {
        let named: BTreeSet<PublicKey> = self.grants.iter().flat_map(|granted| granted.grant.keys()).collect();
        named.iter().filter_map(|key| self.signers.get(key)).map(|signer| signer.weight.total()).sum()
    }

    /// Returns what the records of the signers weigh that no grant names, as they are kept.
    fn strangers(&self) -> usize {
        self.signers.iter().filter(|(key, _)| !self.names(key)).map(|(_, signer)| signer.weight.kept).sum()
    }

    /// Takes in a record that `signer` signed for this cluster.
    fn note(&mut self, signer: &PublicKey, record: &Record, digest: Sha, bytes: &Bytes) -> Noted {
        let naming = self.grants.iter().map(|granted| &granted.grant).filter(|grant| grant.keys().any(|key| key == *signer));
        let epoch = naming.map(|grant| grant.epoch).max();
        let signer = self.signers.entry(*signer).or_default();
        let twin = |e: &Evidence| e.key == record.key && e.version == record.version && e.digests.contains(&digest);
        let disputed = signer.evidence.iter().any(twin);
        let Some(held) = signer.records.get_mut(&record.key) else {
            if let RecordKey::Slice(namespace, node) = &record.key {
                signer.slices.entry(node.clone()).or_default().insert(namespace.clone());
            }
            let held = Held::new(record, digest, bytes, disputed);
            signer.weight += held.weight;
            signer.records.insert(record.key.clone(), held);
            return Noted::New { disputed };
        };
        if record.version > held.version {
            let mut new = Held::new(record, digest, bytes, disputed);
            new.seen = std::mem::take(&mut held.seen);
            new.see(record.version, digest);
            let old = std::mem::replace(held, new);
            signer.weight += held.weight;
            signer.weight -= old.weight;
            return Noted::New { disputed };
        }
        let is_held = record.version == held.version;
        if is_held && held.is_forgotten() && held.digest_of(record.version) == Some(digest) {
            let mut again = Held::new(record, digest, bytes, disputed);
            again.seen = std::mem::take(&mut held.seen);
            let stub = std::mem::replace(held, again);
            signer.weight += held.weight;
            signer.weight -= stub.weight;
            return Noted::New { disputed };
        }
        match held.digest_of(record.version) {
            Some(seen) if seen == digest || disputed => {
                held.disputed |= is_held && disputed;
                if is_held { Noted::Known } else { Noted::Replayed(held.version) }
            }
            Some(seen) => {
                held.disputed |= is_held;
                // One proof for each epoch is enough.
                if !signer.evidence.iter().any(|e| e.epoch >= epoch) {
                    let (key, version, bytes) = (record.key.clone(), record.version, bytes.clone());
                    signer.weight += Weight::bytes(bytes.len());
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

    /// Returns the slices of `namespace`.
    pub(super) fn slices_in(&self, namespace: &NamespaceName) -> impl Iterator<Item = &Held> {
        let nodes = self.slices.iter().filter(|(_, namespaces)| namespaces.contains(namespace));
        nodes.filter_map(|(node, _)| self.records.get(&RecordKey::Slice(namespace.clone(), node.clone())))
    }
}

impl Held {
    fn new(record: &Record, digest: Sha, bytes: &Bytes, disputed: bool) -> Held {
        let keys = record.resources.iter().map(crate::Resource::key).collect();
        let seen = vec![(record.version, digest)];
        Held { version: record.version, bytes: bytes.clone(), keys, disputed, weight: Weight::of(record, bytes), seen }
    }

    /// Returns what is offered of the record: under what name, and about what.
    pub(super) fn offered(&self, key: &RecordKey) -> (Origin, Vec<Key>) {
        (Origin::Record(Reverse(self.version), key.clone()), self.keys.clone())
    }

    fn digest_of(&self, version: Version) -> Option<Sha> {
        self.seen.binary_search_by_key(&version, |(seen, _)| *seen).ok().map(|at| self.seen[at].1)
    }

    /// Tells whether no more is known of the record than its version: no record is empty.
    pub(super) fn is_forgotten(&self) -> bool {
        self.bytes.is_empty()
    }

    fn see(&mut self, version: Version, digest: Sha) {
        match self.seen.binary_search_by_key(&version, |(seen, _)| *seen) {
            Ok(at) => self.seen[at].1 = digest,
            Err(at) => {
                self.seen.reserve_exact(1);
                self.seen.insert(at, (version, digest));
            }
        }
        if self.seen.len() > MAX_SEEN {
            self.seen.remove(0);
        }
    }
}

impl Ledger {
    /// Takes in a record that `signer` signed; `None` where there is no room for it. What weighs no more than what it replaces
    /// always has room, so that a cluster at its limit can take back what it said.
    pub(super) fn note(&mut self, signer: &PublicKey, record: &Record, digest: Sha, bytes: &Bytes) -> Option<Noted> {
        let known = self.clusters.get(&record.cluster);
        let is_named = known.is_some_and(|cluster| cluster.names(signer));
        let before = known.and_then(|cluster| cluster.signers.get(signer)).map(|signer| signer.weight).unwrap_or_default();
        let held = known.and_then(|cluster| cluster.signers.get(signer)?.records.get(&record.key));
        let (old, new) = (held.map(|held| held.weight).unwrap_or_default(), Weight::of(record, bytes));
        let (grows, room) = if is_named {
            let used = known.map_or(0, Cluster::weight);
            (new.total().saturating_sub(old.total()), self.limits.cluster.saturating_sub(used))
        } else {
            (new.kept.saturating_sub(old.kept), self.limits.strangers.saturating_sub(self.strangers))
        };
        if grows > room {
            return None;
        }
        let cluster = self.clusters.entry(record.cluster.clone()).or_default();
        let noted = cluster.note(signer, record, digest, bytes);
        if !is_named {
            let after = cluster.signers.get(signer).map(|signer| signer.weight).unwrap_or_default();
            self.strangers = self.strangers + after.kept - before.kept;
        }
        Some(noted)
    }

    /// Takes a grant in; tells whether it was kept. Who was a stranger may be none now, and the other way round.
    pub(super) fn note_grant(&mut self, grant: Arc<Grant>, digest: Sha, bytes: Bytes) -> bool {
        let cluster = self.clusters.entry(grant.cluster.clone()).or_default();
        let before = cluster.strangers();
        let kept = cluster.note_grant(grant, digest, bytes);
        self.strangers = self.strangers - before + cluster.strangers();
        kept
    }

    pub(super) fn standing(&self, cluster: &ClusterName, now: WallTime) -> Standing<'_> {
        self.clusters.get(cluster).map_or(Standing::Unknown, |cluster| cluster.standing(now))
    }
}
