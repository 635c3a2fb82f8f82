//! One node: the crates that an agent is made of, without its threads, sockets and files.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_core::record::{Opened, RecordError};
use mesh_core::{
    Bytes, Change, Event, FlowRecord, Key, NodeId, Now, Publisher, RecordKey, Resource, SecretKey, SourceId, State, StateConfig,
    Time, Trust, WallTime,
};
use mesh_dataplane::{Actual, Op, Planner, Reconciler, Scope, ServiceTable, Tunnel, TunnelError};
use mesh_policy::Compiler;
use mesh_wireguard::batch::Output;
use mesh_wireguard::engine::Engine;

use super::fleet::{self, Fleet, NodeSpec};
use super::known::Known;
use super::session::{Clock, SimKey, SimSession};
use super::store::{Path, Verified};

/// The snapshots that a disk keeps, so that a node can be given an old one.
const SNAPSHOTS: usize = 4;
/// The steady clock when a simulation begins: nothing has happened at its zero.
const STEADY: u64 = 1_000_000_000;

/// A node: what survives a crash, and what does not.
pub struct SimNode {
    /// What it is.
    pub spec: NodeSpec,
    /// How far its wall clock is off, in nanoseconds.
    pub skew: i64,
    /// Running.
    pub live: Option<Box<Live>>,
    /// Its snapshots, newest last, each with what the model knew then.
    pub disk: VecDeque<(Vec<u8>, Then)>,
    /// What its publisher must remember.
    pub memory: Vec<u8>,
    clock: Clock,
}

/// What the model knew at a time: what was known at a start, and how much of what was told since.
#[derive(Clone)]
pub struct Then {
    start: Rc<Known>,
    told: Rc<RefCell<Vec<Arc<Opened>>>>,
    count: usize,
}

impl Then {
    fn new(known: &Known) -> Then {
        Then { start: Rc::new(known.clone()), told: Rc::default(), count: 0 }
    }

    fn known(&self) -> Known {
        let mut known = (*self.start).clone();
        self.told.borrow().iter().take(self.count).for_each(|opened| known.tell(opened));
        known.saved()
    }
}

/// A running agent.
pub struct Live {
    /// What it believes.
    pub state: State,
    /// What it was told.
    pub known: Known,
    then: Then,
    /// Its data plane.
    pub engine: Engine<SimSession>,
    /// What the engine has to say.
    pub out: Output,
    /// How much of its API's log it has read.
    pub told: usize,
    /// A plan was programmed since the start.
    pub programmed: bool,
    /// The publisher of its cluster.
    pub publisher: Option<Publishing>,
    /// When it wakes by itself next.
    pub wake: u64,
    /// When it let go of each peer last: of one behind a NAT it hears again only when that one calls.
    pub dropped: BTreeMap<NodeId, u64>,
    /// Nothing was compared with the model since the state changed.
    pub unchecked: bool,
    compiler: Compiler,
    planner: Planner,
    reconciler: Reconciler,
    actual: Actual,
    pending: Change,
    restored: bool,
    snapshot_due: bool,
    unpublished: bool,
}

/// A publisher, and what it stands behind.
pub struct Publishing {
    publisher: Publisher,
    /// The keys that it may sign with.
    keys: Vec<SecretKey>,
    /// What it signed last, by place.
    pub signed: BTreeMap<Path, Bytes>,
    /// What is not in the store yet.
    pub waiting: BTreeSet<Path>,
}

struct SimTunnel<'a> {
    engine: &'a mut Engine<SimSession>,
    out: &'a mut Output,
    actual: &'a mut Actual,
    dropped: &'a mut BTreeMap<NodeId, u64>,
    now: Now,
}

