//! What happens by itself: nodes read, derive, publish; mirrors copy; datagrams arrive.

use std::net::SocketAddr;

use mesh_core::{Bytes, Event};

use super::node::{Life, Start, store};
use super::store::{Path, Reader};
use super::world::{Due, MS, Promise, SECOND, World};

/// How soon a reader, a mirror or a publisher tries again where something does not answer.
const RETRY: u64 = 400 * MS;
/// Of the records that come twice, one of so many is verified twice.
const BYTES: u64 = 8;
/// The datagrams that are kept for replays.
const MAX_SEEN: usize = 64;

impl World<'_> {
    /// Starts a node; it reads everything that it can reach.
    pub(super) fn start_node(&mut self, n: usize, how: Start) {
        let cluster = self.nodes[n].spec.cluster;
        let publishes = self.fleet.clusters[cluster].nodes[0] == n;
        // Seconds of a clock that nobody turns back: never used twice.
        let own = &self.fleet.clusters[cluster];
        let (key, next_key) = (own.key.clone(), own.next_key.clone());
        let life = publishes.then(|| Life { incarnation: 1 + self.now / MS, key, next_key });
        let started = self.nodes[n].start((&self.fleet, self.verified), how, life, self.now);
        if let Err(what) = started {
            return self.fail(Promise::Verdict, format!("node {n}: {what}"));
        }
        self.started_at[n] = self.now;
        self.say(|| format!("node {n} starts ({how:?})"));
        let delay = self.rng.between(MS, 20 * MS);
        self.schedule(self.now + delay, Due::Api(n));
        let tail = n;
        self.tails[tail].all = true;
        self.wake_tail(tail);
        self.plan_wake(n);
    }

    /// Sets a node's wall clock; an agent looks at its clock several times a second, so that it is noticed at once.
    pub(super) fn set_clock(&mut self, n: usize, skew: i64) {
        if std::mem::replace(&mut self.nodes[n].skew, skew) == skew {
            return;
        }
        let now = self.nodes[n].now(self.now);
        if let Some(live) = self.nodes[n].live.as_mut() {
            live.look_at_clock(now);
            self.settle(n);
        }
    }

    /// Has a node's clock wake it when something is due.
    pub(super) fn plan_wake(&mut self, n: usize) {
        let now = self.now;
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        let due = live.due(now).max(now + MS);
        // An earlier waking looks at what is due then.
        if due == u64::MAX || live.wake > now && live.wake <= due {
            return;
        }
        live.wake = due;
        self.schedule(due, Due::Wake(n));
    }

    pub(super) fn wake(&mut self, n: usize) {
        let now = self.nodes[n].tick(self.now);
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        if live.wake > self.now {
            return;
        }
        live.wake = 0;
        if live.engine.poll_timeout().is_some_and(|due| due <= now.time) {
            live.engine.handle_timeout(now, &mut live.out);
        }
        while live.engine.poll_flow().is_some() {}
        while live.engine.poll_want().is_some() {}
        self.settle(n);
    }

    /// Derives, programs, publishes and sends what follows from what a node was told.
    pub(super) fn settle(&mut self, n: usize) {
        let now = self.nodes[n].tick(self.now);
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        if let Err(what) = live.converge(now) {
            self.fail(Promise::Verdict, format!("node {n}: {what}"));
        }
        self.flush(n);
        let cluster = self.nodes[n].spec.cluster;
        if self.nodes[n].publish(cluster, now, self.verified) {
            self.write_store(n);
        }
        self.nodes[n].save();
        self.plan_wake(n);
    }

    pub(super) fn read_api(&mut self, n: usize) {
        let now = self.nodes[n].tick(self.now);
        let cluster = &self.fleet.clusters[self.nodes[n].spec.cluster];
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        live.read_api(&cluster.facts, &cluster.log, now);
        self.settle(n);
    }

    /// Has the nodes of a cluster hear soon of what changed in its API.
    pub(super) fn tell_api(&mut self, cluster: usize) {
        for at in 0..self.fleet.clusters[cluster].nodes.len() {
            let node = self.fleet.clusters[cluster].nodes[at];
            let delay = self.rng.between(MS, 30 * MS);
            self.schedule(self.now + delay, Due::Api(node));
        }
    }

    /// Puts a record into a store; its readers hear of it soon.
    pub(super) fn put(&mut self, store: usize, path: &Path, bytes: &Bytes) {
        if self.stores[store].put(path, bytes) {
            self.changed(store, path);
        }
    }

    pub(super) fn changed(&mut self, store: usize, path: &Path) {
        for tail in 0..self.tails.len() {
            if self.tails[tail].from == store {
                self.tails[tail].pending.insert(path.clone());
                self.wake_tail(tail);
            }
        }
    }

    pub(super) fn wake_tail(&mut self, tail: usize) {
        if !std::mem::replace(&mut self.tails[tail].scheduled, true) {
            let delay = self.rng.between(2 * MS, 40 * MS);
            self.schedule(self.now + delay, Due::Read(tail));
        }
    }

    pub(super) fn read_store(&mut self, t: usize) {
        self.tails[t].scheduled = false;
        let (from, to) = (self.tails[t].from, self.tails[t].to);
        let reachable = match to {
            // A reader that is gone begins anew when it is back.
            Reader::Node(n) if self.nodes[n].live.is_none() => return,
            Reader::Node(_) => true,
            Reader::Mirror(other) => self.net.passes(from, other) && self.stores[other].up,
        };
        if !reachable || !self.stores[from].up {
            self.tails[t].scheduled = true;
            return self.schedule(self.now + RETRY, Due::Read(t));
        }
        let all = std::mem::take(&mut self.tails[t].all);
        let mut paths: Vec<Path> = if all {
            self.tails[t].pending.clear();
            self.stores[from].records.keys().cloned().collect()
        } else {
            std::mem::take(&mut self.tails[t].pending).into_iter().collect()
        };
        // Nobody promises an order.
        for at in (1..paths.len()).rev() {
            paths.swap(at, self.rng.place(at + 1));
        }
        match to {
            Reader::Node(n) => self.read_as_node(n, from, &paths, all),
            Reader::Mirror(other) => self.copy(t, from, other, paths),
        }
    }

    fn read_as_node(&mut self, n: usize, from: usize, paths: &[Path], all: bool) {
        let now = self.nodes[n].tick(self.now);
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        if all {
            live.apply(Event::Begin(store()), now);
        }
        for path in paths {
            let Some(bytes) = self.stores[from].records.get(path) else { continue };
            match self.verified.open(bytes) {
                Some(opened) => live.tell(&opened, now),
                None => live.apply(Event::Record(bytes.clone()), now),
            }
            // Some come twice; of these some as bytes, which are verified again.
            if self.rng.chance(3) {
                match self.verified.open(bytes).filter(|_| !self.counts.events.is_multiple_of(BYTES)) {
                    Some(opened) => live.apply(Event::Opened(opened), now),
                    None => live.apply(Event::Record(bytes.clone()), now),
                }
            }
        }
        if all {
            live.apply(Event::Synced(store()), now);
        }
        // A publisher puts right what others did to its records.
        if let Some(publishing) = &mut live.publisher {
            for path in paths {
                let stored = self.stores[from].records.get(path);
                if publishing.signed.get(path).is_some_and(|signed| stored != Some(signed)) {
                    publishing.waiting.insert(path.clone());
                }
            }
            let wiped = |path: &&Path| !self.stores[from].records.contains_key(*path);
            if all {
                let missing: Vec<Path> = publishing.signed.keys().filter(wiped).cloned().collect();
                publishing.waiting.extend(missing);
            }
        }
        self.settle(n);
    }

    /// Copies as a mirror does, well or badly.
    fn copy(&mut self, t: usize, from: usize, to: usize, paths: Vec<Path>) {
        let mode = self.tails[t].mode % 4;
        for path in paths {
            let target = match path.of {
                // A copy of a copy would get a longer name on every round.
                None if path.name.contains('~') => continue,
                None => Path::new(None, format!("{}~{from}", path.name)),
                Some(cluster) if cluster == from => path.clone(),
                Some(_) => continue,
            };
            let Some(bytes) = self.stores[from].records.get(&path).cloned() else { continue };
            let bytes = match mode {
                1 if self.rng.chance(60) => {
                    self.tails[t].withheld.insert(path);
                    continue;
                }
                2 => match self.stores[from].history.iter().rev().find(|(old, _)| *old == path) {
                    Some((_, old)) if self.rng.chance(60) => {
                        self.tails[t].withheld.insert(path);
                        old.clone()
                    }
                    _ => bytes,
                },
                3 if self.rng.chance(60) => {
                    let mut edited = bytes.to_vec();
                    let at = self.rng.place(edited.len());
                    edited[at] ^= 1 << self.rng.below(8);
                    self.tails[t].withheld.insert(path);
                    edited.into()
                }
                _ => bytes,
            };
            self.put(to, &target, &bytes);
        }
    }

    pub(super) fn write_store(&mut self, n: usize) {
        let cluster = self.nodes[n].spec.cluster;
        let Some(publishing) = self.nodes[n].live.as_mut().and_then(|live| live.publisher.as_mut()) else { return };
        if publishing.waiting.is_empty() {
            return;
        }
        if !self.stores[cluster].up {
            return self.schedule(self.now + RETRY, Due::Write(n));
        }
        let waiting = std::mem::take(&mut publishing.waiting);
        let records: Vec<(Path, Bytes)> =
            waiting.into_iter().filter_map(|path| Some((path.clone(), publishing.signed.get(&path)?.clone()))).collect();
        for (path, bytes) in records {
            self.put(cluster, &path, &bytes);
        }
    }

    /// Sends what a node's engine has to say, and delivers what came out of it.
    pub(super) fn flush(&mut self, n: usize) {
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        if live.out.datagrams.is_empty() && live.out.packets.is_empty() {
            return;
        }
        let datagrams: Vec<(SocketAddr, Box<[u8]>)> =
            live.out.datagrams.iter().map(|(to, bytes)| (to, Box::from(bytes))).collect();
        let packets: Vec<Vec<u8>> = live.out.packets.iter().map(<[u8]>::to_vec).collect();
        live.out.clear();
        for (to, bytes) in datagrams {
            self.leave(n, to, &bytes);
        }
        for packet in packets {
            // Local, or held when it came and released now.
            self.deliver(None, n, &packet);
        }
    }

    fn leave(&mut self, n: usize, to: SocketAddr, bytes: &[u8]) {
        let spec = &self.nodes[n].spec;
        let own = spec.address;
        let Some(far) = self.nodes.iter().position(|node| node.spec.address.ip() == to.ip()) else { return };
        let from = if spec.nat { self.net.leave(n, own, to, self.now) } else { own };
        let (here, there) = (spec.cluster, self.nodes[far].spec.cluster);
        if !self.net.passes(here, there) {
            return;
        }
        if self.seen.len() < MAX_SEEN {
            self.seen.push((from, to, bytes.into()));
        } else {
            let place = self.rng.place(MAX_SEEN * 4);
            if let Some(seen) = self.seen.get_mut(place) {
                *seen = (from, to, bytes.into());
            }
        }
        for way in self.net.ways(self.now, (n, far), bytes.len(), &mut self.rng) {
            self.schedule(way.at, Due::Datagram { origin: n, from, to, bytes: bytes.into() });
        }
    }

    pub(super) fn arrive(&mut self, origin: usize, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let Some(n) = self.nodes.iter().position(|node| node.spec.address.ip() == to.ip()) else { return };
        let spec = &self.nodes[n].spec;
        let enters = if spec.nat { self.net.enters(n, to.port(), from, self.now) } else { to == spec.address };
        if !enters {
            return;
        }
        let now = self.nodes[n].tick(self.now);
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        let mut datagrams = mesh_wireguard::batch::Datagrams::new();
        datagrams.push(from, bytes);
        live.engine.handle_udp(&datagrams, now, &mut live.out);
        if self.trace {
            let (index, refused) =
                (u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]), live.engine.stats().engine.refused);
            println!(
                "{:>12.3} ms    {origin} -> {n}: kind {} index {index:x}, {refused:?}",
                self.now as f64 / MS as f64,
                bytes[0]
            );
        }
        let packets: Vec<Vec<u8>> = live.out.packets.iter().map(<[u8]>::to_vec).collect();
        live.out.packets.clear();
        for packet in packets {
            self.deliver(Some(origin), n, &packet);
        }
        self.flush(n);
    }

    /// Puts what the root has signed where a person who has it in git would: into every store that answers.
    pub(super) fn push_git(&mut self) {
        let records: Vec<(Path, Bytes)> = self.git.iter().map(|(path, bytes)| (path.clone(), bytes.clone())).collect();
        for store in 0..self.stores.len() {
            if self.stores[store].up {
                for (path, bytes) in &records {
                    self.put(store, path, bytes);
                }
            }
        }
    }

    /// Compares what a node believes with what the model says that it must.
    pub(super) fn compare(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let now = node.now(self.now);
        let own = node.spec.id.cluster.clone();
        let Some(live) = node.live.as_mut().filter(|live| live.unchecked) else { return };
        if live.state.poll_timeout().is_some_and(|due| due <= now.time) {
            return;
        }
        live.unchecked = false;
        self.counts.compared += 1;
        if let Some(what) = super::known::difference(&live.state, &live.known, &own, now.wall) {
            self.fail(Promise::Verdict, format!("node {n} ({own}): {what}"));
        }
    }

    /// Returns the latest moment since which nothing is wrong, where nothing is.
    pub(super) fn note_health(&mut self) {
        let faulty = self.net.is_faulty()
            || self.stores.iter().any(|store| !store.up)
            || self.tails.iter().any(|tail| tail.mode % 4 != 0)
            || self.nodes.iter().any(|node| node.live.is_none() || node.skew != 0);
        match (faulty, self.healthy_since) {
            (true, _) => self.healthy_since = None,
            (false, None) => self.healthy_since = Some(self.now),
            (false, Some(_)) => {}
        }
    }
}

/// How long after the faults are over a revocation must be effective everywhere.
pub(super) const REVOKED: u64 = 5 * SECOND;
