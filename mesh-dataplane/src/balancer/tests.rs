use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// As many as 5 to 32 backends have.
const SLOTS: usize = 1024;
const LEVELS: [Locality; 5] = [Locality::Node, Locality::Zone, Locality::Cluster, Locality::Region, Locality::Anywhere];

fn candidate(number: u16, locality: Locality, weight: u16, standing: Standing) -> Candidate {
    let [high, low] = number.to_be_bytes();
    Candidate { address: [10, 1, high, low].into(), port: 8080, locality, weight, standing }
}

fn healthy(number: u16) -> Candidate {
    candidate(number, Locality::Anywhere, 100, Standing::Healthy)
}

/// A single backend has a single slot, whose number is every hash's remainder.
fn backend_of(balance: &Balance, slot: usize) -> (IpAddr, u16) {
    balance.backends[usize::from(balance.slots[slot % balance.slots.len()])]
}

fn shares(balance: &Balance) -> BTreeMap<(IpAddr, u16), usize> {
    let mut shares = BTreeMap::new();
    for slot in 0..balance.slots.len() {
        *shares.entry(backend_of(balance, slot)).or_default() += 1;
    }
    shares
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let standing = proptest::sample::select(&[Standing::Healthy, Standing::Demoted, Standing::Unready, Standing::Leaving][..]);
    let one = (0u16..60, proptest::sample::select(&LEVELS[..]), prop_oneof![Just(100u16), 0u16..300], standing);
    let one = one.prop_map(|(number, locality, weight, standing)| candidate(number, locality, weight, standing));
    proptest::collection::vec(one, 0..50).prop_map(|mut all| {
        all.sort_by_key(|candidate| candidate.address);
        all.dedup_by_key(|candidate| candidate.address);
        all
    })
}

fn any_balancer() -> impl Strategy<Value = Balancer> {
    let node_only = proptest::bool::weighted(0.1);
    (proptest::sample::select(&LEVELS[..]), node_only).prop_map(|(first, node_only)| Balancer { first, node_only })
}

proptest! {
    #[test]
    fn the_order_in_which_backends_come_decides_nothing(
        balancer in any_balancer(),
        (candidates, shuffled) in any_candidates().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
    ) {
        prop_assert_eq!(balancer.balance(&candidates), balancer.balance(&shuffled));
    }

    #[test]
    fn nothing_goes_to_an_unhealthy_backend_while_a_healthy_one_is_in_reach(
        balancer in any_balancer(),
        candidates in any_candidates(),
    ) {
        let balance = balancer.balance(&candidates);
        let in_reach = |c: &Candidate| !balancer.node_only || c.locality == Locality::Node;
        let is_healthy = |c: &Candidate| in_reach(c) && c.standing == Standing::Healthy && c.weight > 0;
        let is_ready = |c: &Candidate| in_reach(c) && matches!(c.standing, Standing::Healthy | Standing::Demoted);
        let chosen = |c: &&Candidate| balance.backends.contains(&(c.address, c.port));
        let some = candidates.iter().any(is_healthy);
        let takes = |c: &Candidate| if some { is_healthy(c) } else { is_ready(c) };
        prop_assert!(candidates.iter().filter(chosen).all(takes));
        prop_assert_eq!(balance.backends.is_empty(), !candidates.iter().any(is_ready));
        prop_assert_eq!(balance.slots.is_empty(), balance.backends.is_empty());
        prop_assert!(balance.slots.iter().all(|slot| usize::from(*slot) < balance.backends.len()));
        prop_assert_eq!(balance.last_resort, !some && !balance.backends.is_empty());
        let whole: u64 = balance.groups.iter().map(|group| group.share).sum();
        prop_assert_eq!(whole, if some { WHOLE } else { 0 });
        // The nearest group with enough healthy backends leaves nothing for the ones behind it.
        if let Some(first) = balance.groups.first() && first.healthy * 14 >= first.total * 10 {
            prop_assert_eq!(first.share, WHOLE);
        }
    }

    #[test]
    fn a_backend_that_goes_moves_only_its_own_slots(
        weights in proptest::collection::vec(prop_oneof![Just(100u16), 1u16..1000], 6..=32),
        gone in any::<proptest::sample::Index>(),
    ) {
        let all: Vec<_> = (0..).zip(weights).map(|(n, weight)| Candidate { weight, ..healthy(n) }).collect();
        let gone = gone.index(all.len());
        let less: Vec<_> = all.iter().copied().filter(|c| c.address != all[gone].address).collect();
        let (before, after) = (Balancer::default().balance(&all), Balancer::default().balance(&less));
        // The same the other way round: a new backend takes slots, and nobody else gets one.
        for slot in 0..before.slots.len() {
            let was = backend_of(&before, slot);
            prop_assert!(was == (all[gone].address, 8080) || was == backend_of(&after, slot));
        }
    }

    #[test]
    fn a_backend_that_fails_moves_its_own_slots_and_what_its_group_cannot_carry(near in 4u16..16, far in 1u16..16) {
        let balancer = Balancer { first: Locality::Cluster, node_only: false };
        let near: Vec<_> = (0..near).map(|n| candidate(n, Locality::Cluster, 100, Standing::Healthy)).collect();
        let far: Vec<_> = (100..100 + far).map(|n| candidate(n, Locality::Anywhere, 100, Standing::Healthy)).collect();
        let mut all = [near.clone(), far].concat();
        let mut before = balancer.balance(&all);
        for failed in 0..near.len() {
            all[failed].standing = Standing::Demoted;
            let after = balancer.balance(&all);
            let share = |balance: &Balance| balance.groups[0].share;
            let spill = (share(&before) - share(&after)) as usize * SLOTS / WHOLE as usize + 1;
            let moved = (0..SLOTS).filter(|slot| backend_of(&before, *slot) != backend_of(&after, *slot));
            let moved = moved.filter(|slot| backend_of(&before, *slot).0 != near[failed].address).count();
            prop_assert!(moved <= spill, "{} slots moved, {} spill over", moved, spill);
            before = after;
        }
        prop_assert_eq!(share_of(&before, Locality::Cluster), 0);
    }
}

