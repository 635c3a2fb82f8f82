//! The settings that change what policy means (SEMANTICS §2), the same on every node of a fleet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// `params` of `mesh.yaml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `ipBlock` and `networks` match workloads' addresses too.
    pub ipblock_matches_pods: bool,
    /// A workload's own node reaches it in spite of NetworkPolicy.
    pub own_node_ingress_allowed: bool,
    /// A workload reaches its own node in spite of NetworkPolicy.
    pub own_node_egress_allowed: bool,
    /// What holds between two clusters where no tier decides; missing: `exports` with a fleet, `allow` without one.
    pub cross_cluster_default: Option<CrossClusterDefault>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            ipblock_matches_pods: true,
            own_node_ingress_allowed: true,
            own_node_egress_allowed: false,
            cross_cluster_default: None,
        }
    }
}

/// What holds between two clusters where no tier decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrossClusterDefault {
    /// Only backends and ports of services exported to the client's cluster.
    Exports,
    /// Nothing.
    Deny,
    /// Everything.
    Allow,
}

/// Domain names and the addresses that they are known to have.
pub type DomainAddresses = BTreeMap<Arc<str>, Vec<IpAddr>>;
