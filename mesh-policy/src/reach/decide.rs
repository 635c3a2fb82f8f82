//! What both sides say between two situations of one set, for every protocol and port.

use std::net::IpAddr;

use hashbrown::HashMap;
use mesh_core::{CrossClusterDefault, Direction, Reason, RuleName, Verdict};

use super::situation::{Situation, Situations};
use super::{Ports, Table};
use crate::set::rows::{KEYS, Outcome};
use crate::set::side;
use crate::{End, PolicySet};

/// The verdicts of one side: from each place to the next. Rules are numbers in [`Deciding::names`].
type Row = Box<[(u32, Verdict<u32>)]>;

/// What both sides say, [egress, ingress]: from each place to the next.
pub(crate) type Both = Box<[(u32, [Verdict<u32>; 2])]>;

/// What else the verdict between two addresses depends on, in one set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Flags {
    /// Both addresses are one workload's.
    pub(crate) is_same: bool,
    /// The destination is the source's own node, which it may reach; the source is the destination's, which may reach it.
    pub(crate) own_node: [bool; 2],
}

impl Flags {
    /// Returns the flags of a connection between two addresses.
    pub(crate) fn of(set: &PolicySet, source: IpAddr, destination: IpAddr) -> Flags {
        let (from, to) = (set.known(source).end, set.known(destination).end);
        let own_node = |own: End, peer: End, address: IpAddr, allowed: bool| {
            let node = set.workload_entry(own).and_then(|entry| entry.node);
            let claims = |node| set.ends.node_addresses.contains(&(node, address));
            allowed && matches!(peer, End::Node(_)) && node.is_some_and(claims)
        };
        let settings = &set.settings.0;
        Flags {
            is_same: matches!(from, End::Workload(_)) && from == to,
            own_node: [
                own_node(from, to, destination, settings.own_node_egress_allowed),
                own_node(to, from, source, settings.own_node_ingress_allowed),
            ],
        }
    }
}

/// Everything that two situations can mean for a connection, in numbers which are the same for all sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Means {
    /// The rows of [egress, ingress].
    rows: [u32; 2],
    /// What holds where no tier decides: a number in `defaults`.
    default: u32,
    own_node: [bool; 2],
}

/// What holds where no tier decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Otherwise {
    Inside,
    Between(Ports),
}

/// Numbers of rows by rule set, then by cluster, of which few share a rule set, and by class: every pair of classes asks for two.
type RowNumbers = Vec<Vec<(u32, Vec<u32>)>>;

/// A row that has not been asked for.
const UNKNOWN: u32 = u32::MAX;

/// Returns the place of a row's number.
fn place(numbers: &mut RowNumbers, (cluster, ruleset, class): (u32, u32, u32)) -> &mut u32 {
    let (ruleset, class) = (ruleset as usize, class as usize);
    if numbers.len() <= ruleset {
        numbers.resize_with(ruleset + 1, Vec::new);
    }
    let clusters = &mut numbers[ruleset];
    let at = clusters.iter().position(|(known, _)| *known == cluster).unwrap_or_else(|| {
        clusters.push((cluster, Vec::new()));
        clusters.len() - 1
    });
    let classes = &mut clusters[at].1;
    if classes.len() <= class {
        classes.resize((class + 1).next_power_of_two(), UNKNOWN);
    }
    &mut classes[class]
}

/// Decides between situations, everything once.
///
/// The numbers of ports, of names and of what both sides say are the same for all sets.
#[derive(Debug)]
pub(crate) struct Deciding<const N: usize> {
    names_rules: bool,
    /// The rules that decide somewhere.
    pub(crate) names: Table<RuleName>,
    by_id: HashMap<(usize, [u32; 3]), u32>,
    rows: Table<Row>,
    /// The row of what is no workload.
    not_policed: u32,
    /// The row of a cluster's rule set (clusters may share one, and each has its own names for the rules) and a class, by set and
    /// side.
    by_ruleset: [[RowNumbers; 2]; N],
    defaults: Table<Otherwise>,
    by_offer: [HashMap<(u32, u32), u32, foldhash::fast::RandomState>; N],
    means: HashMap<Means, u32, foldhash::fast::RandomState>,
    both: Table<Both>,
    /// The ports that both sides allow, for each of `both`.
    allowed: Vec<u32>,
    pub(crate) ports: Table<Ports>,
}

