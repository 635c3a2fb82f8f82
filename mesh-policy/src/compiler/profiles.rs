//! Profiles: what rules see of an end. Workloads of one identity and one table of named ports share theirs.

use std::net::IpAddr;

use hashbrown::HashSet;
use mesh_core::{Direction, NodeId, WorkloadId};

use super::Parts;
use super::classes::Class;
use super::rulesets::Selection;
use crate::peers::Peer;
use crate::set::{Known, ProfileEntry, Subject};
use crate::store::Interner;
use crate::{End, NodeHandle, PolicySet, Profile, ProfileHandle, WorkloadHandle};

/// Who sits at an address, apart from where that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Seat {
    Workload { identity: u32, ports: u32 },
    Node,
    Outside,
}

/// What a profile was built of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Built {
    pub(super) class: u32,
    /// 0 for what is no workload.
    pub(super) subject: u32,
}

/// Every profile by its number, for a seat and the set of peers of its region; 0 is that of nobody nowhere.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    profiles: Interner<(Seat, u32)>,
    built: Vec<Built>,
    /// The distinct subjects; 0 is none, for good.
    subjects: Interner<Subject>,
    /// The profiles of the outside regions, which use them.
    outside: Vec<u32>,
}

impl Profiles {
    /// Makes the profile 0.
    pub(super) fn begin(&mut self) {
        let (nobody, _) = self.profiles.intern((Seat::Outside, 0));
        self.profiles.retain(nobody);
        self.built.push(Built::default());
        let (none, _) = self.subjects.intern(Subject { rulesets: [u32::MAX; 2], cluster: u32::MAX });
        self.subjects.retain(none);
    }

    pub(super) fn release_subject(&mut self, subject: u32) {
        self.subjects.release(subject);
    }

    /// Forgets the subjects that no profile is; returns their rule sets.
    pub(super) fn collect_subjects(&mut self) -> Vec<u32> {
        self.subjects.collect(0).into_iter().flat_map(|(_, subject)| subject.rulesets).collect()
    }

    /// Returns the number of the set of peers of the profile's region.
    pub(super) fn region(&self, number: u32) -> u32 {
        self.profiles.get(number).1
    }

    pub(super) fn retain(&mut self, number: u32) {
        self.profiles.retain(number);
    }

    pub(super) fn release(&mut self, number: u32) {
        self.profiles.release(number);
    }

    /// Forgets the profiles that nobody has, up to `keep`; returns what they were built of.
    pub(super) fn collect(&mut self, keep: usize) -> Vec<(Seat, u32, Built)> {
        let gone = self.profiles.collect(keep);
        gone.into_iter().map(|(number, (seat, region))| (seat, region, self.built[number as usize])).collect()
    }
}

impl Parts {
    /// Returns the number of the profile of `seat` at `address`, which is built if it is new.
    pub(super) fn profile(&mut self, seat: Seat, region: u32, set: &mut PolicySet) -> u32 {
        let (number, new) = self.profiles.profiles.intern((seat, region));
        if new {
            self.sets.retain(region);
            if let Seat::Workload { identity, ports } = seat {
                self.identities.retain(identity);
                self.tables.retain(ports);
            }
            let built = self.build(seat, region, set);
            self.put(number, built, set);
        }
        number
    }

    /// Returns the number of the set of peers of the region of `address`.
    pub(super) fn region(&self, address: IpAddr) -> u32 {
        self.regions.lookup(address).copied().unwrap_or(0)
    }

