//! NetworkPolicy and ClusterNetworkPolicy as plain data; what they mean is mesh-policy's.

use std::fmt;
use std::sync::Arc;

use crate::{ClusterName, NamespaceName, ObjectName, Prefix, Protocol, Selector};

/// Whose policy it is: which workloads may be its subjects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyScope {
    /// One cluster's own: subjects are workloads of that cluster.
    Cluster(ClusterName),
    /// The fleet's, signed by its root: in force as if it were in every cluster.
    Fleet,
}

impl PolicyScope {
    /// Tells whether workloads of `cluster` may be subjects.
    pub fn covers(&self, cluster: &ClusterName) -> bool {
        match self {
            PolicyScope::Cluster(own) => own == cluster,
            PolicyScope::Fleet => true,
        }
    }
}

impl fmt::Display for PolicyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyScope::Cluster(cluster) => cluster.fmt(f),
            PolicyScope::Fleet => f.write_str("fleet"),
        }
    }
}

/// `networking.k8s.io/v1` NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NetworkPolicy {
    /// Whose it is.
    pub scope: PolicyScope,
    /// Its namespace: its subjects' namespace, and the peers' where a peer names none.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: ObjectName,
    /// `spec.podSelector`; missing is `{}`.
    pub subject: Selector,
    /// The ingress rules; `None` where the policy does not have that direction. Empty: nothing is allowed.
    pub ingress: Option<Vec<NetworkPolicyRule>>,
    /// The egress rules, likewise.
    pub egress: Option<Vec<NetworkPolicyRule>>,
}

/// One rule of a NetworkPolicy: a peer and a port must match; an empty list restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NetworkPolicyRule {
    /// `from` or `to`.
    pub peers: Vec<NetworkPolicyPeer>,
    /// `ports`.
    pub ports: Vec<PortMatch>,
}

/// A peer of a NetworkPolicy rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetworkPolicyPeer {
    /// Workloads of any cluster. At least one selector is there; a peer without a known field is [`NetworkPolicyPeer::Nothing`].
    Workloads {
        /// `namespaceSelector`; `None`: the policy's own namespace, by name, in every cluster.
        namespaces: Option<Selector>,
        /// `podSelector`; `None`: every pod.
        pods: Option<Selector>,
    },
    /// `ipBlock`.
    IpBlock {
        /// `cidr`.
        cidr: Prefix,
        /// `except`: not matched, never a deny.
        except: Vec<Prefix>,
    },
    /// A peer in which no field is known: it matches nothing.
    Nothing,
}

/// Which ports and protocols a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Every port of a protocol.
    Protocol(Protocol),
    /// Ports of a protocol, both ends included.
    Range(Protocol, u16, u16),
    /// The destination workload's container port of that name; `None` takes the protocol from the container port.
    Named(Option<Protocol>, Arc<str>),
}

/// The tier of a ClusterNetworkPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyTier {
    /// Before NetworkPolicy.
    Admin,
    /// After NetworkPolicy, where none applies.
    Baseline,
}

/// `policy.networking.k8s.io` ClusterNetworkPolicy (v1alpha2, v1beta1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterNetworkPolicy {
    /// Whose it is.
    pub scope: PolicyScope,
    /// Its name.
    pub name: ObjectName,
    /// Its tier.
    pub tier: PolicyTier,
    /// Its priority: lower first.
    pub priority: i32,
    /// Its subjects.
    pub subject: WorkloadMatch,
    /// The ingress rules, in order.
    pub ingress: Vec<ClusterRule>,
    /// The egress rules, in order.
    pub egress: Vec<ClusterRule>,
}

/// Workloads by the labels of their namespace and their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadMatch {
    /// The namespaces.
    pub namespaces: Selector,
    /// The pods in them; `None`: all.
    pub pods: Option<Selector>,
}

/// What a rule of a ClusterNetworkPolicy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleAction {
    /// Allows, finally for this side.
    Accept,
    /// Denies, finally for this side.
    Deny,
    /// Leaves the tier.
    Pass,
}

/// One rule of a ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterRule {
    /// What it does.
    pub action: RuleAction,
    /// Its peers: one must match.
    pub peers: Vec<ClusterPeer>,
    /// Its protocols: one must match; empty is all.
    pub protocols: Vec<PortMatch>,
    /// The rule holds something that this version does not know, so it fails closed whatever else it says:
    /// Accept matches nothing, Deny and Pass become Deny of everything (SEMANTICS §2.12).
    pub unknown: bool,
}

/// A peer of a ClusterNetworkPolicy rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClusterPeer {
    /// `namespaces` or `pods`: workloads of any cluster.
    Workloads(WorkloadMatch),
    /// `nodes`: the addresses of matching nodes of all clusters (egress only).
    Nodes(Selector),
    /// `networks`: prefixes (egress only).
    Networks(Vec<Prefix>),
    /// `domainNames`: exact, or `*.` for one or more labels (egress, Accept only); lower-case, without a final dot.
    DomainNames(Vec<Arc<str>>),
}
