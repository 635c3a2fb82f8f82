//! Laws of the matrix and of the difference: what they say of a connection is what the production evaluator decides of it.

use std::net::IpAddr;

use mesh_core::*;
use mesh_policy::diff::{self, Diff, Kind, Options};
use mesh_policy::matrix::{self, By};
use mesh_policy::{End, PolicySet};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::any;
use crate::fleet::{Fleet, cluster_policy, everyone, rule};

fn is_allowed(set: &PolicySet, tuple: &FiveTuple) -> bool {
    let flow = set.flow(tuple);
    [Direction::Egress, Direction::Ingress].into_iter().all(|direction| set.decide(&flow, direction).is_allow())
}

/// What decides, as a difference tells it: of an allowed connection both sides, of a denied one those that deny.
fn decision(set: &PolicySet, tuple: &FiveTuple) -> [Option<Verdict<RuleName>>; 2] {
    let is_allow = is_allowed(set, tuple);
    [Direction::Egress, Direction::Ingress]
        .map(|direction| set.named(set.decide(&set.flow(tuple), direction)))
        .map(|verdict| Some(verdict).filter(|verdict| is_allow || !verdict.is_allow()))
}

fn is_policed(set: &PolicySet, tuple: &FiveTuple) -> bool {
    [tuple.source, tuple.destination].into_iter().any(|address| matches!(set.end(address), End::Workload(_)))
}

/// Who is at an address by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    Workload(WorkloadId),
    Node(NodeId),
    Nobody,
}

fn who(set: &PolicySet, address: IpAddr) -> Who {
    let end = set.end(address);
    match (set.workload(end), set.node(end)) {
        (Some(info), _) => Who::Workload(info.id.clone()),
        (_, Some(node)) => Who::Node(node.clone()),
        _ => Who::Nobody,
    }
}

/// Returns the workload of a plain source that has no identity and claims `address`.
fn refused(state: &State, address: IpAddr) -> Vec<WorkloadId> {
    let claims = |id: &WorkloadId| state.refused_workload(id).is_some_and(|workload| workload.addresses.contains(&address));
    let keys = state.refused().filter_map(|(key, _)| match key {
        Key::Workload(id) if claims(id) => Some(id.clone()),
        _ => None,
    });
    keys.collect()
}

/// Tells whether the same end has the address in both states.
fn is_same(states: [&State; 2], sets: [&PolicySet; 2], address: IpAddr) -> bool {
    match sets.map(|set| who(set, address)) {
        [Who::Nobody, Who::Nobody] => refused(states[0], address).is_empty() && refused(states[1], address).is_empty(),
        [Who::Nobody, Who::Workload(id)] => refused(states[0], address).contains(&id),
        [Who::Workload(id), Who::Nobody] => refused(states[1], address).contains(&id),
        [before, after] => before == after,
    }
}

fn check(diff: &Diff<'_>, sets: [&PolicySet; 2], reasons: bool, tuples: [&FiveTuple; 2]) -> Result<(), TestCaseError> {
    let found = diff.find(tuples[0], tuples[1]);
    let allowed = [0, 1].map(|x| is_allowed(sets[x], tuples[x]));
    let decisions = [0, 1].map(|x| decision(sets[x], tuples[x]));
    let is_policed = (0..2).any(|x| is_policed(sets[x], tuples[x]));
    let expected = match allowed {
        _ if !is_policed => None,
        [false, true] => Some(Kind::Opened),
        [true, false] => Some(Kind::Closed),
        _ if reasons && decisions[0] != decisions[1] => Some(Kind::Reason),
        _ => None,
    };
    prop_assert_eq!(found.map(|change| change.kind), expected, "{} {:?}\n{}", tuples[0], decisions, diff);
    if let Some(change) = found {
        let told = [&change.before, &change.after].map(|decision| [decision.egress.clone(), decision.ingress.clone()]);
        prop_assert_eq!(told, decisions, "{}", tuples[0]);
    }
    Ok(())
}

/// Makes a fleet of the facts of which the bit is set.
fn fleet(trust: &Trust, settings: &Settings, facts: &[(Resource, u8)], bit: u8) -> Fleet {
    let mut fleet = Fleet::with(trust.clone(), settings.clone());
    for (fact, _) in facts.iter().filter(|(_, bits)| bits & bit != 0) {
        let _ = fleet.set(fact.clone());
    }
    fleet
}

/// Clusters in which the same policies apply share a rule set; each decides by a rule of its own name all the same.
#[test]
fn a_rule_of_a_fleet_policy_is_named_by_the_cluster_that_decides() {
    let [mut before, mut after] = [Fleet::open(), Fleet::open()];
    for fleet in [&mut before, &mut after] {
        fleet.pod("east/shop/web-0", "10.1.0.1", "app=web", "").pod("west/shop/db-0", "10.2.0.1", "app=db", "");
    }
    let mut policy = cluster_policy(policy::PolicyScope::Fleet, "closed", policy::PolicyTier::Admin, 0);
    policy.egress = vec![rule(policy::RuleAction::Deny, everyone(), Vec::new())];
    after.cluster_policy(policy);
    let sets = [&before, &after].map(|fleet| PolicySet::compile(&fleet.state));
    let diff = diff::diff([&before.state, &after.state], [&sets[0], &sets[1]], Options::default());
    let expected = "\
CLOSED  east/shop (1 pod) > west/shop (1 pod): all
  was   allow, egress fleet-default, ingress fleet-default
  now   deny, egress by east/ClusterNetworkPolicy/closed/egress[0]

CLOSED  west/shop (1 pod) > east/shop (1 pod): all
  was   allow, egress fleet-default, ingress fleet-default
  now   deny, egress by west/ClusterNetworkPolicy/closed/egress[0]

0 group(s) of connections opened, 2 closed
";
    assert_eq!(diff.to_string(), expected);
}

