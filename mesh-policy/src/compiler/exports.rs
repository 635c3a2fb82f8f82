//! Exports as consent between clusters: which port at which address is behind which exported service.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};
use mesh_core::{ClusterName, Key, NamespaceName, ObjectName, ServiceId, State};

use super::Dirty;
use super::digest::Digest;
use crate::PolicySet;
use crate::exports::{BackendPort, ports_of};
use crate::set::Backend;
use crate::store::Interner;

/// What each service exports, and where namespaces exist.
#[derive(Debug, Default)]
pub(super) struct Exports {
    ports: HashMap<(ClusterName, ServiceId), Vec<BackendPort>>,
    /// The service of each slice, to find it again when the slice is gone.
    slices: HashMap<(ClusterName, NamespaceName, ObjectName), ServiceId>,
    namespaces: Interner<NamespaceName>,
    /// How many ports are exported at each address.
    addresses: HashMap<IpAddr, u32>,
}

impl Exports {
    /// Tells whether some cluster exports a port at `address`.
    pub(super) fn has_backend_at(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// Brings the services in step with the state, and the namespaces that they can be imported in.
    pub(super) fn update(
        &mut self,
        state: &State,
        dirty: &mut Dirty<'_>,
        (clusters, digest): (&mut Interner<ClusterName>, &mut Digest),
        set: &mut PolicySet,
    ) {
        let mut services = HashSet::new();
        for key in &dirty.services {
            match key {
                Key::Service(cluster, id)
                | Key::ServiceExport(cluster, id)
                | Key::ServiceImport(cluster, id)
                | Key::Export(cluster, id) => {
                    services.insert((cluster.clone(), id.clone()));
                }
                Key::EndpointSlice(cluster, namespace, name) => {
                    let slice = (cluster.clone(), namespace.clone(), name.clone());
                    services.extend(self.slices.remove(&slice).map(|id| (cluster.clone(), id)));
                    if let Some(known) = state.facts().slices.get(&slice) {
                        services.insert((cluster.clone(), known.service.clone()));
                        self.slices.insert(slice, known.service.clone());
                    }
                }
                _ => {}
            }
        }
        for (cluster, namespace) in dirty.places.iter().copied() {
            let at = (number(clusters, cluster), number(&mut self.namespaces, namespace));
            let before = set.importable.get(&at).is_some();
            let now = state.namespace_exists(cluster, namespace);
            let atom = ("importable", cluster, namespace);
            match (before, now) {
                (false, true) => {
                    set.importable.insert(at, ());
                    digest.add(&atom);
                }
                (true, false) => {
                    set.importable.remove(&at);
                    digest.sub(&atom);
                }
                _ => {}
            }
        }
        for (cluster, id) in services {
            let now = state.export(&cluster, &id).map(|export| ports_of(&export)).unwrap_or_default();
            let before = self.ports.remove(&(cluster.clone(), id.clone())).unwrap_or_default();
            if now != before {
                let exporter = number(clusters, &cluster);
                let namespace = number(&mut self.namespaces, &id.namespace);
                for port in &before {
                    dirty.addresses.push(port.address);
                    if let Entry::Occupied(mut count) = self.addresses.entry(port.address) {
                        *count.get_mut() -= 1;
                        if *count.get() == 0 {
                            count.remove();
                        }
                    }
                    digest.sub(&("exported", port));
                    withdraw(set, backend(exporter, port), namespace);
                }
                for port in &now {
                    dirty.addresses.push(port.address);
                    *self.addresses.entry(port.address).or_insert(0) += 1;
                    digest.add(&("exported", port));
                    offer(set, backend(exporter, port), namespace);
                }
            }
            if !now.is_empty() {
                self.ports.insert((cluster, id), now);
            }
        }
    }
}

fn backend(cluster: u32, port: &BackendPort) -> Backend {
    Backend { cluster, address: port.address, protocol: port.protocol, port: port.port }
}

/// Adds a namespace to those behind which a port is exported; two services of one namespace may both do so.
fn offer(set: &mut PolicySet, backend: Backend, namespace: u32) {
    let known = set.exported.get(&backend).map(AsRef::as_ref).unwrap_or_default();
    let namespaces: Arc<[u32]> = known.iter().copied().chain([namespace]).collect();
    set.exported.insert(backend, namespaces);
}

fn withdraw(set: &mut PolicySet, backend: Backend, namespace: u32) {
    let Some(known) = set.exported.get(&backend) else { return };
    let at = known.iter().position(|known| *known == namespace);
    let rest: Arc<[u32]> = (0..).zip(known.iter()).filter(|(place, _)| Some(*place) != at).map(|(_, known)| *known).collect();
    if rest.is_empty() {
        set.exported.remove(&backend);
    } else {
        set.exported.insert(backend, rest);
    }
}

/// Returns the number of a value, which it keeps: there are no more of them than of clusters and namespaces.
fn number<K: std::hash::Hash + Eq + Clone>(interner: &mut Interner<K>, value: &K) -> u32 {
    let (number, new) = interner.intern(value.clone());
    if new {
        interner.retain(number);
    }
    number
}
