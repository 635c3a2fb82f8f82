//! A hash trie: a change to one value of a clone copies the way to it, and nothing else.

use std::sync::Arc;

/// How many bits of the hash each level looks at.
const BITS: u32 = 4;
const FAN_OUT: usize = 1 << BITS;
/// How many values a leaf holds before it is divided; those with one hash stay together.
const LEAF: usize = 16;
/// How few values are gathered in one leaf again.
const GATHERED: usize = 8;

/// Values by hash, of which clones share what is the same in them. What is equal is for the caller to say: the hash only leads
/// to the few values that may be.
#[derive(Clone, Debug)]
pub(super) struct Trie<T> {
    root: Child<T>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Child<T> {
    Leaf(Arc<[(u64, T)]>),
    Inner(Arc<[Child<T>; FAN_OUT]>),
}

impl<T> Default for Trie<T> {
    fn default() -> Trie<T> {
        Trie { root: Child::Leaf(Arc::default()), len: 0 }
    }
}

impl<T> Trie<T> {
    /// Returns the value of `hash` that `is` the one.
    pub(super) fn get(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&T> {
        let (mut child, mut shift) = (&self.root, 0);
        while let Child::Inner(inner) = child {
            child = &inner[slot(hash, shift)];
            shift += BITS;
        }
        let Child::Leaf(leaf) = child else { unreachable!("the way ended at a leaf") };
        leaf.iter().find(|(known, value)| *known == hash && is(value)).map(|(_, value)| value)
    }

    /// Returns the number of values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    /// Calls `each` for every value, in no particular order.
    pub(super) fn for_each<'a>(&'a self, each: &mut impl FnMut(&'a T)) {
        self.root.for_each(&mut |(_, value)| each(value));
    }

    /// Calls `each` for every value of `self` and of `other` that the two do not share: once with both where they have one
    /// that is `same`, as its hash and `same` tell, else with the one there is.
    pub(super) fn differences<'a>(
        &'a self,
        other: &'a Trie<T>,
        same: &impl Fn(&T, &T) -> bool,
        each: &mut impl FnMut(Option<&'a T>, Option<&'a T>),
    ) {
        differences(&self.root, &other.root, same, each);
    }
}

impl<T: Clone> Trie<T> {
    /// Makes `value` the one of `hash` that `is` the one: in the place of the one before, or beside the others; `None` removes it.
    pub(super) fn set(&mut self, hash: u64, is: impl Fn(&T) -> bool, value: Option<T>) {
        let before = self.get(hash, &is).is_some();
        if !before && value.is_none() {
            return;
        }
        self.len = self.len + usize::from(value.is_some()) - usize::from(before);
        self.root.set((hash, 0), &is, value);
    }
}

impl<T> Child<T> {
    fn for_each<'a>(&'a self, each: &mut impl FnMut(&'a (u64, T))) {
        match self {
            Child::Leaf(leaf) => leaf.iter().for_each(each),
            Child::Inner(inner) => inner.iter().for_each(|child| child.for_each(each)),
        }
    }

