//! Mistakes in policies that are valid manifests: what does nothing, what never decides, and what no grant allows.
//!
//! ```text
//!   State ──> lint ──> findings: a stable code, a severity, the object with its place, a sentence, a way out
//! ```
//!
//! # What is looked for
//!
//! | code | severity | what |
//! | --- | --- | --- |
//! | `namespace-not-granted` | error | something is in a namespace that its cluster's grant does not hold: pods are refused, policies select nobody |
//! | `cluster-not-granted` | error | a cluster has facts and no grant: all of them are refused |
//! | `not-understood` | error | a rule holds something unknown, or without a meaning where it stands: it fails closed |
//! | `selects-nothing` | warning | no pod of today is a policy's subject |
//! | `matches-nobody` | warning | a peer matches no pod, node or address of today |
//! | `peer-not-granted` | warning | a peer names a namespace of a cluster (or of every cluster) whose grant does not hold it |
//! | `shadowed-rule` | warning | rules before it match all that a rule matches, whoever is there: it can never decide |
//! | `equal-priorities` | warning | two policies of one tier and priority decide a connection of today differently: the name decides |
//! | `unknown-port` | warning | a named port that no pod has which the rule could be about |
//! | `redundant-rule` | hint | another rule of a NetworkPolicy allows all that a rule allows |
//! | `block-hits-pods` | hint | an ipBlock or network holds prefixes of the fleet's pods |
//! | `unknown-domain` | hint | a domain name without a known address |
//!
//! # How exact it is
//!
//! `selects-nothing`, `matches-nobody`, `unknown-port` and `equal-priorities` are about the pods and nodes that the state has
//! today, and exact for them (`equal-priorities` shows one connection that the two policies decide differently; addresses outside
//! the fleet are tried by the first address of each network that the policies name).
//!
//! `shadowed-rule` and `redundant-rule` hold whoever is there: they compare selectors, networks and ports as sets. Every finding is
//! true, and some cases are not found: each peer of a rule must lie inside one peer of one rule before it, with all the rule's
//! ports inside that rule's ports, and pods, nodes, networks and domain names are compared with their own kind only. Considered
//! before a rule are: the rules before it in its tier whose policies cover its clusters and its subjects, and, for NetworkPolicy
//! and Baseline, the Admin rules that accept or deny and have no rule before them that passes.

use std::collections::BTreeMap;
use std::fmt;

use mesh_core::manifest::Location;
use mesh_core::policy::{ClusterNetworkPolicy, NetworkPolicy, PolicyScope};
use mesh_core::{Direction, Key, State};
use serde::{Serialize, Serializer};

use self::pods::Pods;

mod cover;
mod peers;
mod pods;
mod priorities;
mod reach;
mod sameness;
mod shadow;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know: it may be meant.
    Hint,
    /// Hardly meant.
    Warning,
    /// Something is refused or fails closed because of it.
    Error,
}

/// What was found, by a name that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
#[allow(missing_docs, reason = "the module's table says what each is")]
pub enum Code {
    NamespaceNotGranted,
    ClusterNotGranted,
    NotUnderstood,
    SelectsNothing,
    MatchesNobody,
    PeerNotGranted,
    ShadowedRule,
    EqualPriorities,
    UnknownPort,
    RedundantRule,
    BlockHitsPods,
    UnknownDomain,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was found.
    pub code: Code,
    /// How much it matters: always the code's.
    pub severity: Severity,
    /// The object that it is about.
    #[serde(serialize_with = "write_text")]
    pub object: Key,
    /// The object's place, where it is known.
    #[serde(serialize_with = "write_place")]
    pub place: Option<Location>,
    /// The part of the object, such as `spec.ingress[0].from[1]`; empty for the whole.
    pub field: String,
    /// What is wrong, in a sentence.
    pub message: String,
    /// What to do about it.
    pub way_out: String,
}

