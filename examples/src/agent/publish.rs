//! The publisher's shell: the cluster's key, its incarnations, and the outbox to the store that it writes to.
//!
//! Several nodes of a cluster may have the role. The one that holds the claim in the store publishes; another one takes over
//! within seconds when it is gone, and goes on from what it finds there.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use mesh_core::publish::Publisher;
use mesh_core::{Bytes, Change, ClusterName, Now, ObjectName, PublicKey, SecretKey, State};
use mesh_source::inbox::{Announced, policies_in_force};
use mesh_source::statefile::{self, Loaded, StateFileError};
use mesh_source::{Diagnostics, Outbox, OutboxConfig, OutboxEvent, RecordPath, Store, keyfiles};
use tokio::sync::watch;
use tracing::{info, warn};

use super::start::AgentError;
use crate::config::AgentConfig;

/// What tells a file from another one of its name: its number, and when it was written.
type FileId = (u64, i64, i64);

/// The publisher of a cluster, on one of its nodes.
pub struct PublisherRole {
    outbox: Outbox,
    /// The publisher, while the claim is held.
    publisher: Option<Publisher>,
    incarnation: u64,
    cluster: ClusterName,
    key_file: PathBuf,
    key: SecretKey,
    /// The key that follows, and the file that it was read from.
    next_key: Option<SecretKey>,
    next_key_from: Option<FileId>,
    /// The publisher has a key more, which the grant may name already.
    has_new_key: bool,
    root: PublicKey,
    /// What the cluster's nodes say of themselves.
    announced: watch::Receiver<BTreeMap<ObjectName, Announced>>,
    /// The file of the last incarnation.
    last: PathBuf,
    memory: PathBuf,
    saved: Vec<u8>,
    /// Signed, and not handed to the outbox yet.
    waiting: Vec<(RecordPath, Bytes)>,
}

impl PublisherRole {
    /// Reads the key and what an earlier life published, and begins to try for the claim.
    pub fn start(
        config: &AgentConfig,
        key_file: &Path,
        store: Arc<dyn Store>,
        announced: watch::Receiver<BTreeMap<ObjectName, Announced>>,
    ) -> Result<PublisherRole, AgentError> {
        let key = keyfiles::read_signing_key(key_file)?;
        let (cluster, memory) = (config.node.cluster.clone(), config.state_dir.join("publisher"));
        let last = key_file.with_extension("incarnation");
        // A damaged file is set aside and logged by the loader: what is in the store is gone on from.
        let saved = if let Loaded::State(bytes) = statefile::load(&memory)? { bytes } else { Vec::new() };
        let signers = vec![key.public()];
        let floor = last_incarnation(&last)?.saturating_add(1);
        let outbox = OutboxConfig { cluster: cluster.clone(), signers, holder: config.node.to_string(), floor };
        Ok(PublisherRole {
            outbox: Outbox::start(store, outbox),
            publisher: None,
            incarnation: 0,
            cluster,
            key_file: key_file.to_owned(),
            key,
            next_key: None,
            next_key_from: None,
            has_new_key: false,
            announced,
            root: config.fleet.root,
            last,
            memory,
            saved,
            waiting: Vec::new(),
        })
    }

    /// Returns what is wrong with the store, as far as publishing goes, kept up to date.
    pub fn diagnostics(&self) -> watch::Receiver<Diagnostics> {
        self.outbox.diagnostics()
    }

    /// Tells whether there is something to do although the state has not changed: news of the claim, a lease to sign.
    pub fn is_due(&self, now: Now) -> bool {
        let lease = self.publisher.as_ref().is_some_and(|publisher| publisher.poll_timeout() <= now.time);
        self.outbox.is_due() || lease || !self.waiting.is_empty() || self.has_new_key
    }

    /// Takes notice of a change of the state.
    pub fn note(&mut self, change: &Change) {
        if let Some(publisher) = &mut self.publisher {
            publisher.note(change);
        }
    }

    /// Tells whether this node holds the claim, and publishes.
    pub fn is_publishing(&self) -> bool {
        self.publisher.is_some()
    }

    /// Takes notice of what the nodes say is in force, and of those that have fallen silent.
    ///
    /// Also of a next key, as soon as `meshctl fleet rotate` has made it: once the grant names it, it signs.
    pub fn hear(&mut self) {
        self.find_next_key();
        if let Some(publisher) = &mut self.publisher {
            publisher.acknowledge(policies_in_force(self.announced.borrow().values(), Instant::now()));
        }
    }

