//! The clusterset addresses of a cluster: one for each family with a range, for the services that no manifest gives addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::service::allocate;
use crate::{Grant, ServiceId, ServiceKind, State};

/// What was allocated, and what stands in the way.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// The addresses of each service that has some: they outlive the publisher.
    pub(super) given: BTreeMap<ServiceId, Vec<IpAddr>>,
    /// Whose each of them is; also of a service that has just ended.
    owners: BTreeMap<IpAddr, ServiceId>,
    /// What manifests say.
    declared: BTreeMap<ServiceId, Vec<IpAddr>>,
    /// How many manifests name an address.
    named: BTreeMap<IpAddr, usize>,
    /// The services for which there was no room.
    waiting: BTreeSet<ServiceId>,
    /// Something was freed since they were looked at.
    freed: bool,
}

impl Addresses {
    /// Goes on from what was given earlier.
    pub(super) fn restore(given: BTreeMap<ServiceId, Vec<IpAddr>>) -> Addresses {
        Addresses { given, ..Addresses::default() }
    }

    /// Begins anew with what was given: what the grant no longer holds is taken back. Every service is to be looked at then.
    pub(super) fn reset(&mut self, grant: &Grant) {
        let mut anew = Addresses::restore(std::mem::take(&mut self.given));
        let is_granted = |address: &IpAddr| grant.service_prefixes.iter().any(|range| range.contains(*address));
        for (id, addresses) in &mut anew.given {
            addresses.retain(is_granted);
            anew.owners.extend(addresses.iter().map(|address| (*address, id.clone())));
        }
        *self = anew;
    }

    /// Looks at `services`, and at those whose addresses depend on them; returns the addresses of each one looked at.
    ///
    /// The address of a service that ends is free the next time, not in the same breath.
    pub(super) fn update(
        &mut self,
        state: &State,
        grant: &Grant,
        services: &BTreeSet<ServiceId>,
    ) -> BTreeMap<ServiceId, Vec<IpAddr>> {
        let mut services = services.clone();
        for id in services.clone() {
            self.declare(state, grant, &id, &mut services);
        }
        if std::mem::take(&mut self.freed) {
            services.append(&mut self.waiting);
        }
        let is_open = |id: &ServiceId| {
            grant.speaks_for(&id.namespace)
                && !self.declared.contains_key(id)
                && state.imported_service(&grant.cluster, id).is_some_and(|service| service.kind == ServiceKind::ClusterIp)
        };
        let (open, closed): (BTreeSet<_>, BTreeSet<_>) = services.into_iter().partition(is_open);
        let mut result: BTreeMap<ServiceId, Vec<IpAddr>> =
            open.into_iter().map(|id| (id.clone(), self.give(grant, id))).collect();
        for id in closed {
            for address in self.given.remove(&id).unwrap_or_default() {
                self.owners.remove(&address);
                self.freed = true;
            }
            self.waiting.remove(&id);
            result.insert(id, Vec::new());
        }
        result
    }

    /// Takes notice of the addresses that a manifest gives a service: what it names is no other service's from then on.
    fn declare(&mut self, state: &State, grant: &Grant, id: &ServiceId, services: &mut BTreeSet<ServiceId>) {
        let now = state.manifest_addresses(&grant.cluster, id);
        let before = self.declared.remove(id).unwrap_or_default();
        for address in now {
            *self.named.entry(*address).or_default() += 1;
            if let Some(owner) = self.owners.remove(address) {
                if let Some(given) = self.given.get_mut(&owner) {
                    given.retain(|other| other != address);
                }
                services.insert(owner);
            }
        }
        for address in before {
            if let Some(count) = self.named.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    self.named.remove(&address);
                    self.freed = true;
                }
            }
        }
        if !now.is_empty() {
            self.declared.insert(id.clone(), now.to_vec());
        }
    }

    /// Gives a service the addresses that it lacks; returns all that it has.
    fn give(&mut self, grant: &Grant, id: ServiceId) -> Vec<IpAddr> {
        let mut addresses = self.given.remove(&id).unwrap_or_default();
        let mut lacks = false;
        for v4 in [true, false] {
            if addresses.iter().any(|address| address.is_ipv4() == v4) {
                continue;
            }
            let is_taken = |address: &IpAddr| self.owners.contains_key(address) || self.named.contains_key(address);
            let taken = self.owners.len() + self.named.len();
            let mut ranges = grant.service_prefixes.iter().filter(|range| range.is_ipv4() == v4).peekable();
            lacks |= ranges.peek().is_some();
            let Some(address) = ranges.find_map(|range| allocate(*range, (taken, is_taken), &id)) else { continue };
            lacks = false;
            self.owners.insert(address, id.clone());
            addresses.push(address);
        }
        if lacks {
            self.waiting.insert(id.clone());
        } else {
            self.waiting.remove(&id);
        }
        if !addresses.is_empty() {
            self.given.insert(id, addresses.clone());
        }
        addresses
    }
}
