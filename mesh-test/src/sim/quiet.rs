//! Quiet: everything heals, and two seconds later the fleet does what the truth says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_core::{Change, Direction, Event, Resource, SourceId, State, StateConfig, Trust};
use mesh_policy::naive;

use super::fleet::{self, Cluster};
use super::node::Start;
use super::world::{MS, Promise, SECOND, World};

/// How soon everything has to be as it should, once the faults are over.
const CONVERGED: u64 = 2 * SECOND;
/// How long who is behind a NAT may take to notice that the other end has forgotten it: a silence, and a call.
const CALLED: u64 = 33 * SECOND;
/// How long an address that was given up may rest where clocks are set back and forth: a minute, and twice their difference.
const RESTED: u64 = (60 + 600) * SECOND;
/// How long an answer may take, with a margin.
const ANSWERED: u64 = 100 * MS;
/// The packets that are sent in one quiet: a sample of all pairs.
const PACKETS: usize = 36;
/// What a node's snapshot may weigh, for each record that was ever put anywhere; and its refused facts.
const MAX_SNAPSHOT: usize = 1 << 18;
const MAX_REFUSED: usize = 512;
/// What may be due at a time: a few datagrams, reads and wakes of each node.
const MAX_BACKLOG: usize = 4096;

impl World<'_> {
    /// Ends every fault.
    pub(super) fn heal(&mut self) {
        self.net.mend();
        for node in 0..self.nodes.len() {
            self.set_clock(node, 0);
            if self.nodes[node].live.is_none() {
                self.start_node(node, Start::Last);
            }
        }
        for store in &mut self.stores {
            store.up = true;
        }
        for tail in 0..self.tails.len() {
            self.tails[tail].mode = 0;
            self.tails[tail].withheld.clear();
            // Who was cut off connects again, and compares.
            self.tails[tail].all = true;
            self.wake_tail(tail);
        }
        self.push_git();
        self.note_health();
    }

    /// Heals, waits, and looks.
    pub(super) fn quiet(&mut self) {
        self.heal();
        self.run_until(self.now + CONVERGED);
        if self.violation.is_some() {
            return;
        }
        self.counts.quiet += 1;
        self.check_facts();
        self.check_bounds();
        self.check_packets();
    }

    /// Tells whether the truth about a cluster is what its publisher says, under a grant.
    fn is_sound(&self, cluster: usize) -> bool {
        !self.tainted.contains(&cluster) && self.is_granted(cluster)
    }

    fn is_granted(&self, cluster: usize) -> bool {
        let Cluster { grant, revoked, .. } = &self.fleet.clusters[cluster];
        // All clocks are right now.
        let now = self.nodes[0].now(self.now).wall;
        grant.epoch >= *revoked && grant.is_valid_at(now)
    }

    /// Every node believes of every sound cluster what is so, and of one without a grant nothing.
    fn check_facts(&mut self) {
        for n in 0..self.nodes.len() {
            self.compare(n);
            let own = self.nodes[n].spec.cluster;
            let Some(live) = self.nodes[n].live.as_ref() else { continue };
            let facts = live.state.facts();
            let mut wrong = None;
            for (c, cluster) in self.fleet.clusters.iter().enumerate() {
                let of = |id: &mesh_core::WorkloadId| id.cluster == cluster.name;
                let believed: BTreeSet<_> = facts.workloads.keys().filter(|id| of(id)).cloned().collect();
                if !self.is_granted(c) {
                    if !believed.is_empty() || facts.grants.contains_key(&cluster.name) {
                        wrong = Some((Promise::Revoked, format!("node {n} still believes c{c}, which has no grant")));
                    }
                    continue;
                }
                if self.tainted.contains(&c) {
                    continue;
                }
                let missing = cluster.facts.values().find_map(|resource| match resource {
                    Resource::Workload(it) if own != c && self.rests(it.addresses[0]) => None,
                    Resource::Workload(it) => (facts.workloads.get(&it.id) != Some(it)).then(|| resource.key()),
                    Resource::Node(it) => (facts.nodes.get(&it.id) != Some(it)).then(|| resource.key()),
                    Resource::NodeLink(it) => (facts.links.get(&it.id) != Some(it)).then(|| resource.key()),
                    Resource::Namespace(it) => {
                        let key = (it.cluster.clone(), it.name.clone());
                        (facts.namespaces.get(&key) != Some(it)).then(|| resource.key())
                    }
                    _ => None,
                });
                if let Some(key) = missing {
                    wrong = Some((Promise::Converged, format!("node {n} has not heard of {key} as it is")));
                }
                let ghost = believed.iter().find(|id| !cluster.facts.contains_key(&mesh_core::Key::Workload((*id).clone())));
                if let Some(id) = ghost {
                    wrong = Some((Promise::Resurrected, format!("node {n} believes in {id}, which is gone")));
                }
            }
            if let Some((promise, what)) = wrong {
                return self.fail(promise, what);
            }
        }
    }

    fn check_bounds(&mut self) {
        for n in 0..self.nodes.len() {
            let Some(live) = self.nodes[n].live.as_ref() else { continue };
            let (snapshot, refused) = (live.state.snapshot().len(), live.state.refused().count());
            let flows = live.engine.stats().forwarder.flows;
            if snapshot > MAX_SNAPSHOT || refused > MAX_REFUSED || flows > self.counts.packets * 2 {
                let what = format!("node {n}: a snapshot of {snapshot} bytes, {refused} refused facts, {flows} flows");
                return self.fail(Promise::Bounded, what);
            }
        }
        if self.backlog() > MAX_BACKLOG {
            self.fail(Promise::Bounded, format!("{} things are due", self.backlog()));
        }
    }

    /// Returns the state of somebody who knows the whole truth.
    fn truth(&self) -> State {
        let config = StateConfig {
            fleet: "sim".into(),
            trust: Trust::Declared,
            settings: self.fleet.settings.clone(),
            domains: BTreeMap::new(),
        };
        let mut state = State::new(config);
        let now = self.nodes[0].now(self.now);
        let mut change = Change::default();
        let mut set = |resource: Resource| change.merge(state.apply(Event::Set(SourceId("truth".into()), resource), now));
        for (c, cluster) in self.fleet.clusters.iter().enumerate() {
            if self.is_sound(c) {
                set(Resource::Grant(cluster.grant.clone()));
                cluster.facts.values().cloned().for_each(&mut set);
            }
        }
        fleet::fleet_policy(self.fleet.fleet_policy).into_iter().for_each(&mut set);
        state
    }

    /// Sends packets between workloads; what the truth allows arrives and is answered, and nothing else arrives.
    fn check_packets(&mut self) {
        let workloads = self.fleet.workloads();
        if workloads.is_empty() {
            return;
        }
        let truth = self.truth();
        let mut expected = Vec::new();
        let pairs = workloads.len() * workloads.len();
        let (first, stride) = (self.rng.place(pairs), pairs / PACKETS.min(pairs));
        for at in 0..PACKETS.min(pairs) {
            let pair = (first + at * stride.max(1)) % pairs;
            let (from, to) = (workloads[pair / workloads.len()], workloads[pair % workloads.len()]);
            let granted = self.is_granted(from.0) && self.is_granted(to.0);
            if from == to || (granted && !(self.is_sound(from.0) && self.is_sound(to.0))) {
                continue;
            }
            let (here, there) = (self.fleet.node_of(from.0, &from.2), self.fleet.node_of(to.0, &to.2));
            let rests = self.rests(from.2.address) || self.rests(to.2.address);
            let natted = here != there && self.is_hidden(here, there) || from.0 != to.0 && rests;
            let port = self.rng.below(3) as u32;
            let id = self.send(&from, &to, port, 0);
            let Some(sent) = self.sent.get(&id).copied() else { continue };
            let sides = [Direction::Egress, Direction::Ingress].map(|side| naive::decide(&truth, &sent.tuple, side));
            let allowed = granted && sides.iter().all(mesh_core::Verdict::is_allow);
            // What is hidden may arrive or not; what is denied may not.
            if !(allowed && natted) {
                expected.push((id, [from.0, to.0], granted, allowed, sides));
            }
            self.run_until(self.now + MS);
        }
        self.run_until(self.now + ANSWERED);
        for (id, clusters, granted, allowed, sides) in expected {
            let Some(sent) = self.sent.get(&id).copied() else { continue };
            // A grant ended or began while the packet was on its way.
            if clusters.into_iter().all(|cluster| self.is_granted(cluster)) != granted {
                continue;
            }
            let [egress, ingress] = sides;
            if allowed && !(sent.delivered && sent.answered) {
                let how = if sent.delivered { "not answered" } else { "not delivered" };
                return self.fail(Promise::Converged, format!("{} is {how}: {egress}; {ingress}", sent.tuple));
            }
            if !allowed && sent.delivered {
                return self.fail(Promise::Converged, format!("{} is delivered: {egress}; {ingress}", sent.tuple));
            }
            self.counts.converged += u64::from(allowed);
        }
    }

    /// Tells whether an address was given up so lately that whoever has it now may not be published there yet, by whatever clock.
    fn rests(&self, address: IpAddr) -> bool {
        // A publisher that starts withdraws what an earlier life of it said, and the rest begins then.
        let cluster = self.fleet.owner(address).map(|node| self.fleet.nodes[node].cluster);
        let publisher = cluster.map_or(0, |cluster| self.started_at[self.fleet.clusters[cluster].nodes[0]]);
        self.freed.get(&address).is_some_and(|at| self.now - (*at).max(publisher) < RESTED)
    }

    /// Tells whether two nodes cannot be expected to reach each other now: both are behind NATs; or one is, and only it can call
    /// the other, which it will do when it has heard nothing for a while. WireGuard itself has no answer to that.
    fn is_hidden(&self, a: usize, b: usize) -> bool {
        let since = |at: u64| self.now - at;
        match (self.nodes[a].spec.nat, self.nodes[b].spec.nat) {
            (false, false) => false,
            (true, true) => true,
            (nat, _) => {
                let (calls, called) = if nat { (a, b) } else { (b, a) };
                let dropped = self.nodes[called].live.as_ref().and_then(|live| live.dropped.get(&self.nodes[calls].spec.id));
                self.started_at[called] > 0 && since(self.started_at[called]) < CALLED
                    || dropped.is_some_and(|at| since(*at) < CALLED)
                    || self.rebound_at.is_some_and(|at| since(at) < CALLED)
            }
        }
    }

    /// What no node may do whatever is wrong: go back to something older than it has on its disk.
    pub(super) fn check_versions(&mut self) {
        for n in 0..self.nodes.len() {
            let now = self.nodes[n].now(self.now);
            let Some(live) = self.nodes[n].live.as_ref() else { continue };
            let older = live.known.versions().find_map(|((cluster, signer, key), newest)| {
                let grant = live.state.facts().grants.get(cluster).filter(|grant| grant.keys().any(|key| key == *signer))?;
                let held = live.state.record_version(&grant.cluster, key)?;
                (held < newest)
                    .then(|| format!("node {n} holds {cluster} {key} {held}, and was told {newest} before {}", now.wall))
            });
            if let Some(what) = older {
                return self.fail(Promise::Resurrected, what);
            }
        }
    }
}
