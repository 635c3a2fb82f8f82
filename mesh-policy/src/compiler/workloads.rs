//! Workloads and addresses: who is where.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashTable};
use mesh_core::{Located, NodeId, State, Workload, WorkloadId};

use super::profiles::Seat;
use super::{Dirty, Parts};
use crate::set::{Addresses, Known, WorkloadEntry};
use crate::{End, NodeHandle, PolicySet, ProfileHandle, WorkloadHandle};

/// The workloads' handles by their names, and what refused ones claim.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    hasher: RandomState,
    handles: HashTable<u32>,
    free: Vec<u32>,
    next: u32,
    /// The addresses of workloads that are not believed: pending, where they are nobody else's.
    refused: HashMap<WorkloadId, Vec<IpAddr>>,
}

impl Workloads {
    pub(super) fn find(&self, id: &WorkloadId, set: &PolicySet) -> Option<u32> {
        let is = |handle: &u32| entry(set, *handle).is_some_and(|entry| entry.id == *id);
        self.handles.find(self.hasher.hash_one(id), is).copied()
    }

    /// Gives `id` a handle; its entry must be set next.
    fn add(&mut self, id: &WorkloadId, set: &PolicySet) -> u32 {
        let handle = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        let (hasher, hash) = (&self.hasher, self.hasher.hash_one(id));
        let rehash = |handle: &u32| entry(set, *handle).map_or(hash, |entry| hasher.hash_one(&entry.id));
        self.handles.insert_unique(hash, handle, rehash);
        handle
    }

    fn remove(&mut self, id: &WorkloadId, handle: u32) {
        if let Ok(found) = self.handles.find_entry(self.hasher.hash_one(id), |known| *known == handle) {
            found.remove();
        }
        self.free.push(handle);
    }

    /// Returns a handle that is larger than every workload's.
    pub(super) fn bound(&self) -> u32 {
        self.next
    }

    /// Returns the refused workloads' addresses.
    pub(super) fn refused(&self) -> impl Iterator<Item = IpAddr> {
        self.refused.values().flatten().copied()
    }
}

fn entry(set: &PolicySet, handle: u32) -> Option<&Arc<WorkloadEntry>> {
    set.workloads.get(handle)?.as_ref()
}

impl Parts {
    /// Brings a workload in step with the state, and marks the addresses that it has or had.
    pub(super) fn update_workload(&mut self, state: &State, id: &WorkloadId, dirty: &mut Dirty<'_>, set: &mut PolicySet) {
        self.update_refused(state, id, dirty);
        let handle = self.workloads.find(id, set);
        let before = handle.and_then(|handle| entry(set, handle)).cloned();
        let now = state.facts().workloads.get(id).filter(|workload| !workload.host_network);
        if let Some(before) = &before {
            dirty.addresses.extend(before.addresses.list());
        }
        match (handle, now) {
            (None, None) => return,
            (Some(handle), None) => {
                self.workloads.remove(id, handle);
                set.workloads.set(handle, None);
            }
            (handle, Some(workload)) => {
                dirty.addresses.extend(&workload.addresses);
                let entry = self.read(state, workload, set);
                self.digest_workload(&entry, true);
                let handle = handle.unwrap_or_else(|| self.workloads.add(id, set));
                set.workloads.set(handle, Some(Arc::new(entry)));
            }
        }
        if let Some(before) = before {
            self.digest_workload(&before, false);
            self.identities.leave(before.identity, &mut self.digest);
            self.tables.release(before.ports);
            before.node.into_iter().for_each(|node| self.nodes.release(node));
        }
    }

    fn update_refused(&mut self, state: &State, id: &WorkloadId, dirty: &mut Dirty<'_>) {
        let now = state.refused_workload(id).map(|workload| workload.addresses.clone()).unwrap_or_default();
        let before = self.workloads.refused.remove(id).unwrap_or_default();
        if now == before && now.is_empty() {
            return;
        }
        dirty.addresses.extend(now.iter().chain(&before));
        if !before.is_empty() {
            self.digest.sub(&("refused", id, &before));
        }
        if !now.is_empty() {
            self.digest.add(&("refused", id, &now));
            self.workloads.refused.insert(id.clone(), now);
        }
    }

