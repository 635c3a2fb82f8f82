//! A table as a value, and the transaction from one value to another.

use std::collections::BTreeMap;

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
    /// Makes a set that can grow.
    pub(crate) fn new(kind: SetKind, elements: impl IntoIterator<Item = Element>) -> Set {
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

    /// Writes the steps from `before` to this table.
    ///
    /// What others lead to is made before them and removed after them; a chain whose rules differ is written anew, and a set whose
    /// kind differs, or a chain with another hook, has another name.
    pub(crate) fn write(&self, before: &Table, to: &mut Transaction) {
        let is_new = |name: &&String| !before.chains.contains_key(*name);
        for name in self.chains.keys().filter(is_new) {
            to.chain(name, self.chains[name].hook);
        }
        for (name, set) in &self.sets {
            let Some(known) = before.sets.get(name) else {
                to.set(name, set.kind, &set.list());
                continue;
            };
            debug_assert_eq!(known.kind, set.kind, "{name}");
            // First what goes: a range may not lie over one that is there, nor a key be there twice. Where a range is two elements,
            // the kernel takes one of them without the other for an overlap, so all are written anew.
            let in_halves = set.kind.ranges && set.kind.key.len() == 1;
            if !in_halves {
                to.delete_elements(name, &known.without(set));
                to.add_elements(name, &set.without(known));
            } else if set != known {
                to.delete_elements(name, &known.list());
                to.add_elements(name, &set.list());
            }
        }
        for (name, chain) in &self.chains {
            let known = before.chains.get(name).map_or(&[][..], |known| &known.rules);
            if known != chain.rules {
                if !known.is_empty() {
                    to.flush(name);
                }
                chain.rules.iter().for_each(|rule| to.rule(name, rule));
            }
        }
        let gone: Vec<&String> = before.chains.keys().filter(|name| !self.chains.contains_key(*name)).collect();
        gone.iter().filter(|name| !before.chains[**name].rules.is_empty()).for_each(|name| to.flush(name));
        for (name, set) in before.sets.iter().filter(|(name, _)| !self.sets.contains_key(*name)) {
            // Kernels before 6.3 hold the chains that a removed map leads to until the next transaction.
            to.delete_elements(name, &set.list());
            to.delete_set(name);
        }
        gone.iter().for_each(|name| to.delete_chain(name));
    }
}
