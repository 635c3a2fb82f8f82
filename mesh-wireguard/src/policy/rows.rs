//! Rows: what becomes of a connection by protocol and port, each in a chain and a map that are named after what they say.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mesh_core::{CrossClusterDefault, Direction, Protocol, Reason, RuleName, Verdict as PolicyVerdict};
use mesh_policy::{Interval, PolicySet, ProfileHandle, Protocols, Row};

use super::chains::Side;
use super::numbers::Kind;
use crate::nft::table::{Table, hash};
use crate::nft::{Element, Expressions, Extent, Field, SetKind, Target, Value, Verdict};

/// What workloads of this node with the same verdicts on one side share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Subject {
    pub(super) ruleset: u32,
    pub(super) direction: Direction,
    /// Their node is this one, also by their own account.
    pub(super) on_own_node: bool,
}

const ROW: SetKind = SetKind { key: &[Field::Protocol, Field::Port], value: Value::Verdict, ranges: true, fixed: false };

/// What becomes of a connection where no rule has a say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Pending,
    NotPoliced,
    FleetDefault,
    NotExported,
}

/// The rows and verdicts that a table needs.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: BTreeMap<Arc<str>, Vec<(Range, Arc<str>)>>,
    known: HashMap<(Subject, Row, Kind), Arc<str>>,
    verdicts: BTreeMap<Arc<str>, (Verdict, String)>,
    plain: HashMap<(Side, Outcome), Arc<str>>,
}

/// Protocols and ports, all included; the protocols are several only where they have no ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Range {
    protocols: (u8, u8),
    ports: (u16, u16),
}

impl Rows {
    /// Returns the chain of an outcome that no rule has a say in.
    pub(super) fn of(&mut self, side: Side, outcome: Outcome) -> Arc<str> {
        if let Some(name) = self.plain.get(&(side, outcome)) {
            return name.clone();
        }
        let verdict: PolicyVerdict<RuleName> = match outcome {
            Outcome::Pending => PolicyVerdict::Deny(Reason::IdentityPending),
            Outcome::NotPoliced => PolicyVerdict::Allow(Reason::NotPoliced),
            Outcome::FleetDefault => PolicyVerdict::Allow(Reason::FleetDefault),
            Outcome::NotExported => PolicyVerdict::Deny(Reason::NotExported),
        };
        let name = self.verdict(side, &verdict);
        self.plain.insert((side, outcome), name.clone());
        name
    }

    /// Returns the chain of a row of the rule set that the `subject` has, for peers of one kind.
    pub(super) fn of_row(
        &mut self,
        policy: &PolicySet,
        (profile, subject): (ProfileHandle, &Subject),
        row: Row,
        kind: Kind,
    ) -> Arc<str> {
        let key = (*subject, row, kind);
        if let Some(name) = self.known.get(&key) {
            return name.clone();
        }
        let mut steps: Vec<(Range, Arc<str>)> = Vec::new();
        for Interval { protocols, ports, verdict } in policy.intervals_of(profile, row, subject.direction) {
            let chain = self.outcome(policy, policy.named(verdict), subject, kind);
            ranges(protocols, ports, &mut |range| steps.push((range, chain.clone())));
        }
        let name = match &steps[..] {
            [(_, first), rest @ ..] if rest.iter().all(|(_, chain)| chain == first) => first.clone(),
            _ => {
                let name: Arc<str> = format!("row-{:016x}", hash(&steps)).into();
                self.rows.entry(name.clone()).or_insert(steps);
                name
            }
        };
        self.known.insert(key, name.clone());
        name
    }

