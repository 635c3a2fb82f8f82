//! The steps of a script: what each of them does to the world.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Event, RootRecord, SourceId, WallTime};

use super::fleet::{self, DAWN, NAMESPACES};
use super::node::Start;
use super::script::{Action, Step};
use super::store::Path;
use super::world::{Due, MS, SECOND, World};

impl World<'_> {
    /// Does a step.
    pub(super) fn step(&mut self, step: &Step) {
        let [a, b, c] = step.args;
        let (clusters, nodes, slots) = (self.fleet.clusters.len(), self.nodes.len(), self.fleet.slots());
        let (cluster, node) = (a as usize % clusters, a as usize % nodes);
        let slot = b as usize % slots;
        self.say(|| format!("-- {step}"));
        match step.action {
            Action::Add | Action::Move | Action::Relabel => self.place(step),
            Action::Reuse => {
                let other = c as usize % slots;
                let at = self.fleet.clusters[cluster].slots[slot];
                if let Some(at) = at.filter(|_| other != slot && slot % 2 == other % 2) {
                    self.fleet.clusters[cluster].remove(slot);
                    self.fleet.place(cluster, other, at.node, at.label + 1, Some(at.address));
                    self.tell_api(cluster);
                }
            }
            Action::Remove => {
                self.fleet.clusters[cluster].remove(slot);
                self.tell_api(cluster);
            }
            Action::Policy => {
                self.fleet.clusters[cluster].policy(b as usize, c);
                self.tell_api(cluster);
            }
            Action::NsLabel => {
                let namespace = self.fleet.clusters[cluster].namespace(NAMESPACES[b as usize % 2], c);
                self.fleet.clusters[cluster].set(namespace);
                self.tell_api(cluster);
            }
            Action::Export => {
                self.fleet.clusters[cluster].export(b % 2 == 1);
                self.tell_api(cluster);
            }
            Action::FleetPolicy => self.sign_policies(a),
            Action::Cut => {
                self.net.cuts.insert((node, b as usize % nodes));
            }
            Action::Part => {
                self.net.mute.insert(cluster);
                self.net.deaf.insert(cluster);
            }
            Action::Mute => {
                self.net.mute.insert(cluster);
            }
            Action::Mend => self.net.mend(),
            Action::Loss => self.net.loss = a.min(90),
            Action::Dup => self.net.duplicates = a.min(90),
            Action::Jitter => self.net.jitter = u64::from(a.min(2_000)) * MS,
            Action::Mtu => self.net.mtu = a as usize,
            Action::Rebind => {
                self.net.rebind();
                self.rebound_at = Some(self.now);
            }
            Action::Forge => self.forge(node, b),
            Action::StoreDown => self.stores[cluster].up = false,
            Action::StoreUp => self.stores[cluster].up = true,
            Action::Wipe => self.wipe(cluster, true),
            Action::Backup => self.stores[cluster].backup = Some(self.stores[cluster].records.clone()),
            Action::Restore => self.wipe(cluster, false),
            Action::Mirror => {
                let to = b as usize % clusters;
                let mirror =
                    self.tails.iter_mut().find(|tail| tail.from == cluster && tail.to == super::store::Reader::Mirror(to));
                if let Some(mirror) = mirror {
                    mirror.mode = c;
                    let withheld = std::mem::take(&mut mirror.withheld);
                    mirror.pending.extend(withheld);
                }
            }
            Action::Crash => self.nodes[node].crash(),
            Action::Start => {
                if self.nodes[node].live.is_none() {
                    self.start_node(node, start(b));
                }
            }
            Action::Amnesia => {
                self.nodes[node].crash();
                self.start_node(node, start(1 + b % 3));
            }
            Action::Skew => {
                let seconds = (i64::from(b) - 10_000).clamp(-290, 290);
                self.set_clock(node, seconds * SECOND as i64);
            }
            Action::Lie => self.lie(cluster, b, c as usize % clusters),
            Action::Stranger => self.stranger(cluster, b),
            Action::Replay => self.replay(cluster, b as usize % clusters, c as usize),
            Action::Revoke => self.revoke(cluster),
            Action::Regrant => self.regrant(cluster),
            Action::Rotate => self.rotate(cluster),
            Action::End => self.end_grant(cluster, b),
            Action::Warp => self.warp(u64::from(a) * SECOND),
            Action::Probe => self.probe(a as usize, b as usize, c),
            Action::Burst => {
                for _ in 0..a.min(20) {
                    let (from, to) = (self.rng.number() as usize >> 8, self.rng.number() as usize >> 8);
                    let port = self.rng.below(3) as u32;
                    self.probe(from, to, port);
                    self.run_until(self.now + MS);
                }
            }
            Action::Break => self.break_node(node, b),
            Action::Quiet => self.quiet(),
        }
        if step.action.fault().is_some() {
            self.faults.insert(step.action);
        }
        self.note_holders();
        self.note_health();
    }

    /// Notes which addresses were given up: for a while nobody else is published at them.
    pub(super) fn note_holders(&mut self) {
        let holders = self.fleet.workloads().into_iter().map(|(c, s, at)| (at.address, (c, s, at.label))).collect();
        let before = std::mem::replace(&mut self.holders, holders);
        for (address, holder) in before {
            if self.holders.get(&address) != Some(&holder) {
                self.freed.insert(address, self.now);
            }
        }
    }

    fn place(&mut self, step: &Step) {
        let [a, b, c] = step.args;
        let cluster = a as usize % self.fleet.clusters.len();
        let slot = b as usize % self.fleet.slots();
        let count = self.fleet.clusters[cluster].nodes.len();
        let at = self.fleet.clusters[cluster].slots[slot];
        match (step.action, at) {
            (Action::Add, None) => self.fleet.place(cluster, slot, slot % count, c as usize, None),
            (Action::Move, Some(at)) => self.fleet.place(cluster, slot, c as usize % count, at.label, None),
            (Action::Relabel, Some(at)) => self.fleet.place(cluster, slot, at.node, c as usize % 3, Some(at.address)),
            _ => return,
        }
        self.tell_api(cluster);
    }

    fn probe(&mut self, from: usize, to: usize, port: u32) {
        let workloads = self.fleet.workloads();
        if workloads.is_empty() {
            return;
        }
        let (from, to) = (workloads[from % workloads.len()], workloads[to % workloads.len()]);
        if from != to {
            let padding = if port.is_multiple_of(2) { 0 } else { 1_200 };
            self.send(&from, &to, port, padding);
        }
    }

    /// Takes everything out of a store, or puts its backup in the place of it.
    fn wipe(&mut self, cluster: usize, whole: bool) {
        let backup = self.stores[cluster].backup.clone();
        let records = match (whole, backup) {
            (true, _) => Default::default(),
            (false, Some(backup)) => backup,
            (false, None) => return,
        };
        let old = std::mem::replace(&mut self.stores[cluster].records, records);
        let paths: Vec<Path> = old.into_keys().chain(self.stores[cluster].records.keys().cloned()).collect();
        for path in paths {
            self.changed(cluster, &path);
        }
    }

    /// Datagrams of nobody, and some that were seen before, reach a node.
    fn forge(&mut self, node: usize, count: u32) {
        let to = self.nodes[node].spec.address;
        for _ in 0..count.min(16) {
            let place = self.rng.place(self.seen.len().max(1));
            let Some((from, seen_to, bytes)) = self.seen.get(place).cloned() else { return };
            let mut bytes = bytes.to_vec();
            let target = if self.rng.chance(50) { seen_to } else { to };
            if self.rng.chance(50) {
                let at = self.rng.place(bytes.len());
                bytes[at] ^= 1 << self.rng.below(8);
            }
            let Some(origin) = self.nodes.iter().position(|node| node.spec.address.ip() == from.ip()) else { continue };
            self.schedule(self.now + MS, Due::Datagram { origin, from, to: target, bytes: bytes.into() });
        }
    }

    /// Signs the newest grant of a cluster.
    pub(super) fn sign_grant(&mut self, cluster: usize) {
        let said = RootRecord::Grant(self.fleet.clusters[cluster].grant.clone());
        self.sign(&said, &format!("grant__c{cluster}"));
    }

    fn sign(&mut self, said: &RootRecord, name: &str) {
        let bytes = self.verified.sign_root(said);
        let path = Path::new(None, name);
        self.git.insert(path.clone(), bytes.clone());
        // A person puts it into the stores that answer; where none does, mirrors and the next push bring it.
        for store in 0..self.stores.len() {
            if self.stores[store].up && self.net.passes(0, store) {
                self.put(store, &path, &bytes);
            }
        }
    }

    fn sign_policies(&mut self, variant: u32) {
        self.serial += 1;
        self.fleet.fleet_policy = variant;
        let said = RootRecord::Policies { serial: self.serial, manifests: fleet::fleet_policies(variant) };
        self.sign(&said, "policies");
    }

    fn revoke(&mut self, cluster: usize) {
        let own = &mut self.fleet.clusters[cluster];
        own.revoked = own.grant.epoch + 1;
        let said = RootRecord::Revocation { cluster: own.name.clone(), epoch: own.revoked };
        self.revoked_at.entry(cluster).or_insert(self.now);
        self.sign(&said, &format!("revocation__c{cluster}"));
    }

    fn regrant(&mut self, cluster: usize) {
        self.lives[cluster] += 1;
        let own = &mut self.fleet.clusters[cluster];
        own.key = fleet::cluster_key(cluster, self.lives[cluster]);
        own.next_key = None;
        let epoch = (own.grant.epoch + 1).max(own.revoked);
        own.grant = Arc::new(fleet::grant(cluster, &own.name, &own.key, epoch));
        self.revoked_at.remove(&cluster);
        self.tainted.remove(&cluster);
        self.sign_grant(cluster);
        // The publisher starts again with the new key; what the old one remembered is of no use to it.
        let node = self.fleet.clusters[cluster].nodes[0];
        let running = self.nodes[node].live.is_some();
        self.nodes[node].crash();
        if running {
            self.start_node(node, Start::Last);
        }
    }

    fn break_node(&mut self, node: usize, how: u32) {
        let now = self.nodes[node].now(self.now);
        let cluster = self.nodes[node].spec.cluster;
        let ghost = self.fleet.clusters[cluster].workload(30, 0, 0, fleet::address(cluster, 0, 200));
        let Some(live) = self.nodes[node].live.as_mut() else { return };
        match how {
            0 => live.told = usize::MAX,
            _ => live.apply(Event::Set(SourceId("ghosts".into()), ghost), now),
        }
    }

    fn rotate(&mut self, cluster: usize) {
        let now = WallTime::from_unix_secs(DAWN) + Duration::from_nanos(self.now);
        let own = &mut self.fleet.clusters[cluster];
        let mut grant = (*own.grant).clone();
        grant.not_before = now.max(grant.not_before + Duration::from_nanos(1));
        match own.next_key.take() {
            Some(next) => {
                grant.key = Some(next.public());
                grant.next_key = None;
                own.key = next;
            }
            None => {
                self.lives[cluster] += 1;
                let next = fleet::cluster_key(cluster, self.lives[cluster]);
                grant.next_key = Some(next.public());
                own.next_key = Some(next);
            }
        }
        own.grant = Arc::new(grant);
        let (node, next) = (own.nodes[0], own.next_key.clone());
        let publisher = self.nodes[node].live.as_mut().and_then(|live| live.publisher.as_mut());
        if let (Some(publisher), Some(next)) = (publisher, next) {
            publisher.set_next_key(next);
        }
        self.sign_grant(cluster);
    }

    fn end_grant(&mut self, cluster: usize, seconds: u32) {
        let own = &mut self.fleet.clusters[cluster];
        let now = WallTime::from_unix_secs(DAWN) + Duration::from_nanos(self.now);
        let mut grant = (*own.grant).clone();
        // A grant that begins later than the one before takes its place.
        grant.not_before = now.max(grant.not_before + Duration::from_nanos(1));
        grant.not_after = now + Duration::from_secs(u64::from(seconds % 600));
        own.grant = Arc::new(grant);
        self.sign_grant(cluster);
    }
}

fn start(how: u32) -> Start {
    match how % 4 {
        0 => Start::Last,
        1 => Start::Old,
        2 => Start::Empty,
        _ => Start::Damaged,
    }
}
