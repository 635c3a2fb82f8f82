//! What signed statements make of the state.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use bytes::Bytes;

use super::ledger::{Noted, Sha, Standing};
use super::{Origin, State, Trust};
use crate::record::{self, RecordError};
use crate::{
    Change, ClusterName, Key, NamespaceName, Opened, PublicKey, Record, RecordKey, Refusal, RefusalReason, Resource, Statement,
    Version,
};

impl State {
    /// Takes a signed statement in, as it travelled.
    pub(super) fn take_signed(&mut self, bytes: &Bytes, change: &mut Change) {
        if !matches!(self.config.trust, Trust::Signed { .. }) {
            return self.refuse(change, "record", RefusalReason::NotAllowedHere, "no fleet is configured");
        }
        self.take_read(record::open(bytes).as_ref(), change);
    }

    /// Takes in what came of reading a signed statement.
    pub(super) fn take_read(&mut self, read: Result<&Opened, &RecordError>, change: &mut Change) {
        match read {
            Ok(opened) => self.take_opened(opened, change),
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
        if opened.fleet != root {
            let subject = opened.statement.to_string();
            return self.refuse(change, subject, RefusalReason::ForeignFleet, format!("for the fleet of {}", opened.fleet));
        }
        let (digest, bytes) = (opened.digest, opened.bytes());
        match &opened.statement {
            Statement::Record(record) => {
                self.take_record(record, opened.signer, digest, bytes, change);
                self.watch(&record.cluster, change);
            }
            Statement::Root(_) if opened.signer != root => {
                let detail = format!("signed by {}, which is not the root", opened.signer);
                self.refuse(change, opened.statement.to_string(), RefusalReason::BadSignature, detail);
            }
            Statement::Root(record) => {
                self.take_root(record.clone(), &opened.statement.to_string(), digest, bytes.clone(), change);
            }
        }
    }

    fn take_record(&mut self, record: &Record, signer: PublicKey, digest: Sha, bytes: &Bytes, change: &mut Change) {
        // Most records are refused nothing, and need no name.
        let subject = || format!("{} {}", record.cluster, record.key);
        if let Err((reason, detail)) = check_form(record) {
            return self.refuse(change, subject(), reason, detail);
        }
        let now = self.now.wall;
        let cluster = self.ledger.clusters.get(&record.cluster);
        let deciding = cluster.and_then(|cluster| cluster.deciding(now)).cloned();
        let has_say = deciding.as_ref().is_some_and(|grant| grant.keys().any(|key| key == signer));
        let quarantined = cluster.is_some_and(|cluster| cluster.is_quarantined(now));
        let before = self.said(&record.cluster, &record.key);
        let Some(noted) = self.ledger.note(&signer, record, digest, bytes) else {
            return self.refuse(change, subject(), RefusalReason::OverLimit, "no room for more records of this signer");
        };
        if !has_say {
            // Kept all the same: what is believed later must not depend on which grant came first.
            let mut others = self.ledger.clusters.iter().filter(|(name, _)| **name != record.cluster);
            let other = others.find(|(_, cluster)| cluster.names(&signer)).map(|(name, _)| name.clone());
            let (reason, detail) = match (other, deciding) {
                (Some(other), _) => (RefusalReason::ForeignCluster, format!("signed by the key of cluster {other}")),
                (None, None) => (RefusalReason::NoGrant, "kept until a grant names its signer".to_owned()),
                (None, Some(_)) => (RefusalReason::BadSignature, format!("the grant does not name {signer}")),
            };
            if noted != Noted::Known {
                self.refuse(change, subject(), reason, detail);
            }
            return;
        }
        match noted {
            Noted::Known => {}
            Noted::Replayed(newer) => self.replayed(change, subject(), record.version, newer),
            Noted::Equivocation => {
                let detail = format!("two records of version {}: the cluster is quarantined until a new epoch", record.version);
                self.refuse(change, subject(), RefusalReason::Equivocation, detail);
                self.settle(&record.cluster, change);
            }
            Noted::New { .. } if quarantined => {
                self.refuse(change, subject(), RefusalReason::Quarantined, "kept until a grant of a new epoch");
            }
            Noted::New { disputed } => match self.counts(&record.cluster, &record.key) {
                Some((counting, version)) if counting != signer => self.replayed(change, subject(), record.version, version),
                _ => {
                    let new = if disputed { None } else { Some(self.believable(record, change)) };
                    self.replace(before, new, change);
                }
            },
        }
    }

    fn replayed(&mut self, change: &mut Change, subject: String, version: Version, newer: Version) {
        self.refuse(change, subject, RefusalReason::Replayed, format!("version {version} is older than {newer}"));
    }

    /// Returns who signed what counts about `key` of a cluster, and its version.
    fn counts(&self, cluster: &ClusterName, key: &RecordKey) -> Option<(PublicKey, Version)> {
        let speaking = self.active.get(cluster)?;
        self.ledger.clusters.get(cluster)?.counting(speaking, key).map(|(signer, held)| (signer, held.version))
    }

    /// Returns what is offered about `key` of a cluster.
    pub(super) fn said(&self, cluster: &ClusterName, key: &RecordKey) -> Option<(Origin, Vec<Key>)> {
        let speaking = self.active.get(cluster)?;
        self.ledger.clusters.get(cluster)?.counting(speaking, key).map(|(_, held)| held.offered(key))
    }

    /// Brings the facts of `cluster` in line with the ledger: its grant, and whose records are looked at.
    pub(super) fn settle(&mut self, name: &ClusterName, change: &mut Change) {
        let now = self.now.wall;
        let Some(cluster) = self.ledger.clusters.get(name) else { return };
        let speaking = cluster.speaking(now);
        let grant = match cluster.standing(now) {
            Standing::InForce(grant) => Some(grant.clone()),
            _ => None,
        };
        // What other keys said is judged by the grant that names them, so that nothing is believed or refused on the way that is
        // not at the end.
        let touched = self.switch(name, speaking, change);
        let key = Key::Grant(name.clone());
        match grant {
            Some(grant) => {
                self.offered.entry(key.clone()).or_default().insert(Origin::Root, Resource::Grant(grant));
                self.refresh(&key, change);
            }
            None => self.withdraw(&key, &Origin::Root, change),
        }
        self.index_prefixes(name, change);
        for key in touched {
            self.refresh(&key, change);
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

    /// Offers what counts of what the keys `speaking` signed, in place of what is offered of a cluster now; returns the keys of
    /// the facts concerned, which are to be looked at. A record that counts before and after is left alone.
    fn switch(&mut self, name: &ClusterName, speaking: Vec<PublicKey>, change: &mut Change) -> BTreeSet<Key> {
        let before = self.active.get(name).cloned().unwrap_or_default();
        let Some(cluster) = self.ledger.clusters.get(name).filter(|_| before != speaking) else { return BTreeSet::new() };
        let signers = before.iter().chain(&speaking).filter_map(|key| cluster.signers.get(key));
        let keys: BTreeSet<&RecordKey> = signers.flat_map(|signer| signer.records.keys()).collect();
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for key in keys {
            let (old, new) = (cluster.counting(&before, key), cluster.counting(&speaking, key));
            if old.map(|(signer, _)| signer) != new.map(|(signer, _)| signer) {
                gone.extend(old.map(|(_, held)| held.offered(key)));
                come.extend(new.filter(|(_, held)| !held.disputed).map(|(_, held)| held.bytes.clone()));
            }
        }
        if speaking.is_empty() {
            self.active.remove(name);
        } else {
            self.active.insert(name.clone(), speaking);
        }
        let mut touched = BTreeSet::new();
        for (origin, keys) in gone {
            self.unoffer_all(&origin, keys, &mut touched);
        }
        // The signatures were checked when the records came in.
        for record in come.iter().filter_map(|bytes| record::contents(bytes)) {
            let (origin, resources) = self.believable(&record, change);
            self.offer_all(&origin, resources, &mut touched);
        }
        touched
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
            self.labels.share(labels);
            for label in dropped {
                let detail = format!("label {label} is the mesh's to set; it is dropped");
                self.refuse(change, resource.key().to_string(), RefusalReason::NotAllowedHere, detail);
            }
        }
        (origin, resources)
    }

    /// Puts `new` in the place of `old`, and looks once at each fact concerned.
    pub(super) fn replace(&mut self, old: Option<(Origin, Vec<Key>)>, new: Option<(Origin, Vec<Resource>)>, change: &mut Change) {
        // In the order of the keys: a node and a namespace come before the workloads that are judged by them.
        let mut touched = BTreeSet::new();
        if let Some((origin, keys)) = old {
            self.unoffer_all(&origin, keys, &mut touched);
        }
        if let Some((origin, resources)) = new {
            self.offer_all(&origin, resources, &mut touched);
        }
        for key in touched {
            self.refresh(&key, change);
        }
    }

    fn unoffer_all(&mut self, origin: &Origin, keys: Vec<Key>, touched: &mut BTreeSet<Key>) {
        for key in keys {
            self.unoffer(&key, origin);
            touched.insert(key);
        }
    }

    fn offer_all(&mut self, origin: &Origin, resources: Vec<Resource>, touched: &mut BTreeSet<Key>) {
        for resource in resources {
            let key = resource.key();
            self.offered.entry(key.clone()).or_default().insert(origin.clone(), resource);
            touched.insert(key);
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
        let cluster = self.ledger.clusters.get(&node.cluster);
        let speaking = self.active.get(&node.cluster).into_iter().flatten();
        let signers = speaking.filter_map(|key| cluster?.signers.get(key));
        let workloads = signers.flat_map(|signer| signer.slices_of(&node.name)).flat_map(|held| held.keys.iter().cloned());
        let dependents = workloads.chain([Key::NodeLink(node.clone())]);
        dependents.filter(|key| self.offered.contains_key(key)).collect()
    }

    /// Returns the keys of the workloads in the slices of a namespace.
    pub(super) fn workloads_in(&self, name: &ClusterName, namespace: &NamespaceName) -> Vec<Key> {
        let cluster = self.ledger.clusters.get(name);
        let speaking = self.active.get(name).into_iter().flatten();
        let signers = speaking.filter_map(|key| cluster?.signers.get(key));
        let workloads = signers.flat_map(|signer| signer.slices_in(namespace)).flat_map(|held| held.keys.iter().cloned());
        workloads.filter(|key| self.offered.contains_key(key)).collect()
    }

    /// Returns the version that counts of a record of a cluster, for tests and status pages.
    pub fn record_version(&self, cluster: &ClusterName, key: &RecordKey) -> Option<Version> {
        let known = self.ledger.clusters.get(cluster)?;
        let speaking: Vec<PublicKey> = known.deciding(self.now.wall)?.keys().collect();
        known.counting(&speaking, key).map(|(_, held)| held.version)
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