    fn is_same(&self, other: &Child<T>) -> bool {
        match (self, other) {
            (Child::Leaf(a), Child::Leaf(b)) => Arc::ptr_eq(a, b),
            (Child::Inner(a), Child::Inner(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl<T: Clone> Child<T> {
    fn set(&mut self, (hash, shift): (u64, u32), is: &impl Fn(&T) -> bool, value: Option<T>) {
        match self {
            Child::Inner(inner) => {
                let removes = value.is_none();
                Arc::make_mut(inner)[slot(hash, shift)].set((hash, shift + BITS), is, value);
                if removes {
                    self.gather();
                }
            }
            Child::Leaf(leaf) => {
                let others = leaf.iter().filter(|(known, other)| *known != hash || !is(other)).cloned();
                let values: Vec<(u64, T)> = others.chain(value.map(|value| (hash, value))).collect();
                *self = Child::of(values, shift);
            }
        }
    }

    /// Makes one leaf of a few values, and a level of leaves of more.
    fn of(values: Vec<(u64, T)>, shift: u32) -> Child<T> {
        if values.len() <= LEAF || shift >= u64::BITS {
            return Child::Leaf(values.into());
        }
        let mut parts: [Vec<(u64, T)>; FAN_OUT] = Default::default();
        for (hash, value) in values {
            parts[slot(hash, shift)].push((hash, value));
        }
        Child::Inner(Arc::new(parts.map(|part| Child::of(part, shift + BITS))))
    }

    /// Makes a leaf of an inner node that has only a few values left, all in leaves.
    fn gather(&mut self) {
        let Child::Inner(inner) = self else { return };
        let mut count = 0;
        for child in inner.iter() {
            match child {
                Child::Leaf(leaf) if count + leaf.len() <= GATHERED => count += leaf.len(),
                _ => return,
            }
        }
        let mut values = Vec::with_capacity(count);
        self.for_each(&mut |value| values.push(value.clone()));
        *self = Child::Leaf(values.into());
    }
}

fn slot(hash: u64, shift: u32) -> usize {
    (hash >> shift) as usize % FAN_OUT
}

fn differences<'a, T>(
    a: &'a Child<T>,
    b: &'a Child<T>,
    same: &impl Fn(&T, &T) -> bool,
    each: &mut impl FnMut(Option<&'a T>, Option<&'a T>),
) {
    if a.is_same(b) {
        return;
    }
    if let (Child::Inner(a), Child::Inner(b)) = (a, b) {
        for (a, b) in a.iter().zip(b.iter()) {
            differences(a, b, same, each);
        }
        return;
    }
    // One of them is a leaf: there are few values, or few more than on the other side.
    let by_hash = |child: &'a Child<T>| {
        let mut values = Vec::new();
        child.for_each(&mut |value| values.push(value));
        values.sort_by_key(|(hash, _)| *hash);
        values
    };
    let (a, mut b) = (by_hash(a), by_hash(b));
    for (hash, value) in a {
        let first = b.partition_point(|(other, _)| other < hash);
        let twin = b[first..].iter().take_while(|(other, _)| other == hash).position(|(_, other)| same(value, other));
        each(Some(value), twin.map(|at| &b.remove(first + at).1));
    }
    for (_, value) in b {
        each(None, Some(value));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Pairs = Trie<(u16, usize)>;

    fn all(trie: &Pairs) -> BTreeMap<u16, usize> {
        let mut all = BTreeMap::new();
        trie.for_each(&mut |(key, value)| assert_eq!(all.insert(*key, *value), None));
        all
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_clones_keep_what_they_had_and_the_difference_is_known(
            edits in proptest::collection::vec((0u16..600, any::<bool>()), 0..2_000),
            shift in 0u32..60,
            at in any::<prop::sample::Index>(),
        ) {
            // Many keys share a hash, or its first bits.
            let hash = |key: u16| u64::from(key / 3) << shift;
            let (mut trie, mut model) = (Pairs::default(), BTreeMap::new());
            let at = at.index(edits.len() + 1);
            let mut old = (trie.clone(), model.clone());
            for (step, (key, insert)) in edits.iter().enumerate() {
                if step == at {
                    old = (trie.clone(), model.clone());
                }
                trie.set(hash(*key), |(known, _)| known == key, insert.then_some((*key, step)));
                if *insert { model.insert(*key, step) } else { model.remove(key) };
                prop_assert_eq!(trie.len(), model.len());
            }
            prop_assert_eq!(&all(&old.0), &old.1);
            prop_assert_eq!(&all(&trie), &model);
            for key in 0..600 {
                prop_assert_eq!(trie.get(hash(key), |(known, _)| *known == key).map(|(_, value)| value), model.get(&key));
            }
            let mut told = BTreeMap::new();
            trie.differences(&old.0, &|a, b| a.0 == b.0, &mut |new, old| {
                let key = new.or(old).expect("one of the two").0;
                assert_eq!(told.insert(key, (new.map(|(_, value)| *value), old.map(|(_, value)| *value))), None);
            });
            let pairs = (0..600).map(|key| (key, (model.get(&key).copied(), old.1.get(&key).copied())));
            for (key, (new, old)) in pairs {
                match told.get(&key) {
                    Some(said) => prop_assert_eq!(*said, (new, old)),
                    None => prop_assert_eq!(new, old),
                }
            }
        }
    }
}