impl Tunnel for SimTunnel<'_> {
    fn observe(&mut self) -> Result<Actual, TunnelError> {
        Ok(self.actual.clone())
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<(usize, TunnelError)> {
        let mut failed = Vec::new();
        for (index, op) in ops.iter().enumerate() {
            if let Err(unknown) = self.engine.apply(op, self.now, self.out) {
                failed.push((index, TunnelError::UnknownPeer(unknown.0)));
                continue;
            }
            let actual = &mut *self.actual;
            match op.clone() {
                Op::SetPolicy(policy) => actual.policy = Some(policy.fingerprint()),
                Op::SetServices(services) => actual.services = Some(services),
                Op::SetLocal(local) => actual.local = Some(local),
                Op::SetGuarded(guarded) => actual.guarded = guarded,
                Op::SetPeer(node, peer) => {
                    actual.peers.insert(node, peer);
                }
                Op::SetRoute(prefix, node) => {
                    actual.routes.insert(prefix, node);
                }
                Op::DelRoute(prefix) => {
                    actual.routes.remove(&prefix);
                }
                Op::DelPeer(node) => {
                    self.dropped.insert(node.clone(), self.now.time.as_nanos() - STEADY);
                    actual.peers.remove(&node);
                    actual.routes.retain(|_, to| *to != node);
                }
            }
        }
        failed
    }

    fn poll_flow(&mut self) -> Option<FlowRecord> {
        self.engine.poll_flow()
    }
}

/// A publisher's life: a fencing token, and the keys that it signs with.
pub struct Life {
    /// Never used before.
    pub incarnation: u64,
    /// The cluster's key.
    pub key: SecretKey,
    /// The key that it goes on with.
    pub next_key: Option<SecretKey>,
}

/// How a node starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With its last snapshot.
    Last,
    /// With the oldest one that its disk has.
    Old,
    /// With none.
    Empty,
    /// With one that the disk damaged.
    Damaged,
}

fn manifests() -> SourceId {
    SourceId("manifests".into())
}

fn inbox() -> SourceId {
    SourceId("inbox".into())
}

/// The source of signed records.
pub fn store() -> SourceId {
    SourceId("store".into())
}

impl SimNode {
    /// Makes a node that does not run.
    pub fn new(spec: NodeSpec) -> SimNode {
        SimNode { spec, skew: 0, live: None, disk: VecDeque::new(), memory: Vec::new(), clock: Arc::new(AtomicU64::new(0)) }
    }

    /// Returns what the node's clocks say.
    pub fn now(&self, at: u64) -> Now {
        let wall = (fleet::DAWN * 1_000_000_000 + at).saturating_add_signed(self.skew);
        Now { time: Time::from_nanos(STEADY + at), wall: WallTime::from_unix_nanos(wall) }
    }

    /// Crashes: what is not on its disk is lost.
    pub fn crash(&mut self) {
        self.live = None;
    }

