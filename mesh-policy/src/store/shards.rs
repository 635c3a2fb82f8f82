//! A hash map in shards: a change to one entry of a clone copies its shard, not the map.

use std::fmt::Debug;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::Pages;

/// How many entries a shard has on average before another one takes half of somebody's: few enough to copy in less than a
/// microsecond, enough to make the shards' own size small beside them.
const ENTRIES_PER_SHARD: usize = 64;

/// A hash map whose clones share what is the same in them. It grows by linear hashing, one shard at a time.
#[derive(Clone, Debug)]
pub(crate) struct Shards<K, V> {
    hasher: RandomState,
    shards: Pages<Arc<HashTable<(K, V)>>>,
    /// The number of shards; at least 1.
    count: u32,
    len: usize,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Shards<K, V> {
        Shards { hasher: RandomState::default(), shards: Pages::default(), count: 1, len: 0 }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let hash = self.hasher.hash_one(key);
        self.shards.get(self.shard(hash))?.find(hash, |(known, _)| known == key).map(|(_, value)| value)
    }

    /// Sets the value of `key`; returns the one it had.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash = self.hasher.hash_one(&key);
        let hasher = self.hasher.clone();
        let shard = Arc::make_mut(self.shards.edit(self.shard(hash)));
        if let Some((_, known)) = shard.find_mut(hash, |(known, _)| *known == key) {
            return Some(std::mem::replace(known, value));
        }
        shard.insert_unique(hash, (key, value), |(key, _)| hasher.hash_one(key));
        self.len += 1;
        if self.len > self.count as usize * ENTRIES_PER_SHARD {
            self.split();
        }
        None
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let hash = self.hasher.hash_one(key);
        let number = self.shard(hash);
        // A look first: what is not there copies nothing.
        self.shards.get(number)?.find(hash, |(known, _)| known == key)?;
        let shard = Arc::make_mut(self.shards.edit(number));
        let ((_, value), _) = shard.find_entry(hash, |(known, _)| known == key).ok()?.remove();
        self.len -= 1;
        Some(value)
    }

    /// Returns all entries, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (key, value))
    }

    /// Returns the number of the shard of a hash: its low bits, one bit fewer where that shard is not split off yet. The bits at
    /// the top are the table's.
    #[inline]
    fn shard(&self, hash: u64) -> u32 {
        let bits = self.count.next_power_of_two() - 1;
        let low = u32::try_from(hash & u64::from(bits)).expect("a mask of 32 bits");
        if low < self.count { low } else { low & (bits >> 1) }
    }

    /// Adds a shard, for half of the entries of the one that had them so far.
    fn split(&mut self) {
        let new = self.count;
        let bits = u64::from((new + 1).next_power_of_two() - 1);
        let old = new & u32::try_from(bits >> 1).expect("half of 32 bits");
        self.count += 1;
        let hasher = self.hasher.clone();
        let mut taken = HashTable::new();
        let shard = Arc::make_mut(self.shards.edit(old));
        for entry in shard.extract_if(|(key, _)| hasher.hash_one(key) & bits == u64::from(new)) {
            taken.insert_unique(hasher.hash_one(&entry.0), entry, |(key, _)| hasher.hash_one(key));
        }
        shard.shrink_to_fit(|(key, _)| hasher.hash_one(key));
        self.shards.set(new, Arc::new(taken));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_and_clones_keep_what_they_had(edits in proptest::collection::vec((0u16..600, any::<bool>()), 0..2_000)) {
            let (mut shards, mut model) = (Shards::default(), BTreeMap::new());
            let mut old = None;
            for (step, (key, insert)) in edits.iter().enumerate() {
                if step == edits.len() / 2 {
                    old = Some((shards.clone(), model.clone()));
                }
                if *insert {
                    prop_assert_eq!(shards.insert(*key, step), model.insert(*key, step));
                } else {
                    prop_assert_eq!(shards.remove(key), model.remove(key));
                }
            }
            for (shards, model) in old.iter().chain([&(shards, model)]) {
                prop_assert_eq!(&shards.iter().map(|(k, v)| (*k, *v)).collect::<BTreeMap<_, _>>(), model);
                prop_assert!((0..600).all(|key| shards.get(&key) == model.get(&key)));
            }
        }
    }
}
