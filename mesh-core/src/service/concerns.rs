//! Which services a change concerns, as one cluster sees them.

use std::collections::BTreeSet;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::{Change, ClusterName, Key, NamespaceName, ObjectName, ServiceId, State};

/// Finds the services that a change concerns: its memory is what keys do not say.
#[derive(Clone, Debug)]
pub(crate) struct Concerns {
    cluster: ClusterName,
    /// The service of each slice that was seen, to find it again when the slice is gone or is another one's.
    slices: HashMap<(ClusterName, NamespaceName, ObjectName), ServiceId, RandomState>,
    /// The namespaces that existed in the cluster.
    namespaces: BTreeSet<NamespaceName>,
}

/// What has to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Concerned {
    /// Services of any cluster.
    pub(crate) services: BTreeSet<ServiceId>,
    /// The namespaces of the cluster in which something is different.
    pub(crate) namespaces: BTreeSet<NamespaceName>,
    /// Something that the allocation of addresses depends on is different.
    pub(crate) allocate: bool,
}

impl Concerns {
    pub(crate) fn new(cluster: ClusterName) -> Concerns {
        Concerns { cluster, slices: HashMap::default(), namespaces: BTreeSet::new() }
    }

    pub(crate) fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Returns everything that there is, and begins anew.
    pub(crate) fn everything(&mut self, state: &State) -> Concerned {
        let facts = state.facts();
        self.namespaces = state.namespaces(&self.cluster).cloned().collect();
        self.slices = facts.slices.iter().map(|(key, slice)| (key.clone(), slice.service.clone())).collect();
        let own = facts.services.keys().filter(|key| key.0 == self.cluster).map(|key| &key.1);
        let services = own.chain(state.exported(None)).cloned().collect();
        Concerned { services, namespaces: self.namespaces.clone(), allocate: true }
    }

    /// Returns what `change` concerns, which is what is different since the last time.
    pub(crate) fn of(&mut self, state: &State, change: &Change) -> Concerned {
        let mut concerned = Concerned::default();
        for key in &change.dirty {
            let own = key.cluster() == Some(&self.cluster);
            match key {
                Key::Service(_, id) | Key::ServiceExport(_, id) | Key::Export(_, id) => {
                    concerned.services.insert(id.clone());
                    concerned.namespaces.extend(own.then(|| id.namespace.clone()));
                }
                Key::ServiceImport(_, id) if own => {
                    concerned.services.insert(id.clone());
                    concerned.allocate = true;
                    concerned.namespaces.insert(id.namespace.clone());
                }
                Key::EndpointSlice(cluster, namespace, name) => {
                    let key = (cluster.clone(), namespace.clone(), name.clone());
                    concerned.services.extend(self.slices.remove(&key));
                    if let Some(slice) = state.facts().slices.get(&key) {
                        concerned.services.insert(slice.service.clone());
                        self.slices.insert(key, slice.service.clone());
                    }
                }
                Key::Namespace(_, namespace) if own => {
                    concerned.namespaces.insert(namespace.clone());
                }
                Key::Workload(id) if own => {
                    concerned.namespaces.insert(id.namespace.clone());
                }
                Key::Grant(_) if own => concerned.allocate = true,
                _ => {}
            }
        }
        for namespace in &concerned.namespaces {
            let exists = state.namespace_exists(&self.cluster, namespace);
            if exists != self.namespaces.contains(namespace) {
                if exists {
                    self.namespaces.insert(namespace.clone())
                } else {
                    self.namespaces.remove(namespace)
                };
                concerned.services.extend(state.exported(Some(namespace)).cloned());
            }
        }
        concerned
    }
}
