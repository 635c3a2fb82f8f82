//! The identities in use, and which peers each of them is: found out once for all workloads that have it.

use std::sync::Arc;

use mesh_core::labels::{CLUSTER_LABEL, RESERVED_PREFIX};
use mesh_core::{ClusterName, IdentityName, Labels, NamespaceName, State, Workload};

use super::digest::Digest;
use crate::peers::Who;
use crate::store::Interner;

/// An identity without what its namespace and cluster add.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Attributes {
    place: u32,
    service_account: Arc<str>,
    labels: Labels,
}

/// A namespace of a cluster in which an identity is.
#[derive(Debug)]
struct Place {
    labels: PlaceLabels,
    /// How many workloads are there: only where there are some do the labels count as content.
    workloads: u32,
}

/// The labels that selectors see in a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PlaceLabels {
    of_namespace: Labels,
    implicit: Labels,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    name: IdentityName,
    /// The set of peers that selectors make it.
    peers: u32,
}

/// Every identity by its number.
#[derive(Debug, Default)]
pub(super) struct Identities {
    names: Interner<(ClusterName, NamespaceName)>,
    places: Vec<Option<Place>>,
    identities: Interner<Attributes>,
    known: Vec<Option<Known>>,
}

impl Identities {
    /// Returns the number of a workload's identity, and whether it is new: its peers are then to be told.
    pub(super) fn intern(&mut self, state: &State, workload: &Workload) -> (u32, bool) {
        let (place, new) = self.names.intern((workload.id.cluster.clone(), workload.id.namespace.clone()));
        if new {
            let labels = look(state, self.names.get(place));
            put(&mut self.places, place, Place { labels, workloads: 0 });
        }
        let attributes = Attributes { place, service_account: workload.service_account.clone(), labels: workload.labels.clone() };
        let (number, new) = self.identities.intern(attributes);
        if new {
            self.names.retain(place);
            put(&mut self.known, number, Known { name: state.identity(workload).name(), peers: 0 });
        }
        (number, new)
    }

    pub(super) fn retain(&mut self, number: u32) {
        self.identities.retain(number);
    }

    pub(super) fn release(&mut self, number: u32) {
        self.identities.release(number);
    }

    /// Notes one more workload with the identity.
    pub(super) fn join(&mut self, number: u32, digest: &mut Digest) {
        self.retain(number);
        let place = self.place(number);
        let known = self.places[place as usize].as_mut().expect("the place of an identity is known");
        if known.workloads == 0 {
            digest.add(&("place", self.names.get(place), &known.labels));
        }
        known.workloads += 1;
    }

    /// Notes one workload less with the identity.
    pub(super) fn leave(&mut self, number: u32, digest: &mut Digest) {
        let place = self.place(number);
        let known = self.places[place as usize].as_mut().expect("the place of an identity is known");
        known.workloads -= 1;
        if known.workloads == 0 {
            digest.sub(&("place", self.names.get(place), &known.labels));
        }
        self.release(number);
    }

    pub(super) fn name(&self, number: u32) -> IdentityName {
        self.known(number).name
    }

    pub(super) fn cluster(&self, number: u32) -> &ClusterName {
        &self.names.get(self.identities.get(number).place).0
    }

    pub(super) fn who(&self, number: u32) -> Who<'_> {
        let Attributes { place, service_account, labels } = self.identities.get(number);
        let known = self.places[*place as usize].as_ref().expect("the place of an identity is known");
        Who {
            namespace: &self.names.get(*place).1,
            namespace_labels: &known.labels.of_namespace,
            implicit: &known.labels.implicit,
            service_account,
            labels,
        }
    }

    /// Returns the number of the set of peers that the identity is.
    pub(super) fn peers(&self, number: u32) -> u32 {
        self.known(number).peers
    }

    pub(super) fn set_peers(&mut self, number: u32, peers: u32) {
        self.known[number as usize].as_mut().expect("an identity in use is known").peers = peers;
    }

    fn known(&self, number: u32) -> Known {
        self.known[number as usize].expect("an identity in use is known")
    }

    /// Returns the numbers of all identities, idle ones too.
    pub(super) fn numbers(&self) -> Vec<u32> {
        self.identities.iter().map(|(number, _)| number).collect()
    }

    /// Looks again at the labels of the places for which `concerns` holds; returns which places have others now, by number.
    pub(super) fn relabel(
        &mut self,
        state: &State,
        concerns: impl Fn(&ClusterName, &NamespaceName) -> bool,
        digest: &mut Digest,
    ) -> Vec<bool> {
        let mut changed = vec![false; self.places.len()];
        for (number, name) in self.names.iter() {
            if !concerns(&name.0, &name.1) {
                continue;
            }
            let Some(known) = &mut self.places[number as usize] else { continue };
            let now = look(state, name);
            if now != known.labels {
                if known.workloads > 0 {
                    digest.sub(&("place", name, &known.labels));
                    digest.add(&("place", name, &now));
                }
                known.labels = now;
                changed[number as usize] = true;
            }
        }
        changed
    }

    /// Returns the number of the identity's place.
    pub(super) fn place(&self, number: u32) -> u32 {
        self.identities.get(number).place
    }

    /// Forgets the identities that nobody has; returns their sets of peers.
    pub(super) fn collect(&mut self) -> Vec<u32> {
        let mut sets = Vec::new();
        for (number, attributes) in self.identities.collect(0) {
            self.names.release(attributes.place);
            sets.extend(self.known[number as usize].take().map(|known| known.peers));
        }
        for (place, _) in self.names.collect(0) {
            self.places[place as usize] = None;
        }
        sets
    }
}

fn look(state: &State, (cluster, namespace): &(ClusterName, NamespaceName)) -> PlaceLabels {
    let grant = state.facts().grants.get(cluster);
    let attributes = grant.into_iter().flat_map(|grant| &grant.attributes);
    let attributes: Labels = attributes.map(|(key, value)| (format!("{RESERVED_PREFIX}{key}"), value.clone())).collect();
    PlaceLabels {
        of_namespace: state.namespace_labels(cluster, namespace),
        implicit: attributes.with([(CLUSTER_LABEL, cluster.as_str())]),
    }
}

fn put<T>(list: &mut Vec<Option<T>>, number: u32, value: T) {
    let at = number as usize;
    if list.len() <= at {
        list.resize_with(at + 1, || None);
    }
    list[at] = Some(value);
}