    /// Reads a workload into an entry, which uses its identity, its table of named ports and its node.
    fn read(&mut self, state: &State, workload: &Workload, set: &mut PolicySet) -> WorkloadEntry {
        let (identity, new) = self.identities.intern(state, workload);
        self.identities.join(identity, &mut self.digest);
        if new {
            let matching = self.book.peers.matching(&self.identities.who(identity));
            let (peers, _) = self.sets.intern(matching.into());
            self.sets.retain(peers);
            self.identities.set_peers(identity, peers);
            set.identities.set(identity, Some(self.identities.name(identity)));
        }
        let mut named: Vec<_> = workload.ports.iter().filter(|port| self.book.uses_port_name(&port.name)).cloned().collect();
        named.sort_unstable();
        named.dedup();
        let (ports, _) = self.tables.intern(named);
        self.tables.retain(ports);
        let node = workload.node.as_ref().map(|name| {
            let node = NodeId { cluster: workload.id.cluster.clone(), name: name.clone() };
            self.use_node(node, set)
        });
        WorkloadEntry { id: workload.id.clone(), identity, ports, node, addresses: Addresses::new(&workload.addresses) }
    }

    /// Returns the number of a node, with one more user.
    pub(super) fn use_node(&mut self, node: NodeId, set: &mut PolicySet) -> u32 {
        let (number, new) = self.nodes.intern(node);
        self.nodes.retain(number);
        if new {
            set.ends.nodes.set(number, Some(self.nodes.get(number).clone()));
        }
        number
    }

    fn digest_workload(&mut self, entry: &WorkloadEntry, is_there: bool) {
        let node = entry.node.map(|node| self.nodes.get(node));
        let name = self.identities.name(entry.identity);
        let atom = ("workload", &entry.id, name, node, self.tables.get(entry.ports), entry.addresses.list());
        if is_there { self.digest.add(&atom) } else { self.digest.sub(&atom) }
    }

    /// Finds out whose `address` is, and makes it known.
    pub(super) fn resolve(&mut self, state: &State, address: IpAddr, set: &mut PolicySet) {
        let region = self.region(address);
        let workload = state.workload_at(address).and_then(|id| self.workloads.find(id, set));
        let now = match workload.and_then(|handle| Some((handle, entry(set, handle)?))) {
            Some((handle, known)) => {
                let seat = Seat::Workload { identity: known.identity, ports: known.ports };
                Some((End::Workload(WorkloadHandle(handle)), self.profile(seat, region, set)))
            }
            None => self.resolve_other(state, address, region, set),
        };
        if let Some((_, profile)) = now {
            self.profiles.retain(profile);
        }
        let is_backend = self.exports.has_backend_at(address);
        let now = now.map(|(end, profile)| Known { end, profile: ProfileHandle(profile), is_backend });
        if let Some(before) = set.ends.set(address, now) {
            self.profiles.release(before.profile.0);
        }
    }

    /// Finds out who is at an address that is no workload's.
    fn resolve_other(&mut self, state: &State, address: IpAddr, region: u32, set: &mut PolicySet) -> Option<(End, u32)> {
        match state.locate(address) {
            Located::Node(node) => self.nodes.find(node).map(|handle| {
                let profile = self.profile(Seat::Node, region, set);
                (End::Node(NodeHandle(handle)), profile)
            }),
            // Where its cluster's prefixes make it pending, nothing has to be said of the address itself.
            Located::Pending if set.ends.pending.lookup(address).is_none() => Some((End::Pending, 0)),
            Located::Pending | Located::External | Located::Workload(_) => None,
        }
    }
}
