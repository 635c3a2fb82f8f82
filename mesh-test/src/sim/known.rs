//! The reference model of one node: what reached it, and what it must believe of that, derived from nothing each time.
//!
//! It is written from the rules (ARCHITECTURE.md, "Trust"), not from [`State`]: everything that was told is kept, and every
//! question is answered by looking at all of it. A node whose state says anything else has a bug, or the model has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::policy::PolicyScope;
use mesh_core::record::Opened;
use mesh_core::{
    ClusterName, Grant, Key, NodeId, Prefix, PublicKey, Record, RecordKey, Resource, RootRecord, State, Statement, Version,
    WallTime,
};

use super::fleet;

/// How far ahead a lease may be dated.
const SKEW: std::time::Duration = std::time::Duration::from_secs(300);

/// Everything that reached a node.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What its own cluster's API told.
    pub plain: BTreeMap<Key, Resource>,
    clusters: BTreeMap<ClusterName, Told>,
    /// The newest serial, its digest, and the variant.
    policies: Option<(u64, [u8; 32], Arc<Opened>)>,
}

/// What was told of one cluster.
#[derive(Clone, Debug, Default)]
struct Told {
    grants: Vec<(Arc<Grant>, [u8; 32])>,
    revoked: u64,
    signers: BTreeMap<PublicKey, Signer>,
}

#[derive(Clone, Debug, Default)]
struct Signer {
    lines: BTreeMap<RecordKey, Line>,
    /// The epochs in which it was caught with two records of one version.
    caught: Vec<Option<u64>>,
}

/// All that was told under one key.
#[derive(Clone, Debug)]
struct Line {
    newest: Version,
    record: Arc<Opened>,
    versions: BTreeMap<Version, BTreeSet<[u8; 32]>>,
}

impl Told {
    fn deciding(&self, now: WallTime) -> Option<&Arc<Grant>> {
        let rank = |(grant, digest): &&(Arc<Grant>, [u8; 32])| (grant.epoch, grant.not_before, grant.not_after, *digest);
        let begun = self.grants.iter().filter(|(grant, _)| grant.not_before <= now).max_by_key(rank);
        begun.or_else(|| self.grants.iter().max_by_key(rank)).map(|(grant, _)| grant)
    }

    fn in_force(&self, now: WallTime) -> Option<&Arc<Grant>> {
        self.deciding(now).filter(|grant| grant.epoch >= self.revoked && grant.is_valid_at(now))
    }

    /// Returns the records that count: of the keys that the grant in force names, unless one was caught; of two about one thing
    /// the newer, and of two of one version the later key's.
    fn records(&self, grant: &Grant) -> Vec<(&RecordKey, &Record, Version)> {
        let signers: Vec<&Signer> = grant.keys().filter_map(|key| self.signers.get(&key)).collect();
        if signers.iter().flat_map(|signer| &signer.caught).any(|epoch| epoch.is_none_or(|epoch| epoch >= grant.epoch)) {
            return Vec::new();
        }
        let mut newest: BTreeMap<&RecordKey, &Line> = BTreeMap::new();
        for (key, line) in signers.iter().flat_map(|signer| &signer.lines) {
            let counts = newest.entry(key).or_insert(line);
            if line.newest >= counts.newest {
                *counts = line;
            }
        }
        let sound = newest.into_iter().filter(|(_, line)| line.versions.get(&line.newest).is_none_or(|twins| twins.len() < 2));
        sound.filter_map(|(key, line)| Some((key, record(&line.record)?, line.newest))).collect()
    }

    fn epoch_of(&self, key: &PublicKey) -> Option<u64> {
        self.grants.iter().filter(|(grant, _)| grant.keys().any(|named| named == *key)).map(|(grant, _)| grant.epoch).max()
    }
}

fn record(opened: &Opened) -> Option<&Record> {
    match &opened.statement {
        Statement::Record(record) => Some(record),
        Statement::Root(_) => None,
    }
}

impl Known {
    /// Takes in what a store told.
    pub fn tell(&mut self, opened: &Arc<Opened>) {
        let root = fleet::root_key_public();
        if opened.fleet != root {
            return;
        }
        match &opened.statement {
            Statement::Record(record) if is_formed(record) => self.tell_record(record, opened),
            Statement::Root(said) if opened.signer == root => self.tell_root(said, opened),
            _ => {}
        }
    }

    fn tell_record(&mut self, record: &Record, opened: &Arc<Opened>) {
        let told = self.clusters.entry(record.cluster.clone()).or_default();
        let epoch = told.epoch_of(&opened.signer);
        let signer = told.signers.entry(opened.signer).or_default();
        let line = signer.lines.entry(record.key.clone()).or_insert_with(|| Line {
            newest: record.version,
            record: opened.clone(),
            versions: BTreeMap::new(),
        });
        if record.version > line.newest {
            (line.newest, line.record) = (record.version, opened.clone());
        }
        let twins = line.versions.entry(record.version).or_default();
        if twins.insert(opened.digest) && twins.len() == 2 && !signer.caught.iter().any(|caught| *caught >= epoch) {
            signer.caught.push(epoch);
        }
    }