    /// Starts.
    ///
    /// # Errors
    /// Returns an error where a good snapshot of its own is not taken, or a damaged one is.
    pub fn start(&mut self, world: (&Fleet, &mut Verified), how: Start, life: Option<Life>, at: u64) -> Result<(), String> {
        let (fleet, verified) = world;
        let now = self.now(at);
        self.clock.store(now.time.as_nanos(), Ordering::Relaxed);
        let trust = Trust::Signed { root: fleet::root_key_public(), cluster: self.spec.id.cluster.clone() };
        let config = StateConfig { fleet: "sim".into(), trust, settings: fleet.settings.clone(), domains: BTreeMap::new() };
        let mut state = State::new(config);
        let mut known = Known::default();
        let mut pending = Change::default();
        let saved = match how {
            Start::Last | Start::Damaged => self.disk.back(),
            Start::Old => self.disk.front(),
            Start::Empty => None,
        };
        let mut restored = false;
        match (saved, how) {
            (Some((bytes, _)), Start::Damaged) => {
                let mut bytes = bytes.clone();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x10;
                if state.restore(&bytes, now).is_ok() {
                    return Err("a damaged snapshot was taken".into());
                }
            }
            (Some((bytes, then)), _) => {
                let mut open = |bytes: &Bytes| verified.open(bytes).ok_or(RecordError::Form("no record".into()));
                let taken = state.restore_with(bytes, now, &mut open);
                pending = taken.map_err(|error| format!("its own snapshot was not taken: {error}"))?;
                known = then.known();
                restored = true;
            }
            (None, _) => {}
        }
        let publisher = life.map(|Life { incarnation, key, next_key }| {
            let (cluster, root) = (self.spec.id.cluster.clone(), fleet::root_key_public());
            let keys = [&key].into_iter().chain(&next_key).cloned().collect();
            let restored = Publisher::restore(cluster.clone(), key.clone(), root, incarnation, &self.memory);
            let mut publisher = restored.unwrap_or_else(|_| Publisher::new(cluster, key, root, incarnation));
            next_key.into_iter().for_each(|key| publisher.set_next_key(key));
            Publishing { publisher, keys, signed: BTreeMap::new(), waiting: BTreeSet::new() }
        });
        self.live = Some(Box::new(Live {
            state,
            then: Then::new(&known),
            known,
            engine: Engine::new(SimKey::new(self.spec.key, self.clock.clone())),
            out: Output::new(),
            told: 0,
            programmed: false,
            publisher,
            wake: 0,
            dropped: BTreeMap::new(),
            unchecked: true,
            compiler: Compiler::new(),
            planner: Planner::new(self.spec.id.clone(), Scope::Node),
            reconciler: Reconciler::new(),
            actual: Actual::default(),
            pending,
            restored,
            snapshot_due: false,
            unpublished: true,
        }));
        Ok(())
    }

    /// Sets the clock of its sessions.
    pub fn tick(&self, at: u64) -> Now {
        let now = self.now(at);
        self.clock.store(now.time.as_nanos(), Ordering::Relaxed);
        now
    }

    /// Puts the last known state on the disk where it changed.
    pub fn save(&mut self) {
        let Some(live) = self.live.as_mut().filter(|live| live.snapshot_due) else { return };
        live.snapshot_due = false;
        if self.disk.len() >= SNAPSHOTS {
            self.disk.pop_front();
        }
        self.disk.push_back((live.state.snapshot(), live.then.clone()));
    }

    /// Signs what changed; what it must remember is on the disk first. Returns whether something waits for the store.
    pub fn publish(&mut self, cluster: usize, now: Now, verified: &mut Verified) -> bool {
        let Some(live) = self.live.as_mut() else { return false };
        let Some(publishing) = &mut live.publisher else { return false };
        let due = std::mem::take(&mut live.unpublished) || publishing.publisher.poll_timeout() <= now.time;
        if due {
            let records = publishing.publisher.update(&live.state, now);
            if !records.is_empty() {
                self.memory = publishing.publisher.save();
            }
            for (key, bytes) in records {
                let path = path_of(cluster, &key);
                verified.signed(&bytes, &publishing.keys);
                publishing.signed.insert(path.clone(), bytes);
                publishing.waiting.insert(path);
            }
        }
        !publishing.waiting.is_empty()
    }
}

/// Returns where a record of a cluster lies.
pub fn path_of(cluster: usize, key: &RecordKey) -> Path {
    Path::new(Some(cluster), key.to_string())
}

impl Publishing {
    /// Gives the publisher the key that it goes on with.
    pub fn set_next_key(&mut self, key: SecretKey) {
        self.keys.push(key.clone());
        self.publisher.set_next_key(key);
    }
}

impl Live {
    /// Tells the state an event.
    pub fn apply(&mut self, event: Event, now: Now) {
        let signed = matches!(event, Event::Record(_) | Event::Opened(_));
        let change = self.state.apply(event, now);
        self.take(change, signed);
    }

    /// Notes what the time is, whatever is due.
    pub fn look_at_clock(&mut self, now: Now) {
        let change = self.state.handle_timeout(now);
        self.take(change, true);
    }

