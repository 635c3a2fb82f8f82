//! What signed statements make of the state.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use bytes::Bytes;

use super::ledger::{Noted, Sha, Standing};
use super::{Origin, State, Trust};
use crate::record::{self, RecordError};
use crate::{
    Change, ClusterName, Key, Opened, PublicKey, Record, RecordKey, Refusal, RefusalReason, Resource, Statement, Version,
};

impl State {
    /// Takes a signed statement in, as it travelled.
    pub(super) fn take_signed(&mut self, bytes: &Bytes, change: &mut Change) {
        if !matches!(self.config.trust, Trust::Signed { .. }) {
            return self.refuse(change, "record", RefusalReason::NotAllowedHere, "no fleet is configured");
        }
        match record::open(bytes) {
            Ok(opened) => self.take_opened(&opened, change),
            Err(error) => {
                let reason = match error {
                    RecordError::Signature { .. } => RefusalReason::BadSignature,
                    RecordError::TooLarge { .. } | RecordError::Form(_) => RefusalReason::Malformed,
                };
                self.refuse(change, "record", reason, error.to_string());
            }
        }
    }

    /// Takes a signed statement in whose signature was verified.
    pub(super) fn take_opened(&mut self, opened: &Opened, change: &mut Change) {
        let Trust::Signed { root, .. } = self.config.trust else {
            return self.refuse(change, "record", RefusalReason::NotAllowedHere, "no fleet is configured");
        };
        let subject = opened.statement.to_string();
        if opened.fleet != root {
            return self.refuse(change, subject, RefusalReason::ForeignFleet, format!("for the fleet of {}", opened.fleet));
        }
        let (digest, bytes) = (opened.digest, opened.bytes());
        match &opened.statement {
            Statement::Record(record) => self.take_record(record, opened.signer, digest, bytes, change),
            Statement::Root(_) if opened.signer != root => {
                let detail = format!("signed by {}, which is not the root", opened.signer);
                self.refuse(change, subject, RefusalReason::BadSignature, detail);
            }
            Statement::Root(record) => self.take_root(record.clone(), &subject, digest, bytes.clone(), change),
        }
        self.watch_time(change);
    }

    fn take_record(&mut self, record: &Record, signer: PublicKey, digest: Sha, bytes: &Bytes, change: &mut Change) {
        let subject = format!("{} {}", record.cluster, record.key);
        if let Err((reason, detail)) = check_form(record) {
            return self.refuse(change, subject, reason, detail);
        }
        let now = self.now.wall;
        let cluster = self.ledger.clusters.get(&record.cluster);
        let deciding = cluster.and_then(|cluster| cluster.deciding(now)).and_then(|grant| grant.key);
        let room = if cluster.is_some_and(|cluster| cluster.names(&signer)) { usize::MAX } else { self.ledger.waiting_room() };
        if deciding != Some(signer) {
            let other = self.ledger.clusters.iter().filter(|(name, _)| **name != record.cluster);
            let speaks_for =
                |key: &PublicKey| other.clone().find(|(_, cluster)| cluster.names(key)).map(|(name, _)| name.clone());
            if let Some(other) = speaks_for(&signer) {
                let detail = format!("signed by the key of cluster {other}");
                return self.refuse(change, subject, RefusalReason::ForeignCluster, detail);
            }
        }
        let cluster = self.ledger.clusters.entry(record.cluster.clone()).or_default();
        let quarantined = cluster.is_quarantined(now);
        let noted = cluster.note(&signer, record, digest, bytes, room);
        if noted == Noted::OverLimit {
            return self.refuse(change, subject, RefusalReason::OverLimit, "no room for more records of this signer");
        }
        if deciding != Some(signer) {
            let (reason, detail) = match deciding {
                None => (RefusalReason::NoGrant, "kept until a grant names its signer".to_owned()),
                Some(_) => (RefusalReason::BadSignature, format!("the grant does not name {signer}")),
            };
            if noted != Noted::Known {
                self.refuse(change, subject, reason, detail);
            }
            return;
        }
        match noted {
            Noted::Known | Noted::OverLimit => {}
            Noted::Replayed(newer) => {
                let detail = format!("version {} is older than {newer}", record.version);
                self.refuse(change, subject, RefusalReason::Replayed, detail);
            }
            Noted::Equivocation => {
                let detail = format!("two records of version {}: the cluster is quarantined until a new epoch", record.version);
                self.refuse(change, subject, RefusalReason::Equivocation, detail);
                self.settle(&record.cluster, change);
            }
            Noted::New { .. } if quarantined => {
                self.refuse(change, subject, RefusalReason::Quarantined, "kept until a grant of a new epoch");
            }
            Noted::New { old, disputed } => {
                let old = old.map(|(version, keys)| (Origin::Record(Reverse(version), record.key.clone()), keys));
                let new = if disputed { None } else { Some(self.believable(record, change)) };
                self.replace(old, new, change);
            }
        }
    }

