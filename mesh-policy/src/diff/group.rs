//! Pairs of classes, put together to groups of sources and destinations as large as can be.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::{HashMap, HashSet};
use mesh_core::Verdict;

use super::compare::{Decided, Found, Item, Pair};
use super::{Change, Decision, Kind, Pairs};
use crate::reach::{Deciding, Ends, Flags, Names, Owner, Party, Region};

/// Every pair of a source of some classes and a destination of others.
#[derive(Clone, Debug)]
pub(super) struct Rectangle {
    /// Classes, ascending.
    sources: Vec<u32>,
    destinations: Vec<u32>,
    /// Only pairs with these flags; all without.
    special: Option<[Flags; 2]>,
    except: HashSet<(Pair, [Flags; 2])>,
}

impl Rectangle {
    /// Tells whether a pair of ends of those classes with those flags is in it.
    pub(super) fn contains(&self, pair: Pair, flags: [Flags; 2]) -> bool {
        let is_inside = self.sources.binary_search(&pair.0).is_ok() && self.destinations.binary_search(&pair.1).is_ok();
        is_inside
            && match self.special {
                Some(special) => special == flags,
                None => !self.except.contains(&(pair, flags)),
            }
    }

    fn only(&self) -> Pairs {
        let is_own_node = |flags: &[Flags; 2]| flags.iter().any(|flags| flags.own_node != [false; 2]);
        match &self.special {
            Some(flags) if is_own_node(flags) => Pairs::OwnNode,
            Some(_) => Pairs::Itself,
            None if self.except.iter().any(|(_, flags)| is_own_node(flags)) => Pairs::NotOwnNode,
            None => Pairs::All,
        }
    }
}

/// The ends of some classes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Members {
    owners: BTreeSet<u32>,
    /// Numbers of regions.
    regions: BTreeSet<usize>,
}

/// Rectangles of both families with the same workloads and nodes are one line for a reader.
type Line = (Pairs, [BTreeSet<u32>; 2], [bool; 2]);

/// Makes the groups of what is found.
pub(super) fn group(found: Found, deciding: &Deciding<2>, (ends, names): (&Ends<2>, &Names<'_>)) -> Vec<Change> {
    let mut members: Vec<Members> = vec![Members::default(); ends.classes.len()];
    for seat in &ends.seats {
        members[seat.class as usize].owners.insert(seat.owner);
    }
    for (number, region) in ends.regions.iter().enumerate() {
        members[region.class as usize].regions.insert(number);
    }
    let external = ends.external();
    let mut changes = Vec::new();
    for (item, concerned) in found {
        let except: HashSet<(Pair, [Flags; 2])> = concerned.except.into_iter().collect();
        let mut rectangles = rectangles(&concerned.pairs, None, &except);
        for (flags, pairs) in &concerned.special {
            rectangles.extend(self::rectangles(pairs, Some(*flags), &HashSet::new()));
        }
        let mut lines: BTreeMap<Line, (Vec<Rectangle>, [Members; 2])> = BTreeMap::new();
        for rectangle in rectangles {
            let sides = [&rectangle.sources, &rectangle.destinations].map(|classes| {
                classes.iter().fold(Members::default(), |mut all, class| {
                    all.owners.extend(&members[*class as usize].owners);
                    all.regions.extend(&members[*class as usize].regions);
                    all
                })
            });
            let line = (
                rectangle.only(),
                sides.each_ref().map(|side| side.owners.clone()),
                sides.each_ref().map(|side| !side.regions.is_empty()),
            );
            let (known, all) = lines.entry(line).or_default();
            known.push(rectangle);
            for (all, side) in all.iter_mut().zip(sides) {
                all.owners.extend(side.owners);
                all.regions.extend(side.regions);
            }
        }
        for ((only, ..), (rectangles, sides)) in lines {
            let family = family(&rectangles, &sides, ends);
            let workload_pairs = workload_pairs(only, &sides, ends);
            let [sources, destinations] = sides.map(|side| party(&side, (ends, &external), names));
            let [before, after] = [&item.before, &item.after].map(|decided| decision(decided, deciding));
            let kind = kind(&item);
            let ports = item.ports.clone();
            changes.push(Change { kind, sources, destinations, only, family, ports, before, after, workload_pairs, rectangles });
        }
    }
    changes
}

fn kind(item: &Item) -> Kind {
    let is_allow = |decided: &Decided| decided.iter().flatten().all(Verdict::is_allow);
    match (is_allow(&item.before), is_allow(&item.after)) {
        (false, true) => Kind::Opened,
        (true, false) => Kind::Closed,
        _ => Kind::Reason,
    }
}

fn party(side: &Members, (ends, external): (&Ends<2>, &[Region]), names: &Names<'_>) -> Party {
    let regions: Vec<Region> = side.regions.iter().map(|number| ends.regions[*number]).collect();
    names.party(&side.owners, &regions, external)
}

fn decision(decided: &Decided, deciding: &Deciding<2>) -> Decision {
    let named = |side: &Option<Verdict<u32>>| side.map(|verdict| verdict.map(|number| (**deciding.names.get(number)).clone()));
    Decision { egress: named(&decided[0]), ingress: named(&decided[1]) }
}

/// Returns the one family that is meant, where workloads or nodes have both.
fn family(rectangles: &[Rectangle], sides: &[Members; 2], ends: &Ends<2>) -> Option<&'static str> {
    let of_class = |class: &u32| ends.classes.get(*class).is_ipv4;
    let meant: BTreeSet<bool> = rectangles.iter().flat_map(|rectangle| rectangle.sources.iter().map(of_class)).collect();
    let has_both = |side: &Members| {
        let is_there = |is_ipv4: bool| {
            let mut seats = side.owners.iter().flat_map(|owner| ends.seats_of(*owner));
            seats.any(|seat| seat.addresses[0].is_ipv4() == is_ipv4) || side.owners.is_empty()
        };
        is_there(true) && is_there(false)
    };
    let only = meant.iter().next().filter(|_| meant.len() == 1 && sides.iter().all(has_both))?;
    Some(if *only { "IPv4" } else { "IPv6" })
}

