//! The publisher's shell: the cluster's key, its incarnation, and the store it writes to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mesh_core::publish::Publisher;
use mesh_core::{Bytes, Change, ClusterName, Now, ObjectName, State};
use mesh_source::inbox::{Announced, policies_in_force};
use mesh_source::keyfiles;
use mesh_source::statefile::{self, Loaded};
use mesh_source::{DirectoryStore, RecordPath, Store};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};

use super::start::AgentError;
use crate::config::AgentConfig;

/// The publisher of a cluster, on one of its nodes.
pub struct PublisherRole {
    publisher: Publisher,
    cluster: ClusterName,
    store: DirectoryStore,
    /// What the cluster's nodes say of themselves.
    announced: watch::Receiver<BTreeMap<ObjectName, Announced>>,
    /// Where the key that follows lies, until it was read.
    next_key: Option<PathBuf>,
    memory: PathBuf,
    saved: Vec<u8>,
    /// Signed, and not in the store yet.
    waiting: BTreeMap<RecordPath, Bytes>,
}

impl PublisherRole {
    /// Reads the key, takes the next incarnation, and remembers what an earlier life published.
    pub fn start(
        config: &AgentConfig,
        key_file: &Path,
        announced: watch::Receiver<BTreeMap<ObjectName, Announced>>,
        now: Now,
    ) -> Result<PublisherRole, AgentError> {
        let key = keyfiles::read_signing_key(key_file)?;
        let incarnation = next_incarnation(key_file, now)?;
        let cluster = config.node.cluster.clone();
        let memory = config.state_dir.join("publisher");
        // A damaged file is set aside and logged by the loader: exports count as new, addresses follow from their hashes.
        let saved = if let Loaded::State(bytes) = statefile::load(&memory)? { bytes } else { Vec::new() };
        let restored = Publisher::restore(cluster.clone(), key.clone(), config.fleet.root, incarnation, &saved);
        let publisher = restored.unwrap_or_else(|error| {
            if !saved.is_empty() {
                warn!(path = %memory.display(), %error, "what the publisher remembered cannot be used: exports count as new");
            }
            Publisher::new(cluster.clone(), key, config.fleet.root, incarnation)
        });
        let mut next_key = key_file.as_os_str().to_owned();
        next_key.push(".next");
        let next_key = PathBuf::from(next_key);
        info!(%cluster, incarnation, "publishing");
        let store = DirectoryStore::new(&config.store);
        Ok(PublisherRole {
            publisher,
            cluster,
            store,
            announced,
            next_key: Some(next_key),
            memory,
            saved,
            waiting: BTreeMap::new(),
        })
    }

    /// Tells whether there is something to do although the state has not changed: a lease to sign, a record to store.
    pub fn is_due(&self, now: Now) -> bool {
        self.publisher.poll_timeout() <= now.time || !self.waiting.is_empty()
    }

    /// Takes notice of a change of the state.
    pub fn note(&mut self, change: &Change) {
        self.publisher.note(change);
    }

    /// Takes notice of what the nodes say is in force, and of those that have fallen silent.
    ///
    /// Also of a next key, as soon as `meshctl fleet rotate` has made it: once the grant names it, it signs.
    pub fn hear(&mut self) {
        if let Some(path) = self.next_key.take_if(|path| path.exists()) {
            match keyfiles::read_signing_key(&path) {
                Ok(key) => {
                    info!(public = %key.public(), "the next key is at hand: it signs once the grant names it");
                    self.publisher.set_next_key(key);
                }
                Err(error) => warn!(%error, "the next key cannot be used; it is not looked at again before a restart"),
            }
        }
        self.publisher.acknowledge(policies_in_force(self.announced.borrow().values(), Instant::now()));
    }

    /// Signs what changed, and puts it into the store. Blocks: not for a runtime's worker.
    pub fn publish(&mut self, state: &State, now: Now) {
        let records = self.publisher.update(state, now);
        let signed = records.into_iter().map(|(key, bytes)| (RecordPath::record(&self.cluster, &key), bytes));
        self.waiting.extend(signed);
        if self.waiting.is_empty() {
            return;
        }
        let memory = self.publisher.save();
        if memory != self.saved {
            // Before the records: what they promise (addresses, first exports) must be remembered.
            if let Err(error) = statefile::save_atomic(&self.memory, &memory) {
                warn!(%error, "what the publisher must remember was not saved: nothing is published until it is");
                return;
            }
            self.saved = memory;
        }
        for (path, bytes) in std::mem::take(&mut self.waiting) {
            if let Err(error) = Handle::current().block_on(self.store.put(&path, bytes.clone(), None)) {
                warn!(%path, %error, "a record was not stored, and will be tried again");
                self.waiting.entry(path).or_insert(bytes);
            }
        }
    }
}

/// Takes the next incarnation: a fencing token, kept beside the key and never used twice.
///
/// It also never lies before the clock's seconds, so that a key whose file of incarnations was lost does not begin anew.
fn next_incarnation(key_file: &Path, now: Now) -> Result<u64, AgentError> {
    let path = key_file.with_extension("incarnation");
    let last = match statefile::load(&path)? {
        Loaded::State(bytes) => <[u8; 8]>::try_from(bytes.as_slice()).map_or(0, u64::from_be_bytes),
        Loaded::Missing | Loaded::Corrupt(_) => 0,
    };
    let next = last.saturating_add(1).max(now.wall.as_unix_secs());
    statefile::save_atomic(&path, &next.to_be_bytes())?;
    Ok(next)
}
