//! Two laws: the compiled policy decides as the yardstick does, and what it is does not depend on how it came about.

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
                (Located::Workload(expected), end) => set.workload(end).is_some_and(|found| *found.id == expected.id),
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
        steps in vec(any::step(), 1..15),
        tuples in vec(any::tuple(), 10..30),
    ) {
        let mut fleet = Fleet::with(trust, settings);
        let mut compiler = Compiler::new();
        let mut keys: Vec<Key> = facts.iter().map(Resource::key).collect();
        for fact in facts {
            let _ = fleet.set(fact);
        }
        compiler.update(&fleet.state, &Change::default());
        for step in steps {
            let change = match step {
                Step::Set(fact) => {
                    keys.push(fact.key());
                    fleet.set(fact)
                }
                Step::Unset(index) => fleet.unset(index.get(&keys).clone()),
            };
            let before = compiler.current().clone();
            let after = compiler.update(&fleet.state, &change).clone();
            let fresh = PolicySet::compile(&fleet.state);
            prop_assert_eq!(after.fingerprint(), fresh.fingerprint());
            prop_assert!(before.fingerprint() == after.fingerprint() || !std::sync::Arc::ptr_eq(&before, &after));
            agree(&fleet.state, &after, &tuples)?;
        }
    }
}
