//! Indexes over the admitted facts: which namespaces are in use, which prefixes are the fleet's, what belongs to a service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use crate::prefix::overlapping;
use crate::{ClusterName, Key, NamespaceName, ObjectName, Prefix, PrefixMap, Resource, ServiceId};

/// How many facts are in each namespace of each cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespaces {
    counts: BTreeMap<ClusterName, BTreeMap<NamespaceName, usize>>,
}

impl Namespaces {
    pub(super) fn add(&mut self, key: &Key) {
        if let Some((cluster, namespace)) = place(key) {
            *self.counts.entry(cluster.clone()).or_default().entry(namespace.clone()).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some((cluster, namespace)) = place(key) else { return };
        let Some(of_cluster) = self.counts.get_mut(cluster) else { return };
        if let Some(count) = of_cluster.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                of_cluster.remove(namespace);
            }
        }
    }

    pub(super) fn contains(&self, cluster: &ClusterName, namespace: &NamespaceName) -> bool {
        self.counts.get(cluster).is_some_and(|of_cluster| of_cluster.contains_key(namespace))
    }

    pub(super) fn of(&self, cluster: &ClusterName) -> impl Iterator<Item = &NamespaceName> {
        self.counts.get(cluster).into_iter().flat_map(BTreeMap::keys)
    }
}

/// Returns the namespace in whose existence a fact has part.
fn place(key: &Key) -> Option<(&ClusterName, &NamespaceName)> {
    match key {
        Key::Namespace(cluster, name) => Some((cluster, name)),
        Key::Service(cluster, id)
        | Key::ServiceExport(cluster, id)
        | Key::ServiceImport(cluster, id)
        | Key::Export(cluster, id) => Some((cluster, &id.namespace)),
        Key::Workload(id) => Some((&id.cluster, &id.namespace)),
        _ => None,
    }
}

/// The prefixes that grants name, with the clusters that they name them for.
#[derive(Clone, Debug, Default)]
pub(super) struct FleetPrefixes {
    by_cluster: BTreeMap<ClusterName, Vec<Prefix>>,
    /// The clusters in order; nearly always one.
    by_prefix: PrefixMap<Vec<ClusterName>>,
    in_force: BTreeSet<ClusterName>,
    /// Whose grants in force name each prefix, in the order of the prefixes.
    granted: BTreeMap<Prefix, Vec<ClusterName>>,
    /// The prefixes of other clusters' grants in force that overlap those of a cluster's: the root's mistake.
    rivals: BTreeMap<ClusterName, Vec<(Prefix, ClusterName)>>,
}

impl FleetPrefixes {
    /// Makes `prefixes` the ones of `cluster`, by a grant in force or by the last one that was; `None` where nothing is different,
    /// else the clusters whose prefixes overlap others than before.
    pub(super) fn set(&mut self, cluster: &ClusterName, prefixes: &[Prefix], in_force: bool) -> Option<BTreeSet<ClusterName>> {
        let before = self.by_cluster.get(cluster).map(Vec::as_slice).unwrap_or_default();
        if *before == *prefixes && self.in_force.contains(cluster) == in_force {
            return None;
        }
        for prefix in self.by_cluster.remove(cluster).unwrap_or_default() {
            let mut owners = self.by_prefix.remove(prefix).unwrap_or_default();
            if !remove(&mut owners, cluster) {
                self.by_prefix.insert(prefix, owners);
            }
            if self.granted.get_mut(&prefix).is_some_and(|granted| remove(granted, cluster)) {
                self.granted.remove(&prefix);
            }
        }
        for prefix in prefixes {
            let mut owners = self.by_prefix.remove(*prefix).unwrap_or_default();
            insert(&mut owners, cluster.clone());
            self.by_prefix.insert(*prefix, owners);
            if in_force {
                insert(self.granted.entry(*prefix).or_default(), cluster.clone());
            }
        }
        self.by_cluster.insert(cluster.clone(), prefixes.to_vec());
        if in_force {
            self.in_force.insert(cluster.clone());
        } else {
            self.in_force.remove(cluster);
        }
        Some(self.find_rivals(cluster))
    }

    /// Compares the prefixes of `cluster` with everybody's; returns who else is concerned by what is different now.
    fn find_rivals(&mut self, cluster: &ClusterName) -> BTreeSet<ClusterName> {
        let mut concerned: BTreeSet<ClusterName> =
            self.rivals.remove(cluster).into_iter().flatten().map(|(_, other)| other).collect();
        for other in &concerned {
            let Some(rivals) = self.rivals.get_mut(other) else { continue };
            rivals.retain(|(_, rival)| rival != cluster);
            if rivals.is_empty() {
                self.rivals.remove(other);
            }
        }
        if !self.in_force.contains(cluster) {
            return concerned;
        }
        for mine in self.by_cluster.get(cluster).into_iter().flatten() {
            for (theirs, others) in overlapping(&self.granted, *mine) {
                for other in others.iter().filter(|other| *other != cluster) {
                    self.rivals.entry(cluster.clone()).or_default().push((theirs, other.clone()));
                    self.rivals.entry(other.clone()).or_default().push((*mine, cluster.clone()));
                    concerned.insert(other.clone());
                }
            }
        }
        concerned
    }