    fn tell_root(&mut self, said: &RootRecord, opened: &Arc<Opened>) {
        match said {
            RootRecord::Grant(grant) => {
                let told = self.clusters.entry(grant.cluster.clone()).or_default();
                if told.grants.iter().any(|(_, digest)| *digest == opened.digest) {
                    return;
                }
                told.grants.push((grant.clone(), opened.digest));
                for key in grant.keys() {
                    for caught in told.signers.get_mut(&key).into_iter().flat_map(|signer| &mut signer.caught) {
                        caught.get_or_insert(grant.epoch);
                    }
                }
            }
            RootRecord::Revocation { cluster, epoch } => {
                let told = self.clusters.entry(cluster.clone()).or_default();
                told.revoked = told.revoked.max(*epoch);
            }
            RootRecord::Policies { serial, .. } => {
                let rank = (*serial, opened.digest);
                if self.policies.as_ref().is_none_or(|(serial, digest, _)| (*serial, *digest) < rank) {
                    self.policies = Some((rank.0, rank.1, opened.clone()));
                }
            }
        }
    }

    /// Returns what outlives a restart: what was signed by keys that a grant names, and of each key the newest.
    pub fn saved(&self) -> Known {
        let mut saved = Known { plain: BTreeMap::new(), ..self.clone() };
        for told in saved.clusters.values_mut() {
            let named: BTreeSet<PublicKey> = told.grants.iter().flat_map(|(grant, _)| grant.keys()).collect();
            told.signers.retain(|key, _| named.contains(key));
            for line in told.signers.values_mut().flat_map(|signer| signer.lines.values_mut()) {
                let newest = line.newest;
                line.versions.retain(|version, twins| *version == newest || twins.len() > 1);
            }
        }
        saved
    }

    /// Tells whether the node knows that a cluster's grants are revoked, and none that counts.
    pub fn is_revoked(&self, cluster: &ClusterName, now: WallTime) -> bool {
        self.clusters.get(cluster).is_some_and(|told| told.revoked > 0 && told.in_force(now).is_none())
    }

    /// Returns the newest version that reached the node of each record, by cluster, signer and key.
    pub fn versions(&self) -> impl Iterator<Item = ((&ClusterName, &PublicKey, &RecordKey), Version)> {
        self.clusters.iter().flat_map(|(name, told)| {
            told.signers
                .iter()
                .flat_map(move |(key, signer)| signer.lines.iter().map(move |(record, line)| ((name, key, record), line.newest)))
        })
    }

    /// Returns what the node must believe at `now`, but for what only the own cluster's publisher derives.
    pub fn believed(&self, own: &ClusterName, now: WallTime) -> BTreeMap<Key, Believed<'_>> {
        let mut facts = BTreeMap::new();
        let own_grant = self.clusters.get(own).and_then(|told| told.in_force(now));
        for (key, resource) in &self.plain {
            let fits = match own_grant {
                Some(grant) => is_granted(grant, resource),
                None => key.cluster().is_none(),
            };
            if fits {
                facts.insert(key.clone(), Believed::Fact(resource));
            }
        }
        for (name, told) in &self.clusters {
            let Some(grant) = told.in_force(now) else { continue };
            facts.insert(Key::Grant(name.clone()), Believed::Grant(grant));
            if name != own {
                believe(grant, &told.records(grant), now, &mut facts);
            }
        }
        facts
    }

    /// Returns the serial of the newest fleet policies, and their manifests.
    pub fn policies(&self) -> Option<&[(String, String)]> {
        match &self.policies.as_ref()?.2.statement {
            Statement::Root(RootRecord::Policies { manifests, .. }) => Some(manifests),
            _ => None,
        }
    }
}

