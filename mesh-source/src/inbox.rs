//! The inbox of a cluster: what its nodes announce of themselves, one file for each.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use mesh_core::{ClusterName, Event, Key, NodeId, NodeLink, ObjectName, Resource, SourceId};
use tokio::sync::watch;

use crate::diagnostics::Reporter;
use crate::files::Look;
use crate::tail::Tail;
use crate::write::{Existing, write_atomically};
use crate::{Diagnostics, Source, SourceError};

/// An announcement is a few hundred bytes.
const MAX_ANNOUNCEMENT_BYTES: u64 = 64 << 10;

/// Why an announcement was not left.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The file could not be written.
    #[error("{path}: announcement not written: {source}; make the inbox a directory that this process can write to")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Leaves `link` in the inbox `directory` as `<node>.json`, whole or not at all.
///
/// # Errors
/// Returns an error where the file cannot be written.
pub fn announce(directory: &Path, link: &NodeLink) -> Result<(), AnnounceError> {
    let path = directory.join(format!("{}.json", link.id.name));
    let text = serde_json::to_vec_pretty(link).expect("a link is plain data with string keys");
    let written = fs::create_dir_all(directory).and_then(|()| write_atomically(&path, &text, 0o644, Existing::Replace));
    written.map_err(|source| AnnounceError::Write { path, source })
}

/// The inbox of one cluster as a source of [`Resource::NodeLink`].
///
/// A file speaks for the node of its name and for no other; what cannot be believed leaves the node's last announcement as it
/// was, and stands in nobody else's way. A node is withdrawn by deleting its file.
pub struct InboxDirectory {
    id: SourceId,
    cluster: ClusterName,
    tail: Tail,
    /// What is wrong with a file now, and whether it speaks for another node.
    wrong: BTreeMap<PathBuf, (String, bool)>,
    told: BTreeMap<PathBuf, NodeLink>,
    events: VecDeque<Event>,
    synced: bool,
    reporter: Reporter,
}

impl InboxDirectory {
    /// Follows the inbox `directory` of `cluster`, which need not be there yet.
    pub fn new(id: SourceId, directory: impl Into<PathBuf>, cluster: ClusterName) -> InboxDirectory {
        let tail = Tail::new(directory.into(), |path| node_of(path).map(|_| MAX_ANNOUNCEMENT_BYTES));
        let reporter = Reporter::new(&id);
        let (wrong, told, events) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        InboxDirectory { id, cluster, tail, wrong, told, events, synced: false, reporter }
    }

    /// Returns what is wrong now, kept up to date.
    pub fn diagnostics(&self) -> watch::Receiver<Diagnostics> {
        self.reporter.subscribe()
    }

    fn take(&mut self, look: Look) {
        let first = !std::mem::replace(&mut self.synced, true);
        if first {
            self.events.push_back(Event::Begin(self.id.clone()));
        }
        // A missing inbox is an empty one, unless it was there before: then what was announced stays.
        for path in if look.no_root { Default::default() } else { look.gone } {
            self.wrong.remove(&path);
            if let Some(link) = self.told.remove(&path) {
                self.events.push_back(Event::Unset(self.id.clone(), Key::NodeLink(link.id)));
            }
        }
        for (path, content) in look.changed {
            match self.read(&path, content) {
                Ok(link) => {
                    self.wrong.remove(&path);
                    if self.told.get(&path) != Some(&link) {
                        self.events.push_back(Event::Set(self.id.clone(), Resource::NodeLink(link.clone())));
                        self.told.insert(path, link);
                    }
                }
                Err(wrong) => {
                    self.wrong.insert(path, wrong);
                }
            }
        }
        if first {
            self.events.push_back(Event::Synced(self.id.clone()));
        }
        let mut problems: Vec<_> = self.tail.problem().map(str::to_owned).into_iter().collect();
        for (directory, error) in look.unreadable {
            problems.push(format!("{}: {error}", self.tail.root().join(directory).display()));
        }
        let root = self.tail.root();
        problems.extend(self.wrong.iter().map(|(path, (problem, _))| format!("{}: {problem}", root.join(path).display())));
        let mismatches = self.wrong.values().filter(|(_, mismatch)| *mismatch).count();
        self.reporter.report(Diagnostics { synced: true, problems, mismatches, ..Diagnostics::default() });
    }

    fn read(&self, path: &Path, content: io::Result<Vec<u8>>) -> Result<NodeLink, (String, bool)> {
        let content = content.map_err(|error| (error.to_string(), false))?;
        let link: NodeLink =
            serde_json::from_slice(&content).map_err(|error| (format!("not an announcement: {error}"), false))?;
        let name = node_of(path).expect("only files with a node's name are read");
        let own = NodeId { cluster: self.cluster.clone(), name };
        if link.id != own {
            return Err((format!("refused: the file of node {own} speaks for node {}", link.id), true));
        }
        Ok(link)
    }
}

#[async_trait]
impl Source for InboxDirectory {
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

/// Returns the node whose announcement a file is, by its name: `<node>.json`, in the inbox itself.
fn node_of(path: &Path) -> Option<ObjectName> {
    ObjectName::new(path.to_str()?.strip_suffix(".json")?).ok()
}
