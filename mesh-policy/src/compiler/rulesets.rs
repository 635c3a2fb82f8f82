//! The rule sets: which rules apply to a subject, and what they say to each class of peers.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};
use mesh_core::{Direction, NamedPort};

use super::classes::{Class, Classes};
use super::rows::{Applying, Painter, Tier};
use super::split::Splitter;
use crate::book::{Book, Policy, Rule, Source};
use crate::peers::Who;
use crate::set::RULESETS;
use crate::set::rows::{Builder, PROTOCOLS, Place, Rows, Step};
use crate::set::ruleset::{Cells, RuleRef, Rules, Ruleset};
use crate::store::{Interner, Pages};

/// The policies that apply to some subjects in one direction: subjects with the same ones share a rule set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Selection {
    direction: Direction,
    admin: Vec<Arc<Policy>>,
    /// `None`: no NetworkPolicy selects the subject in this direction.
    network: Option<Vec<Arc<Policy>>>,
    baseline: Vec<Arc<Policy>>,
    /// The subject's table of named ports where a rule asks for it, on ingress; 0, the empty table, otherwise.
    ports: u32,
}

impl Selection {
    /// Selects what applies to a workload of `cluster` with the table `ports` of named ports.
    pub(super) fn new(
        book: &Book,
        cluster: &mesh_core::ClusterName,
        who: &Who<'_>,
        direction: Direction,
        ports: u32,
    ) -> Selection {
        let applies = |policy: &Arc<Policy>| policy.scope().covers(cluster) && is_subject(policy, who);
        let tier = |tier: &mut dyn Iterator<Item = &Arc<Policy>>| -> Vec<Arc<Policy>> {
            tier.filter(|policy| !policy.rules(direction).is_empty() && applies(policy)).cloned().collect()
        };
        let of_namespace = book.network.get(who.namespace).into_iter().flat_map(|policies| policies.values());
        let has_direction = |policy: &&Arc<Policy>| policy.sides[crate::set::side(direction)].is_some();
        let network: Vec<Arc<Policy>> = of_namespace.filter(|policy| has_direction(policy) && applies(policy)).cloned().collect();
        let mut selection = Selection {
            direction,
            admin: tier(&mut book.admin.values()),
            network: if network.is_empty() { None } else { Some(network) },
            baseline: tier(&mut book.baseline.values()),
            ports: 0,
        };
        if direction == Direction::Ingress && selection.asks_named_ports() {
            selection.ports = ports;
        }
        selection
    }

    /// Returns the table of named ports that the selection asks for.
    pub(super) fn ports(&self) -> u32 {
        self.ports
    }

    pub(super) fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.admin.iter().chain(self.network.iter().flatten()).chain(&self.baseline)
    }

    fn asks_named_ports(&self) -> bool {
        self.policies().any(|policy| policy.rules(self.direction).iter().any(|rule| !rule.ports.named.is_empty()))
    }
}

/// Tells whether a policy selects a workload, of the clusters that it covers.
pub(super) fn is_subject(policy: &Policy, who: &Who<'_>) -> bool {
    match &policy.source {
        Source::Network(policy) => policy.namespace == *who.namespace && who.is_selected(None, Some(&policy.subject)),
        Source::Cluster(policy) => who.is_selected(Some(&policy.subject.namespaces), policy.subject.pods.as_ref()),
    }
}

/// A rule set's rules, sorted for compiling.
#[derive(Debug)]
pub(super) struct Draft {
    rules: Arc<Rules>,
    /// Where the NetworkPolicies' rules begin and end among them.
    network: (u32, u32),
    /// The rules of each peer, in order of the peers.
    pub(super) by_peer: Box<[(u32, u32)]>,
    /// The rules for every peer.
    for_all: Box<[u32]>,
    /// A rule asks for named ports of the peer.
    pub(super) asks_peer_ports: bool,
    /// Where each distinct row is, by its content.
    rows: HashTable<u32>,
    /// More lines than this, and most are of classes that are no more.
    most_lines: usize,
}

