//! What a change of policy changes: which connections are allowed before and not after, or the other way round, and why.
//!
//! ```text
//!   state and policy set before ─┐
//!                                ├─> joint classes of ends ─> pairs of them whose ports differ ─> groups for a reader
//!   state and policy set after  ─┘
//! ```
//!
//! Nothing is sampled: ends that neither set tells apart are one class, and every pair of classes is compared for every protocol
//! and port. The work depends on the number of classes and not on that of pods. Workloads and nodes are the same when their names
//! are; who is there on one side only is listed, and its connections are no changes.
//!
//! ```
//! # use mesh_core::{Settings, State, StateConfig, Trust};
//! # use mesh_policy::{PolicySet, diff};
//! # let config = StateConfig { fleet: "demo".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
//! # let (before, after) = (State::new(config.clone()), State::new(config));
//! let sets = [PolicySet::compile(&before), PolicySet::compile(&after)];
//! let diff = diff::diff([&before, &after], [&sets[0], &sets[1]], diff::Options::default());
//! assert!(diff.changes.is_empty());
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh_core::{FiveTuple, IdentityName, RuleName, State, Verdict};
use serde::{Serialize, Serializer};

use crate::PolicySet;
use crate::reach::{Ends, Flags, Names, Owner, Party, Ports, Situations};

mod compare;
mod group;
mod page;

use self::group::Rectangle;

/// What is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Also connections whose verdict stays, and another rule (or default) gives it.
    pub reasons: bool,
}

/// The difference between two states of a fleet.
#[derive(Debug, Serialize)]
pub struct Diff<'a> {
    /// What changes: what opens, then what closes, then what only has other reasons.
    pub changes: Vec<Change>,
    /// Who is there after and not before, in order.
    pub added: Vec<Alone>,
    /// Who is there before and not after, in order.
    pub removed: Vec<Alone>,
    #[serde(skip)]
    ends: Ends<2>,
    #[serde(skip)]
    sets: [Situations<'a>; 2],
}

/// Connections with one change: from each of the sources to each of the destinations, on those ports.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// What becomes of them.
    pub kind: Kind,
    /// Who opens them.
    pub sources: Party,
    /// To whom.
    pub destinations: Party,
    /// Which pairs of theirs are not meant, or which alone are.
    pub only: Pairs,
    /// The family where only one is meant and the ends have both: `IPv4` or `IPv6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<&'static str>,
    /// The protocols and ports.
    pub ports: Ports,
    /// What was decided.
    pub before: Decision,
    /// What is decided.
    pub after: Decision,
    /// The pairs of two different workloads among them.
    pub workload_pairs: u64,
    #[serde(skip)]
    rectangles: Vec<Rectangle>,
}

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// They were denied and are allowed.
    Opened,
    /// They were allowed and are denied.
    Closed,
    /// The verdict stays, and something else decides.
    Reason,
}

/// Which pairs of sources and destinations are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairs {
    /// Every source with every destination that is another one.
    All,
    /// Likewise, but a workload and its own node.
    NotOwnNode,
    /// A workload and its own node only.
    OwnNode,
    /// Every workload with itself only.
    Itself,
}

/// What both sides decide: of an allowed connection both, of a denied one those that deny.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The source's side.
    pub egress: Option<Verdict<RuleName>>,
    /// The destination's side.
    pub ingress: Option<Verdict<RuleName>>,
}

/// Somebody's addresses that are there in one state only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alone {
    /// `cluster/namespace/pod`, or `cluster/node` for a node.
    pub name: String,
    /// The addresses that it has in that state and no counterpart of in the other.
    pub addresses: Vec<IpAddr>,
    /// A workload of its identity is there in the other state too: one more or one fewer of a kind.
    pub is_identity_known: bool,
}

impl Decision {
    /// Tells whether both sides allow.
    pub fn is_allow(&self) -> bool {
        [&self.egress, &self.ingress].into_iter().flatten().all(Verdict::is_allow)
    }
}

