//! From a subject's rules and a class of peers to a row: one verdict for each interval of ports.

use mesh_core::policy::{PortMatch, RuleAction};
use mesh_core::{NamedPort, Reason, RuleId, Verdict};

use super::rulebook::{Rule, Rulebook};
use super::selection::Selection;
use crate::rows::{Row, key, span_of_protocol};

/// The rules of a subject that matter to one class of peers, by tier.
pub(super) struct Applying<'b, 'a> {
    admin: Vec<(RuleId, &'b Rule<'a>)>,
    network: Option<Vec<(RuleId, &'b Rule<'a>)>>,
    baseline: Vec<(RuleId, &'b Rule<'a>)>,
    /// The destination workload's named ports.
    named: &'b [NamedPort],
}

impl<'b, 'a> Applying<'b, 'a> {
    /// Collects the rules of `selection` that name a peer for which `is_peer` holds; `id` numbers them.
    pub(super) fn new(
        book: &'b Rulebook<'a>,
        selection: &Selection,
        is_peer: impl Fn(u32) -> bool,
        mut id: impl FnMut(u32) -> RuleId,
        named: &'b [NamedPort],
    ) -> Applying<'b, 'a> {
        let mut of = |spans: &[super::rulebook::Span]| {
            let matching = book.rules_of(spans).filter(|(_, rule)| match &rule.peers {
                None => true,
                Some(peers) => peers.iter().any(|peer| is_peer(*peer)),
            });
            matching.map(|(at, rule)| (id(at), rule)).collect::<Vec<_>>()
        };
        Applying {
            admin: of(&selection.admin),
            network: selection.network.as_deref().map(&mut of),
            baseline: of(&selection.baseline),
            named,
        }
    }

    /// Returns the row: between two neighbouring bounds that rules name, every port has the same verdict.
    pub(super) fn row(&self) -> Row {
        let rules = self.admin.iter().chain(self.network.iter().flatten()).chain(&self.baseline);
        let mut starts = vec![0];
        for (first, end) in rules.flat_map(|(_, rule)| rule.ports).flat_map(|port| self.spans(port)) {
            starts.extend([first, end]);
        }
        starts.sort_unstable();
        starts.dedup();
        let mut row: Row = Vec::with_capacity(starts.len());
        for start in starts {
            let verdict = self.verdict(start);
            if row.last().is_none_or(|(_, last)| *last != verdict) {
                row.push((start, verdict));
            }
        }
        row
    }

    fn verdict(&self, at: u32) -> Verdict {
        let first = |rules: &[(RuleId, &Rule<'_>)]| {
            rules.iter().find(|(_, rule)| self.is_port(rule, at)).map(|(id, rule)| (*id, rule.action))
        };
        match first(&self.admin) {
            Some((id, RuleAction::Accept)) => return Verdict::Allow(Reason::Admin(id)),
            Some((id, RuleAction::Deny)) => return Verdict::Deny(Reason::Admin(id)),
            Some((_, RuleAction::Pass)) | None => {}
        }
        if let Some(rules) = &self.network {
            return match first(rules) {
                Some((id, _)) => Verdict::Allow(Reason::NetworkPolicy(id)),
                None => Verdict::Deny(Reason::Isolated),
            };
        }
        match first(&self.baseline) {
            Some((id, RuleAction::Accept)) => Verdict::Allow(Reason::Baseline(id)),
            Some((id, RuleAction::Deny)) => Verdict::Deny(Reason::Baseline(id)),
            Some((_, RuleAction::Pass)) | None => Verdict::Allow(Reason::Default),
        }
    }

    fn is_port(&self, rule: &Rule<'_>, at: u32) -> bool {
        let inside = |port| self.spans(port).into_iter().any(|(first, end)| (first..end).contains(&at));
        rule.ports.is_empty() || rule.ports.iter().any(inside)
    }

    /// Returns the keys that `port` matches, as half-open intervals.
    fn spans(&self, port: &PortMatch) -> Vec<(u32, u32)> {
        match port {
            PortMatch::Protocol(protocol) => vec![span_of_protocol(*protocol)],
            PortMatch::Range(protocol, first, last) if protocol.has_ports() && first <= last => {
                vec![(key(*protocol, *first), key(*protocol, *last) + 1)]
            }
            PortMatch::Range(..) => Vec::new(),
            PortMatch::Named(protocol, name) => {
                let meant = self.named.iter().filter(|port| {
                    port.name == *name && protocol.is_none_or(|wanted| wanted == port.protocol) && port.protocol.has_ports()
                });
                meant.map(|port| (key(port.protocol, port.port), key(port.protocol, port.port) + 1)).collect()
            }
        }
    }
}
