//! The node agent's configuration: one typed file, in which an unknown field is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_core::{ClusterName, NodeId, Prefix, PublicKey, Settings};
use mesh_dataplane::Scope;
use serde::{Deserialize, Serialize};

mod store;

pub use self::store::{EtcdConfig, StoreConfig, StoreConfigError};

/// Everything that an agent is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The node that the agent runs on, `cluster/node`.
    pub node: NodeId,
    /// The fleet that the node belongs to.
    pub fleet: FleetConfig,
    /// The directory with the own cluster's manifests.
    pub manifests: PathBuf,
    /// The directory in which the nodes of the own cluster announce their keys to each other and to the publisher.
    pub inbox: PathBuf,
    /// Where the signed records of the fleet are.
    pub store: StoreConfig,
    /// Where the agent keeps its key and its last known state.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// The Unix socket of the local API.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// What the node polices: `fleet` (beside an existing CNI), `cluster`, or `node`.
    #[serde(default = "default_scope")]
    pub scope: ScopeConfig,
    /// Which records of other clusters the agent follows.
    #[serde(default)]
    pub interest: InterestConfig,
    /// Which tunnel carries packets and polices them: `auto`, `user` or `kernel`.
    #[serde(default)]
    pub tunnel: TunnelSetting,
    /// What the tunnel is, whichever it is.
    #[serde(default)]
    pub wireguard: WireGuardConfig,
    /// The DNS server.
    #[serde(default)]
    pub dns: DnsConfig,
    /// The settings of policy: the same on every node of the fleet.
    #[serde(default)]
    pub params: Settings,
    /// Domain names and the addresses known for them, for `domainNames` peers.
    #[serde(default)]
    pub fqdns: BTreeMap<Arc<str>, Vec<IpAddr>>,
    /// Set on one node of each cluster or more: one of them, the one that holds the claim in the store, signs its records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publisher: Option<PublisherConfig>,
    /// Set where records are copied between stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorConfig>,
}

/// The fleet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetConfig {
    /// Its name.
    pub name: String,
    /// The public key of its root, as `meshctl fleet show` prints it.
    pub root: PublicKey,
    /// Every prefix of the fleet: guarded from before the agent starts until `mesh-agent guard down`.
    pub prefixes: Vec<Prefix>,
    /// The own cluster's part of `prefixes`.
    pub cluster_prefixes: Vec<Prefix>,
    /// The own node's part of `prefixes`.
    pub node_prefixes: Vec<Prefix>,
}

/// What a node polices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScopeConfig {
    /// Everything to and from other clusters.
    Fleet,
    /// Also the own cluster's other nodes.
    Cluster,
    /// Also between workloads of the node.
    Node,
}

/// Which records of other clusters an agent follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterestConfig {
    /// All of them.
    Wide,
    /// Those that can matter to the node's workloads. An identity that a policy allows without naming it is asked of its node
    /// when its first packet comes.
    #[default]
    Narrow,
}

/// Which tunnel carries packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelSetting {
    /// The kernel's where it has WireGuard and nftables, else that of the agent; that of the agent, too, with `interest: narrow`,
    /// which needs to see first packets. The log and `meshctl status` say which, and why.
    #[default]
    Auto,
    /// In the agent's process: works on every kernel with TUN devices.
    User,
    /// In the kernel, by WireGuard and nftables: goes on while the agent restarts. An error where the kernel has not got them.
    Kernel,
}

/// The tunnel.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WireGuardConfig {
    /// The device's name.
    pub device: String,
    /// The UDP port.
    pub port: u16,
    /// The device's MTU: 80 bytes below the underlay's, for an IPv6 header, UDP and WireGuard.
    pub mtu: u16,
    /// Where other nodes reach this one, in order of preference.
    pub endpoints: Vec<SocketAddr>,
    /// The node's own addresses inside the mesh, inside its prefixes, one for each family at most.
    pub overlay: Vec<IpAddr>,
}

/// The DNS server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsConfig {
    /// Where it listens, UDP and TCP; nowhere when empty.
    pub listen: Vec<SocketAddr>,
    /// Who is asked about other zones.
    pub upstreams: Vec<SocketAddr>,
    /// The own cluster's zone.
    pub cluster_zone: String,
    /// The fleet's zone.
    pub clusterset_zone: String,
}

/// The publisher.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublisherConfig {
    /// The file with the cluster's secret key, mode 0600.
    pub key: PathBuf,
}

/// The mirror.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// The stores to copy from.
    pub from: Vec<MirrorFrom>,
}

/// A store to copy from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorFrom {
    /// The cluster whose records are copied: no others.
    pub cluster: ClusterName,
    /// Its store.
    pub store: StoreConfig,
}

/// Why a configuration cannot be used: every reason at once.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}\n  give the agent's configuration with --config FILE")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not YAML, an unknown field, or a value of the wrong kind.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's account, with line, column and field.
        message: String,
    },
    /// Values that make no sense together.
    #[error("{}: {} problem(s)\n  {}", path.display(), problems.len(), problems.join("\n  "))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Each begins with the field.
        problems: Vec<String>,
    },
}