/// Every rule set by its number.
#[derive(Debug, Default)]
pub(super) struct Rulesets {
    selections: Interner<Selection>,
    drafts: Vec<Option<Draft>>,
    /// The rule sets with a rule that names the peer.
    by_peer: Vec<Vec<u32>>,
    /// The rule sets that ask for named ports of the peer.
    asking: Vec<u32>,
    /// Those that are not compiled yet.
    fresh: Vec<u32>,
    splitter: Splitter,
    painter: Painter,
}

/// Where a class has its rows, by protocol.
type Places = [Place; PROTOCOLS];

/// What rows are made from beside the rules.
pub(super) struct Context<'a> {
    pub(super) classes: &'a Classes,
    pub(super) tables: &'a Interner<Vec<NamedPort>>,
}

impl Rulesets {
    /// Returns the number of the rule set of a selection, and whether it is new.
    pub(super) fn intern(&mut self, selection: Selection) -> (u32, bool) {
        let (number, new) = self.selections.intern(selection);
        if new {
            self.draft(number);
            self.fresh.push(number);
        }
        (number, new)
    }

    pub(super) fn retain(&mut self, number: u32) {
        self.selections.retain(number);
    }

    pub(super) fn release(&mut self, number: u32) {
        self.selections.release(number);
    }

    fn draft(&mut self, number: u32) {
        let selection = self.selections.get(number);
        let direction = selection.direction;
        let refs = |policies: &[Arc<Policy>]| -> Vec<RuleRef> {
            let rules = |policy: &Arc<Policy>| (0..).zip(policy.rules(direction)).map(|(at, _)| at).collect::<Vec<u32>>();
            policies
                .iter()
                .flat_map(|policy| rules(policy).into_iter().map(|at| RuleRef { policy: policy.clone(), at }))
                .collect()
        };
        let mut all = refs(&selection.admin);
        let first = count(all.len());
        all.extend(selection.network.iter().flat_map(|policies| refs(policies)));
        let end = count(all.len());
        all.extend(refs(&selection.baseline));
        let (mut by_peer, mut for_all, mut asks) = (Vec::new(), Vec::new(), false);
        for (at, known) in (0..).zip(&all) {
            let rule = rule(known, direction);
            match &rule.peers {
                Some(peers) => by_peer.extend(peers.iter().map(|peer| (*peer, at))),
                None => for_all.push(at),
            }
            asks |= direction == Direction::Egress && !rule.ports.named.is_empty();
        }
        by_peer.sort_unstable();
        for run in by_peer.chunk_by(|a, b| a.0 == b.0) {
            let peer = run[0].0 as usize;
            if self.by_peer.len() <= peer {
                self.by_peer.resize_with(peer + 1, Vec::new);
            }
            self.by_peer[peer].push(number);
        }
        if asks {
            self.asking.push(number);
        }
        let draft = Draft {
            rules: Arc::new(Rules { list: all.into(), is_egress: direction == Direction::Egress }),
            network: (first, end),
            by_peer: by_peer.into(),
            for_all: for_all.into(),
            asks_peer_ports: asks,
            rows: HashTable::new(),
            most_lines: 0,
        };
        let at = number as usize;
        if self.drafts.len() <= at {
            self.drafts.resize_with(at + 1, || None);
        }
        self.drafts[at] = Some(draft);
    }

    /// Compiles the rule sets that are new, and tells the others of the classes that are.
    pub(super) fn compile(&mut self, context: &Context<'_>, fresh_classes: &[u32], sets: &mut Pages<Ruleset, RULESETS>) {
        let fresh = std::mem::take(&mut self.fresh);
        let mut touched: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut is_fresh = vec![false; self.drafts.len()];
        fresh.iter().for_each(|number| is_fresh[*number as usize] = true);
        // Where all rule sets are new, nobody has to be told of new classes.
        let told = if fresh.len() == self.selections.len() { &[] } else { fresh_classes };
        for class in told {
            let Class { peers, ports } = context.classes.get(*class);
            let by_peer = peers.iter().filter_map(|peer| self.by_peer.get(*peer as usize)).flatten();
            let asking = self.asking.iter().filter(|_| *ports != 0);
            for ruleset in by_peer.chain(asking).filter(|ruleset| !is_fresh[**ruleset as usize]) {
                let classes = touched.entry(*ruleset).or_default();
                if classes.last() != Some(class) {
                    classes.push(*class);
                }
            }
        }
        for number in fresh {
            if self.drafts[number as usize].is_some() {
                *sets.edit(number) = self.compile_one(number, context);
            }
        }
        for (number, classes) in touched {
            self.extend(number, context, &classes, sets.edit(number));
        }
    }