    /// Returns where a verdict of the tiers leads, for peers of one kind.
    fn outcome(&mut self, policy: &PolicySet, verdict: PolicyVerdict<RuleName>, subject: &Subject, kind: Kind) -> Arc<str> {
        let (settings, between) = policy.settings();
        let side = Side::of(subject.direction);
        match (verdict.reason(), kind) {
            (Reason::Default, Kind::Far) => match between {
                CrossClusterDefault::Allow => self.of(side, Outcome::FleetDefault),
                CrossClusterDefault::Deny => self.of(side, Outcome::NotExported),
                CrossClusterDefault::Exports => side.exports().into(),
            },
            (Reason::Isolated, Kind::OwnNode) => {
                let allowed = match subject.direction {
                    Direction::Ingress => settings.own_node_ingress_allowed,
                    Direction::Egress => settings.own_node_egress_allowed,
                };
                let allowed = allowed && subject.on_own_node;
                self.verdict(side, &if allowed { PolicyVerdict::Allow(Reason::OwnNode) } else { verdict })
            }
            _ => self.verdict(side, &verdict),
        }
    }

    /// Returns the chain that counts and carries out a verdict.
    fn verdict(&mut self, side: Side, verdict: &PolicyVerdict<RuleName>) -> Arc<str> {
        let (word, of) = (if verdict.is_allow() { "allow" } else { "deny" }, side.as_str());
        let name = match verdict.reason().rule() {
            // A chain's name has no brackets: `allow/east/NetworkPolicy/shop/db-in/ingress-0`.
            Some(rule) => format!("{word}/{rule}").replace('[', "-").replace(']', ""),
            None => format!("{word}/{of}/{}", verdict.reason().as_str()),
        };
        let name: Arc<str> = if name.len() < 200 { name } else { format!("{word}/{of}/rule-{:016x}", hash(&name)) }.into();
        self.verdicts.entry(name.clone()).or_insert_with(|| (side.verdict(verdict.is_allow()), verdict.to_string()));
        name
    }

    /// Writes what was asked for.
    pub(super) fn write(self, table: &mut Table) {
        for (name, (verdict, comment)) in self.verdicts {
            table.rule(&name, Expressions::new().counter().verdict(&verdict).comment(comment));
        }
        for (name, steps) in self.rows {
            let mut count: BTreeMap<&str, usize> = BTreeMap::new();
            steps.iter().for_each(|(_, chain)| *count.entry(chain).or_default() += 1);
            // What holds most often needs no elements.
            let usual = count.into_iter().max_by_key(|(_, count)| *count).map(|(chain, _)| Arc::<str>::from(chain));
            let usual = usual.expect("a row has steps");
            let element = |(range, chain): &(Range, Arc<str>)| Element {
                key: key(range.protocols.0, range.ports.0),
                extent: Extent::Until(key(range.protocols.1, range.ports.1)),
                target: Target::Verdict(Verdict::Goto(chain.clone())),
            };
            let elements: Vec<Element> = steps.iter().filter(|(_, chain)| *chain != usual).map(element).collect();
            // Its name says what it holds: it never changes.
            table.set(&name, ROW, elements);
            table.rule(&name, Expressions::new().protocol_and_port(0).verdict_of(&name));
            table.rule(&name, Expressions::new().verdict(&Verdict::Goto(usual)));
        }
    }
}

fn key(protocol: u8, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol, 0, 0, 0, high, low, 0, 0]
}

/// Emits the ranges of an interval: protocols without ports go around those with ports, and whatever their ports would be.
fn ranges(protocols: Protocols, ports: (u16, u16), emit: &mut impl FnMut(Range)) {
    let (first, last) = match protocols {
        Protocols::One(protocol) => {
            let number = protocol.number();
            return emit(Range { protocols: (number, number), ports });
        }
        Protocols::Others(first, last) => (first, last),
    };
    let mut run: Option<(u8, u8)> = None;
    for number in first..=last {
        if Protocol::from_number(number).has_ports() {
            run.take().into_iter().for_each(|protocols| emit(Range { protocols, ports: (0, u16::MAX) }));
        } else {
            run = Some((run.map_or(number, |(start, _)| start), number));
        }
    }
    run.into_iter().for_each(|protocols| emit(Range { protocols, ports: (0, u16::MAX) }));
}