impl<const N: usize> Deciding<N> {
    /// Makes an empty one; without names, every rule has the number 0.
    pub(crate) fn new(names_rules: bool) -> Deciding<N> {
        let mut defaults = Table::default();
        defaults.number(Otherwise::Inside);
        let mut rows = Table::default();
        let not_policed = rows.number(Box::from([(0, Verdict::Allow(Reason::NotPoliced))]));
        Deciding {
            names_rules,
            names: Table::default(),
            by_id: HashMap::new(),
            rows,
            not_policed,
            by_ruleset: std::array::from_fn(|_| Default::default()),
            defaults,
            by_offer: std::array::from_fn(|_| HashMap::default()),
            means: HashMap::default(),
            both: Table::default(),
            allowed: Vec::new(),
            ports: Table::default(),
        }
    }

    /// Returns the number of what both sides say between two ends in set number `x`.
    pub(crate) fn between(&mut self, sets: &[Situations<'_>; N], x: usize, ends: [Situation; 2], flags: Flags) -> u32 {
        let means = self.means(sets, x, ends, flags);
        self.number(means)
    }

    /// Returns what two ends mean in set number `x`; what is equal is decided alike.
    pub(crate) fn means(&mut self, sets: &[Situations<'_>; N], x: usize, ends: [Situation; 2], flags: Flags) -> Means {
        let [source, destination] = ends;
        if source == Situation::Pending || destination == Situation::Pending {
            return self.everywhere(Verdict::Deny(Reason::IdentityPending));
        }
        if flags.is_same {
            return self.everywhere(Verdict::Allow(Reason::OwnAddress));
        }
        let egress = self.row(&sets[x], x, (source, destination), Direction::Egress);
        let ingress = self.row(&sets[x], x, (destination, source), Direction::Ingress);
        Means { rows: [egress, ingress], default: self.default(&sets[x], x, ends), own_node: flags.own_node }
    }

    /// Returns the number of what both sides say.
    pub(crate) fn number(&mut self, means: Means) -> u32 {
        if let Some(known) = self.means.get(&means) {
            return *known;
        }
        let both = self.both_of(&means);
        let number = self.both.number(both);
        if number as usize == self.allowed.len() {
            let allowed = allowed(self.both.get(number));
            self.allowed.push(self.ports.number(allowed));
        }
        self.means.insert(means, number);
        number
    }

    /// Returns what a number stands for.
    pub(crate) fn both(&self, number: u32) -> &Both {
        self.both.get(number)
    }

    /// Returns the number, in `ports`, of what both sides allow.
    pub(crate) fn allowed(&self, both: u32) -> u32 {
        self.allowed[both as usize]
    }

    fn everywhere(&mut self, verdict: Verdict<u32>) -> Means {
        let row = self.rows.number(Box::from([(0, verdict)]));
        Means { rows: [row; 2], default: 0, own_node: [false; 2] }
    }

    fn row(&mut self, of: &Situations<'_>, x: usize, (own, peer): (Situation, Situation), direction: Direction) -> u32 {
        let (Situation::Workload { rulesets, cluster, .. }, Some(class)) = (own, peer.class()) else {
            return self.not_policed;
        };
        let ruleset = rulesets[side(direction)];
        let key = (if self.names_rules { cluster } else { 0 }, ruleset, class);
        let known = *place(&mut self.by_ruleset[x][side(direction)], key);
        if known != UNKNOWN {
            return known;
        }
        let mut verdicts = Vec::new();
        for step in of.set.rulesets.get(ruleset).into_iter().flat_map(|ruleset| ruleset.steps(&ruleset.places(class))) {
            let mut name = |rule| self.name(of, x, [ruleset, rule, cluster]);
            let verdict = match step.outcome.outcome() {
                Outcome::Undecided => Verdict::Allow(Reason::Default),
                Outcome::Isolated => Verdict::Deny(Reason::Isolated),
                Outcome::AdminAllow(rule) => Verdict::Allow(Reason::Admin(name(rule))),
                Outcome::AdminDeny(rule) => Verdict::Deny(Reason::Admin(name(rule))),
                Outcome::NetworkAllow(rule) => Verdict::Allow(Reason::NetworkPolicy(name(rule))),
                Outcome::BaselineAllow(rule) => Verdict::Allow(Reason::Baseline(name(rule))),
                Outcome::BaselineDeny(rule) => Verdict::Deny(Reason::Baseline(name(rule))),
            };
            push(&mut verdicts, step.start, verdict);
        }
        if verdicts.is_empty() {
            verdicts.push((0, Verdict::Allow(Reason::Default)));
        }
        let number = self.rows.number(verdicts.into());
        *place(&mut self.by_ruleset[x][side(direction)], key) = number;
        number
    }

    fn name(&mut self, of: &Situations<'_>, x: usize, id: [u32; 3]) -> u32 {
        if !self.names_rules {
            return 0;
        }
        let (Deciding { by_id, names, .. }, [ruleset, rule, cluster]) = (self, id);
        *by_id.entry((x, id)).or_insert_with(|| names.number(of.set.name_in(ruleset, rule, cluster)))
    }

    /// Returns the number of what holds between two ends where no tier decides.
    fn default(&mut self, of: &Situations<'_>, x: usize, [source, destination]: [Situation; 2]) -> u32 {
        let (Situation::Workload { cluster: client, .. }, Situation::Workload { cluster: server, exports, .. }) =
            (source, destination)
        else {
            return 0;
        };
        if client == server {
            return 0;
        }
        let key = (client, exports);
        if let Some(known) = self.by_offer[x].get(&key) {
            return *known;
        }
        let ports = match of.set.settings.1 {
            CrossClusterDefault::Allow => Ports::all(),
            CrossClusterDefault::Deny => Ports::none(),
            CrossClusterDefault::Exports => {
                let offer = of.exports.get(exports).iter().find(|(cluster, _)| *cluster == client);
                offer.map(|(_, ports)| ports.clone()).unwrap_or_default()
            }
        };
        let number = self.defaults.number(Otherwise::Between(ports));
        self.by_offer[x].insert(key, number);
        number
    }

    /// Puts both sides together, place by place.
    fn both_of(&self, means: &Means) -> Both {
        let default = self.defaults.get(means.default).as_ref();
        let rows = means.rows.map(|row| self.rows.get(row).as_ref());
        let mut edges: Vec<u32> = rows.iter().flat_map(|row| row.iter().map(|(start, _)| *start)).collect();
        if let Otherwise::Between(ports) = default {
            edges.extend(ports.spans().iter().flat_map(|(start, end)| [*start, *end]).filter(|edge| *edge < KEYS));
        }
        edges.sort_unstable();
        edges.dedup();
        let mut both = Vec::with_capacity(edges.len());
        for start in edges {
            let of_side = |at: usize| {
                let row = rows[at];
                let verdict = row[row.partition_point(|(first, _)| *first <= start) - 1].1;
                match (verdict, default) {
                    (Verdict::Deny(Reason::Isolated), _) if means.own_node[at] => Verdict::Allow(Reason::OwnNode),
                    (Verdict::Allow(Reason::Default), Otherwise::Between(ports)) => match ports.has(start) {
                        true => Verdict::Allow(Reason::FleetDefault),
                        false => Verdict::Deny(Reason::NotExported),
                    },
                    (verdict, _) => verdict,
                }
            };
            push(&mut both, start, [of_side(0), of_side(1)]);
        }
        both.into()
    }
}

/// Adds a step, unless it says the same as the one before it.
fn push<T: PartialEq>(steps: &mut Vec<(u32, T)>, start: u32, value: T) {
    if steps.last().is_none_or(|(_, last)| *last != value) {
        steps.push((start, value));
    }
}

fn allowed(both: &Both) -> Ports {
    let ends = both.iter().skip(1).map(|(start, _)| *start).chain([KEYS]);
    let spans = both.iter().zip(ends).filter(|((_, verdicts), _)| verdicts.iter().all(Verdict::is_allow));
    Ports::from_spans(spans.map(|((start, _), end)| (*start, end)))
}
