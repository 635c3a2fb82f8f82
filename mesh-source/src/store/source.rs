//! The records of a directory store as a source.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use mesh_core::{Bytes, Event, SourceId};
use tokio::sync::watch;

use super::RecordPath;
use crate::diagnostics::Reporter;
use crate::files::Look;
use crate::tail::Tail;
use crate::{Diagnostics, Source, SourceError};

/// The records of a directory store: all of them at first, then each that changes. What they say is the state's to judge; a
/// damaged file is bytes that the state refuses.
///
/// A file that is gone is no event: a record ends by a newer one.
pub struct StoreSource {
    id: SourceId,
    tail: Tail,
    /// What was told of each file.
    told: BTreeMap<PathBuf, Bytes>,
    unread: BTreeMap<PathBuf, String>,
    events: VecDeque<Event>,
    synced: bool,
    reporter: Reporter,
}

impl StoreSource {
    /// Follows the store in `directory`; nothing is told before it is there.
    pub fn new(id: SourceId, directory: impl Into<PathBuf>) -> StoreSource {
        let tail = Tail::new(directory.into(), |path| record_path(path).map(|path| path.limit()));
        let reporter = Reporter::new(&id);
        let (told, unread, events) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        StoreSource { id, tail, told, unread, events, synced: false, reporter }
    }

    /// Returns what is wrong now, kept up to date.
    pub fn diagnostics(&self) -> watch::Receiver<Diagnostics> {
        self.reporter.subscribe()
    }

    fn take(&mut self, look: Look) {
        for path in &look.gone {
            self.unread.remove(path);
            self.told.remove(path);
        }
        let mut records = Vec::new();
        for (path, content) in look.changed {
            match content {
                Ok(bytes) => {
                    self.unread.remove(&path);
                    if self.told.get(&path).is_none_or(|told| *told != bytes) {
                        let bytes = Bytes::from(bytes);
                        self.told.insert(path.clone(), bytes.clone());
                        records.push((path, bytes));
                    }
                }
                Err(error) => {
                    self.unread.insert(path, error.to_string());
                }
            }
        }
        // Grants come first: what they allow is judged by them.
        records.sort_by_key(|(path, _)| !record_path(path).is_some_and(|path| path.is_root()));
        let first = !self.synced && !look.no_root;
        if first {
            self.synced = true;
            self.events.push_back(Event::Begin(self.id.clone()));
        }
        self.events.extend(records.into_iter().map(|(_, bytes)| Event::Record(bytes)));
        if first {
            self.events.push_back(Event::Synced(self.id.clone()));
        }
        let root = self.tail.root();
        let mut problems: Vec<_> = self.tail.problem().map(str::to_owned).into_iter().collect();
        let unreadable = look.unreadable.iter().map(|(path, error)| (path, error.to_string()));
        for (path, error) in unreadable.chain(self.unread.iter().map(|(path, error)| (path, error.clone()))) {
            problems.push(format!("{}: {error}: make it readable for this process", root.join(path).display()));
        }
        self.reporter.report(Diagnostics { synced: self.synced, problems, ..Diagnostics::default() });
    }
}

#[async_trait]
impl Source for StoreSource {
    async fn next(&mut self) -> Result<Event, SourceError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let look = self.tail.changes().await;
            self.take(look);
        }
    }
}

pub(crate) fn record_path(path: &Path) -> Option<RecordPath> {
    RecordPath::parse(path.to_str()?)
}
