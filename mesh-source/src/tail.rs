//! Follows a directory: a look now, and one after each change.

use std::collections::BTreeMap;
use std::future::pending;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::files::{Accept, Files, Look};

/// A change is looked at this long after its last event: several files that change together are seen together.
const SETTLE: Duration = Duration::from_millis(8);
/// A directory that never settles is looked at this long after the first event.
const SETTLE_MAX: Duration = Duration::from_millis(100);
/// Somebody who writes a file in place is given this long from one write to the next before the half is looked at.
const WRITING: Duration = Duration::from_millis(300);
/// How often the directory is looked at even though nothing was heard of it, unless told otherwise.
pub(crate) const RESCAN: Duration = Duration::from_secs(10);

/// Follows a directory.
pub(crate) struct Tail {
    root: PathBuf,
    files: Option<Files>,
    accept: Accept,
    looking: Option<JoinHandle<(Files, Look)>>,
    heard: Arc<Heard>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the directory that the watcher watches.
    watched: Option<(u64, u64)>,
    rescan: Duration,
    next_rescan: Option<Instant>,
    /// Why changes are seen late, if they are.
    problem: Option<String>,
}

/// What the watcher's thread has heard.
#[derive(Default)]
struct Heard {
    changed: Notify,
    state: Mutex<HeardState>,
}

#[derive(Default)]
struct HeardState {
    first: Option<Instant>,
    last: Option<Instant>,
    /// Files that are being written in place, with the time of the last write.
    writing: BTreeMap<PathBuf, Instant>,
}

impl Tail {
    pub(crate) fn new(root: PathBuf, accept: impl Fn(&Path) -> Option<u64> + Send + Sync + 'static) -> Tail {
        Tail {
            root,
            files: None,
            accept: Arc::new(accept),
            looking: None,
            heard: Arc::default(),
            watcher: None,
            watched: None,
            rescan: RESCAN,
            next_rescan: None,
            problem: None,
        }
    }

    pub(crate) fn set_rescan(&mut self, rescan: Duration) {
        self.rescan = rescan;
    }

    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Tells whether a look has begun that was not returned yet.
    pub(crate) fn is_looking(&self) -> bool {
        self.looking.is_some()
    }

    /// Makes the next look come at once, also where nothing was heard.
    pub(crate) fn look_soon(&mut self) {
        self.next_rescan = self.next_rescan.map(|_| Instant::now());
    }

    /// Returns what is different since the last look; at once at the first call, later when something changes.
    ///
    /// Cancel-safe: a look that has begun is waited for again by the next call.
    pub(crate) async fn changes(&mut self) -> Look {
        loop {
            if self.looking.is_none() {
                self.wait().await;
                self.next_rescan = Some(Instant::now() + self.rescan);
                // Watching begins before looking, so that nothing falls between the two.
                self.watch();
                let files = self.files.take();
                let mut files = files.unwrap_or_else(|| Files::new(self.root.clone(), self.accept.clone()));
                self.looking = Some(tokio::task::spawn_blocking(move || {
                    let look = files.look();
                    (files, look)
                }));
            }
            let looking = self.looking.as_mut().expect("set above");
            let looked = looking.await;
            self.looking = None;
            match looked {
                Ok((files, look)) => {
                    self.files = Some(files);
                    return look;
                }
                // The runtime is shutting down; nothing will be looked at any more.
                Err(error) if error.is_cancelled() => pending::<()>().await,
                Err(_) => {}
            }
        }
    }

    /// Waits until there is a reason to look.
    async fn wait(&mut self) {
        let Some(next_rescan) = self.next_rescan else { return };
        loop {
            let due = self.heard.due();
            let until = due.unwrap_or(next_rescan).min(next_rescan);
            if until <= Instant::now() {
                let mut state = self.heard.state();
                (state.first, state.last) = (None, None);
                return;
            }
            tokio::select! {
                () = sleep_until(until) => {}
                () = self.heard.changed.notified() => {}
            }
        }
    }

    /// Watches the directory that is there now, and its parent, to hear when it is replaced.
    fn watch(&mut self) {
        let id = std::fs::metadata(&self.root).map(|metadata| (metadata.dev(), metadata.ino())).ok();
        if self.watcher.is_some() && self.watched == id && id.is_some() {
            return;
        }
        self.watcher = None;
        self.watched = id;
        self.problem = None;
        match self.start(id.is_some()) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                self.problem = Some(format!(
                    "{}: not watched ({error}): changes are seen after up to {:?}; raise fs.inotify.max_user_watches",
                    self.root.display(),
                    self.rescan
                ));
            }
        }
    }

    fn start(&self, exists: bool) -> notify::Result<RecommendedWatcher> {
        let (heard, root) = (self.heard.clone(), self.root.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| heard.take(event, &root))?;
        if let Some(parent) = self.root.parent().filter(|parent| parent.is_dir()) {
            watcher.watch(parent, RecursiveMode::NonRecursive)?;
        }
        if exists {
            watcher.watch(&self.root, RecursiveMode::Recursive)?;
        }
        Ok(watcher)
    }
}

impl Heard {
    fn state(&self) -> std::sync::MutexGuard<'_, HeardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: notify::Result<notify::Event>, root: &Path) {
        let Ok(event) = event else { return self.hear() };
        let written = matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
        // Our own reading is heard too.
        if matches!(event.kind, EventKind::Access(_)) && !written {
            return;
        }
        if !event.paths.is_empty() && !event.paths.iter().any(|path| path.starts_with(root)) {
            return;
        }
        let writing = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(CreateKind::File));
        for path in event.paths {
            if writing {
                self.state().writing.insert(path, Instant::now());
            } else if !matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_))) {
                self.state().writing.remove(&path);
            }
        }
        self.hear();
    }

    fn hear(&self) {
        let now = Instant::now();
        let mut state = self.state();
        state.first.get_or_insert(now);
        state.last = Some(now);
        drop(state);
        self.changed.notify_one();
    }

    /// Returns when what was heard has settled; `None` where nothing was heard since the last look.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state();
        state.writing.retain(|_, last| *last + WRITING > now);
        let written = state.writing.values().map(|last| *last + WRITING).max();
        Some(written.unwrap_or((state.last? + SETTLE).min(state.first? + SETTLE_MAX)))
    }
}
