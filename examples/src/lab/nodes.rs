//! From a fleet's state to the lab's topology and the agents' configurations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_core::{ClusterName, Node, NodeId, Prefix, PublicKey, State};
use mesh_lab::{NodeSpec, Topology, WorkloadSpec};

use super::files::Files;
use super::fleet::FleetOptions;
use super::stores;
use crate::config::{
    AgentConfig, DnsConfig, FleetConfig, MirrorConfig, MirrorFrom, PublisherConfig, ScopeConfig, TunnelSetting, WireGuardConfig,
};

/// The WireGuard port of every node of a lab.
pub(super) const PORT: u16 = 51820;

/// Which address family the nodes speak to each other on the underlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underlay {
    /// IPv4, where a node has it.
    #[default]
    V4,
    /// IPv6, where a node has it.
    V6,
}

/// Makes the topology: a namespace for each Node, one for each scheduled Pod with addresses.
pub(super) fn topology(name: &str, state: &State) -> Topology {
    let mut topology = Topology::new(name);
    let facts = state.facts();
    topology.nodes = facts.nodes.values().map(node_spec).collect();
    topology.workloads = facts
        .workloads
        .values()
        .filter(|workload| !workload.host_network && !workload.addresses.is_empty())
        .filter_map(|workload| {
            Some(WorkloadSpec {
                cluster: workload.id.cluster.to_string(),
                namespace: workload.id.namespace.to_string(),
                pod: workload.id.name.to_string(),
                node: workload.node.as_ref()?.to_string(),
                addresses: workload.addresses.clone(),
            })
        })
        .collect();
    topology
}

fn node_spec(node: &Node) -> NodeSpec {
    NodeSpec {
        cluster: node.id.cluster.to_string(),
        node: node.id.name.to_string(),
        underlay: node.addresses.clone(),
        pod_cidrs: node.prefixes.iter().filter_map(|prefix| prefix.to_string().parse().ok()).collect(),
    }
}

/// What is the same in all configurations of a lab.
pub(super) struct Common<'a> {
    pub(super) files: &'a Files,
    pub(super) root: PublicKey,
    pub(super) dns: &'a [IpAddr],
    pub(super) options: &'a FleetOptions,
}

/// Makes the configuration of one node's agent. The first node of each cluster publishes and mirrors.
pub(super) fn config(common: &Common<'_>, state: &State, node: &Node) -> AgentConfig {
    let facts = state.facts();
    let cluster = &node.id.cluster;
    let grants: Vec<_> = facts.grants.values().collect();
    let own = facts.grants.get(cluster);
    let is_first = facts.nodes.keys().find(|id| id.cluster == *cluster) == Some(&node.id);
    let others = grants.iter().map(|grant| &grant.cluster).filter(|other| *other != cluster);
    let store = |cluster: &ClusterName| {
        let at = stores::place(state, cluster, common.options.underlay).map(|(_, address)| address);
        stores::config(common.options, common.files, at, cluster)
    };
    let mirror_from = |other: &ClusterName| MirrorFrom { cluster: other.clone(), store: store(other) };
    let mut endpoints: Vec<_> = node.addresses.iter().map(|address| SocketAddr::new(*address, PORT)).collect();
    endpoints.sort_by_key(|endpoint| endpoint.is_ipv4() != (common.options.underlay == Underlay::V4));
    endpoints.truncate(1);
    AgentConfig {
        node: node.id.clone(),
        fleet: FleetConfig {
            name: state.config().fleet.to_string(),
            root: common.root,
            prefixes: grants.iter().flat_map(|grant| grant.prefixes.iter().chain(&grant.service_prefixes)).copied().collect(),
            cluster_prefixes: own.map(|grant| grant.prefixes.clone()).unwrap_or_default(),
            node_prefixes: node.prefixes.clone(),
        },
        manifests: common.files.manifests(cluster),
        inbox: common.files.inbox(cluster),
        store: store(cluster),
        state_dir: common.files.node(&node.id).join("state"),
        socket: common.files.socket(&node.id),
        scope: ScopeConfig::Node,
        interest: common.options.interest,
        // Its story is told by flow records, which the kernel tunnel has none of.
        tunnel: TunnelSetting::User,
        wireguard: WireGuardConfig {
            port: PORT,
            endpoints,
            overlay: node.prefixes.iter().filter_map(|prefix| first_host(*prefix)).collect(),
            ..WireGuardConfig::default()
        },
        dns: DnsConfig {
            listen: common.dns.iter().map(|address| SocketAddr::new(*address, 53)).collect(),
            ..DnsConfig::default()
        },
        params: state.config().settings.clone(),
        fqdns: state.config().domains.clone(),
        publisher: is_first.then(|| PublisherConfig { key: common.files.cluster_key(cluster) }),
        mirror: is_first.then(|| MirrorConfig { from: others.map(mirror_from).collect() }),
    }
}

/// The node's own address in one of its prefixes: the first after the prefix's own.
fn first_host(prefix: Prefix) -> Option<IpAddr> {
    let address = match prefix.address() {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from(u32::from(address).checked_add(1)?)),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address).checked_add(1)?)),
    };
    prefix.contains(address).then_some(address)
}

/// The nodes of a state, in order.
pub(super) fn node_ids(state: &State) -> Vec<NodeId> {
    state.facts().nodes.keys().cloned().collect()
}
