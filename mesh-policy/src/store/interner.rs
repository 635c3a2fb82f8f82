//! Values by dense numbers, each distinct one once, counted by who uses it.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// Distinct values, each by a number that is free again when nobody uses the value any more and it was collected.
///
/// A value that nobody uses is idle: it keeps its number until [`Interner::collect`] takes it, and may be used again before.
#[derive(Clone, Debug)]
pub(crate) struct Interner<K> {
    hasher: RandomState,
    numbers: HashTable<u32>,
    slots: Vec<Slot<K>>,
    free: Vec<u32>,
    /// Those that were idle at some time since they were last looked at, oldest first.
    idle: VecDeque<u32>,
}

#[derive(Clone, Debug)]
struct Slot<K> {
    value: Option<K>,
    users: u32,
    is_listed: bool,
}

impl<K> Default for Interner<K> {
    fn default() -> Interner<K> {
        Interner {
            hasher: RandomState::default(),
            numbers: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            idle: VecDeque::new(),
        }
    }
}

impl<K: Hash + Eq> Interner<K> {
    /// Returns the number of `value`, and whether it is new: nobody uses it yet then.
    pub(crate) fn intern(&mut self, value: K) -> (u32, bool) {
        let hash = self.hasher.hash_one(&value);
        let (slots, hasher) = (&self.slots, &self.hasher);
        let is = |number: &u32| slots[*number as usize].value.as_ref() == Some(&value);
        if let Some(number) = self.numbers.find(hash, is) {
            return (*number, false);
        }
        let number = self.free.last().copied().unwrap_or_else(|| count(slots.len()));
        self.numbers.insert_unique(hash, number, |number| {
            let value = slots[*number as usize].value.as_ref();
            hasher.hash_one(value.expect("a number in the table has a value"))
        });
        let slot = Slot { value: Some(value), users: 0, is_listed: true };
        match self.free.pop() {
            Some(free) => self.slots[free as usize] = slot,
            None => self.slots.push(slot),
        }
        self.idle.push_back(number);
        (number, true)
    }

    /// Returns the number of `value`, if it has one.
    pub(crate) fn find(&self, value: &K) -> Option<u32> {
        let is = |number: &u32| self.slots[*number as usize].value.as_ref() == Some(value);
        self.numbers.find(self.hasher.hash_one(value), is).copied()
    }

    /// Notes one more user.
    pub(crate) fn retain(&mut self, number: u32) {
        self.slots[number as usize].users += 1;
    }

    /// Notes one user less.
    pub(crate) fn release(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        slot.users -= 1;
        if slot.users == 0 && !slot.is_listed {
            slot.is_listed = true;
            self.idle.push_back(number);
        }
    }

    /// Forgets idle values, oldest first, until at most `keep` numbers are listed as idle; returns them.
    pub(crate) fn collect(&mut self, keep: usize) -> Vec<(u32, K)> {
        let mut gone = Vec::new();
        while self.idle.len() > keep {
            let Some(number) = self.idle.pop_front() else { break };
            let slot = &mut self.slots[number as usize];
            slot.is_listed = false;
            if slot.users > 0 {
                continue;
            }
            let value = slot.value.take().expect("an idle number has a value");
            let hash = self.hasher.hash_one(&value);
            if let Ok(entry) = self.numbers.find_entry(hash, |known| *known == number) {
                entry.remove();
            }
            self.free.push(number);
            gone.push((number, value));
        }
        gone
    }
}

impl<K> Interner<K> {
    /// Returns the number of values, idle ones too.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Returns the value of a number that is in use or idle.
    pub(crate) fn get(&self, number: u32) -> &K {
        self.slots[number as usize].value.as_ref().expect("a number in use has a value")
    }

    /// Returns every value with its number, idle ones too, in order of the numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &K)> {
        (0..).zip(&self.slots).filter_map(|(number, slot)| Some((number, slot.value.as_ref()?)))
    }

    /// Returns a number that is larger than every number in use.
    pub(crate) fn bound(&self) -> u32 {
        count(self.slots.len())
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("fewer values than a u32 counts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_keeps_its_number_until_it_is_collected() {
        let mut words = Interner::default();
        let (web, new) = words.intern("web");
        assert!(new);
        words.retain(web);
        let (db, _) = words.intern("db");
        assert_eq!((words.intern("web"), words.find(&"db"), words.find(&"job")), ((web, false), Some(db), None));
        words.retain(db);
        words.release(db);
        assert_eq!(words.collect(2), []);
        // Taken up again before it was collected: it stays.
        words.retain(db);
        assert_eq!(words.collect(0), []);
        words.release(db);
        assert_eq!(words.collect(0), [(db, "db")]);
        assert_eq!((words.intern("job"), words.get(db), words.bound()), ((db, true), &"job", 2));
        assert_eq!(words.iter().collect::<Vec<_>>(), [(web, &"web"), (db, &"job")]);
    }
}
