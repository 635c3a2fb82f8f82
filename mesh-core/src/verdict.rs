//! Verdicts and their reasons: the same value reaches the log, the metric and the test.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::policy::PolicyScope;
use crate::{ClusterName, NamespaceName, ObjectName};

/// Which side's policies: those of the destination (ingress) or of the source (egress).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Into the workload: decided in the destination's cluster.
    Ingress,
    /// Out of the workload: decided in the source's cluster.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

/// The verdict of one side. `R` names a rule: a [`RuleId`] on the hot path, a [`RuleName`] for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Verdict<R = RuleId> {
    /// The connection may be opened.
    Allow(Reason<R>),
    /// It may not: its packets are dropped silently.
    Deny(Reason<R>),
}

impl<R> Verdict<R> {
    /// Tells whether the connection may be opened.
    pub fn is_allow(&self) -> bool {
        matches!(self, Verdict::Allow(_))
    }

    /// Returns the reason.
    pub fn reason(&self) -> &Reason<R> {
        match self {
            Verdict::Allow(reason) | Verdict::Deny(reason) => reason,
        }
    }

    /// Replaces the rule's name by `f` of it.
    pub fn map<S>(self, f: impl FnOnce(R) -> S) -> Verdict<S> {
        match self {
            Verdict::Allow(reason) => Verdict::Allow(reason.map(f)),
            Verdict::Deny(reason) => Verdict::Deny(reason.map(f)),
        }
    }
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason<R = RuleId> {
    /// This side is no workload of the mesh: nothing polices it.
    NotPoliced,
    /// A workload reaches itself by its own addresses.
    OwnAddress,
    /// A rule of the Admin tier.
    Admin(R),
    /// A rule of a NetworkPolicy.
    NetworkPolicy(R),
    /// A NetworkPolicy selects the workload and none of its rules matches.
    Isolated,
    /// The workload's own node, which reaches it in spite of NetworkPolicy (or which it reaches, by a setting).
    OwnNode,
    /// A rule of the Baseline tier.
    Baseline(R),
    /// Between clusters, no tier decided, and the fleet's default allows it: an exported service, or `allow`.
    FleetDefault,
    /// Between clusters, no tier decided, and the fleet's default asks for an export that is not there, or is `deny`.
    NotExported,
    /// An end lies in a fleet prefix and its identity is not known (yet), or not granted.
    IdentityPending,
    /// No tier decided.
    Default,
}

impl<R> Reason<R> {
    /// Returns the tier that decided.
    pub fn tier(&self) -> Tier {
        match self {
            Reason::NotPoliced => Tier::None,
            Reason::OwnAddress => Tier::SelfAccess,
            Reason::Admin(_) => Tier::Admin,
            Reason::NetworkPolicy(_) | Reason::Isolated | Reason::OwnNode => Tier::NetworkPolicy,
            Reason::Baseline(_) => Tier::Baseline,
            Reason::FleetDefault | Reason::NotExported | Reason::IdentityPending => Tier::Fleet,
            Reason::Default => Tier::Default,
        }
    }

    /// Returns the rule that decided, where one did.
    pub fn rule(&self) -> Option<&R> {
        match self {
            Reason::Admin(rule) | Reason::NetworkPolicy(rule) | Reason::Baseline(rule) => Some(rule),
            _ => None,
        }
    }

    /// Replaces the rule's name by `f` of it.
    pub fn map<S>(self, f: impl FnOnce(R) -> S) -> Reason<S> {
        match self {
            Reason::Admin(rule) => Reason::Admin(f(rule)),
            Reason::NetworkPolicy(rule) => Reason::NetworkPolicy(f(rule)),
            Reason::Baseline(rule) => Reason::Baseline(f(rule)),
            Reason::NotPoliced => Reason::NotPoliced,
            Reason::OwnAddress => Reason::OwnAddress,
            Reason::Isolated => Reason::Isolated,
            Reason::OwnNode => Reason::OwnNode,
            Reason::FleetDefault => Reason::FleetDefault,
            Reason::NotExported => Reason::NotExported,
            Reason::IdentityPending => Reason::IdentityPending,
            Reason::Default => Reason::Default,
        }
    }

    /// Returns the reason in kebab case, as metrics and flow records name it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Reason::NotPoliced => "not-policed",
            Reason::OwnAddress => "own-address",
            Reason::Admin(_) => "admin-rule",
            Reason::NetworkPolicy(_) => "network-policy-rule",
            Reason::Isolated => "isolated-by-network-policy",
            Reason::OwnNode => "own-node",
            Reason::Baseline(_) => "baseline-rule",
            Reason::FleetDefault => "fleet-default",
            Reason::NotExported => "not-exported",
            Reason::IdentityPending => "identity-pending",
            Reason::Default => "default",
        }
    }
}

/// The tier that decided, by the names of the offline checker's answers (SEMANTICS §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// No workload on this side.
    None,
    /// A workload to itself.
    #[serde(rename = "Self")]
    SelfAccess,
    /// ClusterNetworkPolicy, Admin.
    Admin,
    /// NetworkPolicy.
    NetworkPolicy,
    /// ClusterNetworkPolicy, Baseline.
    Baseline,
    /// The fleet's default between clusters.
    Fleet,
    /// Nothing decided: allow.
    Default,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::None => "None",
            Tier::SelfAccess => "Self",
            Tier::Admin => "Admin",
            Tier::NetworkPolicy => "NetworkPolicy",
            Tier::Baseline => "Baseline",
            Tier::Fleet => "Fleet",
            Tier::Default => "Default",
        })
    }
}

/// A rule by its numbers in one compiled policy set; resolved to a [`RuleName`] by that set only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId {
    /// Whose rules they are: workloads with the same rules in the same cluster share a number.
    pub subject: u32,
    /// The rule among those, times two; plus one for egress.
    pub rule: u32,
}

/// A rule by name: `<cluster>/<Kind>/[<ns>/]<name>/<ingress|egress>[i]`.
///
/// The cluster is the deciding side's, also for a fleet policy, which is in force as if it were that cluster's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName {
    /// The cluster whose side decided.
    pub cluster: ClusterName,
    /// Whose policy it is.
    pub scope: PolicyScope,
    /// The namespace of a NetworkPolicy; `None` for a ClusterNetworkPolicy.
    pub namespace: Option<NamespaceName>,
    /// The policy's name.
    pub policy: ObjectName,
    /// Which rule list.
    pub direction: Direction,
    /// The rule's index in it, from zero.
    pub index: u32,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/NetworkPolicy/{namespace}/{}", self.cluster, self.policy)?,
            None => write!(f, "{}/ClusterNetworkPolicy/{}", self.cluster, self.policy)?,
        }
        write!(f, "/{}[{}]", self.direction, self.index)
    }
}

impl fmt::Display for Verdict<RuleName> {
    /// Writes `allow by east/NetworkPolicy/shop/db-in/ingress[0] (NetworkPolicy)` or `deny: not-exported (Fleet)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_allow() { "allow" } else { "deny" };
        let reason = self.reason();
        match reason.rule() {
            Some(rule) => write!(f, "{word} by {rule} ({})", reason.tier()),
            None => write!(f, "{word}: {} ({})", reason.as_str(), reason.tier()),
        }
    }
}
