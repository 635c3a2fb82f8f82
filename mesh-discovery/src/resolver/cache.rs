//! What the upstreams said, as long as it holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::Rtype;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use mesh_core::Time;

use super::stored::Stored;

/// What an entry takes beside its name and answer, in bytes: places in two maps, counters of two shared values.
const OVERHEAD: usize = 192;

/// What is asked of the upstreams: two queries with the same key have the same answer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(Arc<[u8]>);

impl Key {
    /// Makes the key of a question. `name` is in lower case; `flags` are those that change the answer.
    pub(super) fn new(name: &[u8], qtype: Rtype, flags: u8) -> Key {
        let [high, low] = qtype.to_int().to_be_bytes();
        Key(name.iter().copied().chain([high, low, flags]).collect())
    }
}

struct Entry {
    stored: Arc<Stored>,
    since: Time,
    /// When it was last of use, as a number that grows.
    used: u64,
}

/// Answers by question, bounded in number and in bytes: the one that was of no use for the longest time makes room.
pub(super) struct Cache {
    max_entries: usize,
    max_bytes: usize,
    entries: HashMap<Key, Entry, RandomState>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
    evicted: u64,
}

impl Cache {
    pub(super) fn new(max_entries: usize, max_bytes: usize) -> Cache {
        let entries = HashMap::default();
        Cache { max_entries, max_bytes, entries, by_use: BTreeMap::new(), uses: 0, bytes: 0, evicted: 0 }
    }

    /// Returns the answer and its age in whole seconds.
    pub(super) fn get(&mut self, key: &Key, now: Time) -> Option<(Arc<Stored>, u32)> {
        let entry = self.entries.get_mut(key)?;
        let age = now.since(entry.since);
        if age >= Duration::from_secs(entry.stored.lifetime().into()) {
            self.remove(key);
            return None;
        }
        self.by_use.remove(&entry.used);
        self.uses += 1;
        entry.used = self.uses;
        self.by_use.insert(self.uses, key.clone());
        Some((entry.stored.clone(), age.as_secs() as u32))
    }

    /// Keeps an answer, if it may be kept.
    pub(super) fn insert(&mut self, key: Key, stored: Arc<Stored>, now: Time) {
        self.remove(&key);
        let size = size(&key, &stored);
        if stored.lifetime() == 0 || self.max_entries == 0 || size > self.max_bytes {
            return;
        }
        while self.entries.len() >= self.max_entries || self.bytes + size > self.max_bytes {
            let Some((_, oldest)) = self.by_use.first_key_value() else { return };
            let oldest = oldest.clone();
            self.remove(&oldest);
            self.evicted += 1;
        }
        self.uses += 1;
        self.bytes += size;
        self.by_use.insert(self.uses, key.clone());
        self.entries.insert(key, Entry { stored, since: now, used: self.uses });
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_use.remove(&entry.used);
            self.bytes -= size(key, &entry.stored);
        }
    }

    /// Returns the number of answers, what they take in bytes, and how many had to make room.
    pub(super) fn figures(&self) -> (u64, u64, u64) {
        (self.entries.len() as u64, self.bytes as u64, self.evicted)
    }
}

fn size(key: &Key, stored: &Stored) -> usize {
    OVERHEAD + key.0.len() + stored.size()
}
