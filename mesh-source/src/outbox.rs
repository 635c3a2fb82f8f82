//! What a publisher has signed, kept in a store: under a claim, and again whenever the store says something else.
//!
//! ```text
//!   claim ──> Won { incarnation, what is there } ──> the publisher signs ──> put ──> store
//!     ▲                                                                       ▲        │ follow
//!     └── Lost <── the lease is over, or somebody signed newer records        └─ heal ─┤
//!                                                                Found <── foreign ────┘
//! ```
//!
//! A store that was wiped, edited or restored from an old backup has what was signed again as soon as that is seen. What is there
//! and was not signed in this life is for the publisher to judge, by what it signs next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_core::{Bytes, ClusterName, PublicKey, SourceId, Statement, record};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::diagnostics::Reporter;
use crate::store::Following;
use crate::{Claim, ClaimError, Diagnostics, Interest, RecordPath, Store, StoreError, Told};

/// How often a claim that somebody else holds is tried, and what could not be put.
const RETRY: Duration = Duration::from_secs(1);
/// How often the claim is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Puts under way at once.
const AT_ONCE: usize = 16;

/// Who publishes what.
#[derive(Clone, Debug)]
pub struct OutboxConfig {
    /// The cluster.
    pub cluster: ClusterName,
    /// The keys that may sign its records.
    pub signers: Vec<PublicKey>,
    /// What the holder of the claim calls itself, for people.
    pub holder: String,
    /// The lowest incarnation that was never used.
    pub floor: u64,
}

/// What a publisher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboxEvent {
    /// The claim was won: everything is to be signed with this incarnation.
    Won {
        /// Higher than every one before, that of the records in the store and the clock's seconds.
        incarnation: u64,
        /// What the store holds of the cluster.
        found: Vec<Bytes>,
    },
    /// The claim was lost: nothing is to be signed with its incarnation any more.
    Lost,
    /// The store holds something under a path at which nothing was put in this life.
    Found(Bytes),
}

/// A publisher's end of a store. Dropping it gives the claim back.
#[derive(Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
    events: mpsc::UnboundedReceiver<OutboxEvent>,
    diagnostics: watch::Receiver<Diagnostics>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    signed: Mutex<Signed>,
    changed: Notify,
}

/// What was signed in the life of one claim.
#[derive(Debug, Default)]
struct Signed {
    incarnation: u64,
    records: BTreeMap<RecordPath, Bytes>,
    /// Not looked at yet.
    new: BTreeSet<RecordPath>,
    resigned: bool,
}

impl Outbox {
    /// Begins to try for the claim.
    ///
    /// # Panics
    /// Panics outside of a tokio runtime.
    pub fn start(store: Arc<dyn Store>, config: OutboxConfig) -> Outbox {
        let reporter = Reporter::new(&SourceId(format!("publisher of {}", config.cluster).into()));
        let (diagnostics, shared) = (reporter.subscribe(), Arc::<Shared>::default());
        let (sender, events) = mpsc::unbounded_channel();
        let worker = Worker {
            following: store.follow(Interest::cluster(&config.cluster).fixed()),
            store,
            floor: config.floor,
            config,
            shared: shared.clone(),
            events: sender,
            reporter,
            there: BTreeMap::new(),
            synced: false,
            newest: 0,
            waiting: BTreeSet::new(),
            reading: Vec::new(),
            writing: None,
        };
        let task = tokio::spawn(async move {
            let _ = worker.run().await;
        });
        Outbox { shared, events, diagnostics, task }
    }

    /// Returns what has happened, if something has.
    pub fn poll(&mut self) -> Option<OutboxEvent> {
        self.events.try_recv().ok()
    }

    /// Returns what happens next; `None` when the runtime ends. Cancel-safe.
    pub async fn next(&mut self) -> Option<OutboxEvent> {
        self.events.recv().await
    }

    /// Tells whether something has happened that was not taken yet.
    pub fn is_due(&self) -> bool {
        !self.events.is_empty()
    }

    /// Puts records that were signed with `incarnation`, and keeps them in the store; where its claim is lost, they are dropped.
    pub fn put(&self, incarnation: u64, records: impl IntoIterator<Item = (RecordPath, Bytes)>) {
        let mut signed = self.shared.signed();
        if signed.incarnation != incarnation {
            return;
        }
        for (path, bytes) in records {
            signed.new.insert(path.clone());
            signed.records.insert(path, bytes);
        }
        drop(signed);
        self.shared.changed.notify_one();
    }

    /// Gives the claim back, to try for it again later: another publisher may do what this one cannot.
    pub fn resign(&self) {
        self.shared.signed().resigned = true;
    }

    /// Returns what is wrong now, kept up to date; synced when all that was signed is in the store.
    pub fn diagnostics(&self) -> watch::Receiver<Diagnostics> {
        self.diagnostics.clone()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn signed(&self) -> MutexGuard<'_, Signed> {
        self.signed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    store: Arc<dyn Store>,
    config: OutboxConfig,
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<OutboxEvent>,
    reporter: Reporter,
    following: Following,
    /// What is in the store.
    there: BTreeMap<RecordPath, Bytes>,
    synced: bool,
    floor: u64,
    /// The newest incarnation that a key of the cluster signed and the store holds.
    newest: u64,
    /// Where the store may hold something else than what was signed.
    waiting: BTreeSet<RecordPath>,
    /// What is wrong with reading and with writing.
    reading: Vec<String>,
    writing: Option<String>,
}

/// The runtime has ended.
struct Ended;

impl Worker {
    async fn run(mut self) -> Result<(), Ended> {
        loop {
            let claim = Arc::new(self.win().await?);
            tracing::info!(cluster = %self.config.cluster, incarnation = claim.incarnation(), "the claim is won: publishing");
            self.hold(&claim).await?;
            tracing::warn!(cluster = %self.config.cluster, "the claim is lost: not publishing");
            *self.shared.signed() = Signed::default();
            let _ = self.events.send(OutboxEvent::Lost);
        }
    }

