//! What a lab is made of: nodes, workloads, and the names they get on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// Where a node answers DNS over IPv4, by default: the address that node-local caches use by custom.
pub const DEFAULT_DNS_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);
/// Where a node answers DNS over IPv6, by default.
pub const DEFAULT_DNS_V6: Ipv6Addr = Ipv6Addr::new(0xfd6c, 0x616e, 0x6462, 0, 0, 0, 0, 0x53);
/// The MTU of every link, by default: Ethernet's.
pub const DEFAULT_MTU: u32 = 1500;

/// A fleet: the input of [`Lab::up`](crate::Lab::up).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topology {
    /// The name of the lab, which starts the name of each of its namespaces.
    pub name: String,
    /// The nodes of all clusters.
    pub nodes: Vec<NodeSpec>,
    /// The workloads of all clusters.
    #[serde(default)]
    pub workloads: Vec<WorkloadSpec>,
    /// Addresses that every node holds on its loopback for an agent to answer DNS on; the name servers of workloads.
    #[serde(default = "default_dns")]
    pub dns: Vec<IpAddr>,
    /// MTU of all links, in bytes.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
}

/// A node: a network namespace joined to the underlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    /// The cluster it belongs to.
    pub cluster: String,
    /// Its name in the cluster.
    pub node: String,
    /// Its addresses on the underlay, which WireGuard endpoints are made of; any addresses, unique in the lab.
    pub underlay: Vec<IpAddr>,
    /// Prefixes the underlay routes to it; when empty, the addresses of its workloads one by one.
    #[serde(default)]
    pub pod_cidrs: Vec<IpNetwork>,
}

/// A workload: a network namespace joined to its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSpec {
    /// The cluster it belongs to.
    pub cluster: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name in the namespace.
    pub pod: String,
    /// The node of the same cluster that it runs on.
    pub node: String,
    /// Its addresses, each installed as a /32 or /128.
    pub addresses: Vec<IpAddr>,
}

/// What is wrong with a [`Topology`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TopologyError {
    /// A name would not do as a file name or as part of one.
    #[error("{what} name {name:?} is not usable: use 1 to 253 of a-z, 0-9, '-', '.', beginning with a letter or digit")]
    Name {
        /// Whose name it is.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A namespace name would exceed 255 bytes, the longest file name.
    #[error("network namespace name {name:?} is longer than 255 bytes: shorten the lab's or the workload's name")]
    TooLong {
        /// The name.
        name: String,
    },
    /// Two objects would have one network namespace.
    #[error("two objects would both be the network namespace {name}: rename one of them")]
    Duplicate {
        /// The name of the namespace.
        name: String,
    },
    /// Two workloads of a node have one interface name: their hashes collide.
    #[error("workloads {first} and {second} share the interface name {interface} on one node: rename one of them")]
    InterfaceCollision {
        /// One workload.
        first: String,
        /// The other.
        second: String,
        /// The interface name of both.
        interface: String,
    },
    /// An address is held twice where it can be held once: on the underlay, or on one node.
    #[error("{address} belongs to both {first} and {second}: give one of them another address")]
    AddressTwice {
        /// The address.
        address: IpAddr,
        /// One holder.
        first: String,
        /// The other.
        second: String,
    },
    /// A workload names a node that is not there.
    #[error("workload {workload} runs on node {node} which the topology does not have: add the node or correct the name")]
    NoSuchNode {
        /// The workload.
        workload: String,
        /// Cluster and name of the node it wants.
        node: String,
    },
    /// A node has no underlay address, or a workload no address at all.
    #[error("{object} has no address: give it at least one")]
    NoAddress {
        /// The node or workload.
        object: String,
    },
    /// The MTU is one IPv6 cannot use.
    #[error("MTU {mtu} is outside 1280..=65535: IPv6 needs at least 1280")]
    Mtu {
        /// The MTU.
        mtu: u32,
    },
}

impl Topology {
    /// Returns an empty topology with the default DNS addresses and MTU.
    pub fn new(name: impl Into<String>) -> Topology {
        Topology { name: name.into(), nodes: Vec::new(), workloads: Vec::new(), dns: default_dns(), mtu: DEFAULT_MTU }
    }

    /// Returns the name of the underlay's network namespace.
    pub fn underlay_netns(&self) -> String {
        format!("{}-underlay", self.name)
    }

    /// Returns the node of that name.
    pub fn node(&self, cluster: &str, node: &str) -> Option<&NodeSpec> {
        self.nodes.iter().find(|spec| spec.cluster == cluster && spec.node == node)
    }

    /// Returns the workload of that name.
    pub fn workload(&self, cluster: &str, namespace: &str, pod: &str) -> Option<&WorkloadSpec> {
        self.workloads.iter().find(|spec| spec.cluster == cluster && spec.namespace == namespace && spec.pod == pod)
    }

    /// Returns the names of all network namespaces: the underlay, the nodes, the workloads.
    pub fn netns_names(&self) -> Vec<String> {
        let nodes = self.nodes.iter().map(|node| node.netns(&self.name));
        let workloads = self.workloads.iter().map(|workload| workload.netns(&self.name));
        [self.underlay_netns()].into_iter().chain(nodes).chain(workloads).collect()
    }

