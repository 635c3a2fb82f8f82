//! A rule set: the rules that apply to some subjects in one direction, compiled to a row for each class of peers.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashMap;
use mesh_core::{ClusterName, Direction, RuleName};

use super::rows::{PROTOCOLS, Packed, Place, Rows, Step};
use crate::book::Policy;

/// A rule by the policy that it stands in.
#[derive(Clone, Debug)]
pub(crate) struct RuleRef {
    pub(crate) policy: Arc<Policy>,
    /// Its place among the policy's compiled rules of the direction.
    pub(crate) at: u32,
}

/// Where the row of each class is; class by class, or only those that are not usual.
#[derive(Clone, Debug)]
pub(crate) enum Cells {
    /// By class; the last one is the usual one, and that of all classes beyond. At least one.
    Dense(Arc<[u16]>),
    /// The same, of a rule set with very many rows.
    Wide(Arc<[u32]>),
    /// An open table of `class << 32 | place`, a power of two long and at most half full; and the usual one.
    Sparse(Arc<[u64]>, Place),
}

const EMPTY: u64 = u64::MAX;

impl Default for Cells {
    fn default() -> Cells {
        Cells::Sparse(Arc::default(), 0)
    }
}

impl Cells {
    /// Makes the cells of `rows`, each a class and where its row is; other classes have the `usual` one.
    pub(crate) fn new(rows: &[(u32, Place)], usual: Place) -> Cells {
        let end = rows.iter().map(|(class, _)| *class as usize + 1).max().unwrap_or(0);
        let slots = (rows.len() * 2).next_power_of_two();
        // A dense cell is a quarter of a slot, and faster.
        if end / 8 <= slots {
            return Cells::dense(end + 1, rows, usual);
        }
        let mut table = vec![EMPTY; slots];
        for (class, row) in rows {
            let mut at = scatter(*class) & (slots - 1);
            while table[at] != EMPTY {
                at = (at + 1) & (slots - 1);
            }
            table[at] = u64::from(*class) << 32 | u64::from(*row);
        }
        Cells::Sparse(table.into(), usual)
    }

    fn dense(len: usize, rows: &[(u32, Place)], usual: Place) -> Cells {
        let narrow = |place: Place| u16::try_from(place).ok();
        if let Some(usual) = narrow(usual).filter(|_| rows.iter().all(|(_, row)| narrow(*row).is_some())) {
            let mut cells = vec![usual; len];
            rows.iter().for_each(|(class, row)| cells[*class as usize] = *row as u16);
            return Cells::Dense(cells.into());
        }
        let mut cells = vec![usual; len];
        rows.iter().for_each(|(class, row)| cells[*class as usize] = *row);
        Cells::Wide(cells.into())
    }

    /// Gives classes other rows.
    pub(crate) fn change(&mut self, changes: &[(u32, Place)]) {
        let usual = self.usual();
        if let Cells::Dense(cells) = self {
            let is_inside = |class: u32| (class as usize) < cells.len() - 1;
            let fits = |(class, row): &(u32, Place)| is_inside(*class) && u16::try_from(*row).is_ok();
            if changes.iter().all(|change| fits(change) || change.1 == usual) {
                let mut changed: Vec<u16> = cells.to_vec();
                for (class, row) in changes.iter().filter(|change| fits(change)) {
                    changed[*class as usize] = *row as u16;
                }
                *cells = changed.into();
                return;
            }
        }
        let mut all: HashMap<u32, Place> = self.list().into_iter().collect();
        all.extend(changes.iter().copied());
        all.retain(|_, row| *row != usual);
        *self = Cells::new(&all.into_iter().collect::<Vec<_>>(), usual);
    }

    /// Takes the rows of classes back: they have the usual one.
    pub(crate) fn forget(&mut self, classes: &[u32]) {
        let usual = self.usual();
        self.change(&classes.iter().map(|class| (*class, usual)).collect::<Vec<_>>());
    }

    #[inline(always)]
    fn place(&self, class: u32) -> Place {
        match self {
            // The comparison picks a number, not a way: which classes are beyond nobody can predict.
            Cells::Dense(cells) => cells[(class as usize).min(cells.len() - 1)].into(),
            Cells::Wide(cells) => cells[(class as usize).min(cells.len() - 1)],
            Cells::Sparse(table, usual) => Cells::search(table, class).unwrap_or(*usual),
        }
    }

    fn search(table: &[u64], class: u32) -> Option<Place> {
        let mask = table.len().checked_sub(1)?;
        let mut at = scatter(class) & mask;
        loop {
            let cell = table[at];
            if (cell >> 32) as u32 == class {
                return Some(cell as u32);
            }
            if cell == EMPTY {
                return None;
            }
            at = (at + 1) & mask;
        }
    }

    fn usual(&self) -> Place {
        match self {
            Cells::Dense(cells) => cells.last().copied().map_or(0, Place::from),
            Cells::Wide(cells) => cells.last().copied().unwrap_or(0),
            Cells::Sparse(_, usual) => *usual,
        }
    }

