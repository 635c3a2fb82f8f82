//! Which records a change concerns.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::service::Concerns;
use crate::{Change, ClusterName, Key, NamespaceName, ObjectName, RecordKey, ServiceId, State, Workload, WorkloadId};

/// What records depend on, and keys do not say: it leads from a change to the records that it concerns.
#[derive(Debug)]
pub(super) struct Index {
    services: Concerns,
    /// The workloads that a slice may hold, by node and namespace.
    slices: BTreeMap<ObjectName, BTreeMap<NamespaceName, BTreeSet<ObjectName>>>,
    /// The node of each of them.
    nodes: HashMap<(NamespaceName, ObjectName), ObjectName, RandomState>,
}

/// The records that have to be derived again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) nodes: BTreeSet<ObjectName>,
    pub(super) namespaces: BTreeSet<NamespaceName>,
    pub(super) slices: BTreeSet<(NamespaceName, ObjectName)>,
    /// The services of which the export, the import, or both are to be derived.
    pub(super) services: BTreeSet<ServiceId>,
}

impl Dirty {
    pub(super) fn add(&mut self, key: &RecordKey) {
        match key {
            RecordKey::Node(name) => drop(self.nodes.insert(name.clone())),
            RecordKey::Namespace(name) => drop(self.namespaces.insert(name.clone())),
            RecordKey::Slice(namespace, node) => drop(self.slices.insert((namespace.clone(), node.clone()))),
            RecordKey::Export(id) | RecordKey::Import(id) => drop(self.services.insert(id.clone())),
            RecordKey::Lease => {}
        }
    }
}

impl Index {
    pub(super) fn new(cluster: ClusterName) -> Index {
        Index { services: Concerns::new(cluster), slices: BTreeMap::new(), nodes: HashMap::default() }
    }

    /// Returns the records that the state may have something to say for, and begins anew.
    pub(super) fn everything(&mut self, state: &State) -> Dirty {
        let concerned = self.services.everything(state);
        let cluster = self.services.cluster().clone();
        let facts = state.facts();
        (self.slices, self.nodes) = (BTreeMap::new(), HashMap::default());
        let mut dirty = Dirty { namespaces: concerned.namespaces, services: concerned.services, ..Dirty::default() };
        for workload in facts.workloads.values().filter(|workload| workload.id.cluster == cluster) {
            self.place(&workload.id, Some(workload), &mut dirty);
        }
        dirty.nodes.extend(facts.nodes.keys().filter(|id| id.cluster == cluster).map(|id| id.name.clone()));
        let declared = facts.service_imports.keys().filter(|key| key.0 == cluster).map(|key| key.1.clone());
        dirty.services.extend(declared);
        dirty
    }

    /// Returns the records that `change` concerns.
    pub(super) fn of(&mut self, state: &State, change: &Change) -> Dirty {
        let concerned = self.services.of(state, change);
        let cluster = self.services.cluster().clone();
        let mut dirty = Dirty { namespaces: concerned.namespaces, services: concerned.services, ..Dirty::default() };
        for key in change.dirty.iter().filter(|key| key.cluster() == Some(&cluster)) {
            match key {
                Key::Workload(id) => self.place(id, state.facts().workloads.get(id), &mut dirty),
                Key::Node(id) => {
                    // Its workloads and its link are judged by its prefixes.
                    let namespaces = self.slices.get(&id.name).into_iter().flat_map(BTreeMap::keys);
                    dirty.slices.extend(namespaces.map(|namespace| (namespace.clone(), id.name.clone())));
                    dirty.nodes.insert(id.name.clone());
                }
                Key::NodeLink(id) => drop(dirty.nodes.insert(id.name.clone())),
                _ => {}
            }
        }
        dirty
    }

    /// Returns the names of the workloads that a slice may hold, in order.
    pub(super) fn workloads(&self, namespace: &NamespaceName, node: &ObjectName) -> impl Iterator<Item = &ObjectName> {
        self.slices.get(node).and_then(|namespaces| namespaces.get(namespace)).into_iter().flatten()
    }

    /// Notes where a workload is now; the slices that it leaves and enters are dirty.
    fn place(&mut self, id: &WorkloadId, workload: Option<&Workload>, dirty: &mut Dirty) {
        let key = (id.namespace.clone(), id.name.clone());
        if let Some(node) = self.nodes.remove(&key) {
            if let Some(namespaces) = self.slices.get_mut(&node) {
                if let Some(names) = namespaces.get_mut(&id.namespace) {
                    names.remove(&id.name);
                    if names.is_empty() {
                        namespaces.remove(&id.namespace);
                    }
                }
                if namespaces.is_empty() {
                    self.slices.remove(&node);
                }
            }
            dirty.slices.insert((id.namespace.clone(), node));
        }
        let travels = |workload: &&Workload| !workload.host_network && !workload.addresses.is_empty();
        let Some(node) = workload.filter(travels).and_then(|workload| workload.node.clone()) else { return };
        let names = self.slices.entry(node.clone()).or_default().entry(id.namespace.clone()).or_default();
        names.insert(id.name.clone());
        dirty.slices.insert((id.namespace.clone(), node.clone()));
        self.nodes.insert(key, node);
    }
}
