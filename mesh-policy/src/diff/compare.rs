//! The pairs of classes between which something changes.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use mesh_core::Verdict;

use super::Options;
use crate::reach::{Both, Deciding, Ends, Flags, Ports, Situations, Table, specials};
use crate::set::rows::KEYS;

/// What a set decides, as [`Decision`](super::Decision) has it, with rules by their numbers: [egress, ingress].
pub(super) type Decided = [Option<Verdict<u32>>; 2];

/// One change of the verdict, or of the reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Item {
    pub(super) ports: Ports,
    pub(super) before: Decided,
    pub(super) after: Decided,
}

/// Two classes: the sources' and the destinations'.
pub(super) type Pair = (u32, u32);

/// A change, and the pairs of classes that it concerns.
#[derive(Clone, Debug, Default)]
pub(super) struct Concerned {
    /// All pairs of ends of these classes,
    pub(super) pairs: Vec<Pair>,
    /// but those.
    pub(super) except: Vec<(Pair, [Flags; 2])>,
    /// Pairs of ends that have these flags, alone.
    pub(super) special: BTreeMap<[Flags; 2], Vec<Pair>>,
}

/// What is found: the changes, and for each whom it concerns.
pub(super) type Found = Vec<(Item, Concerned)>;

/// Compares every pair of classes of which one is of workloads.
pub(super) fn compare(ends: &Ends<2>, sets: &[Situations<'_>; 2], options: Options) -> (Found, Deciding<2>) {
    let mut comparing = Comparing {
        deciding: Deciding::new(true),
        reasons: options.reasons,
        signatures: HashMap::default(),
        items: Table::default(),
        lists: vec![Vec::new()],
    };
    let mut concerned: Vec<Concerned> = Vec::new();
    let mut special: HashMap<Pair, BTreeMap<[Flags; 2], u64>> = HashMap::new();
    for (from, to, flags) in specials(ends, sets) {
        let pair = (ends.seats[from as usize].class, ends.seats[to as usize].class);
        *special.entry(pair).or_default().entry(flags).or_default() += 1;
    }
    let counts = ends.counts();
    let classes: Vec<_> = ends.classes.iter().collect();
    let ordinary = [Flags::default(); 2];
    for (from, source) in (0..).zip(&classes) {
        for (to, destination) in (0..).zip(&classes) {
            if source.is_ipv4 != destination.is_ipv4 || !(source.is_workload() || destination.is_workload()) {
                continue;
            }
            let mut signature =
                |flags| comparing.signature(sets, [0, 1].map(|x| [source.situations[x], destination.situations[x]]), flags);
            let of_pair = special.get(&(from, to));
            let exceptions: u64 = of_pair.into_iter().flat_map(BTreeMap::values).sum();
            let is_ordinary = counts[from as usize] * counts[to as usize] > exceptions;
            let usual = if is_ordinary { signature(ordinary) } else { 0 };
            let unusual: Vec<([Flags; 2], usize)> =
                of_pair.into_iter().flat_map(BTreeMap::keys).map(|flags| (*flags, signature(*flags))).collect();
            if usual == 0 && unusual.iter().all(|(_, signature)| *signature == 0) {
                continue;
            }
            concerned.resize_with(comparing.items.len(), Concerned::default);
            let (usual, pair) = (&comparing.lists[usual], (from, to));
            for item in usual {
                concerned[*item as usize].pairs.push(pair);
            }
            for (flags, other) in unusual {
                let other = &comparing.lists[other];
                for item in usual.iter().filter(|item| !other.contains(item)) {
                    concerned[*item as usize].except.push((pair, flags));
                }
                for item in other.iter().filter(|item| !usual.contains(item)) {
                    concerned[*item as usize].special.entry(flags).or_default().push(pair);
                }
            }
        }
    }
    let found = comparing.items.iter().cloned().zip(concerned).collect();
    (found, comparing.deciding)
}

struct Comparing {
    deciding: Deciding<2>,
    reasons: bool,
    /// The list of changes between what both sides say before and after.
    signatures: HashMap<(u32, u32), usize, foldhash::fast::RandomState>,
    items: Table<Item>,
    /// Lists of items; the first is empty.
    lists: Vec<Vec<u32>>,
}

impl Comparing {
    /// Returns the number of the list of changes between two ends.
    fn signature(
        &mut self,
        sets: &[Situations<'_>; 2],
        situations: [[crate::reach::Situation; 2]; 2],
        flags: [Flags; 2],
    ) -> usize {
        let [before, after] = [0, 1].map(|x| self.deciding.means(sets, x, situations[x], flags[x]));
        if before == after {
            return 0;
        }
        let [before, after] = [before, after].map(|means| self.deciding.number(means));
        if before == after || !self.reasons && self.deciding.allowed(before) == self.deciding.allowed(after) {
            return 0;
        }
        if let Some(known) = self.signatures.get(&(before, after)) {
            return *known;
        }
        let changes = changes(self.deciding.both(before), self.deciding.both(after), self.reasons);
        let list: Vec<u32> = changes.into_iter().map(|item| self.items.number(item)).collect();
        let number = if list.is_empty() { 0 } else { self.lists.len() };
        if number > 0 {
            self.lists.push(list);
        }
        self.signatures.insert((before, after), number);
        number
    }
}

/// What is decided before and after.
type Step = (Decided, Decided);

/// Compares what both sides say, place by place.
fn changes(before: &Both, after: &Both, reasons: bool) -> Vec<Item> {
    let mut edges: Vec<u32> = before.iter().chain(after.iter()).map(|(start, _)| *start).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut changes: Vec<(Step, Vec<(u32, u32)>)> = Vec::new();
    for (at, start) in edges.iter().enumerate() {
        let end = edges.get(at + 1).copied().unwrap_or(KEYS);
        let decided = |both: &Both| decided(both[both.partition_point(|(first, _)| first <= start) - 1].1);
        let change = (decided(before), decided(after));
        let is_allow = |decided: &Decided| decided.iter().flatten().all(Verdict::is_allow);
        if change.0 == change.1 || !reasons && is_allow(&change.0) == is_allow(&change.1) {
            continue;
        }
        match changes.iter_mut().find(|(known, _)| *known == change) {
            Some((_, spans)) => spans.push((*start, end)),
            None => changes.push((change, vec![(*start, end)])),
        }
    }
    let item = |((before, after), spans)| Item { ports: Ports::from_spans(spans), before, after };
    changes.into_iter().map(item).collect()
}

/// Leaves out what does not matter: who allows what is denied all the same.
fn decided(sides: [Verdict<u32>; 2]) -> Decided {
    let is_allow = sides.iter().all(Verdict::is_allow);
    sides.map(|side| Some(side).filter(|side| is_allow || !side.is_allow()))
}
