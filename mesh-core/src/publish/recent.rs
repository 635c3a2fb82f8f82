//! Addresses that were somebody else's lately: who reads records late must not take one workload for another.
//!
//! An address that a workload has given up (it ended, or moved) rests for [`REST`] before another identity is published at it.
//! A workload of the same identity gets it at once, and so does the workload itself whose labels change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::{ClusterName, IdentityName, NamespaceName, Now, ObjectName, Resource, State, Time, WallTime, Workload};

/// How long an address rests: far longer than a record takes to every reader that is not cut off.
pub(super) const REST: Duration = Duration::from_secs(60);

/// The namespace and node of a slice.
pub(super) type Slice = (NamespaceName, ObjectName);
/// An address, and the workload that has it.
type Claim = (IpAddr, NamespaceName, ObjectName);

/// What the publisher remembers of addresses.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// What each slice says; `None` before it was looked at what an earlier life of the publisher said.
    said: Option<BTreeMap<Slice, BTreeMap<Claim, IdentityName>>>,
    /// The addresses that rest: whose they were, and since when. They outlive the publisher.
    pub(super) freed: BTreeMap<IpAddr, (IdentityName, WallTime)>,
    /// The claims that are not published yet, and when their slice is to be looked at again.
    withheld: BTreeMap<Claim, (Slice, Time)>,
}

impl Recent {
    /// Goes on with the addresses that rested when an earlier life of the publisher ended.
    pub(super) fn restore(freed: BTreeMap<IpAddr, (IdentityName, WallTime)>) -> Recent {
        Recent { freed, ..Recent::default() }
    }

    /// Returns the slices to look at again, and at first those of an earlier life, as they came back from the store.
    pub(super) fn due(&mut self, state: &State, cluster: &ClusterName, now: Time) -> BTreeSet<Slice> {
        let mut due: BTreeSet<Slice> =
            self.withheld.values().filter(|(_, due)| *due <= now).map(|(slice, _)| slice.clone()).collect();
        if self.said.is_none() {
            let said: &mut BTreeMap<_, BTreeMap<_, _>> = self.said.insert(BTreeMap::new());
            for workload in state.signed_workloads(cluster) {
                let Some(node) = workload.node.clone() else { continue };
                let (slice, name) = ((workload.id.namespace.clone(), node), state.identity(&workload).name());
                let claims = claims(&workload).map(|claim| (claim, name));
                said.entry(slice).or_default().extend(claims);
            }
            due.extend(said.keys().cloned());
        }
        due
    }

    /// Takes out of `slices`, which are to be published, the addresses that rest; tells whether other addresses than before are
    /// withheld. A slice that waits for an address of which the rest begins anew is looked at as well: `derive` says what it is
    /// to say.
    pub(super) fn settle(
        &mut self,
        slices: &mut BTreeMap<Slice, Vec<Resource>>,
        state: &State,
        derive: impl Fn(&Slice) -> Vec<Resource>,
        now: Now,
    ) -> bool {
        let said = self.said.get_or_insert_default();
        let before: BTreeMap<Claim, IdentityName> =
            slices.keys().filter_map(|slice| said.get(slice)).flatten().map(|(claim, name)| (claim.clone(), *name)).collect();
        let wanted: BTreeSet<Claim> = slices.values().flatten().filter_map(workload).flat_map(claims).collect();
        self.freed.retain(|_, (_, since)| rest(*since, now.wall) > Duration::ZERO);
        let gone: BTreeMap<IpAddr, IdentityName> =
            before.iter().filter(|(claim, _)| !wanted.contains(*claim)).map(|(claim, name)| (claim.0, *name)).collect();
        self.freed.extend(gone.iter().map(|(address, name)| (*address, (*name, now.wall))));
        for ((address, ..), (slice, _)) in &self.withheld {
            if gone.contains_key(address) && !slices.contains_key(slice) {
                slices.insert(slice.clone(), derive(slice));
            }
        }
        let held: BTreeSet<Claim> = self.withheld.keys().cloned().collect();
        self.withheld.retain(|_, (slice, _)| !slices.contains_key(slice));
        for (slice, resources) in slices.iter_mut() {
            let has_said = |claim: &Claim| before.contains_key(claim) || said.get(slice).is_some_and(|s| s.contains_key(claim));
            let mut says = BTreeMap::new();
            for resource in resources.iter_mut() {
                let Resource::Workload(workload) = resource else { continue };
                let name = state.identity(workload).name();
                let of = (workload.id.namespace.clone(), workload.id.name.clone());
                workload.addresses.retain(|address| {
                    let claim = (*address, of.0.clone(), of.1.clone());
                    let rests = self.freed.get(address).filter(|(other, _)| *other != name && !has_said(&claim));
                    match rests {
                        Some((_, since)) => drop(self.withheld.insert(claim, (slice.clone(), now.time + rest(*since, now.wall)))),
                        None => drop(says.insert(claim, name)),
                    }
                    rests.is_none()
                });
            }
            resources.retain(|resource| workload(resource).is_none_or(|workload| !workload.addresses.is_empty()));
            if says.is_empty() {
                said.remove(slice);
            } else {
                said.insert(slice.clone(), says);
            }
        }
        !self.withheld.keys().eq(&held)
    }

    /// Tells whether a workload's claim of `address` is not published yet.
    pub(super) fn withholds(&self, address: IpAddr) -> bool {
        self.withheld.keys().any(|(withheld, ..)| *withheld == address)
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.withheld.values().map(|(_, due)| *due).min()
    }
}

/// Returns how much of its rest an address has before it; a clock that was set back makes it no longer than a whole one.
fn rest(since: WallTime, now: WallTime) -> Duration {
    REST.saturating_sub(now.since(since))
}

fn workload(resource: &Resource) -> Option<&Workload> {
    match resource {
        Resource::Workload(workload) => Some(workload),
        _ => None,
    }
}

fn claims(workload: &Workload) -> impl Iterator<Item = Claim> {
    workload.addresses.iter().map(|address| claim(*address, workload))
}

fn claim(address: IpAddr, workload: &Workload) -> Claim {
    (address, workload.id.namespace.clone(), workload.id.name.clone())
}
