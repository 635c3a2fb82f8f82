//! The publisher of a cluster: from its facts to signed records, each signed anew only when it says something else.
//!
//! There is one publisher for each cluster, and it holds the cluster's key. A version is (incarnation, counter): the caller
//! keeps the incarnation beside the key and hands out a higher one each time a publisher starts, so that two lives of a
//! publisher never sign one version twice, which the fleet would take for a lie.
//!
//! Facts outside the cluster's own grant are not published: nobody would believe them. An address that a workload gave up rests
//! for a minute before a workload of another identity is published at it: who reads late must not take one for the other.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use self::addresses::Addresses;
use self::dirty::Index;
use self::recent::Recent;
use crate::{
    Change, ClusterName, Grant, Key, Lease, Now, PublicKey, Record, RecordKey, Resource, SecretKey, ServiceId, ServiceImport,
    SignError, State, Time, Version, WallTime,
};

mod addresses;
mod adopt;
mod derive;
mod dirty;
mod recent;
mod saved;

pub use self::saved::RestoreError;

/// How long a lease is good for. A third of it passes between two of them, so that two may be lost.
pub const LEASE_TTL_SECONDS: u32 = 30;

/// How long a publisher remembers what is gone: longer than any partition is to last.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Signs the records of one cluster.
#[derive(Debug)]
pub struct Publisher {
    cluster: ClusterName,
    /// The key that signs, and the one that takes its place once the grant names it.
    key: SecretKey,
    next_key: Option<SecretKey>,
    root: PublicKey,
    incarnation: u64,
    counter: u64,
    /// The incarnation that saved what this one goes on from.
    restored: u64,
    /// What was signed last for each key; `None` for what an earlier life of the publisher signed.
    published: BTreeMap<RecordKey, Option<Vec<Resource>>>,
    /// When each tombstone was first signed: a later life signs it again, because a store may have lost it before it was read.
    buried: BTreeMap<RecordKey, WallTime>,
    /// When each export was first signed.
    first_signed: BTreeMap<ServiceId, WallTime>,
    addresses: Addresses,
    recent: Recent,
    index: Index,
    /// What changed since the last update; `None`: everything.
    pending: Option<Change>,
    leased: Option<Time>,
    /// The fleet policies that the next lease says are in force on every node.
    acknowledged: Option<u64>,
    unsigned: BTreeMap<RecordKey, SignError>,
}

impl Publisher {
    /// Makes a publisher that has published nothing. `incarnation` was never used before with this key.
    pub fn new(cluster: ClusterName, key: SecretKey, root: PublicKey, incarnation: u64) -> Publisher {
        Publisher {
            index: Index::new(cluster.clone()),
            cluster,
            key,
            next_key: None,
            root,
            incarnation,
            counter: 0,
            restored: 0,
            published: BTreeMap::new(),
            buried: BTreeMap::new(),
            first_signed: BTreeMap::new(),
            addresses: Addresses::default(),
            recent: Recent::default(),
            pending: None,
            leased: None,
            acknowledged: None,
            unsigned: BTreeMap::new(),
        }
    }

    /// Takes notice of a change of the state: what it concerns is derived by the next update.
    ///
    /// Every change since the first update must be noted, and before that none has to be.
    pub fn note(&mut self, change: &Change) {
        let Some(pending) = &mut self.pending else { return };
        if change.dirty.contains(&Key::Grant(self.cluster.clone())) {
            return self.look_again();
        }
        // Of other clusters, what they export decides which services need addresses here.
        let concerns = |key: &&Key| key.cluster() == Some(&self.cluster) || matches!(key, Key::Export(..));
        pending.dirty.extend(change.dirty.iter().filter(concerns).cloned());
    }

    /// Makes the next update derive everything, as the first one does.
    pub fn look_again(&mut self) {
        self.pending = None;
    }

    /// Gives the publisher the key that it goes on with once the grant of its own state names it: it then signs anew all that
    /// stands, so that a later grant can do without the old key.
    pub fn set_next_key(&mut self, key: SecretKey) {
        self.next_key = Some(key);
    }

