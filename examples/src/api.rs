//! What the agent's local API says: HTTP and JSON on a Unix socket.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /health` | [`Health`]; status 200 when ready, 503 when not |
//! | `GET /status` | [`Status`] |
//! | `GET /peers` | a list of [`Peer`] |
//! | `GET /state` | [`StateSummary`] |
//! | `GET /flows?limit=N&follow=true` | [`FlowRecord`](mesh_core::FlowRecord)s as JSON lines, oldest first; with `follow` the stream goes on |
//! | `GET /metrics` | Prometheus text |

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mesh_core::{ClusterName, NodeId, Prefix, WireGuardKey};
use serde::{Deserialize, Serialize};

/// Whether the agent does its work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    /// Every source has been read (or its last known state loaded), and the plan is programmed.
    pub ready: bool,
    /// What is wrong now; empty when nothing is.
    pub problems: Vec<String>,
}

/// An overview.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node.
    pub node: NodeId,
    /// The fleet's name.
    pub fleet: String,
    /// The program's version.
    pub version: String,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Its health.
    pub health: Health,
    /// What the node polices.
    pub scope: String,
    /// The tunnel in use.
    pub tunnel: String,
    /// The node's WireGuard public key.
    pub key: WireGuardKey,
    /// Roles beside that of a node: `publisher`, `mirror`.
    pub roles: Vec<String>,
    /// How many peers there are, and how many have completed a handshake in the last three minutes.
    pub peers: (usize, usize),
    /// The clusters of the fleet.
    pub clusters: Vec<Cluster>,
    /// Packets dropped since the start, by reason; reasons that never occurred are left out.
    pub drops: BTreeMap<String, u64>,
    /// Facts and records refused since the start, by reason.
    pub refusals: BTreeMap<String, u64>,
}

/// A cluster of the fleet, as this node knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// `own`, or how fresh its facts are: `live`, `suspect`, `stale`, `expired`.
    pub freshness: String,
    /// Its granted prefixes.
    pub prefixes: Vec<Prefix>,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Known nodes.
    pub nodes: usize,
    /// Known workloads.
    pub workloads: usize,
    /// Exported services.
    pub exports: usize,
}

/// Another node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its WireGuard public key.
    pub key: WireGuardKey,
    /// Where packets for it go now.
    pub endpoint: Option<SocketAddr>,
    /// Seconds since the latest handshake; missing before the first.
    pub handshake_age_seconds: Option<u64>,
    /// Its prefixes.
    pub prefixes: Vec<Prefix>,
    /// Bytes received from it, encrypted packets only.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
}

/// What the agent believes, in numbers, and what it refuses.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StateSummary {
    /// Known facts by kind.
    pub facts: BTreeMap<String, usize>,
    /// Offered facts that are not believed, each with its reason.
    pub refused: Vec<String>,
    /// What is wrong with the sources: manifests by file, line, column and field.
    pub source_problems: Vec<String>,
    /// Clusterset services that this cluster can import, with their addresses and the number of ready backends.
    pub services: Vec<Service>,
}

/// An imported service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// `namespace/name`.
    pub id: String,
    /// Its clusterset addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// Ready backends.
    pub ready: usize,
    /// The exporting clusters.
    pub clusters: Vec<ClusterName>,
}