    /// Returns the prefixes that the underlay routes to `node`, as a cloud network would.
    ///
    /// A prefix that two nodes claim is routed to neither: a network between clusters with overlapping addresses has
    /// no such route either.
    pub fn underlay_prefixes(&self, node: &NodeSpec) -> Vec<IpNetwork> {
        let others: BTreeSet<IpNetwork> =
            self.nodes.iter().filter(|other| *other != node).flat_map(|other| self.claims(other)).collect();
        self.claims(node).into_iter().filter(|prefix| !others.contains(prefix)).collect()
    }

    fn claims(&self, node: &NodeSpec) -> BTreeSet<IpNetwork> {
        if !node.pod_cidrs.is_empty() {
            return node.pod_cidrs.iter().map(canonical).collect();
        }
        let workloads = self.workloads.iter().filter(|workload| workload.runs_on(node));
        workloads.flat_map(|workload| workload.addresses.iter().map(|address| IpNetwork::from(*address))).collect()
    }

    /// Checks everything that can be checked without touching the machine.
    pub fn validate(&self) -> Result<(), TopologyError> {
        check_name("lab", &self.name)?;
        if !(1280..=65535).contains(&self.mtu) {
            return Err(TopologyError::Mtu { mtu: self.mtu });
        }
        let mut underlay = BTreeMap::new();
        for node in &self.nodes {
            check_name("cluster", &node.cluster)?;
            check_name("node", &node.node)?;
            check_addresses(&node.underlay, &node.to_string(), &mut underlay)?;
        }
        let mut held = BTreeMap::new();
        let mut interfaces = BTreeMap::new();
        for workload in &self.workloads {
            check_name("namespace", &workload.namespace)?;
            check_name("pod", &workload.pod)?;
            let node = (&workload.cluster, &workload.node);
            if self.node(node.0, node.1).is_none() {
                let node = format!("{}/{}", node.0, node.1);
                return Err(TopologyError::NoSuchNode { workload: workload.to_string(), node });
            }
            check_addresses(&workload.addresses, &workload.to_string(), held.entry(node).or_default())?;
            let interface = workload.node_interface();
            let before = interfaces.insert((node, interface.clone()), workload.to_string());
            if let Some(first) = before.filter(|first| *first != workload.to_string()) {
                return Err(TopologyError::InterfaceCollision { first, second: workload.to_string(), interface });
            }
        }
        let mut names = BTreeSet::new();
        for name in self.netns_names() {
            if name.len() > 255 {
                return Err(TopologyError::TooLong { name });
            }
            if !names.insert(name.clone()) {
                return Err(TopologyError::Duplicate { name });
            }
        }
        Ok(())
    }
}

impl NodeSpec {
    /// Returns the name of its network namespace in the lab `lab`.
    pub fn netns(&self, lab: &str) -> String {
        format!("{lab}-{}-{}", self.cluster, self.node)
    }

    /// Returns its first IPv4 underlay address.
    pub fn underlay_v4(&self) -> Option<IpAddr> {
        self.underlay.iter().copied().find(IpAddr::is_ipv4)
    }

    /// Returns its first IPv6 underlay address.
    pub fn underlay_v6(&self) -> Option<IpAddr> {
        self.underlay.iter().copied().find(IpAddr::is_ipv6)
    }
}

impl WorkloadSpec {
    /// Returns the name of its network namespace in the lab `lab`.
    pub fn netns(&self, lab: &str) -> String {
        format!("{lab}-{}-{}-{}", self.cluster, self.namespace, self.pod)
    }

    /// Returns the name of its interface on the node: `lb` and eight hex digits, a hash of its name.
    pub fn node_interface(&self) -> String {
        // FNV-1a: stable between versions of Rust, unlike std's hasher, so that names in a saved lab stay true.
        let hash =
            self.to_string().bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        format!("lb{hash:08x}")
    }

    /// Says whether it runs on this node.
    pub fn runs_on(&self, node: &NodeSpec) -> bool {
        self.cluster == node.cluster && self.node == node.node
    }
}

impl fmt::Display for NodeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.node)
    }
}

impl fmt::Display for WorkloadSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.namespace, self.pod)
    }
}

fn default_dns() -> Vec<IpAddr> {
    vec![DEFAULT_DNS_V4.into(), DEFAULT_DNS_V6.into()]
}

fn default_mtu() -> u32 {
    DEFAULT_MTU
}

/// Returns the prefix with the bits beyond its length cleared; the kernel refuses others.
fn canonical(prefix: &IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(*prefix)
}

/// Checks that a name of a lab can be part of a file name.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), TopologyError> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let starts = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if starts && name.len() <= 253 && name.bytes().all(good) {
        return Ok(());
    }
    Err(TopologyError::Name { what, name: name.to_owned() })
}

fn check_addresses(addresses: &[IpAddr], holder: &str, held: &mut BTreeMap<IpAddr, String>) -> Result<(), TopologyError> {
    if addresses.is_empty() {
        return Err(TopologyError::NoAddress { object: holder.to_owned() });
    }
    for &address in addresses {
        if let Some(first) = held.insert(address, holder.to_owned()) {
            return Err(TopologyError::AddressTwice { address, first, second: holder.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