fn workload_pairs(only: Pairs, sides: &[Members; 2], ends: &Ends<2>) -> u64 {
    let is_workload = |owner: &&u32| matches!(ends.owners[**owner as usize], Owner::Workload(_));
    let [sources, destinations] = sides.each_ref().map(|side| side.owners.iter().filter(is_workload).count() as u64);
    let same = sides[0].owners.intersection(&sides[1].owners).filter(is_workload).count() as u64;
    match only {
        Pairs::All | Pairs::NotOwnNode => sources * destinations - same,
        Pairs::OwnNode | Pairs::Itself => 0,
    }
}

/// Covers pairs by rectangles, each pair once: by sources with the same destinations, or the other way round if they are fewer.
fn rectangles(pairs: &[Pair], special: Option<[Flags; 2]>, except: &HashSet<(Pair, [Flags; 2])>) -> Vec<Rectangle> {
    let turned: Vec<Pair> = pairs.iter().map(|(source, destination)| (*destination, *source)).collect();
    let (by_source, by_destination) = (covered(pairs), covered(&turned));
    let chosen: Vec<(Vec<u32>, Vec<u32>)> = match by_source.len() <= by_destination.len() {
        true => by_source,
        false => by_destination.into_iter().map(|(destinations, sources)| (sources, destinations)).collect(),
    };
    let rectangle = |(sources, destinations): (Vec<u32>, Vec<u32>)| {
        let is_inside = |pair: &Pair| sources.binary_search(&pair.0).is_ok() && destinations.binary_search(&pair.1).is_ok();
        let except = except.iter().filter(|(pair, _)| is_inside(pair)).copied().collect();
        Rectangle { sources, destinations, special, except }
    };
    chosen.into_iter().map(rectangle).collect()
}

/// Puts together those that have the same others; both lists ascend.
fn covered(pairs: &[Pair]) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut others: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (one, other) in pairs {
        others.entry(*one).or_default().push(*other);
    }
    let mut same: HashMap<Vec<u32>, Vec<u32>> = HashMap::new();
    for (one, mut others) in others {
        others.sort_unstable();
        same.entry(others).or_default().push(one);
    }
    let mut covered: Vec<(Vec<u32>, Vec<u32>)> = same.into_iter().map(|(others, ones)| (ones, others)).collect();
    covered.sort_unstable();
    covered
}