    /// Tells whether another cluster is granted a part of what `cluster` is.
    pub(super) fn has_rivals(&self, cluster: &ClusterName) -> bool {
        self.rivals.contains_key(cluster)
    }

    /// Returns who else has a say in `prefix`, which a grant in force names for `cluster` by a prefix of `len` bits: somebody
    /// whose prefix around it is as long or longer, or who has a part of it.
    pub(super) fn rival(&self, cluster: &ClusterName, prefix: Prefix, len: u8) -> Option<&(Prefix, ClusterName)> {
        let has_say = |theirs: Prefix| prefix.covers(theirs) || (theirs.covers(prefix) && theirs.len() >= len);
        self.rivals.get(cluster)?.iter().find(|(theirs, _)| has_say(*theirs))
    }

    /// Returns the clusters for which the longest prefix around `address` is named.
    pub(super) fn owners(&self, address: IpAddr) -> Option<&[ClusterName]> {
        self.by_prefix.lookup(address).map(|(_, owners)| owners.as_slice())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Prefix> {
        self.by_cluster.values().flatten().copied()
    }

    pub(super) fn by_cluster(&self) -> impl Iterator<Item = (&ClusterName, &[Prefix])> {
        self.by_cluster.iter().map(|(cluster, prefixes)| (cluster, prefixes.as_slice()))
    }
}

/// The slices of each service of each cluster, and the clusters that export it.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceIndex {
    /// Names in order; most services have one or two slices.
    slices: BTreeMap<(ClusterName, ServiceId), Vec<ObjectName>>,
    /// In order, each with whether it is the signed export or the manifest; a cluster may have both.
    exporters: BTreeMap<ServiceId, Vec<(ClusterName, bool)>>,
}

impl ServiceIndex {
    pub(super) fn add(&mut self, resource: &Resource) {
        match resource {
            Resource::EndpointSlice(slice) => {
                let names = self.slices.entry((slice.cluster.clone(), slice.service.clone())).or_default();
                insert(names, slice.name.clone());
            }
            Resource::ServiceExport(export) => self.add_exporter(&export.id, (export.cluster.clone(), false)),
            Resource::Export(export) => self.add_exporter(&export.id, (export.cluster.clone(), true)),
            _ => {}
        }
    }

    pub(super) fn remove(&mut self, resource: &Resource) {
        match resource {
            Resource::EndpointSlice(slice) => {
                let key = (slice.cluster.clone(), slice.service.clone());
                if self.slices.get_mut(&key).is_some_and(|names| remove(names, &slice.name)) {
                    self.slices.remove(&key);
                }
            }
            Resource::ServiceExport(export) => self.remove_exporter(&export.id, &(export.cluster.clone(), false)),
            Resource::Export(export) => self.remove_exporter(&export.id, &(export.cluster.clone(), true)),
            _ => {}
        }
    }

    /// Returns the names of the slices of a service, in order.
    pub(super) fn slices(&self, cluster: &ClusterName, id: &ServiceId) -> &[ObjectName] {
        self.slices.get(&(cluster.clone(), id.clone())).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the clusters that have an export of a service, in order, each once.
    pub(super) fn exporters(&self, id: &ServiceId) -> impl Iterator<Item = &ClusterName> {
        let exporters = self.exporters.get(id).map(Vec::as_slice).unwrap_or_default();
        exporters.chunk_by(|a, b| a.0 == b.0).map(|same| &same[0].0)
    }

    /// Returns the services from `first` on that some cluster has an export of, in order.
    pub(super) fn exported(&self, first: Option<ServiceId>) -> impl Iterator<Item = &ServiceId> {
        let from = first.map_or(Bound::Unbounded, Bound::Included);
        self.exporters.range((from, Bound::Unbounded)).map(|(id, _)| id)
    }

    fn add_exporter(&mut self, id: &ServiceId, exporter: (ClusterName, bool)) {
        insert(self.exporters.entry(id.clone()).or_default(), exporter);
    }

    fn remove_exporter(&mut self, id: &ServiceId, exporter: &(ClusterName, bool)) {
        if self.exporters.get_mut(id).is_some_and(|exporters| remove(exporters, exporter)) {
            self.exporters.remove(id);
        }
    }
}

/// Puts `value` into its place in an ordered list, which grows by what it needs: there are many lists, and nearly all have one.
pub(super) fn insert<T: Ord>(list: &mut Vec<T>, value: T) {
    if let Err(at) = list.binary_search(&value) {
        list.reserve_exact(1);
        list.insert(at, value);
    }
}

/// Removes `value` from an ordered list; tells whether nothing is left.
pub(super) fn remove<T: Ord>(list: &mut Vec<T>, value: &T) -> bool {
    if let Ok(at) = list.binary_search(value) {
        list.remove(at);
    }
    list.is_empty()
}