    /// Finds the class and the subject of a profile, and uses them.
    fn build(&mut self, seat: Seat, region: u32, set: &mut PolicySet) -> Built {
        let by_address = self.sets.get(region);
        let (class, subject) = match seat {
            Seat::Node | Seat::Outside => (Class { peers: by_address.clone(), ports: 0 }, 0),
            Seat::Workload { identity, ports } => {
                let class = self.class_of_workload(identity, ports, region);
                let (who, cluster) = (self.identities.who(identity), self.identities.cluster(identity));
                let rulesets = [Direction::Ingress, Direction::Egress].map(|direction| {
                    let selection = Selection::new(&self.book, cluster, &who, direction, ports);
                    let (table, (number, new)) = (selection.ports(), self.rulesets.intern(selection));
                    if new {
                        self.tables.retain(table);
                    }
                    number
                });
                let cluster = cluster.clone();
                let subject = Subject { rulesets, cluster: self.cluster(&cluster) };
                let (number, new) = self.profiles.subjects.intern(subject);
                if new {
                    rulesets.into_iter().for_each(|ruleset| self.rulesets.retain(ruleset));
                    set.subjects.set(number, subject);
                }
                (class, number)
            }
        };
        let (class, new) = self.classes.intern(class);
        if new {
            self.tables.retain(self.classes.get(class).ports);
        }
        self.classes.retain(class);
        self.profiles.subjects.retain(subject);
        Built { class, subject }
    }

    /// Returns the class of workloads of an identity in a region.
    fn class_of_workload(&self, identity: u32, ports: u32, region: u32) -> Class {
        let by_identity = self.sets.get(self.identities.peers(identity));
        let told = self.sets.get(region).iter().filter(|peer| self.is_told_of_workloads(**peer));
        let mut peers: Vec<u32> = by_identity.iter().chain(told).copied().collect();
        peers.sort_unstable();
        Class { peers: peers.into(), ports }
    }

    /// Tells whether a peer that is told by its address may be a workload.
    fn is_told_of_workloads(&self, peer: u32) -> bool {
        match self.book.peers.get(peer) {
            Peer::Networks { .. } => self.ipblock_matches_pods,
            Peer::Domains(_) => true,
            // A workload's address is no node's, whatever nodes say.
            Peer::Nodes(_) | Peer::Workloads { .. } => false,
        }
    }

    fn put(&mut self, number: u32, built: Built, set: &mut PolicySet) {
        let at = number as usize;
        if self.profiles.built.len() <= at {
            self.profiles.built.resize_with(at + 1, Built::default);
        }
        self.profiles.built[at] = built;
        let Built { class, subject } = built;
        set.profiles.set(number, self.entry(class, subject));
    }

    fn entry(&self, class: u32, subject: u32) -> ProfileEntry {
        ProfileEntry { class, subject, rulesets: self.profiles.subjects.get(subject).rulesets }
    }

    /// Builds anew the profiles of `identities`, idle ones too.
    pub(super) fn rebuild_profiles(&mut self, identities: &HashSet<u32>, set: &mut PolicySet) {
        if identities.is_empty() {
            return;
        }
        let all: Vec<(u32, (Seat, u32))> = self.profiles.profiles.iter().map(|(number, key)| (number, *key)).collect();
        for (number, (seat, region)) in all {
            let Seat::Workload { identity, .. } = seat else { continue };
            if identities.contains(&identity) {
                let built = self.build(seat, region, set);
                let before = self.profiles.built[number as usize];
                self.classes.release(before.class);
                self.profiles.subjects.release(before.subject);
                self.put(number, built, set);
            }
        }
    }

    /// Gives the outside regions their profiles.
    pub(super) fn update_outside(&mut self, set: &mut PolicySet) {
        let before = std::mem::take(&mut self.profiles.outside);
        let regions = std::mem::take(&mut self.regions);
        let mut outside = Vec::new();
        let profiles = regions.map(|region| {
            let number = self.profile(Seat::Outside, *region, set);
            self.profiles.retain(number);
            outside.push(number);
            ProfileHandle(number)
        });
        set.ends.regions = std::sync::Arc::new(profiles);
        self.regions = regions;
        self.profiles.outside = outside;
        before.into_iter().for_each(|number| self.profiles.release(number));
    }

