//! Why a connection is allowed or denied, and what would turn the verdict: for people, and as JSON.
//!
//! ```text
//!   FiveTuple, or Query and its Answer ──> Explanation ──┬─ from, to: who is at each end, as selectors see it
//!        (the verdict is the production                  ├─ egress:   the source's side     ┐ every policy that applies, in the
//!         evaluator's, never this module's)              └─ ingress: the destination's side ┘ order in which they are asked
//!                                                              └─ each rule: whether peer and port match, else what they lack
//!                                                              └─ otherwise: the nearest rule that would turn the verdict
//! ```
//!
//! # The nearest rule
//!
//! A rule of a policy that applies to the side **turns** the verdict when the side's word (allow or deny) would be the other one,
//! were nothing lacking to the rule. What it lacks is:
//!
//! 1. what its peer lacks: every requirement that does not hold (a label, a namespace label, the namespace, the network, …).
//!    Of several peers the one that lacks least is taken, the first of equals. An end that is no workload lacks the identity
//!    and each requirement of the selectors.
//! 2. its port, one lack, where none of its ports matches;
//! 3. each rule before it that matches and keeps it from being asked ([`Lack::Preceded`]), and for Baseline that NetworkPolicy
//!    applies ([`Lack::NetworkPolicyApplies`]).
//!
//! The nearest is the one that lacks fewest ([`Lack::weight`] summed up), and of equals the one that is asked first. For a rule
//! that passes, what follows it is what turns the verdict. A denial by the fleet's default is turned by the default itself too,
//! where the export that is missing is there: it counts as one lack and is asked last. An end without an identity is turned by no
//! rule, only by its identity. Where no rule turns an allowance, nothing that applies denies, and there is no nearest rule.
//!
//! ```
//! use mesh_core::{FiveTuple, Protocol, Settings, State, StateConfig, Trust};
//! use mesh_policy::{PolicySet, explain};
//!
//! let config = StateConfig { fleet: "".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
//! let state = State::new(config);
//! let (source, destination) = ("192.0.2.1".parse()?, "192.0.2.2".parse()?);
//! let tuple = FiveTuple { source, destination, protocol: Protocol::Tcp, source_port: 40000, destination_port: 443 };
//! let why = explain::connection(&state, &PolicySet::compile(&state), &tuple);
//! assert!(why.is_allow());
//! assert!(why.to_string().starts_with("ALLOW  192.0.2.1 > 192.0.2.2  443/TCP"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use mesh_core::{Direction, FiveTuple, Located, Protocol, Reason, RuleName, State, Tier, Verdict};
use serde::{Serialize, Serializer};

use crate::PolicySet;
use crate::check::{Answer, Query, Word};
use crate::naive;

mod because;
mod end;
mod export;
mod lack;
mod page;
mod trace;
mod unmet;

pub use self::end::{End, Who, WorkloadEnd};
pub use self::lack::Lack;
use self::trace::Trace;

/// Both sides of one connection, with everything that had a part in the verdict. Its text is a page for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `allow` where both sides allow.
    pub verdict: Word,
    /// The connection that was decided, after service translation.
    #[serde(skip)]
    pub tuple: FiveTuple,
    /// Its protocol.
    pub protocol: Protocol,
    /// The destination port; 0 for protocols without ports.
    pub port: u16,
    /// Who opens it.
    pub from: End,
    /// To whom.
    pub to: End,
    /// The source's side.
    pub egress: Side,
    /// The destination's side.
    pub ingress: Side,
}

/// One side of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Which.
    pub direction: Direction,
    /// Whether it allows.
    pub verdict: Word,
    /// The tier that decided.
    pub tier: Tier,
    /// The reason in kebab case, as metrics and flow records name it.
    pub reason: &'static str,
    /// The rule that decided, where one did.
    pub rule: Option<String>,
    /// The verdict of the production evaluator.
    #[serde(skip)]
    pub decided: Verdict<RuleName>,
    /// Why, in one sentence.
    pub because: String,
    /// The policies that apply to the workload in this direction, in the order in which they are asked; none where an end has
    /// no identity, or the own end is no workload, or it is the other end itself.
    pub policies: Vec<Policy>,
    /// What would decide without the rule that decided; `None` where no rule did.
    #[serde(serialize_with = "write_option")]
    pub without: Option<Verdict<RuleName>>,
    /// The nearest that would have decided otherwise.
    pub otherwise: Option<Otherwise>,
}

/// A policy that applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// `<cluster>/<Kind>/[<ns>/]<name>`, by the deciding side's cluster.
    pub name: String,
    /// It is the fleet's, in force in every cluster.
    pub fleet: bool,
    /// Its tier.
    pub tier: Tier,
    /// Its priority; `None` for a NetworkPolicy.
    pub priority: Option<i32>,
    /// By what it selects the workload.
    pub selects: String,
    /// It was asked: nothing before it decided, or left its tier.
    pub asked: bool,
    /// Its rules for the direction.
    pub rules: Vec<Rule>,
}