    fn take(&mut self, change: Change, signed: bool) {
        self.unpublished = true;
        self.snapshot_due |= signed && !change.dirty.is_empty();
        self.unchecked = true;
        if let Some(publishing) = &mut self.publisher {
            publishing.publisher.note(&change);
        }
        self.pending.dirty.extend(change.dirty);
    }

    /// Tells a record that was verified, to the state and to the model.
    pub fn tell(&mut self, opened: &Arc<Opened>, now: Now) {
        self.known.tell(opened);
        self.then.told.borrow_mut().push(opened.clone());
        self.then.count += 1;
        self.apply(Event::Opened(opened.clone()), now);
    }

    /// Reads what its API says since it was last asked; at first everything, of two sources.
    pub fn read_api(&mut self, facts: &BTreeMap<Key, Resource>, log: &[(Key, Option<Resource>)], now: Now) {
        let source = |key: &Key| if matches!(key, Key::NodeLink(_)) { inbox() } else { manifests() };
        if self.told == usize::MAX {
            return;
        }
        if !self.state.is_synced(&manifests()) {
            self.known.plain.clone_from(facts);
            for id in [manifests(), inbox()] {
                self.apply(Event::Begin(id.clone()), now);
                for (_, resource) in facts.iter().filter(|(key, _)| source(key) == id) {
                    self.apply(Event::Set(id.clone(), resource.clone()), now);
                }
                self.apply(Event::Synced(id), now);
            }
        } else {
            for (key, resource) in &log[self.told.min(log.len())..] {
                match resource {
                    Some(resource) => {
                        self.known.plain.insert(key.clone(), resource.clone());
                        self.apply(Event::Set(source(key), resource.clone()), now);
                    }
                    None => {
                        self.known.plain.remove(key);
                        self.apply(Event::Unset(source(key), key.clone()), now);
                    }
                }
            }
        }
        self.told = log.len();
    }

    /// Derives everything from what is believed now, and programs it.
    ///
    /// # Errors
    /// Returns the steps that failed: none may.
    pub fn converge(&mut self, now: Now) -> Result<(), String> {
        if self.state.poll_timeout().is_some_and(|due| due <= now.time) {
            let change = self.state.handle_timeout(now);
            self.take(change, true);
        }
        let synced = |id: SourceId| self.state.is_synced(&id);
        if !(self.programmed || synced(manifests()) && synced(inbox()) && (synced(store()) || self.restored)) {
            return Ok(());
        }
        let due = self.reconciler.poll_timeout().is_some_and(|due| due <= now.time);
        if self.pending.dirty.is_empty() && self.programmed && !due {
            return Ok(());
        }
        let change = std::mem::take(&mut self.pending);
        let policy = self.compiler.update(&self.state, &change).clone();
        let plan = self.planner.update(&self.state, &change, &policy, Arc::<ServiceTable>::default());
        let Live { engine, out, actual, dropped, .. } = self;
        let mut tunnel = SimTunnel { engine, out, actual, dropped, now };
        self.reconciler.run(&plan, &mut tunnel, now.time).map_err(|errors| format!("steps failed: {errors:?}"))?;
        self.programmed = true;
        Ok(())
    }

    /// Returns when something is due by itself, in nanoseconds of the simulation.
    pub fn due(&self, at: u64) -> u64 {
        // A lease that could not be signed waits for a grant, which is news.
        let lease = self.publisher.as_ref().map(|publishing| publishing.publisher.poll_timeout());
        let publisher = lease.filter(|due| due.as_nanos() > STEADY + at);
        let times = [self.state.poll_timeout(), self.engine.poll_timeout(), self.reconciler.poll_timeout(), publisher];
        times.into_iter().flatten().min().map_or(u64::MAX, |due| due.as_nanos().saturating_sub(STEADY))
    }
}
