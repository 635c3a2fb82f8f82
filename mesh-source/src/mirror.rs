//! Copies of other clusters' records: a mirror needs no trust, because the signed bytes are the bytes that travel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_core::{Bytes, ClusterName, SourceId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::diagnostics::Reporter;
use crate::files::Look;
use crate::tail::Tail;
use crate::{Diagnostics, DirectoryStore, RecordPath, Store};

/// What could not be written is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// How often everything is compared: a copy that was lost on the way or at its place comes back.
const COMPARE: Duration = Duration::from_secs(30);

/// A cluster, and the store in which its records are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorFrom {
    /// The cluster: only its records, and the root's, are copied.
    pub cluster: ClusterName,
    /// The directory of the store.
    pub directory: PathBuf,
}

/// Copies the records of other clusters into a directory store, now and at each change.
///
/// Of each store it copies the named cluster's records, and the root's under names that tell where they were seen: stores may
/// hold root records of different age, and which one counts is for those to say who can check them. Nothing is ever removed.
pub struct Mirror {
    copiers: Vec<Copier>,
}

/// Copies from one store.
struct Copier {
    from: MirrorFrom,
    tail: Tail,
    to: DirectoryStore,
    /// What is still to be written.
    waiting: BTreeMap<RecordPath, Bytes>,
    retry: Option<Instant>,
    compared: Instant,
    read: Vec<String>,
    reporter: Reporter,
}

impl Mirror {
    /// Makes a mirror from stores, which need not be there yet, to the store in the directory `to`.
    pub fn new(from: impl IntoIterator<Item = MirrorFrom>, to: &Path) -> Mirror {
        Mirror { copiers: from.into_iter().map(|from| Copier::new(from, to)).collect() }
    }

    /// Returns what is wrong now with each cluster's copying, kept up to date.
    pub fn diagnostics(&self) -> BTreeMap<ClusterName, watch::Receiver<Diagnostics>> {
        self.copiers.iter().map(|copier| (copier.from.cluster.clone(), copier.reporter.subscribe())).collect()
    }

    /// Copies until it is dropped.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        for mut copier in self.copiers {
            tasks.spawn(async move {
                loop {
                    copier.step().await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}

impl Copier {
    fn new(from: MirrorFrom, to: &Path) -> Copier {
        let cluster = from.cluster.clone();
        let accept = move |path: &Path| copied(path, &cluster).map(|(path, _)| path.limit());
        let reporter = Reporter::new(&SourceId(format!("mirror of {}", from.cluster).into()));
        Copier {
            tail: Tail::new(from.directory.clone(), accept),
            to: DirectoryStore::new(to),
            from,
            waiting: BTreeMap::new(),
            retry: None,
            compared: Instant::now(),
            read: Vec::new(),
            reporter,
        }
    }

    /// Waits for a change or for another try, and writes what is to be written.
    async fn step(&mut self) {
        let retry = self.retry;
        let again = async {
            match retry {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            look = self.tail.changes() => self.take(look),
            () = again => {}
        }
        let mut problems = self.read.clone();
        for (path, bytes) in std::mem::take(&mut self.waiting) {
            if self.to.get(&path).await.is_ok_and(|there| there.as_ref() == Some(&bytes)) {
                continue;
            }
            if let Err(error) = self.to.put(&path, bytes.clone()).await {
                problems.push(format!("{error}; trying again"));
                self.waiting.insert(path, bytes);
            }
        }
        self.retry = (!self.waiting.is_empty()).then(|| Instant::now() + RETRY);
        self.reporter.report(Diagnostics { synced: self.waiting.is_empty(), problems, ..Diagnostics::default() });
    }

    fn take(&mut self, look: Look) {
        if self.compared.elapsed() >= COMPARE {
            self.compared = Instant::now();
            self.tail.forget();
        }
        self.read = self.tail.problem().map(str::to_owned).into_iter().collect();
        let root = &self.from.directory;
        for (path, error) in look.unreadable {
            self.read.push(format!("{}: {error}", root.join(path).display()));
        }
        for (path, content) in look.changed {
            match content {
                Ok(bytes) => {
                    let (_, target) = copied(&path, &self.from.cluster).expect("only files that are copied are read");
                    self.waiting.insert(target, Bytes::from(bytes));
                }
                Err(error) => self.read.push(format!("{}: {error}", root.join(path).display())),
            }
        }
    }
}

/// Returns the path of a record of `cluster` or of the root, and where it is copied to; `None` for what is not copied.
fn copied(path: &Path, cluster: &ClusterName) -> Option<(RecordPath, RecordPath)> {
    let path = crate::store::record_path(path)?;
    if path.is_root() {
        // A copy of a copy would get a longer name on every round.
        return (!path.is_seen_in()).then(|| (path.clone(), path.seen_in(cluster)));
    }
    (path.directory() == cluster.as_str()).then(|| (path.clone(), path))
}
