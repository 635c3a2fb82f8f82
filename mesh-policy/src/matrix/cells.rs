//! The cells of a matrix, from every pair of classes.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};

use super::{Cell, Grouping};
use crate::reach::{Deciding, Ends, Flags, Situations, specials};

/// The ends of one class and one group: class, group.
type Block = (u32, usize);

/// What a cell is so far: numbers of ports.
type Mixed = Option<(u32, u32)>;

/// Computes the cells, row by row.
pub(super) fn cells(ends: &Ends<1>, sets: &[Situations<'_>; 1], grouping: &Grouping) -> Vec<Option<Cell>> {
    let mut blocks: BTreeMap<Block, u64> = BTreeMap::new();
    let seats = ends.seats.iter().map(|seat| seat.class).zip(&grouping.of_seats);
    let regions = ends.regions.iter().map(|region| region.class).zip(&grouping.of_regions);
    for (class, group) in seats.chain(regions) {
        if let Some(group) = group {
            *blocks.entry((class, *group)).or_default() += 1;
        }
    }
    let mut special: HashMap<(Block, Block), BTreeMap<[Flags; 1], u64>> = HashMap::new();
    let block = |seat: u32| grouping.of_seats[seat as usize].map(|group| (ends.seats[seat as usize].class, group));
    for (from, to, flags) in specials(ends, sets) {
        if let (Some(from), Some(to)) = (block(from), block(to)) {
            *special.entry((from, to)).or_default().entry(flags).or_default() += 1;
        }
    }
    let with_special: HashSet<Block> = special.keys().map(|(from, _)| *from).collect();
    let mut mixing = Mixing { deciding: Deciding::new(false), and: HashMap::default(), or: HashMap::default() };
    let mut mixed: Vec<Mixed> = vec![None; grouping.count * grouping.count];
    for (from, sources) in &blocks {
        let source = ends.classes.get(from.0);
        let has_special = with_special.contains(from);
        for (to, destinations) in &blocks {
            let destination = ends.classes.get(to.0);
            if source.is_ipv4 != destination.is_ipv4 || !(source.is_workload() || destination.is_workload()) {
                continue;
            }
            let situations = [source.situations[0], destination.situations[0]];
            let cell = &mut mixed[from.1 * grouping.count + to.1];
            let of_pair = if has_special { special.get(&(*from, *to)) } else { None };
            let exceptions: u64 = of_pair.into_iter().flat_map(BTreeMap::values).sum();
            if sources * destinations > exceptions {
                let both = mixing.deciding.between(sets, 0, situations, Flags::default());
                mixing.mix(cell, both);
            }
            for [flags] in of_pair.into_iter().flat_map(BTreeMap::keys).filter(|[flags]| !flags.is_same) {
                let both = mixing.deciding.between(sets, 0, situations, *flags);
                mixing.mix(cell, both);
            }
        }
    }
    let ports = |number: u32| (**mixing.deciding.ports.get(number)).clone();
    mixed.into_iter().map(|mixed| mixed.map(|(every, some)| Cell { every: ports(every), some: ports(some) })).collect()
}

/// The number of two sets of ports put together.
type Known = HashMap<(u32, u32), u32, foldhash::fast::RandomState>;

/// Puts what pairs may together, each two sets of ports once.
struct Mixing {
    deciding: Deciding<1>,
    and: Known,
    or: Known,
}

impl Mixing {
    fn mix(&mut self, cell: &mut Mixed, both: u32) {
        let more = self.deciding.allowed(both);
        let Some((every, some)) = *cell else {
            *cell = Some((more, more));
            return;
        };
        let ports = &mut self.deciding.ports;
        let mut combined = |known: &mut Known, one: u32, is_and: bool| {
            if one == more {
                return one;
            }
            *known.entry((one, more)).or_insert_with(|| {
                let (a, b) = (ports.get(one).clone(), ports.get(more).clone());
                ports.number(if is_and { a.and(&b) } else { a.or(&b) })
            })
        };
        let every = combined(&mut self.and, every, true);
        let some = combined(&mut self.or, some, false);
        *cell = Some((every, some));
    }
}
