//! A rule set: the rules that apply to some subjects in one direction, compiled to a verdict for each class of peers and each
//! interval of ports.

use std::sync::Arc;

use hashbrown::HashMap;
use mesh_core::{ClusterName, Direction, Protocol, Reason, RuleName, Verdict};

use crate::book::Policy;

/// What a rule set decides: the tier and, with it, whether a rule did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// No tier decides.
    Undecided,
    /// A NetworkPolicy selects the subject and none of its rules matches.
    Isolated,
    /// The rule of that number in the rule set decides.
    AdminAllow(u32),
    AdminDeny(u32),
    NetworkAllow(u32),
    BaselineAllow(u32),
    BaselineDeny(u32),
}

/// From `start` on, to the next step's start, the outcome is this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    pub(crate) start: u32,
    outcome: u32,
}

impl Step {
    pub(crate) fn new(start: u32, outcome: Outcome) -> Step {
        let packed = |kind: u32, rule: u32| {
            assert!(rule < 1 << 28, "fewer rules apply to a subject than 28 bits count");
            rule << 4 | kind
        };
        let outcome = match outcome {
            Outcome::Isolated => 0,
            Outcome::Undecided => 1,
            Outcome::AdminDeny(rule) => packed(2, rule),
            Outcome::AdminAllow(rule) => packed(3, rule),
            Outcome::NetworkAllow(rule) => packed(5, rule),
            Outcome::BaselineDeny(rule) => packed(6, rule),
            Outcome::BaselineAllow(rule) => packed(7, rule),
        };
        Step { start, outcome }
    }

    pub(crate) fn outcome(self) -> Outcome {
        Packed(self.outcome).outcome()
    }
}

/// An [`Outcome`] as it is stored: a bit for `Allow`, three bits for the tier (none, Admin, NetworkPolicy, Baseline), then the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed(pub(crate) u32);

impl Packed {
    pub(crate) const UNDECIDED: Packed = Packed(1);
    pub(crate) const ISOLATED: Packed = Packed(0);

    /// Returns the verdict where a rule decides, whose number `id` makes an id of.
    ///
    /// It is put together of its parts, not chosen among all verdicts: nobody could predict that choice.
    #[inline]
    pub(crate) fn by_rule<R>(self, id: impl FnOnce(u32) -> R) -> Option<Verdict<R>> {
        let rule = id(self.0 >> 4);
        let reason = match self.0 >> 1 & 7 {
            0 => return None,
            1 => Reason::Admin(rule),
            2 => Reason::NetworkPolicy(rule),
            _ => Reason::Baseline(rule),
        };
        Some(if self.0 & 1 == 1 { Verdict::Allow(reason) } else { Verdict::Deny(reason) })
    }

    fn outcome(self) -> Outcome {
        let rule = self.0 >> 4;
        match self.0 & 15 {
            0 => Outcome::Isolated,
            2 => Outcome::AdminDeny(rule),
            3 => Outcome::AdminAllow(rule),
            5 => Outcome::NetworkAllow(rule),
            6 => Outcome::BaselineDeny(rule),
            7 => Outcome::BaselineAllow(rule),
            _ => Outcome::Undecided,
        }
    }
}

/// Returns the place of a protocol and port among the steps; protocols without ports have one place each.
#[inline]
pub(crate) fn key(protocol: Protocol, port: u16) -> u32 {
    match protocol {
        Protocol::Tcp => u32::from(port),
        Protocol::Udp => 1 << 16 | u32::from(port),
        Protocol::Sctp => 2 << 16 | u32::from(port),
        Protocol::Other(number) => (3 + u32::from(number)) << 16,
    }
}

/// Returns the protocol and port of a place.
pub(crate) fn protocol_and_port(key: u32) -> (Protocol, u16) {
    let port = u16::try_from(key & 0xffff).expect("16 bits");
    match key >> 16 {
        0 => (Protocol::Tcp, port),
        1 => (Protocol::Udp, port),
        2 => (Protocol::Sctp, port),
        other => (Protocol::Other(u8::try_from(other - 3).unwrap_or(u8::MAX)), port),
    }
}

/// The end of all places.
pub(crate) const KEYS: u32 = (3 + 256) << 16;

/// Returns the places of every port of `protocol`, the second one excluded.
pub(crate) fn span_of_protocol(protocol: Protocol) -> (u32, u32) {
    let first = key(protocol, 0);
    (first, first + (1 << 16))
}