    /// Tries for the claim until it is won, with an incarnation above everything in the store.
    async fn win(&mut self) -> Result<Claim, Ended> {
        loop {
            let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let floor = self.floor.max(self.newest.saturating_add(1)).max(clock);
            self.writing = None;
            match self.store.claim(&self.config.cluster, &self.config.holder, floor).await {
                Ok(claim) => {
                    self.floor = claim.incarnation().saturating_add(1);
                    while !self.synced && claim.is_held() {
                        self.wait(LOOK).await?;
                    }
                    if self.newest < claim.incarnation() && claim.is_held() {
                        return Ok(claim);
                    }
                }
                Err(ClaimError::Held { holder, .. }) => {
                    tracing::debug!(cluster = %self.config.cluster, holder, "standing by: somebody else publishes");
                }
                Err(ClaimError::Store(error)) => self.writing = Some(error.to_string()),
            }
            self.report();
            let end = Instant::now() + RETRY;
            while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                self.wait(left).await?;
            }
        }
    }

    /// Takes what the store tells, once, or nothing within `limit`.
    async fn wait(&mut self, limit: Duration) -> Result<(), Ended> {
        tokio::select! {
            told = self.following.next() => {
                self.take(told.ok_or(Ended)?);
            }
            () = sleep(limit) => {}
        }
        Ok(())
    }

    /// Keeps what is signed in the store, until the claim is lost.
    async fn hold(&mut self, claim: &Arc<Claim>) -> Result<(), Ended> {
        let incarnation = claim.incarnation();
        *self.shared.signed() = Signed { incarnation, ..Signed::default() };
        self.waiting.clear();
        let won = OutboxEvent::Won { incarnation, found: self.there.values().cloned().collect() };
        self.events.send(won).map_err(|_| Ended)?;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retry = None;
        loop {
            tokio::select! {
                told = self.following.next() => {
                    if let Some(found) = self.take(told.ok_or(Ended)?) {
                        self.events.send(OutboxEvent::Found(found)).map_err(|_| Ended)?;
                    }
                }
                () = self.shared.changed.notified() => {}
                _ = look.tick() => {}
            }
            if !claim.is_held() || self.newest > incarnation || self.shared.signed().resigned {
                return Ok(());
            }
            let new = std::mem::take(&mut self.shared.signed().new);
            self.waiting.extend(new);
            if retry.is_none_or(|at| at <= Instant::now()) {
                retry = None;
                match self.flush(claim).await {
                    Ok(()) => self.writing = None,
                    Err(StoreError::ClaimLost { .. }) => return Ok(()),
                    Err(error) => {
                        self.writing = Some(format!("{error}; trying again"));
                        retry = Some(Instant::now() + RETRY);
                    }
                }
            }
            self.report();
        }
    }

    /// Puts what the store does not hold as it was signed.
    async fn flush(&mut self, claim: &Arc<Claim>) -> Result<(), StoreError> {
        let differs = |path: &RecordPath| {
            let signed = self.shared.signed().records.get(path).cloned();
            signed.filter(|signed| self.there.get(path) != Some(signed)).map(|signed| (path.clone(), signed))
        };
        let mut differing: Vec<_> = self.waiting.iter().filter_map(differs).collect();
        self.waiting.clear();
        while !differing.is_empty() {
            let mut puts = JoinSet::new();
            for (path, bytes) in differing.drain(..differing.len().min(AT_ONCE)) {
                let (store, claim) = (self.store.clone(), claim.clone());
                puts.spawn(async move {
                    let put = store.put(&path, bytes.clone(), Some(&*claim)).await;
                    (path, bytes, put)
                });
            }
            let mut failed = None;
            while let Some(done) = puts.join_next().await {
                let Ok((path, bytes, put)) = done else { continue };
                match put {
                    Ok(()) => {
                        self.there.insert(path, bytes);
                    }
                    Err(error) => {
                        self.waiting.insert(path);
                        failed = Some(error);
                    }
                }
            }
            if let Some(error) = failed {
                self.waiting.extend(differing.into_iter().map(|(path, _)| path));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes what the store tells; returns a record that was not put in this life.
    fn take(&mut self, told: Told) -> Option<Bytes> {
        match told {
            Told::Begin => {}
            Told::Record(path, bytes) => {
                let signed = self.shared.signed().records.get(&path).cloned();
                if signed.as_ref() != Some(&bytes) {
                    self.newest = self.newest.max(self.incarnation_of(&bytes));
                    self.waiting.insert(path.clone());
                }
                self.there.insert(path, bytes.clone());
                return signed.is_none().then_some(bytes);
            }
            Told::Gone(path) => {
                self.there.remove(&path);
                self.waiting.insert(path);
            }
            Told::Synced => self.synced = true,
            Told::Problems(problems) => self.reading = problems,
        }
        None
    }

    /// Returns the incarnation of a record that the cluster's key signed; 0 for anything else, which proves nothing.
    fn incarnation_of(&self, bytes: &Bytes) -> u64 {
        match record::open(bytes).map(|opened| (opened.signer, opened.into_contents().statement)) {
            Ok((signer, Statement::Record(record)))
                if self.config.signers.contains(&signer) && record.cluster == self.config.cluster =>
            {
                record.version.incarnation
            }
            _ => 0,
        }
    }

    fn report(&self) {
        let problems = self.reading.iter().chain(&self.writing).cloned().collect();
        self.reporter.report(Diagnostics { synced: self.waiting.is_empty(), problems, ..Diagnostics::default() });
    }
}
