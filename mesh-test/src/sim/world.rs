//! The world of a run: virtual time, and everything that is in it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};

use mesh_core::{Bytes, FiveTuple};

use super::fleet::Fleet;
use super::network::Network;
use super::node::{SimNode, Start};
use super::rng::Rng;
use super::script::{Action, Script};
use super::store::{Path, Reader, Store, Tail, Verified};

/// A millisecond of the simulation.
pub const MS: u64 = 1_000_000;
/// A second of the simulation.
pub const SECOND: u64 = 1_000 * MS;

/// What is due.
#[derive(Debug)]
pub(super) enum Due {
    /// A datagram arrives: who sent it, from and to which address.
    Datagram { origin: usize, from: SocketAddr, to: SocketAddr, bytes: Box<[u8]> },
    /// A node reads its API.
    Api(usize),
    /// A reader reads.
    Read(usize),
    /// A node wakes.
    Wake(usize),
    /// A publisher writes what waits.
    Write(usize),
}

struct Entry {
    at: u64,
    number: u64,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, for a heap.
    fn cmp(&self, other: &Entry) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub promise: Promise,
    /// Milliseconds since the beginning.
    pub at: u64,
    /// What happened.
    pub what: String,
}

/// What is promised: the columns of the fault matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// No verdict differs from the model on the newest facts that reached the node.
    Verdict,
    /// Nothing is delivered that was not sent so by the node that speaks for its source.
    Authentic,
    /// Two seconds after the faults are over, everything that is allowed is delivered, and nothing else.
    Converged,
    /// A revocation is effective within five seconds wherever it can be heard.
    Revoked,
    /// What was superseded or ended is never believed again.
    Resurrected,
    /// Memory is bounded.
    Bounded,
}

impl Promise {
    /// Every promise.
    pub const ALL: [Promise; 6] =
        [Promise::Verdict, Promise::Authentic, Promise::Converged, Promise::Revoked, Promise::Resurrected, Promise::Bounded];

    /// Returns the column's title.
    pub fn title(self) -> &'static str {
        match self {
            Promise::Verdict => "no wrong verdict",
            Promise::Authentic => "nothing unauthenticated",
            Promise::Converged => "converged in 2 s",
            Promise::Revoked => "revoked in 5 s",
            Promise::Resurrected => "nothing resurrected",
            Promise::Bounded => "memory bounded",
        }
    }
}

/// A packet that was sent, until its run is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) tuple: FiveTuple,
    pub(super) delivered: bool,
    pub(super) answered: bool,
}

/// What was counted in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events of virtual time.
    pub events: u64,
    /// Packets that workloads sent.
    pub packets: u64,
    /// Packets that were delivered.
    pub delivered: u64,
    /// Comparisons of a node's whole state with the model.
    pub compared: u64,
    /// Times at which everything was quiet and looked at.
    pub quiet: u64,
    /// Packets that the truth allowed and that were delivered in quiet.
    pub converged: u64,
    /// What states refused.
    pub refused: u64,
}

/// One run.
pub struct World<'a> {
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) fleet: Fleet,
    pub(super) nodes: Vec<SimNode>,
    pub(super) stores: Vec<Store>,
    pub(super) tails: Vec<Tail>,
    pub(super) net: Network,
    pub(super) verified: &'a mut Verified,
    pub(super) sent: BTreeMap<u64, Sent>,
    pub(super) next_packet: u64,
    pub(super) counts: Counts,
    pub(super) violation: Option<Violation>,
    pub(super) trace: bool,
    /// Kinds of faults that happened.
    pub(super) faults: BTreeSet<Action>,
    /// Clusters whose key signed what their publisher did not.
    pub(super) tainted: BTreeSet<usize>,
    /// When each cluster was revoked.
    pub(super) revoked_at: BTreeMap<usize, u64>,
    /// Since when nothing is wrong; `None` while something is.
    pub(super) healthy_since: Option<u64>,
    /// What the root has signed, by place.
    pub(super) git: BTreeMap<Path, Bytes>,
    pub(super) serial: u64,
    pub(super) lives: Vec<u64>,
    /// When each node started last, and when the NATs last forgot.
    pub(super) started_at: Vec<u64>,
    pub(super) rebound_at: Option<u64>,
    /// Who has each address: cluster, slot, label; and when one was given up last.
    pub(super) holders: BTreeMap<IpAddr, (usize, usize, usize)>,
    pub(super) freed: BTreeMap<IpAddr, u64>,
    /// Datagrams that were sent, for replays.
    pub(super) seen: Vec<(SocketAddr, SocketAddr, Box<[u8]>)>,
    queue: BinaryHeap<Entry>,
    numbers: u64,
}

