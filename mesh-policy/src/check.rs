//! The offline policy check (SEMANTICS §4): a question about one connection, answered by the compiled policy and nothing else.
//!
//! ```
//! use mesh_core::{Settings, State, StateConfig, Trust};
//! use mesh_policy::check::Checker;
//!
//! let config = StateConfig { fleet: "".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
//! let state = State::new(config);
//! let mut checker = Checker::new(&state);
//! let answer = checker.answer_line(r#"{"id": 1, "from": "192.0.2.1", "to": "192.0.2.2", "port": 80}"#);
//! assert!(answer.expect("a good question").is_allow());
//! ```

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{Change, Direction, FiveTuple, Located, NodeId, RuleName, State, Tier, Verdict, Workload, WorkloadId};
use serde::Serialize;
use serde_json::Value;

use crate::compiler::Assumed;
use crate::{Compiler, End, Flow, Known, PolicySet, ProfileHandle};

mod query;

pub use self::query::{Party, Query};

/// Why a question has no answer; serializes as the answer's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{error}")]
pub struct QueryError {
    /// The question's id; null where it could not be read.
    pub id: Value,
    /// What is wrong, for a person.
    pub error: String,
}

/// An answer; serializes as its line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The question's id.
    pub id: Value,
    /// `allow` where both sides allow.
    pub verdict: Word,
    /// The source's side.
    pub egress: Side,
    /// The destination's side.
    pub ingress: Side,
    /// The connection that was decided.
    #[serde(skip)]
    pub tuple: FiveTuple,
}

/// One side of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Whether this side allows.
    pub verdict: Word,
    /// The tier that decided.
    pub tier: Tier,
    /// The rule that decided, where one did.
    pub rule: Option<String>,
    /// The verdict with its reason.
    #[serde(skip)]
    pub reason: Verdict<RuleName>,
}

/// A verdict's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words say it")]
pub enum Word {
    Allow,
    Deny,
}

impl Word {
    fn of(allowed: bool) -> Word {
        if allowed { Word::Allow } else { Word::Deny }
    }
}

impl Answer {
    /// Tells whether both sides allow.
    pub fn is_allow(&self) -> bool {
        self.verdict == Word::Allow
    }
}

impl Side {
    fn new(reason: Verdict<RuleName>) -> Side {
        let rule = reason.reason().rule().map(ToString::to_string);
        Side { verdict: Word::of(reason.is_allow()), tier: reason.reason().tier(), rule, reason }
    }
}

/// Answers questions about one state.
#[derive(Debug)]
pub struct Checker<'a> {
    state: &'a State,
    compiler: Compiler,
}

impl<'a> Checker<'a> {
    /// Compiles the policies of `state`.
    pub fn new(state: &'a State) -> Checker<'a> {
        let mut compiler = Compiler::new();
        compiler.update(state, &Change::default());
        Checker { state, compiler }
    }

    /// Returns the compiled policies.
    pub fn policy(&self) -> &Arc<PolicySet> {
        self.compiler.current()
    }

    /// Reads and answers one line.
    pub fn answer_line(&mut self, line: &str) -> Result<Answer, QueryError> {
        self.answer(&Query::parse(line)?)
    }

    /// Answers `query`.
    ///
    /// Where an address of the query is not its named owner's (a translated address, an address that two pods claim), the
    /// query's word counts for whose it is: rules about addresses see the address, rules about workloads the owner.
    pub fn answer(&mut self, query: &Query) -> Result<Answer, QueryError> {
        let error = |error: String| QueryError { id: query.id.clone(), error };
        let from = Named::new(self.state, &query.from).map_err(error)?;
        let to = Named::new(self.state, &query.to).map_err(error)?;
        let (source, destination) = addresses(from.addresses(query.src_ip), &to.addresses(query.dst_ip))
            .ok_or_else(|| error(format!("{} and {} have no addresses of one family", query.from, query.to)))?;
        let tuple = FiveTuple { source, destination, protocol: query.protocol, source_port: 0, destination_port: query.port };
        let ends = [from.owner(self.policy(), source), to.owner(self.policy(), destination)];
        if ends.iter().all(Option::is_none) {
            let set = self.policy();
            return Ok(decide(set, &set.flow(&tuple), query));
        }
        for owner in ends.iter().flatten() {
            if let Owner::Workload(id) = owner {
                self.compiler.prepare(id);
            }
        }
        let mut set = PolicySet::clone(self.policy());
        let [source, destination] =
            [(0, &ends[0], source), (1, &ends[1], destination)].map(|(beyond, owner, address)| match owner {
                None => (set.known(address), None),
                Some(Owner::Pending) => (Known { end: End::Pending, profile: ProfileHandle::NOWHERE, is_backend: false }, None),
                Some(Owner::Node(node)) => told(self.compiler.assume_node(node, address, beyond, &mut set)),
                Some(Owner::Workload(id)) => match self.compiler.assume_workload(id, address, beyond, &mut set) {
                    Some(assumed) => told(assumed),
                    None => (set.known(address), None),
                },
            });
        for (one, (other, _)) in [(&source, &destination), (&destination, &source)] {
            if let (_, Some(assumed)) = one {
                self.compiler.introduce(assumed, other.profile, &mut set);
            }
        }
        Ok(decide(&set, &set.flow_between(&tuple, source.0, destination.0), query))
    }
}

fn told(assumed: Assumed) -> (Known, Option<Assumed>) {
    (assumed.known, Some(assumed))
}

fn decide(set: &PolicySet, flow: &Flow, query: &Query) -> Answer {
    let [egress, ingress] =
        [Direction::Egress, Direction::Ingress].map(|direction| Side::new(set.named(set.decide(flow, direction))));
    let verdict = Word::of(egress.reason.is_allow() && ingress.reason.is_allow());
    Answer { id: query.id.clone(), verdict, egress, ingress, tuple: *flow.tuple() }
}

/// Whose an address is by the query's word.
enum Owner {
    Workload(WorkloadId),
    Node(NodeId),
    /// Somebody without an identity.
    Pending,
}

/// Returns the answer as one line for a person, such as
/// `1: allow east/shop/web (10.1.0.5) > west/shop/db (10.2.0.9) 5432/TCP: egress allow: default (Default), ingress allow by …`;
/// an address is in parentheses where the query names its owner.
pub fn answer_text(query: &Query, answer: &Answer) -> String {
    let tuple = answer.tuple;
    let party = |party: &Party, address: IpAddr| match party {
        Party::Workload(id) => format!("{id} ({address})"),
        Party::Address(_) => address.to_string(),
    };
    let port = if tuple.protocol.has_ports() { format!("{}/", tuple.destination_port) } else { String::new() };
    format!(
        "{}: {} {} > {} {port}{}: egress {}, ingress {}",
        answer.id,
        if answer.is_allow() { "allow" } else { "deny" },
        party(&query.from, tuple.source),
        party(&query.to, tuple.destination),
        tuple.protocol,
        answer.egress.reason,
        answer.ingress.reason,
    )
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Workload(id) => id.fmt(f),
            Party::Address(address) => address.fmt(f),
        }
    }
}