impl AgentConfig {
    /// Reads and checks `path`; relative paths in it are relative to its directory.
    pub fn load(path: &Path) -> Result<AgentConfig, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let mut config: AgentConfig = serde_saphyr::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.into(), message: error.to_string() })?;
        config.rebase(path.parent().unwrap_or(Path::new(".")));
        let problems = config.problems();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid { path: path.into(), problems }) }
    }

    fn rebase(&mut self, base: &Path) {
        let mut paths = vec![&mut self.manifests, &mut self.inbox, &mut self.state_dir, &mut self.socket];
        paths.extend(self.store.paths());
        paths.extend(self.publisher.iter_mut().map(|publisher| &mut publisher.key));
        paths.extend(self.mirror.iter_mut().flat_map(|mirror| &mut mirror.from).flat_map(|from| from.store.paths()));
        for path in paths {
            *path = base.join(&*path);
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, text: String| {
            if !ok {
                problems.push(text);
            }
        };
        let inside = |prefixes: &[Prefix], inner: Prefix| prefixes.iter().any(|prefix| prefix.covers(inner));
        check(!self.fleet.prefixes.is_empty(), "fleet.prefixes: name at least one, or nothing is guarded".into());
        for prefix in &self.fleet.cluster_prefixes {
            check(
                inside(&self.fleet.prefixes, *prefix),
                format!("fleet.cluster_prefixes: {prefix} is not inside fleet.prefixes"),
            );
        }
        for prefix in &self.fleet.node_prefixes {
            check(
                inside(&self.fleet.cluster_prefixes, *prefix),
                format!("fleet.node_prefixes: {prefix} is not inside fleet.cluster_prefixes"),
            );
        }
        for address in &self.wireguard.overlay {
            let host = Prefix::host(*address);
            check(
                inside(&self.fleet.node_prefixes, host),
                format!("wireguard.overlay: {address} is not inside fleet.node_prefixes"),
            );
        }
        for endpoint in &self.wireguard.endpoints {
            check(
                !inside(&self.fleet.prefixes, Prefix::host(endpoint.ip())),
                format!("wireguard.endpoints: {endpoint} lies inside the fleet: the tunnel would run through itself"),
            );
        }
        check(
            (1280..=65_455).contains(&self.wireguard.mtu),
            format!("wireguard.mtu: {} is not between 1280 and 65455", self.wireguard.mtu),
        );
        check((1..=15).contains(&self.wireguard.device.len()), "wireguard.device: a device name has 1 to 15 characters".into());
        for from in self.mirror.iter().flat_map(|mirror| &mirror.from) {
            check(
                from.cluster != self.node.cluster,
                format!("mirror.from: {} is the own cluster: its publisher writes the store itself", from.cluster),
            );
        }
        problems.extend(self.store.problems("store"));
        for from in self.mirror.iter().flat_map(|mirror| &mirror.from) {
            problems.extend(from.store.problems(&format!("mirror.from.{}.store", from.cluster)));
        }
        problems
    }

    /// Returns what the guard leaves to the main table, by the scope.
    pub fn guard_exceptions(&self) -> Vec<Prefix> {
        match self.scope {
            ScopeConfig::Fleet => self.fleet.cluster_prefixes.clone(),
            ScopeConfig::Cluster => self.fleet.node_prefixes.clone(),
            ScopeConfig::Node => Vec::new(),
        }
    }
}

impl From<ScopeConfig> for Scope {
    fn from(scope: ScopeConfig) -> Scope {
        match scope {
            ScopeConfig::Fleet => Scope::Fleet,
            ScopeConfig::Cluster => Scope::Cluster,
            ScopeConfig::Node => Scope::Node,
        }
    }
}

impl fmt::Display for ScopeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScopeConfig::Fleet => "fleet",
            ScopeConfig::Cluster => "cluster",
            ScopeConfig::Node => "node",
        })
    }
}

impl fmt::Display for TunnelSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TunnelSetting::Auto => "auto",
            TunnelSetting::User => "user",
            TunnelSetting::Kernel => "kernel",
        })
    }
}

impl Default for WireGuardConfig {
    fn default() -> WireGuardConfig {
        WireGuardConfig { device: "landbridge0".into(), port: 51820, mtu: 1420, endpoints: Vec::new(), overlay: Vec::new() }
    }
}

impl Default for DnsConfig {
    fn default() -> DnsConfig {
        DnsConfig {
            listen: Vec::new(),
            upstreams: Vec::new(),
            cluster_zone: "cluster.local".into(),
            clusterset_zone: "clusterset.local".into(),
        }
    }
}

fn default_state_dir() -> PathBuf {
    "/var/lib/landbridge".into()
}

fn default_socket() -> PathBuf {
    "/run/landbridge/agent.sock".into()
}

fn default_scope() -> ScopeConfig {
    ScopeConfig::Fleet
}