/// A rule by the policy that it stands in.
#[derive(Clone, Debug)]
pub(crate) struct RuleRef {
    pub(crate) policy: Arc<Policy>,
    /// Its place among the policy's compiled rules of the direction.
    pub(crate) at: u32,
}

/// Eight steps in a cache line: rows begin at one, so that most of them are read at once.
///
/// The first step of a row starts at 0, which need not be said: in its place stands the number of the row's lines. Places that no
/// step has start after all places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(align(64))]
pub(crate) struct Line {
    /// Signed, because processors compare eight signed numbers at once.
    pub(crate) starts: [i32; LINE],
    outcomes: [u32; LINE],
}

/// The steps of a line.
pub(crate) const LINE: usize = 8;

impl Line {
    /// Appends a row to `lines`; the first step starts at 0.
    pub(crate) fn write_row(steps: &[Step], lines: &mut Vec<Line>) {
        let first = lines.len();
        for steps in steps.chunks(LINE) {
            let mut line = Line { starts: [i32::MAX; LINE], outcomes: [0; LINE] };
            for (at, step) in steps.iter().enumerate() {
                line.starts[at] = i32::try_from(step.start).expect("fewer places than an i32 counts");
                line.outcomes[at] = step.outcome;
            }
            lines.push(line);
        }
        lines[first].starts[0] = i32::try_from(steps.len().div_ceil(LINE)).expect("fewer lines than an i32 counts");
    }

    /// Returns the number of lines of the row that begins here.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.starts[0] as usize
    }

    /// Returns the outcome of the last step that starts at or before `key`; the first one does.
    #[inline]
    fn outcome(&self, key: i32) -> u32 {
        let after = self.starts[1..].iter().map(|start| usize::from(*start <= key)).sum::<usize>();
        self.outcomes[after & (LINE - 1)]
    }
}

/// The line at which the row of each class begins; class by class, or only those that are not usual.
#[derive(Clone, Debug)]
pub(crate) enum Cells {
    /// By class; a class beyond the end has the usual row, 0.
    Dense(Arc<[u16]>),
    /// The same, of a rule set with very many rows.
    Wide(Arc<[u32]>),
    /// An open table of `class << 32 | row`, a power of two long and at most half full.
    Sparse(Arc<[u64]>),
}

const EMPTY: u64 = u64::MAX;

impl Default for Cells {
    fn default() -> Cells {
        Cells::Dense(Arc::from([]))
    }
}

impl Cells {
    /// Makes the cells of `rows`, each a class and where its row begins; other classes have the row that begins at 0.
    pub(crate) fn new(rows: &[(u32, u32)]) -> Cells {
        let Some(last) = rows.iter().map(|(class, _)| *class as usize).max() else { return Cells::default() };
        let slots = (rows.len() * 2).next_power_of_two();
        // A dense cell is a quarter of a slot, and faster.
        if last / 8 <= slots {
            return Cells::dense(last + 1, rows);
        }
        let mut table = vec![EMPTY; slots];
        for (class, row) in rows {
            let mut at = scatter(*class) & (slots - 1);
            while table[at] != EMPTY {
                at = (at + 1) & (slots - 1);
            }
            table[at] = u64::from(*class) << 32 | u64::from(*row);
        }
        Cells::Sparse(table.into())
    }

    fn dense(len: usize, rows: &[(u32, u32)]) -> Cells {
        if rows.iter().all(|(_, row)| u16::try_from(*row).is_ok()) {
            let mut cells = vec![0; len];
            rows.iter().for_each(|(class, row)| cells[*class as usize] = *row as u16);
            return Cells::Dense(cells.into());
        }
        let mut cells = vec![0; len];
        rows.iter().for_each(|(class, row)| cells[*class as usize] = *row);
        Cells::Wide(cells.into())
    }

    /// Gives classes other rows.
    pub(crate) fn change(&mut self, changes: &[(u32, u32)]) {
        if let Cells::Dense(cells) = self {
            let fits = |(class, row): &(u32, u32)| (*class as usize) < cells.len() && u16::try_from(*row).is_ok();
            if changes.iter().all(|change| fits(change) || change.1 == 0) {
                let mut changed: Vec<u16> = cells.to_vec();
                for (class, row) in changes.iter().filter(|change| fits(change)) {
                    changed[*class as usize] = *row as u16;
                }
                *cells = changed.into();
                return;
            }
        }
        let mut all: HashMap<u32, u32> = self.list().into_iter().collect();
        all.extend(changes.iter().copied());
        all.retain(|_, row| *row != 0);
        *self = Cells::new(&all.into_iter().collect::<Vec<_>>());
    }

