//! Two laws: the compiled policy decides as the yardstick does, and what it is does not depend on how it came about.
//!
//! `PROPTEST_CASES` sets the number of cases (256 without it).

use std::collections::BTreeMap;

use mesh_core::*;
use mesh_policy::{Compiler, End, PolicySet, naive};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::any::{self, Step};
use crate::fleet::Fleet;

/// Compares both evaluators on both sides of every connection.
fn agree(state: &State, set: &PolicySet, tuples: &[FiveTuple]) -> Result<(), TestCaseError> {
    for tuple in tuples {
        for address in [tuple.source, tuple.destination] {
            let same = match (state.locate(address), set.end(address)) {
                (Located::Workload(expected), end) => set.workload(end).is_some_and(|found| {
                    let node = expected.node.clone().map(|name| NodeId { cluster: expected.id.cluster.clone(), name });
                    *found.id == expected.id && found.identity == state.identity(expected).name() && found.node == node.as_ref()
                }),
                (Located::Node(expected), end) => set.node(end) == Some(expected),
                (Located::Pending, End::Pending) | (Located::External, End::External) => true,
                _ => false,
            };
            prop_assert!(same, "{address}: {:?}", state.locate(address));
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let decided = set.named(set.decide(&set.flow(tuple), direction));
            prop_assert_eq!(decided, naive::decide(state, tuple, direction), "{} {}", tuple, direction);
        }
    }
    Ok(())
}

/// A compiler and the state that it follows.
struct Follower {
    fleet: Fleet,
    compiler: Compiler,
    keys: Vec<Key>,
}

impl Follower {
    fn new(trust: Trust, settings: Settings) -> Follower {
        Follower { fleet: Fleet::with(trust, settings), compiler: Compiler::new(), keys: Vec::new() }
    }

    fn take(&mut self, step: &Step) -> Change {
        match step {
            Step::Set(fact) => {
                self.keys.push(fact.key());
                self.fleet.set(fact.clone())
            }
            Step::Unset(_) if self.keys.is_empty() => Change::default(),
            Step::Unset(index) => self.fleet.unset(index.get(&self.keys).clone()),
            Step::Learn(name, addresses) => self.fleet.state.learn(name, addresses),
        }
    }

    /// Takes every step; the compiler sees the changes by `merged` at a time.
    fn follow<'a>(&mut self, steps: impl IntoIterator<Item = &'a Step>, merged: usize) {
        let (mut change, mut count) = (Change::default(), 0);
        for step in steps {
            change.merge(self.take(step));
            count += 1;
            if count % merged == 0 {
                self.compiler.update(&self.fleet.state, &std::mem::take(&mut change));
            }
        }
        self.compiler.update(&self.fleet.state, &change);
    }

    /// Checks that the compiled policy is the one compiled from scratch, and decides as the yardstick does.
    fn check(&self, tuples: &[FiveTuple]) -> Result<(), TestCaseError> {
        let fresh = PolicySet::compile(&self.fleet.state);
        prop_assert_eq!(self.compiler.current().fingerprint(), fresh.fingerprint());
        agree(&self.fleet.state, self.compiler.current(), tuples)
    }
}

proptest! {
    #[test]
    fn the_compiled_policy_decides_as_the_yardstick(
        trust in any::trust(),
        settings in any::settings(),
        facts in vec(any::resource(), 10..70),
        tuples in vec(any::tuple(), 50..150),
    ) {
        let mut fleet = Fleet::with(trust, settings);
        for fact in facts {
            let _ = fleet.set(fact);
        }
        agree(&fleet.state, &PolicySet::compile(&fleet.state), &tuples)?;
    }

    #[test]
    fn an_updated_policy_is_the_one_compiled_from_scratch(
        trust in any::trust(),
        settings in any::settings(),
        facts in vec(any::resource(), 10..50),
        steps in vec(any::step(), 1..10),
        tuples in vec(any::tuple(), 10..20),
    ) {
        let mut follower = Follower::new(trust, settings);
        follower.follow(&facts.into_iter().map(Step::Set).collect::<Vec<_>>(), usize::MAX);
        for step in steps {
            let before = follower.compiler.current().clone();
            let verdicts = |set: &PolicySet| -> Vec<_> {
                tuples.iter().map(|tuple| set.named(set.decide(&set.flow(tuple), Direction::Ingress))).collect()
            };
            let decided = verdicts(&before);
            follower.follow([&step], 1);
            follower.check(&tuples)?;
            // Who holds the set that was reads what it was.
            prop_assert_eq!(verdicts(&before), decided);
        }
    }

    /// One history told in another way: where the facts are the same in the end, so is the policy.
    #[test]
    fn the_policy_is_the_same_however_its_history_was_told(
        trust in any::trust(),
        settings in any::settings(),
        facts in vec(any::resource(), 10..40),
        others in vec(any::resource(), 1..10),
        (expander, merged) in (0..5, 1usize..9),
        tuples in vec(any::tuple(), 10..30),
    ) {
        // One fact for each key, or the order would count.
        let facts: BTreeMap<Key, Resource> = facts.into_iter().map(|fact| (fact.key(), fact)).collect();
        let sets: Vec<Step> = facts.values().cloned().map(Step::Set).collect();
        let mut straight = Follower::new(trust.clone(), settings.clone());
        straight.follow(&sets, usize::MAX);
        straight.check(&tuples)?;

        let mut told = Follower::new(trust, settings);
        match expander {
            // Reversed.
            0 => told.follow(sets.iter().rev(), merged),
            // Every fact twice.
            1 => told.follow(sets.iter().flat_map(|step| [step, step]), merged),
            // Squashed: several at a time, and all of them again.
            2 => {
                told.follow(&sets, merged);
                told.follow(&sets, usize::MAX);
            }
            // Each taken back while others refer to it, and told again.
            3 => {
                told.follow(&sets, merged);
                for fact in facts.values() {
                    let mut change = told.fleet.unset(fact.key());
                    if merged % 2 == 0 {
                        told.compiler.update(&told.fleet.state, &std::mem::take(&mut change));
                    }
                    change.merge(told.fleet.set(fact.clone()));
                    told.compiler.update(&told.fleet.state, &change);
                }
            }
            // Interleaved with others that are taken back; one that had a fact's own key is replaced by it.
            _ => {
                told.follow(&others.iter().cloned().map(Step::Set).collect::<Vec<_>>(), merged);
                told.follow(&sets, merged);
                for other in others.iter().filter(|other| !facts.contains_key(&other.key())) {
                    let change = told.fleet.unset(other.key());
                    told.compiler.update(&told.fleet.state, &change);
                }
            }
        }
        prop_assert_eq!(told.compiler.current().fingerprint(), straight.compiler.current().fingerprint());
        told.check(&tuples)?;
    }
}
