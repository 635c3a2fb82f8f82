//! What the agent's local API says: HTTP and JSON on a Unix socket.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /health` | [`Health`]; status 200 when ready, 503 when not |
//! | `GET /status` | [`Status`] |
//! | `GET /peers` | a list of [`Peer`] |
//! | `GET /state` | [`StateSummary`] |
//! | `GET /services/NAMESPACE/NAME` | [`ServiceTraffic`]; status 404 where this cluster has no service of that name with addresses |
//! | `GET /dns?name=NAME&type=TYPE` | [`Answer`](mesh_discovery::Answer); what cannot be answered is told in words |
//! | `GET /flows?limit=N&follow=true` | [`FlowRecord`](mesh_core::FlowRecord)s as JSON lines, oldest first; with `follow` the stream goes on |
//! | `GET /metrics` | Prometheus text |

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mesh_core::{ClusterName, Locality, NodeId, Prefix, WireGuardKey};
use mesh_dataplane::balancer::{Standing, WHOLE};
use mesh_dataplane::planner::services::{self, Side};
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
    /// The tunnel in use: `user` or `kernel`.
    pub tunnel: String,
    /// Why that one.
    #[serde(default)]
    pub tunnel_reason: String,
    /// The node's WireGuard public key.
    pub key: WireGuardKey,
    /// Roles beside that of a node: `publisher` (it publishes now) or `standby` (it would, without the one that does), `mirror`.
    pub roles: Vec<String>,
    /// How many peers there are, and how many have completed a handshake in the last three minutes.
    pub peers: (usize, usize),
    /// The clusters of the fleet.
    pub clusters: Vec<Cluster>,
    /// The fleet policies that this node knows; missing where the root has signed none.
    #[serde(default)]
    pub policies: Option<Policies>,
    /// Packets dropped since the start, by reason; reasons that never occurred are left out.
    pub drops: BTreeMap<String, u64>,
    /// What became of packets that came before their identity, since the start: `held`, then `released`, `denied` or `expired`;
    /// `no-room`. What never occurred is left out.
    #[serde(default)]
    pub holds: BTreeMap<String, u64>,
    /// Identities asked of other nodes since the start (`asked`, then `pulled`, `unknown`, `refused` or `failed`), and told to
    /// them (`served`, `served-unknown`, `turned-away`). What never occurred is left out.
    #[serde(default)]
    pub pulls: BTreeMap<String, u64>,
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
    /// The serial of the fleet policies that it says are in force on all its nodes.
    #[serde(default)]
    pub policies: Option<u64>,
}

/// The fleet policies, and where they are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// Their serial.
    pub serial: u64,
    /// How many clusters say that they are in force on all their nodes.
    pub active: usize,
    /// How many clusters have a grant in force.
    pub clusters: usize,
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

/// Who takes the connections to a service, seen from this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceTraffic {
    /// `namespace/name`.
    pub id: String,
    /// One for each port and family, of the cluster's own Service and of the imported one.
    pub ports: Vec<PortTraffic>,
}

/// Who takes the connections to one port of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortTraffic {
    /// `cluster` or `clusterset`: whose address it is.
    pub scope: String,
    /// What clients use: `address:port/protocol`.
    pub frontends: Vec<String>,
    /// The setting: which group is first, `node`, `zone`, `cluster`, `region` or `anywhere`.
    pub first: String,
    /// Backends of this node only.
    pub node_only: bool,
    /// Nothing is healthy, and what is demoted is used.
    pub last_resort: bool,
    /// How many slots the backends share.
    pub slots: usize,
    /// The groups, nearest first.
    pub groups: Vec<TrafficGroup>,
    /// Every backend.
    pub backends: Vec<TrafficBackend>,
}

/// A group of backends that are as near as each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrafficGroup {
    /// Which.
    pub group: String,
    /// How many of its backends are healthy.
    pub healthy: usize,
    /// How many it has.
    pub total: usize,
    /// Its share of new connections, in percent.
    pub percent: f64,
}

/// A backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrafficBackend {
    /// Its address and port.
    pub address: SocketAddr,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its node.
    pub node: Option<NodeId>,
    /// How near it is.
    pub locality: String,
    /// Its weight.
    pub weight: u16,
    /// `healthy`, `demoted`, `unready` or `leaving`.
    pub standing: String,
    /// Why: what is known of the way to it.
    pub reach: String,
    /// Its share of new connections, in percent.
    pub percent: f64,
}

impl From<&services::PortTraffic> for PortTraffic {
    fn from(port: &services::PortTraffic) -> PortTraffic {
        let percent = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
        let frontend = |at: &mesh_dataplane::Frontend| format!("{}/{}", SocketAddr::new(at.address, at.port), at.protocol);
        let backend = |backend: &services::BackendTraffic| TrafficBackend {
            address: SocketAddr::new(backend.candidate.address, backend.candidate.port),
            cluster: backend.cluster.clone(),
            node: backend.node.clone(),
            locality: locality(backend.candidate.locality).into(),
            weight: backend.candidate.weight,
            standing: standing(backend.candidate.standing).into(),
            reach: backend.reach.to_string(),
            percent: percent(backend.slots as u64, port.slots as u64),
        };
        let group = |group: &mesh_dataplane::balancer::Group| TrafficGroup {
            group: locality(group.locality).into(),
            healthy: group.healthy,
            total: group.total,
            percent: percent(group.share, WHOLE),
        };
        PortTraffic {
            scope: if port.side == Side::Local { "cluster" } else { "clusterset" }.into(),
            frontends: port.frontends.iter().map(frontend).collect(),
            first: locality(port.traffic.first).into(),
            node_only: port.traffic.node_only,
            last_resort: port.last_resort,
            slots: port.slots,
            groups: port.groups.iter().map(group).collect(),
            backends: port.backends.iter().map(backend).collect(),
        }
    }
}

fn locality(locality: Locality) -> &'static str {
    match locality {
        Locality::Node => "node",
        Locality::Zone => "zone",
        Locality::Cluster => "cluster",
        Locality::Region => "region",
        Locality::Anywhere => "anywhere",
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Healthy => "healthy",
        Standing::Demoted => "demoted",
        Standing::Unready => "unready",
        Standing::Leaving => "leaving",
    }
}