    #[inline]
    fn row(&self, class: u32) -> u32 {
        match self {
            Cells::Dense(cells) => cells.get(class as usize).copied().unwrap_or(0).into(),
            Cells::Wide(cells) => cells.get(class as usize).copied().unwrap_or(0),
            Cells::Sparse(table) => {
                let mut at = scatter(class) & (table.len() - 1);
                loop {
                    let cell = table[at];
                    if (cell >> 32) as u32 == class {
                        return cell as u32;
                    }
                    if cell == EMPTY {
                        return 0;
                    }
                    at = (at + 1) & (table.len() - 1);
                }
            }
        }
    }

    /// Returns every cell that is not the usual one.
    pub(crate) fn list(&self) -> Vec<(u32, u32)> {
        match self {
            Cells::Dense(cells) => (0..).zip(cells.iter().map(|row| u32::from(*row))).filter(|(_, row)| *row != 0).collect(),
            Cells::Wide(cells) => (0..).zip(cells.iter().copied()).filter(|(_, row)| *row != 0).collect(),
            Cells::Sparse(table) => {
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

/// The rules that apply to some subjects in one direction, compiled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ruleset {
    pub(crate) cells: Cells,
    /// Rows, each from the beginning of a line. The row at 0 is the usual one.
    pub(crate) lines: Arc<[Line]>,
    /// The rules by the numbers that outcomes have.
    pub(crate) rules: Arc<[RuleRef]>,
    /// The rules are egress rules.
    pub(crate) is_egress: bool,
}

impl Ruleset {
    /// Returns the outcome for peers of `class` at the place `key`, packed.
    #[inline]
    pub(crate) fn outcome(&self, class: u32, key: u32) -> Packed {
        let at = self.cells.row(class) as usize;
        // A set without rows decides nothing.
        let Some(first) = self.lines.get(at) else { return Packed::UNDECIDED };
        let key = key as i32;
        let mut line = first;
        for next in self.lines[at + 1..].iter().take(first.len() - 1) {
            if next.starts[0] > key {
                break;
            }
            line = next;
        }
        Packed(line.outcome(key))
    }

    /// Returns the steps of `class`, the first of which starts at 0.
    pub(crate) fn steps(&self, class: u32) -> impl Iterator<Item = Step> {
        let at = self.cells.row(class) as usize;
        let len = self.lines.get(at).map_or(0, Line::len);
        let row = self.lines.iter().skip(at).take(len).enumerate();
        row.flat_map(|(number, line)| {
            let starts = line.starts.iter().enumerate().map(move |(at, start)| if number + at == 0 { 0 } else { *start });
            let steps = starts.zip(line.outcomes).filter(|(start, _)| *start != i32::MAX);
            steps.map(|(start, outcome)| Step { start: start as u32, outcome })
        })
    }

    /// Returns the name of the rule of that number, as `cluster` decides by it.
    pub(crate) fn name(&self, rule: u32, cluster: &ClusterName) -> RuleName {
        let direction = if self.is_egress { Direction::Egress } else { Direction::Ingress };
        let RuleRef { policy, at } = &self.rules[rule as usize];
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
            let cells = Cells::new(&rows);
            assert_eq!(matches!(cells, Cells::Sparse(_)), scale == 5_000);
            assert_eq!(matches!(cells, Cells::Wide(_)), offset > 0);
            let mut listed = cells.list();
            listed.sort_unstable();
            assert_eq!(listed, rows);
            let mut changed = cells.clone();
            changed.change(&[(scale, 0), (2 * scale, 9), (1_000 * scale, 0)]);
            assert_eq!([0, 1, 2, 3].map(|number| changed.row(number * scale)), [0, 0, 9, 3 + offset]);
            changed.change(&[(scale, 5), (1_000 * scale, 7), (3, 70_001)]);
            assert_eq!([1, 1_000].map(|number| changed.row(number * scale)), [if scale == 3 { 70_001 } else { 5 }, 7]);
            for class in 0..1_000_001 {
                let number = class / scale;
                let expected = if class % scale == 0 && (1..200).contains(&number) { number + offset } else { 0 };
                assert_eq!(cells.row(class), expected, "{class}");
            }
        }
        assert_eq!(Cells::default().row(7), 0);
    }

    #[test]
    fn a_place_is_of_one_protocol_and_port() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Other(0), Protocol::Other(255)] {
            let port = if protocol.has_ports() { 5432 } else { 0 };
            assert_eq!(protocol_and_port(key(protocol, port)), (protocol, port));
            assert!(span_of_protocol(protocol).1 <= KEYS);
        }
    }
}