    /// Brings the facts of `cluster` in line with the ledger: its grant, and whose records are looked at.
    pub(super) fn settle(&mut self, name: &ClusterName, change: &mut Change) {
        let now = self.now.wall;
        let Some(cluster) = self.ledger.clusters.get(name) else { return };
        let signer = cluster.deciding(now).and_then(|grant| grant.key).filter(|_| !cluster.is_quarantined(now));
        let grant = match cluster.standing(now) {
            Standing::InForce(grant) => Some(grant.clone()),
            _ => None,
        };
        let switches = self.active.get(name) != signer.as_ref();
        if switches {
            let old = self.active.remove(name);
            self.withdraw_signer(name, old, change);
        }
        let key = Key::Grant(name.clone());
        match grant {
            Some(grant) => {
                self.offered.entry(key.clone()).or_default().insert(Origin::Root, Resource::Grant(grant));
                self.refresh(&key, change);
            }
            None => self.withdraw(&key, &Origin::Root, change),
        }
        self.index_prefixes(name, change);
        if let Some(signer) = signer.filter(|_| switches) {
            self.active.insert(name.clone(), signer);
            self.offer_signer(name, &signer, change);
        }
        // Without a grant in force, the reason for it may be another one than before.
        let ended = match self.ledger.standing(name, now) {
            Standing::InForce(_) => None,
            Standing::Unknown => Some(RefusalReason::NoGrant),
            Standing::NotInForce => Some(RefusalReason::GrantExpired),
            Standing::Revoked => Some(RefusalReason::Revoked),
        };
        if self.ended.get(name).copied() != ended {
            match ended {
                Some(reason) => self.ended.insert(name.clone(), reason),
                None => self.ended.remove(name),
            };
            self.refresh_cluster(name, change);
        }
    }

    fn withdraw_signer(&mut self, name: &ClusterName, signer: Option<PublicKey>, change: &mut Change) {
        let signer = signer.and_then(|key| self.ledger.clusters.get(name)?.signers.get(&key));
        let held = signer.into_iter().flat_map(|signer| &signer.records);
        let gone = held.map(|(key, held)| (Origin::Record(Reverse(held.version), key.clone()), held.keys.clone()));
        for old in gone.collect::<Vec<_>>() {
            self.replace(Some(old), None, change);
        }
    }

    fn offer_signer(&mut self, name: &ClusterName, signer: &PublicKey, change: &mut Change) {
        let signer = self.ledger.clusters.get(name).and_then(|cluster| cluster.signers.get(signer));
        let held = signer.into_iter().flat_map(|signer| signer.records.values()).filter(|held| !held.disputed);
        // The signature was checked when the record came in.
        for bytes in held.map(|held| held.bytes.clone()).collect::<Vec<_>>() {
            let Some(record) = record::contents(&bytes) else { continue };
            let new = self.believable(&record, change);
            self.replace(None, Some(new), change);
        }
    }

    /// Returns what of a record may be looked at: not the own cluster's facts, which plain sources tell, and no reserved label.
    fn believable(&mut self, record: &Record, change: &mut Change) -> (Origin, Vec<Resource>) {
        let origin = Origin::Record(Reverse(record.version), record.key.clone());
        let own = matches!(&self.config.trust, Trust::Signed { cluster, .. } if *cluster == record.cluster);
        // What only the publisher can say: allocated addresses, the age of an export, and that it is alive.
        let told = matches!(record.key, RecordKey::Import(_) | RecordKey::Export(_) | RecordKey::Lease);
        if own && !told {
            return (origin, Vec::new());
        }
        let mut resources = record.resources.clone();
        for resource in &mut resources {
            let labels = match resource {
                Resource::Node(node) => &mut node.labels,
                Resource::Namespace(namespace) => &mut namespace.labels,
                Resource::Workload(workload) => &mut workload.labels,
                _ => continue,
            };
            let (kept, dropped) = std::mem::take(labels).without_reserved();
            *labels = kept;
            for label in dropped {
                let detail = format!("label {label} is the mesh's to set; it is dropped");
                self.refuse(change, resource.key().to_string(), RefusalReason::NotAllowedHere, detail);
            }
        }
        (origin, resources)
    }

