//! The services that one cluster sees, kept up to date at the cost of what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::concerns::Concerns;
use super::import::is_open;
use super::{ImportedService, LocalService};
use crate::{Change, ClusterName, ServiceId, State};

/// The services that one cluster sees: its own and the imported ones, kept up to date at the cost of what changed.
///
/// It is what [`State::local_services`] and [`State::imported_services`] say, without deriving all of it for each change: an
/// update looks at the services that the change concerns, each at the cost of its own size. One exception: where no publisher
/// is ([`Trust`](crate::Trust) other than `Signed`), a change of which services need a clusterset address, or of what they may
/// have, allocates all of them again.
#[derive(Clone, Debug)]
pub struct Services {
    concerns: Concerns,
    local: BTreeMap<ServiceId, Arc<LocalService>>,
    imported: BTreeMap<ServiceId, Arc<ImportedService>>,
    /// What was allocated where no publisher is: for every service that waits for an address.
    given: BTreeMap<ServiceId, Vec<IpAddr>>,
}

/// A service as the state has it now.
type Derived = (ServiceId, Option<LocalService>, Option<ImportedService>);

impl Services {
    /// Makes the empty view of `cluster`.
    pub fn new(cluster: ClusterName) -> Services {
        Services { concerns: Concerns::new(cluster), local: BTreeMap::new(), imported: BTreeMap::new(), given: BTreeMap::new() }
    }

    /// Returns the cluster whose view it is.
    pub fn cluster(&self) -> &ClusterName {
        self.concerns.cluster()
    }

    /// Returns the cluster's own services.
    pub fn local(&self) -> &BTreeMap<ServiceId, Arc<LocalService>> {
        &self.local
    }

    /// Returns the services that the cluster can import.
    pub fn imported(&self) -> &BTreeMap<ServiceId, Arc<ImportedService>> {
        &self.imported
    }

    /// Brings the view up to date with `state`, of which `change` says what is different since the last time; returns the
    /// services that are different now. The first time, and as long as the view is empty, everything is read.
    pub fn update(&mut self, state: &State, change: &Change) -> BTreeSet<ServiceId> {
        let all = self.local.is_empty() && self.imported.is_empty();
        let concerned = if all { self.concerns.everything(state) } else { self.concerns.of(state, change) };
        let derive = |id: ServiceId| {
            let (local, imported) = state.seen_service(self.concerns.cluster(), &id);
            (id, local, imported)
        };
        let mut derived: Vec<Derived> = concerned.services.into_iter().map(derive).collect();
        let mut changed = BTreeSet::new();
        if state.allocates() {
            self.allocate(state, &mut derived, concerned.allocate, &mut changed);
        }
        for (id, local, mut imported) in derived {
            let different = put(&mut self.local, &id, local);
            // Most exported services have the cluster's own backends and no others.
            let pair = self.local.get(&id).zip(imported.as_mut());
            if let Some((local, imported)) = pair.filter(|(local, imported)| local.backends == imported.backends) {
                imported.backends = local.backends.clone();
            }
            if put(&mut self.imported, &id, imported) | different {
                changed.insert(id);
            }
        }
        changed
    }

    /// Gives addresses to the services that wait for one: those of the last time, unless something that they depend on changed.
    fn allocate(&mut self, state: &State, derived: &mut [Derived], mut again: bool, changed: &mut BTreeSet<ServiceId>) {
        for (id, _, imported) in derived.iter() {
            let (open, known) = (imported.as_ref().is_some_and(is_open), self.given.contains_key(id));
            match (known, open) {
                (false, true) => drop(self.given.insert(id.clone(), Vec::new())),
                (true, false) => drop(self.given.remove(id)),
                _ => continue,
            }
            again = true;
        }
        if again {
            let before = std::mem::take(&mut self.given);
            self.given = state.allocations(self.concerns.cluster(), before.keys()).into_iter().collect();
            let derived: BTreeSet<&ServiceId> = derived.iter().map(|(id, ..)| id).collect();
            for (id, addresses) in self.given.iter().filter(|(id, addresses)| before.get(*id) != Some(*addresses)) {
                if let Some(service) = self.imported.get_mut(id).filter(|_| !derived.contains(id)) {
                    Arc::make_mut(service).addresses.clone_from(addresses);
                    changed.insert(id.clone());
                }
            }
        }
        for (id, _, imported) in derived {
            if let Some((service, addresses)) = imported.as_mut().zip(self.given.get(id)) {
                service.addresses.clone_from(addresses);
            }
        }
    }
}

/// Makes `service` the one of `id`; tells whether it was another one.
fn put<T: PartialEq>(services: &mut BTreeMap<ServiceId, Arc<T>>, id: &ServiceId, service: Option<T>) -> bool {
    match service {
        Some(service) => {
            let same = services.get(id).is_some_and(|known| **known == service);
            if !same {
                services.insert(id.clone(), Arc::new(service));
            }
            !same
        }
        None => services.remove(id).is_some(),
    }
}
