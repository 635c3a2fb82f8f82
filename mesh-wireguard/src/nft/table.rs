//! A table as a value, and the steps from one value to another.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Element, Expressions, Extent, Hook, SetKind, Target, Transaction};

/// What a table holds: equal facts make equal tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) chains: BTreeMap<String, Chain>,
    pub(crate) sets: BTreeMap<String, Set>,
}

/// A chain with its rules; a base chain where it has a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Expressions>,
}

/// A set or map, by the keys of its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) kind: SetKind,
    pub(crate) elements: BTreeMap<(Vec<u8>, Extent), Target>,
}

impl Set {
    fn new(kind: SetKind, elements: impl IntoIterator<Item = Element>) -> Set {
        let elements = elements.into_iter().map(|Element { key, extent, target }| ((key, extent), target));
        Set { kind, elements: elements.collect() }
    }

    fn list(&self) -> Vec<Element> {
        self.elements.iter().map(element).collect()
    }

    /// Returns what is in this set and not, or with another target, in `other`.
    fn without(&self, other: &Set) -> Vec<Element> {
        let is_missing = |(key, target): &(&(Vec<u8>, Extent), &Target)| other.elements.get(*key) != Some(*target);
        self.elements.iter().filter(is_missing).map(element).collect()
    }
}

fn element(((key, extent), target): (&(Vec<u8>, Extent), &Target)) -> Element {
    Element { key: key.clone(), extent: extent.clone(), target: target.clone() }
}

impl Table {
    /// Adds a rule to the end of a chain, which is made where there is none.
    pub(crate) fn rule(&mut self, chain: &str, rule: Expressions) {
        self.chains.entry(chain.to_owned()).or_default().rules.push(rule);
    }

    /// Adds a base chain.
    pub(crate) fn base_chain(&mut self, name: &str, hook: Hook) {
        self.chains.insert(name.to_owned(), Chain { hook: Some(hook), rules: Vec::new() });
    }

    /// Adds a set that changes by its elements. While one is replaced, a packet may find neither the old nor the new one.
    pub(crate) fn set(&mut self, name: &str, kind: SetKind, elements: impl IntoIterator<Item = Element>) {
        self.sets.insert(name.to_owned(), Set::new(kind, elements));
    }

    /// Adds a set that never changes: its name, which is returned, ends in a hash of what it holds.
    pub(crate) fn fixed_set(&mut self, name: &str, kind: SetKind, elements: impl IntoIterator<Item = Element>) -> String {
        let set = Set::new(kind, elements);
        let mut hasher = DefaultHasher::new();
        set.hash(&mut hasher);
        let name = format!("{name}/{:08x}", hasher.finish() as u32);
        self.sets.insert(name.clone(), set);
        name
    }

    /// Writes what this table has and `present` has not: nothing leads there yet.
    pub(crate) fn prepare(&self, present: &Table, to: &mut Transaction) {
        let new: Vec<&String> = self.chains.keys().filter(|name| !present.chains.contains_key(*name)).collect();
        new.iter().for_each(|name| to.chain(name, self.chains[*name].hook));
        for (name, set) in self.sets.iter().filter(|(name, _)| !present.sets.contains_key(*name)) {
            to.set(name, set.kind, &set.list());
        }
        for name in new {
            self.chains[name].rules.iter().for_each(|rule| to.rule(name, rule));
        }
    }

    /// Writes what is different of what both this table and `present` have: the step that everything turns on.
    pub(crate) fn switch(&self, present: &Table, to: &mut Transaction) {
        for (name, set) in &self.sets {
            let Some(known) = present.sets.get(name) else { continue };
            debug_assert_eq!(known.kind, set.kind, "{name}");
            // First what goes: a key may not be there twice.
            to.delete_elements(name, &known.without(set));
            to.add_elements(name, &set.without(known));
        }
        for (name, chain) in &self.chains {
            let Some(known) = present.chains.get(name).filter(|known| known.rules != chain.rules) else { continue };
            if !known.rules.is_empty() {
                to.flush(name);
            }
            chain.rules.iter().for_each(|rule| to.rule(name, rule));
        }
    }

    /// Removes chains and sets, to which nothing leads any more, from this table and from the kernel's.
    pub(crate) fn remove(&mut self, chains: &[String], sets: &[String], to: &mut Transaction) {
        let chains: Vec<(&String, Chain)> = chains.iter().filter_map(|name| Some((name, self.chains.remove(name)?))).collect();
        chains.iter().filter(|(_, chain)| !chain.rules.is_empty()).for_each(|(name, _)| to.flush(name));
        for (name, set) in sets.iter().filter_map(|name| Some((name, self.sets.remove(name)?))) {
            // Kernels before 6.3 hold the chains that a removed map leads to until the next transaction.
            to.delete_elements(name, &set.list());
            to.delete_set(name);
        }
        chains.iter().for_each(|(name, _)| to.delete_chain(name));
    }
}

impl Hash for Set {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Equal sets say the same in the words of one build.
        format!("{self:?}").hash(state);
    }
}