impl<'a> World<'a> {
    /// Makes the world of a script's beginning.
    pub fn new(script: &Script, verified: &'a mut Verified, trace: bool) -> World<'a> {
        let fleet = Fleet::new(&script.fleet);
        let nodes: Vec<SimNode> = fleet.nodes.iter().cloned().map(SimNode::new).collect();
        let clusters = fleet.clusters.len();
        let mut tails: Vec<Tail> =
            nodes.iter().enumerate().map(|(n, node)| Tail::new(node.spec.cluster, Reader::Node(n))).collect();
        for from in 0..clusters {
            tails.extend((0..clusters).filter(|to| *to != from).map(|to| Tail::new(from, Reader::Mirror(to))));
        }
        let mut world = World {
            now: 0,
            rng: Rng::new(script.seed),
            nodes,
            stores: (0..clusters).map(|_| Store { up: true, ..Store::default() }).collect(),
            tails,
            net: Network::default(),
            verified,
            sent: BTreeMap::new(),
            next_packet: 1,
            counts: Counts::default(),
            violation: None,
            trace,
            faults: BTreeSet::new(),
            tainted: BTreeSet::new(),
            revoked_at: BTreeMap::new(),
            healthy_since: Some(0),
            git: BTreeMap::new(),
            serial: 0,
            lives: vec![1; clusters],
            started_at: vec![0; fleet.nodes.len()],
            rebound_at: None,
            holders: BTreeMap::new(),
            freed: BTreeMap::new(),
            seen: Vec::new(),
            queue: BinaryHeap::new(),
            numbers: 0,
            fleet,
        };
        world.note_holders();
        for cluster in 0..clusters {
            world.sign_grant(cluster);
        }
        world.push_git();
        for node in 0..world.nodes.len() {
            world.start_node(node, Start::Empty);
        }
        world
    }

    /// Makes something due.
    pub(super) fn schedule(&mut self, at: u64, due: Due) {
        self.numbers += 1;
        self.queue.push(Entry { at: at.max(self.now), number: self.numbers, due });
    }

    /// Notes that a promise was broken, unless one was already.
    pub(super) fn fail(&mut self, promise: Promise, what: impl Into<String>) {
        if self.violation.is_none() {
            let what = what.into();
            self.say(|| format!("VIOLATION {promise:?}: {what}"));
            self.violation = Some(Violation { promise, at: self.now / MS, what });
        }
    }

    /// Tells what happens, where somebody looks.
    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.3} ms  {}", self.now as f64 / MS as f64, what());
        }
    }

    /// Lets everything happen until `until`, or until a promise is broken.
    pub(super) fn run_until(&mut self, until: u64) {
        while self.violation.is_none() && self.queue.peek().is_some_and(|entry| entry.at <= until) {
            let Some(entry) = self.queue.pop() else { break };
            self.now = self.now.max(entry.at);
            self.counts.events += 1;
            self.happen(entry.due);
        }
        self.now = self.now.max(until);
    }

    /// Lets a long time pass in which nothing is asked: nodes wake a few times in it only, each time for a second.
    pub(super) fn warp(&mut self, nanos: u64) {
        let end = self.now + nanos;
        while end - self.now > 60 * SECOND {
            self.run_until(self.now + SECOND);
            let jump = (end - self.now) / 2;
            // What was due meanwhile happens late, as after a machine's sleep.
            self.now += jump.max(30 * SECOND).min(end - self.now);
            if self.violation.is_some() {
                return;
            }
        }
        self.run_until(end);
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Datagram { origin, from, to, bytes } => self.arrive(origin, from, to, &bytes),
            Due::Api(node) => self.read_api(node),
            Due::Read(tail) => self.read_store(tail),
            Due::Write(node) => self.write_store(node),
            Due::Wake(node) => self.wake(node),
        }
    }

    /// Returns the number of things that are due.
    pub(super) fn backlog(&self) -> usize {
        self.queue.len()
    }
}

impl World<'_> {
    /// Returns what came of it.
    pub(super) fn finish(mut self) -> super::Outcome {
        let refused = |node: &SimNode| node.live.as_ref().map_or(0, |live| live.state.refusal_counts().values().sum::<u64>());
        self.counts.refused = self.nodes.iter().map(refused).sum();
        super::Outcome { violation: self.violation, counts: self.counts, faults: self.faults }
    }
}