fn share_of(balance: &Balance, locality: Locality) -> u64 {
    balance.groups.iter().find(|group| group.locality == locality).map_or(0, |group| group.share)
}

/// A slot falls to a backend of share `p` as a draw does, so that `n` slots give it `n*p` with the deviation
/// `sqrt(n*p*(1-p))` at most (the permutations make it less). Four deviations hold for all of these at once.
#[test]
fn shares_are_as_the_weights_within_what_the_number_of_slots_allows() {
    let mut worst: f64 = 0.0;
    for count in [2u16, 3, 4, 8, 16, 32, 64] {
        for weighted in [false, true] {
            let all: Vec<_> =
                (0..count).map(|n| Candidate { weight: if weighted && n % 2 == 0 { 300 } else { 100 }, ..healthy(n) }).collect();
            let balance = Balancer::default().balance(&all);
            let (slots, shares) = (balance.slots.len() as f64, shares(&balance));
            let sum: f64 = all.iter().map(|c| f64::from(c.weight)).sum();
            for candidate in &all {
                let p = f64::from(candidate.weight) / sum;
                let got = *shares.get(&(candidate.address, 8080)).unwrap_or(&0) as f64;
                let deviations = (got - slots * p).abs() / (slots * p * (1.0 - p)).sqrt();
                worst = worst.max(deviations);
                assert!(deviations < 4.0, "{count} backends, {got} of {slots} slots for a share of {p}");
            }
        }
    }
    println!("at most {worst:.1} deviations");
}

#[test]
fn overflow_begins_below_five_sevenths_and_is_in_proportion() {
    let balancer = Balancer { first: Locality::Zone, node_only: false };
    for failed in 0..=10 {
        let near =
            (0..10u16).map(|n| candidate(n, Locality::Zone, 100, if n < failed { Standing::Unready } else { Standing::Healthy }));
        let far = (20..22u16).map(|n| candidate(n, Locality::Region, 100, Standing::Healthy));
        let balance = balancer.balance(&near.chain(far).collect::<Vec<_>>());
        let expected = ((10 - u64::from(failed)) * 140_000).min(WHOLE);
        assert_eq!(share_of(&balance, Locality::Zone), expected, "{failed} of 10 failed");
        let near = shares(&balance).iter().filter(|(at, _)| at.0 < IpAddr::from([10, 1, 0, 20])).map(|(_, slots)| slots).sum();
        let slots: usize = near;
        assert!(slots.abs_diff(balance.slots.len() * expected as usize / WHOLE as usize) <= 1, "{slots} slots");
    }
}

#[test]
fn where_all_groups_together_carry_too_little_each_takes_its_part() {
    let balancer = Balancer { first: Locality::Cluster, node_only: false };
    let one_of_ten = |locality, from| {
        (from..from + 10).map(move |n| candidate(n, locality, 100, if n == from { Standing::Healthy } else { Standing::Unready }))
    };
    let all: Vec<_> = one_of_ten(Locality::Cluster, 0).chain(one_of_ten(Locality::Anywhere, 50)).collect();
    let balance = balancer.balance(&all);
    assert_eq!(balance.groups.iter().map(|group| group.share).collect::<Vec<_>>(), [500_000, 500_000]);
}

#[test]
fn who_leaves_takes_nothing_and_is_no_loss_to_its_group() {
    let balancer = Balancer { first: Locality::Cluster, node_only: false };
    let leaving = (0..3).map(|n| candidate(n, Locality::Cluster, 100, Standing::Leaving));
    let all: Vec<_> = leaving.chain([candidate(5, Locality::Cluster, 100, Standing::Healthy), healthy(9)]).collect();
    let balance = balancer.balance(&all);
    assert_eq!((balance.backends, balance.slots), (vec![([10, 1, 0, 5].into(), 8080)], vec![0]));
}

#[test]
fn weight_zero_waits_for_everybody_else_to_fail() {
    let drained = Candidate { weight: 0, ..healthy(1) };
    let other = healthy(2);
    assert_eq!(Balancer::default().balance(&[drained, other]).backends, [(other.address, 8080)]);
    let failed = Candidate { standing: Standing::Unready, ..other };
    let balance = Balancer::default().balance(&[drained, failed]);
    assert_eq!((balance.backends, balance.last_resort), (vec![(drained.address, 8080)], true));
}
