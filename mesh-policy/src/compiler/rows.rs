//! From the rules that matter to a class of peers to its row: one outcome for each interval of ports.

use mesh_core::NamedPort;
use mesh_core::policy::RuleAction;

use crate::book::{Ports, Rule};
use crate::set::ruleset::{KEYS, Outcome, Step, key};

/// The rules that matter to a class, tier after tier, each with its number in the rule set.
pub(super) struct Matching<'a> {
    pub(super) admin: Vec<(u32, &'a Rule)>,
    /// `None`: no NetworkPolicy selects the subject.
    pub(super) network: Option<Vec<(u32, &'a Rule)>>,
    pub(super) baseline: Vec<(u32, &'a Rule)>,
    /// The destination workload's named ports.
    pub(super) named: &'a [NamedPort],
}

/// What is known of an interval while the tiers are gone through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Open,
    /// A rule said `Pass`: no other rule of the tier counts.
    Passed,
    Decided(Outcome),
}

/// The intervals between all ports that the rules name, each with its mark.
struct Canvas {
    starts: Vec<u32>,
    marks: Vec<Mark>,
}

impl Matching<'_> {
    /// Appends the row to `steps`: a header with the number of its steps, then the steps, the first of which starts at 0.
    pub(super) fn write_row(&self, steps: &mut Vec<Step>) {
        let mut canvas = self.canvas();
        for (number, rule) in &self.admin {
            canvas.paint(
                &spans(&rule.ports, self.named),
                mark(rule.action, Outcome::AdminAllow(*number), Outcome::AdminDeny(*number)),
            );
        }
        canvas.reopen();
        match &self.network {
            Some(rules) => {
                for (number, rule) in rules {
                    canvas.paint(&spans(&rule.ports, self.named), Mark::Decided(Outcome::NetworkAllow(*number)));
                }
                canvas.paint(&[(0, KEYS)], Mark::Decided(Outcome::Isolated));
            }
            None => {
                for (number, rule) in &self.baseline {
                    let mark = mark(rule.action, Outcome::BaselineAllow(*number), Outcome::BaselineDeny(*number));
                    canvas.paint(&spans(&rule.ports, self.named), mark);
                }
            }
        }
        let header = steps.len();
        steps.push(Step::new(0, Outcome::Undecided));
        let mut last = None;
        for (start, mark) in canvas.starts.iter().zip(&canvas.marks) {
            let outcome = match mark {
                Mark::Decided(outcome) => *outcome,
                Mark::Open | Mark::Passed => Outcome::Undecided,
            };
            if last != Some(outcome) {
                steps.push(Step::new(*start, outcome));
                last = Some(outcome);
            }
        }
        steps[header].start = u32::try_from(steps.len() - header - 1).expect("fewer steps than places");
    }

    fn canvas(&self) -> Canvas {
        let mut starts = vec![0];
        let rules = self.admin.iter().chain(self.network.iter().flatten()).chain(&self.baseline);
        for (_, rule) in rules {
            for (first, end) in spans(&rule.ports, self.named) {
                starts.extend([first, end]);
            }
        }
        starts.sort_unstable();
        starts.dedup();
        // The end of all places starts nothing.
        starts.retain(|start| *start < KEYS);
        Canvas { marks: vec![Mark::Open; starts.len()], starts }
    }
}

impl Canvas {
    /// Marks what is still open in `spans`.
    fn paint(&mut self, spans: &[(u32, u32)], mark: Mark) {
        for (first, end) in spans {
            let at = self.starts.partition_point(|start| start < first);
            for (start, known) in self.starts.iter().zip(&mut self.marks).skip(at) {
                if start >= end {
                    break;
                }
                if *known == Mark::Open {
                    *known = mark;
                }
            }
        }
    }

    /// Opens what was passed on to the next tier.
    fn reopen(&mut self) {
        self.marks.iter_mut().filter(|mark| **mark == Mark::Passed).for_each(|mark| *mark = Mark::Open);
    }
}

fn mark(action: RuleAction, allow: Outcome, deny: Outcome) -> Mark {
    match action {
        RuleAction::Accept => Mark::Decided(allow),
        RuleAction::Deny => Mark::Decided(deny),
        RuleAction::Pass => Mark::Passed,
    }
}

/// Returns the places that a rule's ports are, where `named` are the destination's named ports.
fn spans(ports: &Ports, named: &[NamedPort]) -> Vec<(u32, u32)> {
    if ports.all {
        return vec![(0, KEYS)];
    }
    let by_name = ports.named.iter().flat_map(|(protocol, name)| {
        let meant = named.iter().filter(move |port| {
            port.name == *name && protocol.is_none_or(|wanted| wanted == port.protocol) && port.protocol.has_ports()
        });
        meant.map(|port| (key(port.protocol, port.port), key(port.protocol, port.port) + 1))
    });
    ports.spans.iter().copied().chain(by_name).collect()
}