/// A rule of a policy that applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Its name.
    #[serde(serialize_with = "write_text")]
    pub name: RuleName,
    /// What it does where it matches.
    pub action: Action,
    /// What became of it.
    pub outcome: Outcome,
    /// Its peers, one of which must match.
    pub peers: Vec<String>,
    /// Its ports, one of which must match.
    pub ports: String,
    /// Whether a peer matches.
    pub peer: bool,
    /// Whether a port matches.
    pub port: bool,
    /// Why it does not match; empty where it does.
    #[serde(serialize_with = "lack::with_text")]
    pub lacks: Vec<Lack>,
}

/// What a rule does where it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Allows: `Accept`, or a rule of a NetworkPolicy.
    Accept,
    /// Denies; also a rule of action `Pass` that fails closed.
    Deny,
    /// Leaves the tier.
    Pass,
}

/// What became of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It decided.
    Decides,
    /// It matched and left its tier.
    Passes,
    /// It matches, and one before it had decided or left the tier.
    Matches,
    /// It does not match.
    Differs,
}

/// What would have decided otherwise, and what it lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Otherwise {
    /// The rule; `None` for the fleet's default, and for an identity that is not there.
    #[serde(serialize_with = "write_option")]
    pub rule: Option<RuleName>,
    /// The verdict of the side, were nothing lacking; `None` where it depends on who would be there.
    #[serde(serialize_with = "write_option")]
    pub then: Option<Verdict<RuleName>>,
    /// What it lacks: never empty.
    #[serde(serialize_with = "lack::with_text")]
    pub lacks: Vec<Lack>,
}

impl Explanation {
    /// Tells whether both sides allow.
    pub fn is_allow(&self) -> bool {
        self.verdict == Word::Allow
    }
}

/// Explains `tuple`, a connection after service translation; `set` is compiled from `state`.
pub fn connection(state: &State, set: &PolicySet, tuple: &FiveTuple) -> Explanation {
    let flow = set.flow(tuple);
    let decided = [Direction::Egress, Direction::Ingress].map(|direction| set.named(set.decide(&flow, direction)));
    explain(state, tuple, [state.locate(tuple.source), state.locate(tuple.destination)], decided)
}

/// Explains the answer to a question of the offline check: an address belongs to whom the question says.
pub fn answer(state: &State, query: &Query, answer: &Answer) -> Explanation {
    let tuple = &answer.tuple;
    let ends = [end::named(state, &query.from, tuple.source), end::named(state, &query.to, tuple.destination)];
    explain(state, tuple, ends, [answer.egress.reason.clone(), answer.ingress.reason.clone()])
}

fn explain(
    state: &State,
    tuple: &FiveTuple,
    [source, destination]: [Located<'_>; 2],
    [egress, ingress]: [Verdict<RuleName>; 2],
) -> Explanation {
    let from = End::new(state, tuple.source, source);
    let to = End::new(state, tuple.destination, destination);
    let verdict = if egress.is_allow() && ingress.is_allow() { Word::Allow } else { Word::Deny };
    let side = |direction, decided| {
        let view = naive::Side::new(state, tuple, direction, (source, destination));
        let is_self = |view: &naive::Side<'_>| view.peer == Located::Workload(view.subject);
        let is_known = source != Located::Pending && destination != Located::Pending;
        let view = view.filter(|view| is_known && !is_self(view));
        explain_side(view.as_ref(), [&from, &to], direction, decided)
    };
    let (egress, ingress) = (side(Direction::Egress, egress), side(Direction::Ingress, ingress));
    Explanation { verdict, tuple: *tuple, protocol: tuple.protocol, port: tuple.destination_port, from, to, egress, ingress }
}

/// Explains one side; `view` is there where policies are asked.
fn explain_side(view: Option<&naive::Side<'_>>, ends: [&End; 2], direction: Direction, decided: Verdict<RuleName>) -> Side {
    let trace = view.map(Trace::new);
    let because = because::sentence(view, trace.as_ref(), ends, direction, &decided);
    let turning = trace.as_ref().and_then(Trace::nearest).map(|turning| Otherwise {
        rule: Some(turning.rule),
        then: Some(turning.then),
        lacks: turning.lacks,
    });
    let by_default = match decided.reason() {
        Reason::NotExported => view.map(|view| Otherwise {
            rule: None,
            then: Some(Verdict::Allow(Reason::FleetDefault)),
            lacks: vec![export::missing(view)],
        }),
        Reason::IdentityPending => {
            Some(Otherwise { rule: None, then: None, lacks: ends.into_iter().filter_map(End::pending).collect() })
        }
        _ => None,
    };
    let weight = |otherwise: &Otherwise| lack::weight(&otherwise.lacks);
    Side {
        direction,
        verdict: if decided.is_allow() { Word::Allow } else { Word::Deny },
        tier: decided.reason().tier(),
        reason: decided.reason().as_str(),
        rule: decided.reason().rule().map(ToString::to_string),
        because,
        otherwise: turning.into_iter().chain(by_default).min_by_key(weight),
        without: trace.as_ref().and_then(Trace::without_the_deciding_rule),
        policies: trace.map(Trace::finish).unwrap_or_default(),
        decided,
    }
}

fn write_text<S: Serializer>(value: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn write_option<S: Serializer>(value: &Option<impl ToString>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}