/// Compares two states of a fleet, [before, after]; each set is compiled from its state.
pub fn diff<'a>(states: [&State; 2], sets: [&'a PolicySet; 2], options: Options) -> Diff<'a> {
    let sets = sets.map(Situations::new);
    let ends = Ends::new(states, &sets);
    let (found, deciding) = compare::compare(&ends, &sets, options);
    let names = Names::new(&ends.owners, &states);
    let mut changes = group::group(found, &deciding, (&ends, &names));
    changes.sort_by(|one, other| {
        let order = |change: &Change| (change.kind, change.only, change.family);
        let text = |change: &Change| (change.before.to_string(), change.after.to_string());
        (order(one), &one.sources, &one.destinations, &one.ports)
            .cmp(&(order(other), &other.sources, &other.destinations, &other.ports))
            .then_with(|| text(one).cmp(&text(other)))
    });
    let [removed, added] = [0, 1].map(|x| alone(&ends.alone[x], [states[x], states[1 - x]]));
    Diff { changes, added, removed, ends, sets }
}

impl Diff<'_> {
    /// Tells whether a verdict changes somewhere.
    pub fn changes_verdicts(&self) -> bool {
        self.changes.iter().any(|change| change.kind != Kind::Reason)
    }

    /// Returns the change of a connection, told by its addresses before and after; `None` where nothing changes, where an end is
    /// there on one side only, and where none of the ends is a workload, so that nobody polices it.
    pub fn find(&self, before: &FiveTuple, after: &FiveTuple) -> Option<&Change> {
        let class = |of: fn(&FiveTuple) -> IpAddr| self.ends.class_at([of(before), of(after)], &self.sets);
        let pair = (class(|tuple| tuple.source)?, class(|tuple| tuple.destination)?);
        let tuples = [before, after];
        let flags = [0, 1].map(|x| Flags::of(self.sets[x].set, tuples[x].source, tuples[x].destination));
        self.changes.iter().find(|change| {
            change.ports.contains(before.protocol, before.destination_port)
                && change.rectangles.iter().any(|rectangle| rectangle.contains(pair, flags))
        })
    }

    /// Tells whether the end that has these addresses is one end in both states.
    pub fn is_joined(&self, before: IpAddr, after: IpAddr) -> bool {
        self.ends.class_at([before, after], &self.sets).is_some()
    }
}

/// Lists who is there in the first state and not in the other.
fn alone(ends: &[(Owner, IpAddr)], [state, other]: [&State; 2]) -> Vec<Alone> {
    let identities = |state: &State| -> BTreeSet<IdentityName> {
        state.facts().workloads.values().map(|workload| state.identity(workload).name()).collect()
    };
    let known = if ends.is_empty() { BTreeSet::new() } else { identities(other) };
    let mut list: Vec<Alone> = Vec::new();
    for (owner, address) in ends {
        let (name, is_identity_known) = match owner {
            Owner::Node(id) => (format!("node {id}"), false),
            Owner::Workload(id) => {
                let workload = state.facts().workloads.get(id);
                (id.to_string(), workload.is_some_and(|workload| known.contains(&state.identity(workload).name())))
            }
        };
        match list.last_mut() {
            Some(last) if last.name == name => last.addresses.push(*address),
            _ => list.push(Alone { name, addresses: vec![*address], is_identity_known }),
        }
    }
    list
}

impl Serialize for Decision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Side {
            verdict: &'static str,
            tier: mesh_core::Tier,
            reason: &'static str,
            rule: Option<String>,
        }
        #[derive(Serialize)]
        struct Sides {
            verdict: &'static str,
            egress: Option<Side>,
            ingress: Option<Side>,
        }
        let word = |is_allow| if is_allow { "allow" } else { "deny" };
        let side = |verdict: &Verdict<RuleName>| Side {
            verdict: word(verdict.is_allow()),
            tier: verdict.reason().tier(),
            reason: verdict.reason().as_str(),
            rule: verdict.reason().rule().map(ToString::to_string),
        };
        let (egress, ingress) = (self.egress.as_ref().map(side), self.ingress.as_ref().map(side));
        Sides { verdict: word(self.is_allow()), egress, ingress }.serialize(serializer)
    }
}
