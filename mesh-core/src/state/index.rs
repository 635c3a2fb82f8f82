//! Indexes over the admitted facts: which namespaces are in use, and which prefixes are the fleet's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::{ClusterName, Key, NamespaceName, Prefix, PrefixMap};

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
    by_prefix: PrefixMap<BTreeSet<ClusterName>>,
}

impl FleetPrefixes {
    /// Makes `prefixes` the ones of `cluster`; tells whether they were others before.
    pub(super) fn set(&mut self, cluster: &ClusterName, prefixes: Vec<Prefix>) -> bool {
        let before = self.by_cluster.get(cluster).map(Vec::as_slice).unwrap_or_default();
        if *before == *prefixes {
            return false;
        }
        for prefix in self.by_cluster.remove(cluster).unwrap_or_default() {
            let mut owners = self.by_prefix.remove(prefix).unwrap_or_default();
            owners.remove(cluster);
            if !owners.is_empty() {
                self.by_prefix.insert(prefix, owners);
            }
        }
        for prefix in &prefixes {
            let mut owners = self.by_prefix.remove(*prefix).unwrap_or_default();
            owners.insert(cluster.clone());
            self.by_prefix.insert(*prefix, owners);
        }
        self.by_cluster.insert(cluster.clone(), prefixes);
        true
    }

    /// Returns the clusters for which the longest prefix around `address` is named.
    pub(super) fn owners(&self, address: IpAddr) -> Option<&BTreeSet<ClusterName>> {
        self.by_prefix.lookup(address).map(|(_, owners)| owners)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Prefix> {
        self.by_cluster.values().flatten().copied()
    }

    pub(super) fn by_cluster(&self) -> impl Iterator<Item = (&ClusterName, &[Prefix])> {
        self.by_cluster.iter().map(|(cluster, prefixes)| (cluster, prefixes.as_slice()))
    }
}