    /// Returns every cell that is not the usual one.
    pub(crate) fn list(&self) -> Vec<(u32, Place)> {
        let usual = self.usual();
        match self {
            Cells::Dense(cells) => {
                (0..).zip(cells.iter().map(|row| Place::from(*row))).filter(|(_, row)| *row != usual).collect()
            }
            Cells::Wide(cells) => (0..).zip(cells.iter().copied()).filter(|(_, row)| *row != usual).collect(),
            Cells::Sparse(table, _) => {
                let cells = table.iter().filter(|cell| **cell != EMPTY);
                cells.map(|cell| ((cell >> 32) as u32, *cell as u32)).collect()
            }
        }
    }
}

/// Spreads class numbers over a table (Fibonacci hashing).
fn scatter(class: u32) -> usize {
    (u64::from(class).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

/// The rules that apply to some subjects in one direction, compiled. TCP needs the first of its two cache lines only.
#[derive(Clone, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Ruleset {
    pub(crate) rows: Rows,
    /// None where there are no rows.
    pub(crate) rules: Option<Arc<Rules>>,
    /// By protocol.
    pub(crate) cells: [Cells; PROTOCOLS],
}

/// The rules by the numbers that outcomes have.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) list: Box<[RuleRef]>,
    /// They are egress rules.
    pub(crate) is_egress: bool,
}

impl Ruleset {
    /// Returns the outcome for peers of `class` at the place `key`.
    #[inline(always)]
    pub(crate) fn outcome(&self, class: u32, key: u32) -> Packed {
        self.rows.outcome(self.cells[(key >> 16) as usize % PROTOCOLS].place(class), key as u16)
    }

    /// Tells whether this is `other`, or a copy that shares everything.
    pub(crate) fn shares_all(&self, other: &Ruleset) -> bool {
        let cells = |(one, other): (&Cells, &Cells)| match (one, other) {
            (Cells::Dense(one), Cells::Dense(other)) => Arc::ptr_eq(one, other),
            (Cells::Wide(one), Cells::Wide(other)) => Arc::ptr_eq(one, other),
            (Cells::Sparse(one, usual), Cells::Sparse(other, other_usual)) => Arc::ptr_eq(one, other) && usual == other_usual,
            _ => false,
        };
        let rules = match (&self.rules, &other.rules) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        rules && self.rows.shares_all(&other.rows) && self.cells.iter().zip(&other.cells).all(cells)
    }

    /// Returns where the rows of `class` are, by protocol.
    pub(crate) fn places(&self, class: u32) -> [Place; PROTOCOLS] {
        self.cells.each_ref().map(|cells| cells.place(class))
    }

    /// Returns where the rows of the classes are that are not told apart.
    pub(crate) fn usual_places(&self) -> [Place; PROTOCOLS] {
        self.cells.each_ref().map(Cells::usual)
    }

    /// Returns the classes that have a row of their own for some protocol, ascending.
    pub(crate) fn unusual_classes(&self) -> BTreeSet<u32> {
        self.cells.iter().flat_map(Cells::list).map(|(class, _)| class).collect()
    }

    /// Returns the steps of the rows at `places`, the first of which starts at 0; none where there are no rows and nothing is decided.
    pub(crate) fn steps(&self, places: &[Place; PROTOCOLS]) -> Vec<Step> {
        let mut all = Vec::new();
        for (protocol, place) in (0..).zip(places) {
            let steps = self.rows.steps(*place);
            all.extend(steps.into_iter().map(|step| Step { start: protocol << 16 | step.start, ..step }));
        }
        all.dedup_by_key(|step| step.outcome);
        all
    }

    /// Returns the name of the rule of that number, as `cluster` decides by it.
    pub(crate) fn name(&self, rule: u32, cluster: &ClusterName) -> RuleName {
        let rules = self.rules.as_ref().expect("a verdict's rule set has rules");
        let direction = if rules.is_egress { Direction::Egress } else { Direction::Ingress };
        let RuleRef { policy, at } = &rules.list[rule as usize];
        policy.rule_name(cluster, direction, *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_the_same_dense_and_sparse() {
        for (scale, offset) in [(1, 0), (3, 0), (3, 70_000), (5_000, 0)] {
            let rows: Vec<(u32, u32)> = (1..200).map(|number| (number * scale, number + offset)).collect();
            let cells = Cells::new(&rows, 999_999);
            assert_eq!(matches!(cells, Cells::Sparse(..)), scale == 5_000);
            assert!(!matches!(cells, Cells::Dense(_)), "a place that is too large for it");
            let cells = Cells::new(&rows, 7_000);
            assert_eq!(matches!(cells, Cells::Wide(_)), offset > 0);
            let mut listed = cells.list();
            listed.sort_unstable();
            assert_eq!(listed, rows);
            let mut changed = cells.clone();
            changed.change(&[(2 * scale, 9)]);
            changed.forget(&[scale, 1_000 * scale]);
            assert_eq!([0, 1, 2, 3].map(|number| changed.place(number * scale)), [7_000, 7_000, 9, 3 + offset]);
            changed.change(&[(scale, 5), (1_000 * scale, 7), (3, 70_001)]);
            assert_eq!([1, 1_000].map(|number| changed.place(number * scale)), [if scale == 3 { 70_001 } else { 5 }, 7]);
            for class in 0..1_000_001 {
                let number = class / scale;
                let expected = if class % scale == 0 && (1..200).contains(&number) { number + offset } else { 7_000 };
                assert_eq!(cells.place(class), expected, "{class}");
            }
        }
        assert_eq!(Cells::default().place(7), 0);
    }
}
