//! Copies of other clusters' records: a mirror needs no trust, because the signed bytes are the bytes that travel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Bytes, ClusterName, SourceId};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::diagnostics::Reporter;
use crate::store::Following;
use crate::{Diagnostics, Interest, RecordPath, Store, StoreError, Told};

/// What could not be copied is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// A cluster, and the store in which its records are looked for.
#[derive(Clone, Debug)]
pub struct MirrorFrom {
    /// The cluster: only its records, and the root's, are copied.
    pub cluster: ClusterName,
    /// The store.
    pub store: Arc<dyn Store>,
}

/// Copies the records of other clusters into a store, now and whenever the two differ.
///
/// Of each store it copies the named cluster's records, and the root's under names that tell where they were seen: stores may
/// hold root records of different age, and which one counts is for those to say who can check them. Nothing is ever removed.
pub struct Mirror {
    copiers: Vec<Copier>,
}

/// Copies from one store.
struct Copier {
    cluster: ClusterName,
    from: Arc<dyn Store>,
    to: Arc<dyn Store>,
    /// What is there, and what is here: by the path here, the digest of the bytes.
    theirs: BTreeMap<RecordPath, (RecordPath, Sha)>,
    ours: BTreeMap<RecordPath, Sha>,
    /// What may differ, by the path here; with the bytes where they are known.
    waiting: BTreeMap<RecordPath, Option<Bytes>>,
    retry: Option<Instant>,
    synced: BTreeSet<Side>,
    /// What is wrong with reading each side.
    wrong: BTreeMap<Side, Vec<String>>,
    reporter: Reporter,
}

type Sha = [u8; 32];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Theirs,
    Ours,
}

impl Mirror {
    /// Makes a mirror from stores to the store `to`.
    pub fn new(from: impl IntoIterator<Item = MirrorFrom>, to: &Arc<dyn Store>) -> Mirror {
        Mirror { copiers: from.into_iter().map(|from| Copier::new(from, to.clone())).collect() }
    }

    /// Returns what is wrong now with each cluster's copying, kept up to date.
    pub fn diagnostics(&self) -> BTreeMap<ClusterName, watch::Receiver<Diagnostics>> {
        self.copiers.iter().map(|copier| (copier.cluster.clone(), copier.reporter.subscribe())).collect()
    }

    /// Copies until it is dropped.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        for copier in self.copiers {
            tasks.spawn(copier.run());
        }
        while tasks.join_next().await.is_some() {}
    }
}

impl Copier {
    fn new(from: MirrorFrom, to: Arc<dyn Store>) -> Copier {
        let MirrorFrom { cluster, store } = from;
        let reporter = Reporter::new(&SourceId(format!("mirror of {cluster}").into()));
        let (theirs, ours, waiting) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (synced, wrong) = (BTreeSet::new(), BTreeMap::new());
        Copier { cluster, from: store, to, theirs, ours, waiting, retry: None, synced, wrong, reporter }
    }

    async fn run(mut self) {
        let interest = Interest::root_and(&self.cluster);
        let mut theirs = self.from.follow(interest.clone().fixed());
        let mut ours = self.to.follow(interest.fixed());
        while self.step(&mut theirs, &mut ours).await.is_some() {}
    }

    /// Waits for a change of either side or for another try, and copies what differs; `None` when the runtime ends.
    async fn step(&mut self, theirs: &mut Following, ours: &mut Following) -> Option<()> {
        let retry = self.retry;
        let again = async {
            match retry {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = theirs.next() => self.take(Side::Theirs, told?),
            told = ours.next() => self.take(Side::Ours, told?),
            () = again => self.retry = None,
        }
        if self.retry.is_none() {
            self.copy().await;
        }
        Some(())
    }

    fn take(&mut self, side: Side, told: Told) {
        match told {
            Told::Begin => {}
            Told::Record(path, bytes) => {
                let digest = Sha256::digest(&bytes).into();
                match side {
                    Side::Theirs => {
                        let Some(here) = copied(&path, &self.cluster) else { return };
                        self.theirs.insert(here.clone(), (path, digest));
                        self.waiting.insert(here, Some(bytes));
                    }
                    Side::Ours => {
                        self.ours.insert(path.clone(), digest);
                        self.waiting.entry(path).or_insert(None);
                    }
                }
            }
            Told::Gone(path) => match side {
                Side::Theirs => {
                    let here = copied(&path, &self.cluster);
                    here.and_then(|here| self.theirs.remove(&here));
                }
                Side::Ours => {
                    self.ours.remove(&path);
                    self.waiting.entry(path).or_insert(None);
                }
            },
            Told::Synced => {
                self.synced.insert(side);
            }
            Told::Problems(problems) => {
                self.wrong.insert(side, problems);
            }
        }
    }

    async fn copy_one(&self, here: &RecordPath, there: &RecordPath, bytes: Option<Bytes>) -> Result<(), StoreError> {
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => match self.from.get(there).await? {
                Some(bytes) => bytes,
                None => return Ok(()),
            },
        };
        // Before everything here was seen, what is not known of may still be there.
        let known = self.synced.contains(&Side::Ours);
        if !known && self.to.get(here).await.is_ok_and(|there| there.as_ref() == Some(&bytes)) {
            return Ok(());
        }
        self.to.put(here, bytes, None).await
    }

    /// Copies what may differ and does.
    async fn copy(&mut self) {
        let mut problems: Vec<_> = self.wrong.values().flatten().cloned().collect();
        for (here, bytes) in std::mem::take(&mut self.waiting) {
            let Some((there, digest)) = self.theirs.get(&here).cloned() else { continue };
            if self.ours.get(&here) == Some(&digest) {
                continue;
            }
            let copied = self.copy_one(&here, &there, bytes).await;
            match copied {
                Ok(()) => {
                    self.ours.insert(here, digest);
                }
                Err(error) => {
                    problems.push(format!("{error}; trying again"));
                    self.waiting.insert(here, None);
                }
            }
        }
        self.retry = (!self.waiting.is_empty()).then(|| Instant::now() + RETRY);
        let synced = self.waiting.is_empty() && self.synced.contains(&Side::Theirs);
        self.reporter.report(Diagnostics { synced, problems, ..Diagnostics::default() });
    }
}

/// Returns where a record of `cluster` or of the root is copied to; `None` for what is not copied.
fn copied(path: &RecordPath, cluster: &ClusterName) -> Option<RecordPath> {
    if path.is_root() {
        // A copy of a copy would get a longer name on every round.
        return (!path.is_seen_in()).then(|| path.seen_in(cluster));
    }
    (path.directory() == cluster.as_str()).then(|| path.clone())
}
