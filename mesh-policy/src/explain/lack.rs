//! What a rule asks for and a connection does not have.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::policy::PortMatch;
use mesh_core::{ClusterName, FiveTuple, NamespaceName, NodeId, Prefix, Requirement, RuleName};
use serde::{Serialize, Serializer};

use crate::words;

/// One requirement that is not met. Its text ([`fmt::Display`]) says what is wanted and what is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Lack {
    /// The peer is written by selectors, and the other end is no workload with an identity.
    NoWorkload {
        /// The other end's address.
        address: IpAddr,
        /// Whom the peer means.
        wanted: String,
        /// How many requirements the peer's selectors have, none of which can hold.
        requirements: usize,
    },
    /// The other end is in another namespace.
    Namespace {
        /// The namespace that the peer means, by name.
        wanted: NamespaceName,
        /// The other end's.
        has: NamespaceName,
    },
    /// A label of the other end's namespace.
    NamespaceLabel {
        /// The requirement of the namespaceSelector.
        #[serde(serialize_with = "write_requirement")]
        wanted: Requirement,
        /// The value that is there.
        has: Option<Arc<str>>,
    },
    /// A label of the other end.
    Label {
        /// The requirement of the podSelector.
        #[serde(serialize_with = "write_requirement")]
        wanted: Requirement,
        /// The value that is there.
        has: Option<Arc<str>>,
    },
    /// The other end's address is not in the networks.
    Network {
        /// The networks of the peer.
        wanted: Vec<Prefix>,
        /// The address.
        has: IpAddr,
    },
    /// The other end's address is excepted.
    Excepted {
        /// The `except` that holds it.
        except: Prefix,
        /// The address.
        has: IpAddr,
    },
    /// The other end is a workload, and the setting `ipblock_matches_pods` is false.
    NetworksMatchNoPods,
    /// The other end's address is of no Node that is known.
    NoNode {
        /// The address.
        address: IpAddr,
    },
    /// A label of the node that has the address.
    NodeLabel {
        /// The node.
        node: NodeId,
        /// The requirement.
        #[serde(serialize_with = "write_requirement")]
        wanted: Requirement,
        /// The value that is there.
        has: Option<Arc<str>>,
    },
    /// No name that is meant is known to have the address.
    Domain {
        /// The names.
        wanted: Vec<Arc<str>>,
        /// The address.
        has: IpAddr,
    },
    /// The peer has no known field: it matches nobody.
    UnknownPeer,
    /// The rule holds something that is not understood where it stands: it never allows (SEMANTICS §2.12).
    NotUnderstood,
    /// Protocol and port are not among the rule's.
    Port {
        /// The ports of the rule, a named one with its number at the destination.
        wanted: Vec<String>,
        /// The same ports as data.
        #[serde(skip)]
        ports: Vec<PortMatch>,
        /// Protocol and port of the connection.
        has: String,
    },
    /// The rule is not asked: one before it matches and decides, or leaves the tier.
    Preceded {
        /// The rule before it.
        #[serde(serialize_with = "super::write_text")]
        by: RuleName,
    },
    /// A Baseline rule is not asked: NetworkPolicy applies to the workload.
    NetworkPolicyApplies {
        /// The NetworkPolicies.
        policies: Vec<String>,
    },
    /// The fleet's default between clusters asks for an export of this port, and there is none.
    NotExported {
        /// The destination's cluster.
        cluster: ClusterName,
        /// Address, port and protocol.
        port: String,
        /// What about services of the cluster comes close.
        because: String,
    },
    /// The fleet's default between clusters is `deny`.
    DefaultDenies,
    /// An end has no identity.
    IdentityPending {
        /// Its address.
        address: IpAddr,
        /// Why.
        because: String,
    },
}

impl Lack {
    /// Returns for how many unmet requirements it stands: one, and for an end without an identity also one for each requirement
    /// of the selectors that would have to hold for it.
    pub fn weight(&self) -> usize {
        match self {
            Lack::NoWorkload { requirements, .. } => 1 + requirements,
            _ => 1,
        }
    }
}

/// Returns the number of unmet requirements.
pub(crate) fn weight(lacks: &[Lack]) -> usize {
    lacks.iter().map(Lack::weight).sum()
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::NoWorkload { address, wanted, .. } => write!(f, "{address} is no workload, {wanted} are wanted"),
            Lack::Namespace { wanted, has } => write!(f, "namespace {wanted} is wanted, it is in {has}"),
            Lack::NamespaceLabel { wanted, has } => label(f, "namespace label", wanted, has.as_deref()),
            Lack::Label { wanted, has } => label(f, "label", wanted, has.as_deref()),
            Lack::Network { wanted, has } => write!(f, "{has} is not in {}", words::prefixes(wanted)),
            Lack::Excepted { except, has } => write!(f, "{has} is in the exception {except}"),
            Lack::NetworksMatchNoPods => f.write_str("it is a workload, and ipblock_matches_pods is false"),
            Lack::NoNode { address } => write!(f, "{address} is of no Node that is known"),
            Lack::NodeLabel { node, wanted, has } => label(f, &format!("label of node {node}:"), wanted, has.as_deref()),
            Lack::Domain { wanted, has } => write!(f, "{has} is not known as an address of {}", wanted.join(", ")),
            Lack::UnknownPeer => f.write_str("the peer has no field that is known, it matches nobody"),
            Lack::NotUnderstood => f.write_str("the rule holds something that is not understood, so it allows nobody"),
            Lack::Port { wanted, has, .. } => write!(f, "port {has} is not in {}", wanted.join(", ")),
            Lack::Preceded { by } => write!(f, "{by} matches and comes before it"),
            Lack::NetworkPolicyApplies { policies } => {
                write!(f, "Baseline is not asked, because NetworkPolicy applies: {}", policies.join(", "))
            }
            Lack::NotExported { cluster, port, because } => {
                write!(f, "{cluster} exports no service with a backend at {port}: {because}")
            }
            Lack::DefaultDenies => f.write_str("cross_cluster_default is deny"),
            Lack::IdentityPending { address, because } => write!(f, "{address} has no identity: {because}"),
        }
    }
}

fn label(f: &mut fmt::Formatter<'_>, what: &str, wanted: &Requirement, has: Option<&str>) -> fmt::Result {
    let (Requirement::In(key, _) | Requirement::NotIn(key, _) | Requirement::Exists(key) | Requirement::DoesNotExist(key)) =
        wanted;
    write!(f, "{what} {} is wanted, ", words::requirement(wanted))?;
    match has {
        Some(value) => write!(f, "it has {key}={value}"),
        None => write!(f, "it has no {key}"),
    }
}

fn write_requirement<S: Serializer>(requirement: &Requirement, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&words::requirement(requirement))
}

/// Writes lacks with their text beside their fields.
pub(super) fn with_text<S: Serializer>(lacks: &[Lack], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct WithText<'a> {
        #[serde(flatten)]
        lack: &'a Lack,
        text: String,
    }
    serializer.collect_seq(lacks.iter().map(|lack| WithText { lack, text: lack.to_string() }))
}

/// Writes `5432/TCP`, or `ICMP`.
pub(super) fn port_of(tuple: &FiveTuple) -> String {
    match tuple.protocol.has_ports() {
        true => format!("{}/{}", tuple.destination_port, tuple.protocol),
        false => tuple.protocol.to_string(),
    }
}