    /// Puts `new` in the place of `old`, and looks once at each fact concerned.
    pub(super) fn replace(&mut self, old: Option<(Origin, Vec<Key>)>, new: Option<(Origin, Vec<Resource>)>, change: &mut Change) {
        // In the order of the keys: a node comes before what is judged by its prefixes.
        let mut touched = BTreeSet::new();
        if let Some((origin, keys)) = old {
            for key in keys {
                self.unoffer(&key, &origin);
                touched.insert(key);
            }
        }
        if let Some((origin, resources)) = new {
            for resource in resources {
                let key = resource.key();
                self.offered.entry(key.clone()).or_default().insert(origin.clone(), resource);
                touched.insert(key);
            }
        }
        for key in touched {
            self.refresh(&key, change);
        }
    }

    pub(super) fn refuse(
        &mut self,
        change: &mut Change,
        subject: impl Into<String>,
        reason: RefusalReason,
        detail: impl Into<String>,
    ) {
        self.count_refusal(change, Refusal { subject: subject.into(), reason, detail: detail.into() });
    }

    /// Returns the keys that are judged by the prefixes of `node`: its link, and the workloads in its slices.
    pub(super) fn dependents(&self, node: &crate::NodeId) -> Vec<Key> {
        let signer = self.active.get(&node.cluster);
        let signer = signer.and_then(|key| self.ledger.clusters.get(&node.cluster)?.signers.get(key));
        let slices = signer.into_iter().flat_map(|signer| signer.slices_of(&node.name));
        let workloads = slices.flat_map(|held| held.keys.iter().cloned());
        let dependents = workloads.chain([Key::NodeLink(node.clone())]);
        dependents.filter(|key| self.offered.contains_key(key)).collect()
    }

    /// Returns the version that is held of a record of a cluster's signer in force, for tests and status pages.
    pub fn record_version(&self, cluster: &ClusterName, key: &RecordKey) -> Option<Version> {
        let known = self.ledger.clusters.get(cluster)?;
        let signer = known.deciding(self.now.wall)?.key?;
        known.signers.get(&signer)?.records.get(key).map(|held| held.version)
    }

    /// Tells whether `cluster` is quarantined: its key signed two records with one version.
    pub fn is_quarantined(&self, cluster: &ClusterName) -> bool {
        self.ledger.clusters.get(cluster).is_some_and(|known| known.is_quarantined(self.now.wall))
    }
}

/// Checks that a record speaks of its own cluster, and of what its key says.
fn check_form(record: &Record) -> super::admission::Admission {
    for resource in &record.resources {
        let key = resource.key();
        if key.cluster() != Some(&record.cluster) {
            return Err((RefusalReason::ForeignCluster, format!("it holds {key}")));
        }
        let fits = match (&record.key, resource) {
            (RecordKey::Node(name), Resource::Node(node)) => node.id.name == *name,
            (RecordKey::Node(name), Resource::NodeLink(link)) => link.id.name == *name,
            (RecordKey::Namespace(name), Resource::Namespace(namespace)) => namespace.name == *name,
            (RecordKey::Slice(namespace, node), Resource::Workload(workload)) => {
                workload.id.namespace == *namespace && workload.node.as_ref() == Some(node) && !workload.host_network
            }
            (RecordKey::Export(id), Resource::Export(export)) => export.id == *id,
            (RecordKey::Import(id), Resource::ServiceImport(import)) => import.id == *id,
            (RecordKey::Lease, Resource::Lease(_)) => true,
            _ => false,
        };
        if !fits {
            return Err((RefusalReason::NotAllowedHere, format!("it holds {key}")));
        }
    }
    Ok(())
}