    fn compile_one(&mut self, number: u32, context: &Context<'_>) -> Ruleset {
        let selection = self.selections.get(number);
        let draft = self.drafts[number as usize].as_mut().expect("a rule set in use has a draft");
        draft.rows.clear();
        let groups = self.splitter.split(draft, context.classes);
        let (mut built, mut list) = (Builder::default(), Vec::new());
        // The usual row is that of peers which no rule names.
        let usual = draft.row(selection, (&[], context.tables.get(selection.ports())), &mut self.painter, &mut built);
        let mut rows: Vec<Option<Places>> = vec![None; groups.groups.len()];
        let mut cells: [Vec<(u32, Place)>; PROTOCOLS] = Default::default();
        for (class, group) in groups.classes {
            let row = match rows[group as usize] {
                Some(row) => row,
                None => {
                    let ports = groups.groups.rules(group, draft, &mut list);
                    let table = context.tables.get(ports.unwrap_or(selection.ports()));
                    *rows[group as usize].insert(draft.row(selection, (&list, table), &mut self.painter, &mut built))
                }
            };
            for (protocol, cells) in cells.iter_mut().enumerate() {
                if row[protocol] != usual[protocol] {
                    cells.push((class, row[protocol]));
                }
            }
        }
        let rows = built.finish(&Rows::default());
        draft.most_lines = rows.len() * 4 + 1_024;
        let cells = std::array::from_fn(|protocol| Cells::new(&cells[protocol], usual[protocol]));
        Ruleset { cells, rows, rules: Some(draft.rules.clone()) }
    }

    /// Gives new classes their rows in a rule set that is compiled.
    fn extend(&mut self, number: u32, context: &Context<'_>, classes: &[u32], set: &mut Ruleset) {
        let draft = self.drafts[number as usize].as_mut().expect("a rule set in use has a draft");
        if set.rows.len() > draft.most_lines {
            *set = self.compile_one(number, context);
            return;
        }
        let selection = self.selections.get(number);
        let mut rows = Builder::of(&set.rows);
        let places = classes.iter().map(|class| {
            let known = context.classes.get(*class);
            (*class, draft.row_of(selection, (known, context.tables), &mut self.painter, &mut rows))
        });
        let places: Vec<(u32, Places)> = places.collect();
        set.rows = rows.finish(&set.rows);
        set_cells(set, &places);
    }

    /// Gives one class its row in one copy of a rule set, which is all that knows of it.
    pub(super) fn introduce(
        &mut self,
        number: u32,
        tables: &Interner<Vec<NamedPort>>,
        (class, known): (u32, &Class),
        set: &mut Ruleset,
    ) {
        let draft = self.drafts[number as usize].as_mut().expect("a rule set in use has a draft");
        let before = draft.rows.clone();
        let mut rows = Builder::of(&set.rows);
        let place = draft.row_of(self.selections.get(number), (known, tables), &mut self.painter, &mut rows);
        draft.rows = before;
        set.rows = rows.finish(&set.rows);
        set_cells(set, &[(class, place)]);
    }

    /// Forgets the rule sets that nobody uses; returns the tables of named ports that they asked for.
    pub(super) fn collect(&mut self, sets: &mut Pages<Ruleset, RULESETS>) -> Vec<u32> {
        let mut tables = Vec::new();
        for (number, selection) in self.selections.collect(0) {
            if let Some(draft) = self.drafts[number as usize].take() {
                for run in draft.by_peer.chunk_by(|a, b| a.0 == b.0) {
                    self.by_peer[run[0].0 as usize].retain(|known| *known != number);
                }
                self.asking.retain(|known| *known != number);
            }
            self.fresh.retain(|known| *known != number);
            sets.set(number, Ruleset::default());
            tables.push(selection.ports);
        }
        tables
    }

