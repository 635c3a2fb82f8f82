//! The inbox of a cluster: what its nodes announce of themselves, one file for each.
//!
//! A file is the node's [`NodeLink`] as JSON, with the serial of the fleet policies that the node has in force (`policies`) and
//! the time of the announcement (`announced`), which makes a sign of life of every announcement.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mesh_core::{ClusterName, Event, Key, NodeId, NodeLink, ObjectName, Resource, SourceId, WallTime};
use serde_json::Value;
use tokio::sync::watch;

use crate::diagnostics::Reporter;
use crate::files::Look;
use crate::tail::Tail;
use crate::write::{Existing, write_atomically};
use crate::{Diagnostics, Source, SourceError};

/// An announcement is a few hundred bytes.
const MAX_ANNOUNCEMENT_BYTES: u64 = 64 << 10;
/// How often a node announces itself although nothing is new.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);
/// A node that was not heard of for this long has no say in which fleet policies are in force: it is off, or replaced.
pub const SILENT_AFTER: Duration = Duration::from_secs(120);

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

/// What a node said last, beside its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The serial of the fleet policies that it has in force.
    pub policies: Option<u64>,
    /// When its announcement was seen to be another one than before.
    pub heard: Instant,
}

/// Returns the serial of the fleet policies that every node has in force of which something was heard lately; `None` where one
/// of them has none or does not say, and where nobody was heard of.
pub fn policies_in_force<'a>(nodes: impl IntoIterator<Item = &'a Announced>, now: Instant) -> Option<u64> {
    let heard = nodes.into_iter().filter(|node| now.saturating_duration_since(node.heard) < SILENT_AFTER);
    heard.map(|node| node.policies).min().flatten()
}

/// Leaves `link` in the inbox `directory` as `<node>.json`, whole or not at all, with the serial of the fleet `policies` that
/// the node has in force.
///
/// # Errors
/// Returns an error where the file cannot be written.
pub fn announce(directory: &Path, link: &NodeLink, policies: Option<u64>, now: WallTime) -> Result<(), AnnounceError> {
    let path = directory.join(format!("{}.json", link.id.name));
    let mut whole = serde_json::to_value(link).expect("a link is plain data with string keys");
    whole["announced"] = now.to_string().into();
    if let Some(serial) = policies {
        whole["policies"] = serial.into();
    }
    let text = serde_json::to_vec_pretty(&whole).expect("a value is JSON");
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
    announced: watch::Sender<BTreeMap<ObjectName, Announced>>,
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
        let announced = watch::Sender::default();
        InboxDirectory { id, cluster, tail, wrong, told, announced, events, synced: false, reporter }
    }

    /// Returns what the nodes said last beside their links, kept up to date.
    pub fn announced(&self) -> watch::Receiver<BTreeMap<ObjectName, Announced>> {
        self.announced.subscribe()
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
                self.announced.send_modify(|announced| {
                    announced.remove(&link.id.name);
                });
                self.events.push_back(Event::Unset(self.id.clone(), Key::NodeLink(link.id)));
            }
        }
        for (path, content) in look.changed {
            match self.read(&path, content) {
                Ok((link, policies)) => {
                    self.wrong.remove(&path);
                    let said = Announced { policies, heard: Instant::now() };
                    self.announced.send_modify(|announced| {
                        announced.insert(link.id.name.clone(), said);
                    });
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

    fn read(&self, path: &Path, content: io::Result<Vec<u8>>) -> Result<(NodeLink, Option<u64>), (String, bool)> {
        let content = content.map_err(|error| (error.to_string(), false))?;
        let wrong = |error: serde_json::Error| (format!("not an announcement: {error}"), false);
        let mut whole: Value = serde_json::from_slice(&content).map_err(wrong)?;
        let mut take = |field| whole.as_object_mut().and_then(|fields| fields.remove(field));
        // The time is there to make each announcement another one than before; nobody's clock is compared with another's.
        let (_, policies) = (take("announced"), take("policies").map(serde_json::from_value).transpose().map_err(wrong)?);
        let link: NodeLink = serde_json::from_value(whole).map_err(wrong)?;
        let name = node_of(path).expect("only files with a node's name are read");
        let own = NodeId { cluster: self.cluster.clone(), name };
        if link.id != own {
            return Err((format!("refused: the file of node {own} speaks for node {}", link.id), true));
        }
        Ok((link, policies))
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