/// Something that must be believed.
#[derive(Clone, Copy, Debug)]
pub enum Believed<'a> {
    /// A fact as it was told.
    Fact(&'a Resource),
    /// A grant.
    Grant(&'a Arc<Grant>),
}

/// Puts what the records of another cluster say, and its grant allows, into `facts`.
fn believe<'a>(
    grant: &Grant,
    records: &[(&RecordKey, &'a Record, Version)],
    now: WallTime,
    facts: &mut BTreeMap<Key, Believed<'a>>,
) {
    let mut newest_first: Vec<_> = records.iter().collect();
    newest_first.sort_by_key(|(key, _, version)| (std::cmp::Reverse(*version), *key));
    let all = || newest_first.iter().flat_map(|(_, record, _)| &record.resources);
    let mut prefixes: BTreeMap<&NodeId, &[Prefix]> = BTreeMap::new();
    for resource in all() {
        if let Resource::Node(node) = resource
            && is_granted(grant, resource)
            && !prefixes.contains_key(&node.id)
        {
            prefixes.insert(&node.id, &node.prefixes);
        }
    }
    let namespaces: BTreeSet<_> = all()
        .filter_map(|resource| match resource {
            Resource::Namespace(namespace) if is_granted(grant, resource) => Some(&namespace.name),
            _ => None,
        })
        .collect();
    for resource in all() {
        let of_node = |id: &NodeId, addresses: &[std::net::IpAddr]| {
            prefixes.get(id).is_some_and(|held| {
                held.is_empty() || addresses.iter().all(|address| held.iter().any(|prefix| prefix.contains(*address)))
            })
        };
        let fits = match resource {
            // Nobody is anybody before it is known what its node may have, and what its namespace is called by.
            Resource::Workload(workload) => {
                let node = workload.node.iter().map(|node| NodeId { cluster: grant.cluster.clone(), name: node.clone() });
                node.into_iter().any(|node| of_node(&node, &workload.addresses)) && namespaces.contains(&workload.id.namespace)
            }
            Resource::NodeLink(link) => of_node(&link.id, &link.overlay),
            Resource::Lease(lease) => lease.issued <= now + SKEW,
            Resource::ServiceImport(_) => continue,
            _ => true,
        };
        if fits && is_granted(grant, resource) {
            facts.entry(resource.key()).or_insert(Believed::Fact(resource));
        }
    }
}

/// Tells whether a cluster may say `resource` by its grant.
fn is_granted(grant: &Grant, resource: &Resource) -> bool {
    let addresses = |addresses: &[std::net::IpAddr]| addresses.iter().all(|address| grant.covers(Prefix::host(*address)));
    match resource {
        Resource::Namespace(namespace) => grant.speaks_for(&namespace.name),
        Resource::Workload(workload) => grant.speaks_for(&workload.id.namespace) && addresses(&workload.addresses),
        Resource::Node(node) => node.prefixes.iter().all(|prefix| grant.covers(*prefix)),
        Resource::NodeLink(link) => addresses(&link.overlay),
        Resource::ServiceExport(export) => grant.may_export(&export.id),
        Resource::Export(export) => {
            grant.may_export(&export.id) && export.endpoints.iter().all(|endpoint| addresses(&endpoint.addresses))
        }
        _ => true,
    }
}

/// Tells whether a record speaks of its own cluster and of what its key says.
fn is_formed(record: &Record) -> bool {
    record.resources.iter().all(|resource| {
        resource.key().cluster() == Some(&record.cluster)
            && match (&record.key, resource) {
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
            }
    })
}

/// Returns the first difference between what a state believes and what it must believe.
pub fn difference(state: &State, known: &Known, own: &ClusterName, now: WallTime) -> Option<String> {
    let believed = known.believed(own, now);
    let facts = state.facts();
    let mut count = 0;
    let mut missing = None;
    for (key, expected) in &believed {
        let same = match expected {
            Believed::Grant(grant) => facts.grants.get(&grant.cluster) == Some(grant),
            Believed::Fact(resource) => match resource {
                Resource::Namespace(it) => facts.namespaces.get(&(it.cluster.clone(), it.name.clone())) == Some(it),
                Resource::Node(it) => facts.nodes.get(&it.id) == Some(it),
                Resource::NodeLink(it) => facts.links.get(&it.id) == Some(it),
                Resource::Workload(it) => facts.workloads.get(&it.id) == Some(it),
                Resource::Export(it) => facts.exports.get(&(it.cluster.clone(), it.id.clone())) == Some(it),
                Resource::Lease(it) => facts.leases.get(&it.cluster) == Some(it),
                Resource::NetworkPolicy(it) => {
                    facts.network_policies.get(&(it.scope.clone(), it.namespace.clone(), it.name.clone())) == Some(it)
                }
                _ => continue,
            },
        };
        count += 1;
        if !same {
            missing.get_or_insert_with(|| format!("{key} must be believed as {expected:?}"));
        }
    }
    let others = |cluster: &ClusterName| cluster != own;
    let held = facts.grants.len()
        + facts.namespaces.len()
        + facts.nodes.len()
        + facts.links.len()
        + facts.workloads.len()
        + facts.network_policies.len()
        + facts.exports.keys().filter(|(cluster, _)| others(cluster)).count()
        + facts.leases.keys().filter(|cluster| others(cluster)).count();
    let extra = || {
        let keys = facts.workloads.keys().cloned().map(Key::Workload);
        let keys = keys.chain(facts.nodes.keys().cloned().map(Key::Node)).chain(facts.links.keys().cloned().map(Key::NodeLink));
        let keys = keys.chain(facts.grants.keys().cloned().map(Key::Grant));
        let keys = keys.chain(facts.namespaces.keys().cloned().map(|(cluster, name)| Key::Namespace(cluster, name)));
        let keys = keys.chain(facts.leases.keys().filter(|cluster| others(cluster)).cloned().map(Key::Lease));
        let unknown: Vec<String> = keys.filter(|key| !believed.contains_key(key)).map(|key| key.to_string()).collect();
        format!("{held} facts are believed instead of {count}: {}", unknown.join(", "))
    };
    let policies = known.policies().map_or(0, <[_]>::len);
    let fleet_policies = facts.cluster_policies.keys().filter(|(scope, _)| *scope == PolicyScope::Fleet).count();
    let policies = (policies != fleet_policies).then(|| format!("{fleet_policies} fleet policies instead of {policies}"));
    missing.or_else(|| (held != count).then(extra)).or(policies)
}