    /// Takes back the rows of classes that are no more: their numbers will be others'.
    pub(super) fn forget(&self, gone: &[(u32, Class)], sets: &mut Pages<Ruleset, RULESETS>) {
        let mut touched: HashMap<u32, Vec<u32>> = HashMap::new();
        for (class, Class { peers, ports }) in gone {
            let by_peer = peers.iter().filter_map(|peer| self.by_peer.get(*peer as usize)).flatten();
            for ruleset in by_peer.chain(self.asking.iter().filter(|_| *ports != 0)) {
                touched.entry(*ruleset).or_default().push(*class);
            }
        }
        for (number, classes) in touched {
            sets.edit(number).cells.iter_mut().for_each(|cells| cells.forget(&classes));
        }
    }
}

impl Draft {
    fn rules_of(&self, peer: u32) -> impl Iterator<Item = u32> {
        let first = self.by_peer.partition_point(|(known, _)| *known < peer);
        self.by_peer[first..].iter().take_while(move |(known, _)| *known == peer).map(|(_, rule)| *rule)
    }

    /// Returns where the rows of a class are, as [`Draft::row`] does.
    fn row_of(
        &mut self,
        selection: &Selection,
        (class, tables): (&Class, &Interner<Vec<NamedPort>>),
        painter: &mut Painter,
        rows: &mut Builder,
    ) -> Places {
        let mut list: Vec<u32> = class.peers.iter().flat_map(|peer| self.rules_of(*peer)).collect();
        list.sort_unstable();
        list.dedup();
        let ports = if self.asks_peer_ports { class.ports } else { selection.ports() };
        self.row(selection, (&list, tables.get(ports)), painter, rows)
    }

    /// Returns where the rows for peers that the rules of `list` name are, after adding those that are new to `rows`.
    fn row(
        &mut self,
        selection: &Selection,
        (list, named): (&[u32], &[NamedPort]),
        painter: &mut Painter,
        rows: &mut Builder,
    ) -> Places {
        let mut applying = Vec::with_capacity(list.len() + self.for_all.len());
        let (mut of_peers, mut for_all) = (list.iter().peekable(), self.for_all.iter().peekable());
        loop {
            let next = match (of_peers.peek(), for_all.peek()) {
                (Some(a), Some(b)) if a < b => of_peers.next(),
                (_, Some(_)) => for_all.next(),
                (_, None) => of_peers.next(),
            };
            let Some(number) = next.copied() else { break };
            let tier = match self.network {
                (first, _) if number < first => Tier::Admin,
                (_, end) if number < end => Tier::Network,
                _ => Tier::Baseline,
            };
            applying.push(Applying { number, tier, rule: rule(&self.rules.list[number as usize], selection.direction) });
        }
        // Where a NetworkPolicy applies, Baseline is not consulted.
        if selection.network.is_some() {
            applying.retain(|applying| applying.tier != Tier::Baseline);
        }
        painter.paint(&applying, selection.network.is_some(), named);
        let mut places = [0; PROTOCOLS];
        painter.steps(|protocol, steps| places[protocol] = place(&mut self.rows, rows, steps));
        places
    }
}

/// Returns where the row of `steps` is, after adding it to `rows` if it is a new one.
fn place(known: &mut HashTable<Place>, rows: &mut Builder, steps: &[Step]) -> Place {
    let new = rows.push(steps);
    let hash = |place: Place| {
        let mut hasher = FixedState::default().build_hasher();
        rows.hash(place, &mut hasher);
        hasher.finish()
    };
    let of_new = hash(new);
    if let Some(known) = known.find(of_new, |known| rows.is_same(*known, new)) {
        let known = *known;
        rows.pop(new);
        return known;
    }
    known.insert_unique(of_new, new, |known| hash(*known));
    new
}

fn set_cells(set: &mut Ruleset, places: &[(u32, Places)]) {
    for (protocol, cells) in set.cells.iter_mut().enumerate() {
        cells.change(&places.iter().map(|(class, places)| (*class, places[protocol])).collect::<Vec<_>>());
    }
}

fn rule(known: &RuleRef, direction: Direction) -> &Rule {
    &known.policy.rules(direction)[known.at as usize]
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("fewer than a u32 counts")
}