    /// Reads the next key, once for each file that has the name: when the key has taken its place, another one may follow.
    fn find_next_key(&mut self) {
        let mut path = self.key_file.clone().into_os_string();
        path.push(".next");
        let path = PathBuf::from(path);
        let Ok(found) = std::fs::metadata(&path).map(|found| (found.ino(), found.mtime(), found.mtime_nsec())) else { return };
        if self.next_key_from.replace(found) == Some(found) {
            return;
        }
        match keyfiles::read_signing_key(&path) {
            Ok(key) => {
                info!(public = %key.public(), "the next key is at hand: it signs once the grant names it");
                if let Some(publisher) = &mut self.publisher {
                    publisher.set_next_key(key.clone());
                }
                self.next_key = Some(key);
                self.has_new_key = true;
            }
            Err(error) => warn!(%error, "the next key cannot be used; it is looked at again when its file is another one"),
        }
    }

    /// Signs what changed, and hands it to the outbox. Writes a file: not for a runtime's worker.
    pub fn publish(&mut self, state: &State, now: Now) {
        while let Some(event) = self.outbox.poll() {
            self.take(event);
        }
        self.has_new_key = false;
        let Some(publisher) = &mut self.publisher else { return };
        let records = publisher.update(state, now);
        let signed = records.into_iter().map(|(key, bytes)| (RecordPath::record(&self.cluster, &key), bytes));
        self.waiting.extend(signed);
        if self.waiting.is_empty() {
            return;
        }
        let memory = publisher.save();
        if memory != self.saved {
            // Before the records: what they promise (addresses, first exports) must be remembered.
            if let Err(error) = statefile::save_atomic(&self.memory, &memory) {
                warn!(%error, "what the publisher must remember was not saved: nothing is published until it is");
                return;
            }
            self.saved = memory;
        }
        self.outbox.put(self.incarnation, std::mem::take(&mut self.waiting));
    }

    fn take(&mut self, event: OutboxEvent) {
        match event {
            OutboxEvent::Won { incarnation, found } => self.begin(incarnation, &found),
            OutboxEvent::Lost => {
                self.publisher = None;
                self.waiting.clear();
            }
            OutboxEvent::Found(bytes) => {
                if let Some(publisher) = &mut self.publisher {
                    publisher.adopt(&bytes);
                }
            }
        }
    }

    /// Begins another life, once its incarnation is on the disk.
    fn begin(&mut self, incarnation: u64, found: &[Bytes]) {
        self.waiting.clear();
        self.publisher = None;
        if let Err(error) = statefile::save_atomic(&self.last, &incarnation.to_be_bytes()) {
            warn!(%error, "the incarnation was not saved beside the key: nothing is published with it");
            return self.outbox.resign();
        }
        self.incarnation = incarnation;
        // The next key may have become the key since it was read.
        match keyfiles::read_signing_key(&self.key_file) {
            Ok(key) => self.key = key,
            Err(error) => warn!(%error, "the key cannot be read again: going on with the one of before"),
        }
        let new = || Publisher::new(self.cluster.clone(), self.key.clone(), self.root, incarnation);
        let mut publisher = if self.saved.is_empty() {
            new()
        } else {
            let restored = Publisher::restore(self.cluster.clone(), self.key.clone(), self.root, incarnation, &self.saved);
            restored.unwrap_or_else(|error| {
                warn!(path = %self.memory.display(), %error, "what the publisher remembered cannot be used");
                new()
            })
        };
        if let Some(key) = &self.next_key {
            publisher.set_next_key(key.clone());
        }
        found.iter().for_each(|bytes| publisher.adopt(bytes));
        self.publisher = Some(publisher);
    }
}

/// Returns the last incarnation that was used with a key: a fencing token, kept beside it and never used twice.
fn last_incarnation(path: &Path) -> Result<u64, StateFileError> {
    Ok(match statefile::load(path)? {
        Loaded::State(bytes) => <[u8; 8]>::try_from(bytes.as_slice()).map_or(0, u64::from_be_bytes),
        // The clock's seconds are a lower bound as well.
        Loaded::Missing | Loaded::Corrupt(_) => 0,
    })
}
