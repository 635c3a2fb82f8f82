//! From the rules that matter to a class of peers to its row: one outcome for each interval of ports.

use mesh_core::NamedPort;
use mesh_core::policy::RuleAction;

use crate::book::{Ports, Rule};
use crate::set::rows::{KEYS, Outcome, PROTOCOLS, Packed, Step, key};

/// The tier of a rule of a rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    Admin,
    Network,
    Baseline,
}

/// A rule that matters, by its number in the rule set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applying<'a> {
    pub(super) number: u32,
    pub(super) tier: Tier,
    pub(super) rule: &'a Rule,
}

/// What is known of an interval while the tiers are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Open,
    /// A rule said `Pass`: no other rule of the tier counts.
    Passed,
    Decided(Outcome),
}

/// Makes rows; its buffers are used again.
#[derive(Debug, Default)]
pub(super) struct Painter {
    /// Where the intervals begin between all ports that the rules name.
    starts: Vec<u32>,
    marks: Vec<Mark>,
    steps: Vec<Step>,
}

impl Painter {
    /// Makes the row of `rules`, in the order in which they are consulted; `isolated`: a NetworkPolicy selects the subject.
    /// `named` are the destination workload's named ports.
    pub(super) fn paint(&mut self, rules: &[Applying<'_>], isolated: bool, named: &[NamedPort]) {
        self.starts.clear();
        self.starts.push(0);
        for applying in rules {
            for_spans(&applying.rule.ports, named, |first, end| self.starts.extend([first, end]));
        }
        self.starts.sort_unstable();
        self.starts.dedup();
        // The end of all places starts nothing.
        while self.starts.last().is_some_and(|start| *start >= KEYS) {
            self.starts.pop();
        }
        self.marks.clear();
        self.marks.resize(self.starts.len(), Mark::Open);
        let mut tier = Tier::Admin;
        for Applying { number, tier: of_rule, rule } in rules.iter().copied() {
            if of_rule != tier {
                self.end_tier(tier, of_rule, isolated);
                tier = of_rule;
            }
            let mark = match (of_rule, rule.action) {
                (Tier::Network, _) => Mark::Decided(Outcome::NetworkAllow(number)),
                (_, RuleAction::Pass) => Mark::Passed,
                (Tier::Admin, RuleAction::Accept) => Mark::Decided(Outcome::AdminAllow(number)),
                (Tier::Admin, RuleAction::Deny) => Mark::Decided(Outcome::AdminDeny(number)),
                (Tier::Baseline, RuleAction::Accept) => Mark::Decided(Outcome::BaselineAllow(number)),
                (Tier::Baseline, RuleAction::Deny) => Mark::Decided(Outcome::BaselineDeny(number)),
            };
            for_spans(&rule.ports, named, |first, end| mark_open(&self.starts, &mut self.marks, (first, end), mark));
        }
        if tier != Tier::Baseline {
            self.end_tier(tier, Tier::Baseline, isolated);
        }
    }

    /// Opens what was passed on to a later tier, and decides what NetworkPolicy leaves open where one applies.
    fn end_tier(&mut self, from: Tier, to: Tier, isolated: bool) {
        for mark in &mut self.marks {
            if *mark == Mark::Passed {
                *mark = Mark::Open;
            }
            if isolated && from <= Tier::Network && to == Tier::Baseline && *mark == Mark::Open {
                *mark = Mark::Decided(Outcome::Isolated);
            }
        }
    }

    /// Calls `each` with the steps of every protocol, the first of which is for its first port.
    pub(super) fn steps(&mut self, mut each: impl FnMut(usize, &[Step])) {
        let outcome = |mark: &Mark| match mark {
            Mark::Decided(outcome) => Packed::new(*outcome),
            Mark::Open | Mark::Passed => Packed::UNDECIDED,
        };
        let mut rest = self.starts.iter().zip(&self.marks).peekable();
        let mut last = Packed::UNDECIDED;
        for (number, protocol) in (0..PROTOCOLS).zip(0u32..) {
            self.steps.clear();
            self.steps.push(Step { start: protocol << 16, outcome: last });
            while let Some((start, mark)) = rest.next_if(|(start, _)| **start >> 16 == protocol) {
                last = outcome(mark);
                if *start == protocol << 16 {
                    self.steps[0].outcome = last;
                } else if self.steps.last().is_none_or(|step| step.outcome != last) {
                    self.steps.push(Step { start: *start, outcome: last });
                }
            }
            each(number, &self.steps);
        }
    }
}

/// Marks what is still open between `first` and `end`.
fn mark_open(starts: &[u32], marks: &mut [Mark], (first, end): (u32, u32), mark: Mark) {
    let at = starts.partition_point(|start| *start < first);
    for (start, known) in starts.iter().zip(marks).skip(at) {
        if *start >= end {
            break;
        }
        if *known == Mark::Open {
            *known = mark;
        }
    }
}

/// Calls `each` with the places that a rule's ports are, where `named` are the destination's named ports.
fn for_spans(ports: &Ports, named: &[NamedPort], mut each: impl FnMut(u32, u32)) {
    if ports.all {
        return each(0, KEYS);
    }
    ports.spans.iter().for_each(|(first, end)| each(*first, *end));
    for (protocol, name) in &ports.named {
        let meant = named.iter().filter(|port| {
            port.name == *name && protocol.is_none_or(|wanted| wanted == port.protocol) && port.protocol.has_ports()
        });
        for port in meant {
            let place = key(port.protocol, port.port);
            each(place, place + 1);
        }
    }
}