/// A party as the state knows it.
enum Named<'a> {
    /// An address; where it belongs to a pod, that pod is meant.
    Address(IpAddr, Option<&'a Workload>),
    Pod(&'a Workload),
    /// A pod that is not believed (outside its cluster's grant): it has addresses and no identity.
    Refused(&'a Workload),
}

impl<'a> Named<'a> {
    fn new(state: &'a State, party: &Party) -> Result<Named<'a>, String> {
        match party {
            Party::Address(address) => {
                let owner = match state.locate(*address) {
                    Located::Workload(workload) => Some(workload),
                    _ => None,
                };
                Ok(Named::Address(*address, owner))
            }
            Party::Workload(id) => match (state.facts().workloads.get(id), state.refused_workload(id)) {
                (Some(workload), _) => Ok(Named::Pod(workload)),
                (None, Some(workload)) => Ok(Named::Refused(workload)),
                (None, None) => Err(format!("pod {id} is not known")),
            },
        }
    }

    fn addresses(&self, given: Option<IpAddr>) -> Vec<IpAddr> {
        match (given, self) {
            (Some(address), _) => vec![address],
            (None, Named::Address(address, _)) => vec![*address],
            (None, Named::Pod(workload) | Named::Refused(workload)) => workload.addresses.clone(),
        }
    }

    /// Returns the owner that the query names, where `set` knows another (or none) for `address`.
    fn owner(&self, set: &PolicySet, address: IpAddr) -> Option<Owner> {
        let end = set.end(address);
        let workload = match self {
            Named::Address(_, None) => return None,
            Named::Address(_, Some(workload)) | Named::Pod(workload) => workload,
            Named::Refused(workload) if workload.host_network || end == End::Pending => return None,
            Named::Refused(_) => return Some(Owner::Pending),
        };
        if workload.host_network {
            let name = workload.node.clone()?;
            let node = NodeId { cluster: workload.id.cluster.clone(), name };
            let known = set.node(end) == Some(&node) || workload.addresses.contains(&address);
            return if known { None } else { Some(Owner::Node(node)) };
        }
        let is_own = set.workload(end).is_some_and(|known| *known.id == workload.id);
        if is_own { None } else { Some(Owner::Workload(workload.id.clone())) }
    }
}

/// Returns the first address of `from` whose family `to` has as well, and the first of those.
fn addresses(from: Vec<IpAddr>, to: &[IpAddr]) -> Option<(IpAddr, IpAddr)> {
    from.into_iter().find_map(|source| {
        let same = to.iter().find(|destination| destination.is_ipv4() == source.is_ipv4())?;
        Some((source, *same))
    })
}