    /// Returns what `id` would be at an address that is not its own, and its class where no profile has that; `beyond` numbers
    /// what `set` is so told. Nothing of it stays here: the set is to be thrown away.
    pub(super) fn assume_workload(
        &mut self,
        id: &WorkloadId,
        address: IpAddr,
        beyond: u32,
        set: &mut PolicySet,
    ) -> Option<Assumed> {
        let entry = set.workloads.get(self.workloads.find(id, set)?)?.clone()?;
        let subject = self.subject_of(id, set)?;
        let seat = Seat::Workload { identity: entry.identity, ports: entry.ports };
        let handle = self.workloads.bound() + beyond;
        set.workloads.set(handle, Some(entry));
        let known = Known {
            end: End::Workload(WorkloadHandle(handle)),
            profile: ProfileHandle(self.profiles.profiles.bound() + beyond),
            is_backend: self.exports.has_backend_at(address),
        };
        Some(self.assume(seat, known, (address, subject), set))
    }

    /// Returns what a workload is as a subject, wherever it is: that of a profile that it has.
    fn subject_of(&self, id: &WorkloadId, set: &PolicySet) -> Option<u32> {
        let handle = self.workloads.find(id, set)?;
        let entry = set.workloads.get(handle)?.as_ref()?;
        let own =
            |address: &IpAddr| set.ends.claimed(*address).filter(|known| known.end == End::Workload(WorkloadHandle(handle)));
        let profile = entry.addresses.list().iter().find_map(own).map(|known| known.profile.0);
        let nowhere = || self.profiles.profiles.find(&(Seat::Workload { identity: entry.identity, ports: entry.ports }, 0));
        Some(self.profiles.built[profile.or_else(nowhere)? as usize].subject)
    }

    /// Sees to it that a workload without an address of its own can be assumed at one.
    pub(super) fn prepare(&mut self, id: &WorkloadId, set: &mut PolicySet) {
        let entry = self.workloads.find(id, set).and_then(|handle| set.workloads.get(handle)?.clone());
        if let (Some(entry), None) = (entry, self.subject_of(id, set)) {
            self.profile(Seat::Workload { identity: entry.identity, ports: entry.ports }, 0, set);
            self.compile_fresh(set);
        }
    }

    /// Returns what `node` would be at an address that is not its own, likewise.
    pub(super) fn assume_node(&mut self, node: &NodeId, address: IpAddr, beyond: u32, set: &mut PolicySet) -> Assumed {
        // A node that nothing is known of runs no workload: any number does.
        let handle = self.nodes.find(node).unwrap_or_else(|| self.nodes.bound());
        std::sync::Arc::make_mut(&mut set.ends.node_addresses).insert((handle, address));
        let profile = ProfileHandle(self.profiles.profiles.bound() + beyond);
        let known = Known { end: End::Node(NodeHandle(handle)), profile, is_backend: false };
        self.assume(Seat::Node, known, (address, 0), set)
    }

    fn assume(&mut self, seat: Seat, known: Known, (address, subject): (IpAddr, u32), set: &mut PolicySet) -> Assumed {
        let region = self.region(address);
        let class = match seat {
            Seat::Workload { identity, ports } => self.class_of_workload(identity, ports, region),
            Seat::Node | Seat::Outside => Class { peers: self.sets.get(region).clone(), ports: 0 },
        };
        let (number, class) = match self.classes.find(&class) {
            Some(number) => (number, None),
            // As far beyond the classes as the profile is beyond the profiles.
            None => {
                let number = self.classes.bound() + known.profile.0 - self.profiles.profiles.bound();
                (number, Some((number, class)))
            }
        };
        set.profiles.set(known.profile.0, self.entry(number, subject));
        Assumed { known, class }
    }

    /// Tells the rule sets of `subject` of the class that the other end of its connection is assumed to have.
    pub(super) fn introduce(&mut self, assumed: &Assumed, subject: ProfileHandle, set: &mut PolicySet) {
        let Some((number, class)) = &assumed.class else { return };
        let Profile { rulesets, cluster, .. } = set.profile(subject);
        if cluster.is_some() {
            for ruleset in rulesets {
                self.rulesets.introduce(ruleset, &self.tables, (*number, class), set.rulesets.edit(ruleset));
            }
        }
    }
}

/// Who is taken to be at an address.
pub(crate) struct Assumed {
    pub(crate) known: Known,
    /// The class, where it is a new one, by the number that it has in the set.
    class: Option<(u32, Class)>,
}