impl Code {
    /// Returns the name that stays.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::NamespaceNotGranted => "namespace-not-granted",
            Code::ClusterNotGranted => "cluster-not-granted",
            Code::NotUnderstood => "not-understood",
            Code::SelectsNothing => "selects-nothing",
            Code::MatchesNobody => "matches-nobody",
            Code::PeerNotGranted => "peer-not-granted",
            Code::ShadowedRule => "shadowed-rule",
            Code::EqualPriorities => "equal-priorities",
            Code::UnknownPort => "unknown-port",
            Code::RedundantRule => "redundant-rule",
            Code::BlockHitsPods => "block-hits-pods",
            Code::UnknownDomain => "unknown-domain",
        }
    }

    /// Returns how much it matters.
    pub fn severity(self) -> Severity {
        match self {
            Code::NamespaceNotGranted | Code::ClusterNotGranted | Code::NotUnderstood => Severity::Error,
            Code::SelectsNothing
            | Code::MatchesNobody
            | Code::PeerNotGranted
            | Code::ShadowedRule
            | Code::EqualPriorities
            | Code::UnknownPort => Severity::Warning,
            Code::RedundantRule | Code::BlockHitsPods | Code::UnknownDomain => Severity::Hint,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Hint => "hint",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

impl fmt::Display for Finding {
    /// Writes three lines: place, severity and code; the object and its part with the sentence; the way out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        let dot = if self.field.is_empty() { "" } else { " " };
        writeln!(f, "{} {}", self.severity, self.code)?;
        writeln!(f, "    {}{dot}{}: {}", self.object, self.field, self.message)?;
        write!(f, "    help: {}", self.way_out)
    }
}

/// Looks through the policies of `state`. `places` says where each object is (`Checked::locations`), as far as that is known.
///
/// Findings are in the order of their places, those without one after the others by object, then by part.
pub fn lint(state: &State, places: &BTreeMap<Key, Location>) -> Vec<Finding> {
    let mut report = Report { places, findings: Vec::new() };
    let pods = Pods::new(state);
    sameness::look(&pods, &mut report);
    peers::look(&pods, &mut report);
    shadow::look(state, &mut report);
    priorities::look(&pods, &mut report);
    let mut findings = report.findings;
    findings.sort_by(|a, b| {
        let order = |finding: &Finding| {
            let place = finding.place.clone();
            (place.is_none(), place, finding.object.clone(), finding.field.clone(), finding.code)
        };
        (order(a), &a.message).cmp(&(order(b), &b.message))
    });
    findings.dedup();
    findings
}

/// An object and the part of it.
type At = (Key, String);

/// What was found so far.
struct Report<'a> {
    places: &'a BTreeMap<Key, Location>,
    findings: Vec<Finding>,
}

impl Report<'_> {
    fn add(&mut self, code: Code, (object, field): &At, message: String, way_out: impl Into<String>) {
        let (object, field) = (object.clone(), field.clone());
        let place = self.places.get(&object).cloned();
        self.findings.push(Finding { code, severity: code.severity(), object, place, field, message, way_out: way_out.into() });
    }

    /// Tells whether something of `code` was found at a part of an object.
    fn has(&self, code: Code, object: &Key, field: &str) -> bool {
        self.findings.iter().any(|finding| finding.code == code && finding.object == *object && finding.field == field)
    }
}

fn network_key(policy: &NetworkPolicy) -> Key {
    Key::NetworkPolicy(policy.scope.clone(), policy.namespace.clone(), policy.name.clone())
}

fn cluster_key(policy: &ClusterNetworkPolicy) -> Key {
    Key::ClusterNetworkPolicy(policy.scope.clone(), policy.name.clone())
}

/// Writes the path of a rule, `spec.ingress[0]`.
fn rule_path(direction: Direction, index: usize) -> String {
    format!("spec.{direction}[{index}]")
}

/// Writes the path of a peer, `spec.ingress[0].from[1]`.
fn peer_path(direction: Direction, index: usize, peer: usize) -> String {
    let list = if direction == Direction::Ingress { "from" } else { "to" };
    format!("spec.{direction}[{index}].{list}[{peer}]")
}

/// Writes where a policy holds: `cluster east`, or `every cluster`.
fn where_of(scope: &PolicyScope) -> String {
    match scope {
        PolicyScope::Cluster(cluster) => format!("cluster {cluster}"),
        PolicyScope::Fleet => "any cluster".into(),
    }
}

fn write_text<S: Serializer>(value: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn write_place<S: Serializer>(place: &Option<Location>, serializer: S) -> Result<S::Ok, S::Error> {
    place.as_ref().map(ToString::to_string).serialize(serializer)
}