    /// Returns the records that are to be handed out: those that say something else than before, tombstones of what is gone,
    /// and a lease when it is time for one. Its cost is that of the records that the noted changes concern.
    ///
    /// Nothing is published without a grant in force that names this publisher's key, and nothing but leases while a source
    /// of the state is telling (a cluster is not empty because nobody has spoken yet). Write [`Publisher::save`] to the disk
    /// before handing the records out.
    pub fn update(&mut self, state: &State, now: Now) -> Vec<(RecordKey, Bytes)> {
        let Some(grant) = state.facts().grants.get(&self.cluster) else { return Vec::new() };
        self.take_next_key(grant);
        if !grant.keys().any(|key| key == self.key.public()) {
            return Vec::new();
        }
        let mut records = Vec::new();
        if state.is_settled() {
            let wanted = self.derive(state, grant, now);
            let (gone, standing): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(_, resources)| resources.is_empty());
            for (key, resources) in standing {
                if self.published.get(&key).and_then(Option::as_ref) == Some(&resources) {
                    self.unsigned.remove(&key);
                } else {
                    self.buried.remove(&key);
                    records.extend(self.sign(key, resources));
                }
            }
            let buries = !gone.is_empty();
            // What others are judged by (nodes, namespaces) comes before them, and goes after them.
            for (key, _) in gone.into_iter().rev() {
                self.unsigned.remove(&key);
                if self.published.contains_key(&key) {
                    records.extend(self.sign(key.clone(), Vec::new()));
                    self.published.remove(&key);
                    self.buried.entry(key).or_insert(now.wall);
                }
            }
            if buries {
                self.buried.retain(|_, since| now.wall.since(*since) < REMEMBERED);
            }
        }
        if self.next_lease() <= now.time {
            let lease = Lease {
                cluster: self.cluster.clone(),
                issued: now.wall,
                ttl_seconds: LEASE_TTL_SECONDS,
                policies: self.acknowledged,
            };
            records.extend(self.sign(RecordKey::Lease, vec![Resource::Lease(lease)]));
            self.published.remove(&RecordKey::Lease);
            self.leased = Some(now.time);
        }
        records
    }

    /// Takes notice of the serial of the fleet policies that are in force on every node of the cluster: where it is another one
    /// than before, a lease is due at once that says so.
    pub fn acknowledge(&mut self, policies: Option<u64>) {
        if self.acknowledged != policies {
            self.acknowledged = policies;
            self.leased = None;
        }
    }

    /// Returns what each record that the noted changes concern is to say.
    fn derive(&mut self, state: &State, grant: &Grant, now: Now) -> BTreeMap<RecordKey, Vec<Resource>> {
        let mut dirty = match self.pending.replace(Change::default()) {
            Some(change) => self.index.of(state, &change),
            None => {
                let mut dirty = self.index.everything(state);
                self.published.keys().for_each(|key| dirty.add(key));
                dirty.services.extend(self.first_signed.keys().chain(self.addresses.given.keys()).cloned());
                self.addresses.reset(grant);
                dirty
            }
        };
        dirty.slices.extend(self.recent.due(state, &self.cluster, now.time));
        let index = &self.index;
        let slice = |slice: &(_, _)| derive::slice(state, grant, index, slice);
        let mut slices = dirty.slices.into_iter().map(|key| (key.clone(), slice(&key))).collect();
        if self.recent.settle(&mut slices, state, slice, now) {
            // An export names no address that is not published.
            dirty.services.extend(self.first_signed.keys().cloned());
        }
        let nodes = dirty.nodes.into_iter().map(|name| {
            let resources = derive::node(state, grant, &name);
            (RecordKey::Node(name), resources)
        });
        let namespaces = dirty.namespaces.into_iter().map(|name| {
            let resources = derive::namespace(state, grant, &name);
            (RecordKey::Namespace(name), resources)
        });
        let slices = slices.into_iter().map(|((namespace, node), resources)| (RecordKey::Slice(namespace, node), resources));
        let mut records: BTreeMap<_, _> = nodes.chain(namespaces).chain(slices).collect();
        for id in &dirty.services {
            let export = derive::export(state, grant, &self.recent, id);
            let export = match export {
                Some(mut export) => {
                    export.created = Some(*self.first_signed.entry(id.clone()).or_insert(now.wall));
                    vec![Resource::Export(export)]
                }
                None => {
                    self.first_signed.remove(id);
                    Vec::new()
                }
            };
            records.insert(RecordKey::Export(id.clone()), export);
        }
        for (id, addresses) in self.addresses.update(state, grant, &dirty.services) {
            let import = ServiceImport { cluster: self.cluster.clone(), id: id.clone(), addresses };
            let import = if import.addresses.is_empty() { Vec::new() } else { vec![Resource::ServiceImport(import)] };
            records.insert(RecordKey::Import(id), import);
        }
        records
    }

    fn take_next_key(&mut self, grant: &Grant) {
        if let Some(next) = self.next_key.take_if(|next| grant.keys().any(|key| key == next.public())) {
            self.key = next;
            self.published.values_mut().for_each(|published| *published = None);
            self.leased = None;
            self.look_again();
        }
    }

    /// Returns when there is something to publish although nothing has changed: a lease, or an address that has rested.
    pub fn poll_timeout(&self) -> Time {
        let lease = self.next_lease();
        self.recent.next_deadline().map_or(lease, |due| due.min(lease))
    }

    fn next_lease(&self) -> Time {
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