proptest! {
    /// Most facts are in both states, some in one only; a key that comes again has other contents.
    #[test]
    fn a_difference_is_what_the_verdicts_say(
        trust in any::trust(),
        settings in (any::settings(), any::settings(), 0..4u8),
        facts in vec((any::resource(), prop::sample::select(&[3u8, 3, 3, 3, 3, 1, 2][..])), 10..70),
        tuples in vec(any::tuple(), 50..150),
        reasons in any::<bool>(),
    ) {
        let after = if settings.2 == 0 { &settings.1 } else { &settings.0 };
        let (before, after) = (fleet(&trust, &settings.0, &facts, 1), fleet(&trust, after, &facts, 2));
        let states = [&before.state, &after.state];
        let sets = states.map(PolicySet::compile);
        let sets = [&sets[0], &sets[1]];
        let diff = diff::diff(states, sets, Options { reasons });
        prop_assert_eq!(diff.changes_verdicts(), diff.changes.iter().any(|change| change.kind != Kind::Reason));
        for tuple in &tuples {
            let joined = [tuple.source, tuple.destination].map(|address| is_same(states, sets, address));
            if joined == [true, true] {
                check(&diff, sets, reasons, [tuple, tuple])?;
            }
        }
        // Workloads with other addresses after: whatever the difference takes for one end has its verdicts.
        for [tuple, other] in tuples.as_chunks::<2>().0 {
            let moved = FiveTuple { source: other.source, destination: other.destination, ..*tuple };
            let pairs = [(tuple.source, moved.source), (tuple.destination, moved.destination)];
            if pairs.into_iter().all(|(before, after)| diff.is_joined(before, after)) {
                check(&diff, sets, reasons, [tuple, &moved])?;
            }
        }
    }

    #[test]
    fn nothing_differs_from_itself(
        trust in any::trust(),
        settings in any::settings(),
        facts in vec(any::resource().prop_map(|fact| (fact, 3u8)), 10..70),
    ) {
        let fleet = fleet(&trust, &settings, &facts, 1);
        let set = PolicySet::compile(&fleet.state);
        let diff = diff::diff([&fleet.state; 2], [&set; 2], Options { reasons: true });
        prop_assert!(diff.changes.is_empty() && diff.added.is_empty() && diff.removed.is_empty(), "{diff}");
    }

    #[test]
    fn a_matrix_is_what_the_verdicts_say(
        trust in any::trust(),
        settings in any::settings(),
        facts in vec(any::resource().prop_map(|fact| (fact, 3u8)), 10..70),
        tuples in vec(any::tuple(), 50..150),
    ) {
        let fleet = fleet(&trust, &settings, &facts, 1);
        let set = PolicySet::compile(&fleet.state);
        for by in [By::Namespace, By::Identity] {
            let matrix = matrix::matrix(&fleet.state, &set, by);
            for tuple in &tuples {
                let groups = [tuple.source, tuple.destination].map(|address| matrix.group_of(&set, address));
                let is_itself = set.end(tuple.source) == set.end(tuple.destination);
                let ([Some(from), Some(to)], true, false) = (groups, is_policed(&set, tuple), is_itself) else { continue };
                let cell = matrix.cell(from, to);
                prop_assert!(cell.is_some(), "{tuple}");
                let cell = cell.expect("just seen");
                let has = |ports: &mesh_policy::Ports| ports.contains(tuple.protocol, tuple.destination_port);
                let is_allowed = is_allowed(&set, tuple);
                prop_assert!(!is_allowed || has(&cell.some), "{tuple} is allowed, and may not by {cell}");
                prop_assert!(is_allowed || !has(&cell.every), "{tuple} is denied, and may by {cell}");
            }
        }
    }

    /// A cell names no port that no pair may, and leaves no port out of `every` that all pairs may.
    #[test]
    fn a_cell_is_no_wider_and_no_narrower_than_its_pairs(
        trust in any::trust(),
        settings in any::settings(),
        facts in vec(any::resource().prop_map(|fact| (fact, 3u8)), 10..50),
        probes in vec((any::protocol(), any::port()), 1..4),
    ) {
        let fleet = fleet(&trust, &settings, &facts, 1);
        let set = PolicySet::compile(&fleet.state);
        let matrix = matrix::matrix(&fleet.state, &set, By::Namespace);
        let ends: Vec<(IpAddr, usize)> =
            set.addresses().filter_map(|(address, _)| Some((address, matrix.group_of(&set, address)?))).collect();
        for (protocol, destination_port) in probes {
            let mut seen: std::collections::BTreeMap<(usize, usize), (bool, bool)> = Default::default();
            for (source, from) in &ends {
                for (destination, to) in &ends {
                    let (source, destination) = (*source, *destination);
                    let tuple = FiveTuple { source, destination, protocol, source_port: 40000, destination_port };
                    let is_pair = source.is_ipv4() == destination.is_ipv4() && set.end(source) != set.end(destination);
                    if is_pair && is_policed(&set, &tuple) {
                        let allowed = is_allowed(&set, &tuple);
                        let (every, some) = seen.entry((*from, *to)).or_insert((true, false));
                        (*every, *some) = (*every && allowed, *some || allowed);
                    }
                }
            }
            for ((from, to), expected) in seen {
                let cell = matrix.cell(from, to).expect("there is a pair");
                let found = [&cell.every, &cell.some].map(|ports| ports.contains(protocol, destination_port));
                let [name, other] = [from, to].map(|group| matrix.groups[group].name.as_str());
                prop_assert_eq!((found[0], found[1]), expected, "{} > {} {}/{}", name, other, destination_port, protocol);
            }
        }
    }
}
