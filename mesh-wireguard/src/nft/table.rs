//! A table as a value, and the steps from one value to another.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::iter::Peekable;
use std::sync::Arc;

use super::{Element, Expressions, Extent, Hook, SetKind, Transaction};

/// What a table holds, or a part of it: equal facts make equal tables. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) chains: BTreeMap<Arc<str>, Arc<Chain>>,
    pub(crate) sets: BTreeMap<Arc<str>, Arc<Set>>,
}

/// A chain with its rules; a base chain where it has a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Expressions>,
}

/// A set or map; its elements ascend by key and extent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Set {
    pub(crate) kind: SetKind,
    pub(crate) elements: Vec<Element>,
}

impl Set {
    fn new(kind: SetKind, elements: impl IntoIterator<Item = Element>) -> Set {
        let mut elements: Vec<Element> = elements.into_iter().collect();
        elements.sort_unstable_by(|a, b| a.place().cmp(&b.place()));
        elements.dedup_by(|a, b| a.place() == b.place());
        Set { kind, elements }
    }

    /// Returns what is in this set and not, or with another target, in `other`.
    fn without(&self, other: &Set) -> Vec<Element> {
        let mut others = other.elements.iter().peekable();
        self.elements.iter().filter(|element| !has(&mut others, element)).cloned().collect()
    }
}

/// Tells whether an element is among those that ascend, and passes by those before it.
fn has<'a>(others: &mut Peekable<impl Iterator<Item = &'a Element>>, element: &Element) -> bool {
    while others.next_if(|other| other.place() < element.place()).is_some() {}
    others.peek().is_some_and(|other| *other == element)
}

impl Element {
    fn place(&self) -> (&[u8], &Extent) {
        (&self.key, &self.extent)
    }
}

impl Table {
    /// Adds a rule to the end of a chain, which is made where there is none.
    pub(crate) fn rule(&mut self, chain: &str, rule: Expressions) {
        match self.chains.get_mut(chain) {
            Some(chain) => Arc::make_mut(chain).rules.push(rule),
            None => _ = self.chains.insert(chain.into(), Arc::new(Chain { hook: None, rules: vec![rule] })),
        }
    }

    /// Adds a base chain.
    pub(crate) fn base_chain(&mut self, name: &str, hook: Hook) {
        self.chains.insert(name.into(), Arc::new(Chain { hook: Some(hook), rules: Vec::new() }));
    }

    /// Adds a set that changes by its elements. While one is replaced, a packet may find neither the old nor the new one.
    pub(crate) fn set(&mut self, name: &str, kind: SetKind, elements: impl IntoIterator<Item = Element>) {
        self.sets.insert(name.into(), Arc::new(Set::new(kind, elements)));
    }

    /// Adds a set that never changes: its name, which is returned, ends in a hash of what it holds.
    pub(crate) fn fixed_set(&mut self, name: &str, kind: SetKind, elements: impl IntoIterator<Item = Element>) -> Arc<str> {
        let set = Set::new(kind, elements);
        let name: Arc<str> = format!("{name}/{:016x}", hash(&set)).into();
        self.sets.insert(name.clone(), Arc::new(set));
        name
    }

    /// Adds what `other` has.
    pub(crate) fn extend(&mut self, other: &Table) {
        self.chains.extend(other.chains.iter().map(|(name, chain)| (name.clone(), chain.clone())));
        self.sets.extend(other.sets.iter().map(|(name, set)| (name.clone(), set.clone())));
    }

    /// Writes the chains that this table has and `present` has not, without their rules.
    pub(crate) fn prepare_chains(&self, present: &Table, to: &mut Transaction) {
        let new = self.chains.iter().filter(|(name, _)| !present.chains.contains_key(*name));
        new.for_each(|(name, chain)| to.chain(name, chain.hook));
    }

    /// Writes what this table has and `present` has not; the chains are there, and nothing leads to them yet. Adds all to `present`.
    pub(crate) fn prepare(&self, present: &mut Table, to: &mut Transaction) {
        for (name, set) in &self.sets {
            if !present.sets.contains_key(name) {
                to.set(name, set.kind, &set.elements);
                present.sets.insert(name.clone(), set.clone());
            }
        }
        for (name, chain) in &self.chains {
            if !present.chains.contains_key(name) {
                chain.rules.iter().for_each(|rule| to.rule(name, rule));
                present.chains.insert(name.clone(), chain.clone());
            }
        }
    }

    /// Writes what is different of what both this table and `present` have: the step that everything turns on.
    pub(crate) fn switch(&self, present: &Table, to: &mut Transaction) {
        for (name, set) in &self.sets {
            let Some(known) = present.sets.get(name).filter(|known| !Arc::ptr_eq(known, set)) else { continue };
            debug_assert_eq!(known.kind, set.kind, "{name}");
            // First what goes: a key may not be there twice.
            to.delete_elements(name, &known.without(set));
            to.add_elements(name, &set.without(known));
        }
        for (name, chain) in &self.chains {
            let Some(known) = present.chains.get(name) else { continue };
            if Arc::ptr_eq(known, chain) || known.rules == chain.rules {
                continue;
            }
            if !known.rules.is_empty() {
                to.flush(name);
            }
            chain.rules.iter().for_each(|rule| to.rule(name, rule));
        }
    }

    /// Removes chains and sets, to which nothing leads any more, from this table and from the kernel's.
    pub(crate) fn remove(&mut self, chains: &[Arc<str>], sets: &[Arc<str>], to: &mut Transaction) {
        let chains: Vec<_> = chains.iter().filter_map(|name| Some((name, self.chains.remove(name)?))).collect();
        chains.iter().filter(|(_, chain)| !chain.rules.is_empty()).for_each(|(name, _)| to.flush(name));
        for (name, set) in sets.iter().filter_map(|name| Some((name, self.sets.remove(name)?))) {
            // Kernels before 6.3 hold the chains that a removed map leads to until the next transaction.
            to.delete_elements(name, &set.elements);
            to.delete_set(name);
        }
        chains.iter().for_each(|(name, _)| to.delete_chain(name));
    }
}

/// Returns a hash by which things of one build are told apart in names.
pub(crate) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
