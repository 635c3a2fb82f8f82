//! From a topology to namespaces that reach each other.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use crate::netlink::{NetlinkError, Route, Session, everything};
use crate::netns::{self, Netns, NetnsError, Role};
use crate::topology::{NodeSpec, Topology, WorkloadSpec};

/// The near end of a node's uplink. Not the workloads' gateway: that one is the node's own address.
const UNDERLAY_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// The node's end of a workload's link. The address is assigned, for proxy ARP would answer with a random delay.
const WORKLOAD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The near end of every link, and the far end.
const NEAR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const FAR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// What the underlay signs its ICMP errors with: link-local sources would not travel. RFC 7600 reserves the first.
const ROUTER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)), IpAddr::V6(Ipv6Addr::new(0xfd6c, 0x616e, 0x6462, 0, 0, 0, 0, 1))];
/// How long an address may take to work: the kernel installs IPv6 ones from a work queue.
const SETTLE: Duration = Duration::from_secs(10);

/// Creates and joins all namespaces of a topology.
pub(crate) fn build(topology: &Topology, mark: &str) -> Result<(), NetnsError> {
    let underlay = netns::create(&topology.underlay_netns(), mark, Role::Router)?;
    let create = |name: String, role| netns::create(&name, mark, role);
    let nodes: Vec<Netns> =
        topology.nodes.iter().map(|node| create(node.netns(&topology.name), Role::Router)).collect::<Result<_, _>>()?;
    wire_underlay(topology, &underlay, &nodes)?;
    for (node, netns) in topology.nodes.iter().zip(&nodes) {
        wire_node(topology, node, netns)?;
    }
    for workload in &topology.workloads {
        let netns = create(workload.netns(&topology.name), Role::Host)?;
        wire_workload(topology, workload, &netns)?;
    }
    Ok(())
}

/// Adds one workload, which `topology` has already, to a lab that stands.
pub(crate) fn add(topology: &Topology, workload: &WorkloadSpec, mark: &str) -> Result<(), NetnsError> {
    let netns = netns::create(&workload.netns(&topology.name), mark, Role::Host)?;
    wire_workload(topology, workload, &netns)?;
    for_own_prefixes(topology, workload, async |session: &Session, route| session.add_route(route).await)
}

/// Removes one workload, which `topology` still has. What is not there is no error.
pub(crate) fn remove(topology: &Topology, workload: &WorkloadSpec) -> Result<(), NetnsError> {
    let interface = workload.node_interface();
    match node_netns(topology, workload) {
        Ok(node) => node.netlink(async |session: &Session| session.delete_link(&interface).await)?,
        Err(NetnsError::Missing(_)) => {}
        Err(error) => return Err(error),
    }
    for_own_prefixes(topology, workload, async |session: &Session, route| session.delete_route(route).await)?;
    netns::delete(&workload.netns(&topology.name))
}

/// One link to each node, and the routes that make plaintext between nodes possible.
fn wire_underlay(topology: &Topology, underlay: &Netns, nodes: &[Netns]) -> Result<(), NetnsError> {
    underlay.netlink(async |session: &Session| {
        let loopback = session.index("lo").await?;
        for address in ROUTER {
            session.add_address(loopback, address, host_prefix(address)).await?;
        }
        for (index, (node, netns)) in topology.nodes.iter().zip(nodes).enumerate() {
            let name = uplink(index);
            session.add_veth(&name, "eth0", netns.as_fd(), topology.mtu).await?;
            let device = session.up(&name).await?;
            session.add_address(device, UNDERLAY_GATEWAY.into(), 32).await?;
            session.add_address(device, NEAR.into(), 64).await?;
            for address in &node.underlay {
                session.add_route(host_route(*address, device, None)).await?;
            }
            for prefix in topology.underlay_prefixes(node) {
                session.add_route(pod_route(node, prefix, device)).await?;
            }
        }
        Ok(())
    })
}

/// A node's uplink and its addresses.
fn wire_node(topology: &Topology, node: &NodeSpec, netns: &Netns) -> Result<(), NetnsError> {
    netns.netlink(async |session: &Session| {
        let loopback = session.index("lo").await?;
        for address in &topology.dns {
            session.add_address(loopback, *address, host_prefix(*address)).await?;
        }
        let uplink = session.up("eth0").await?;
        for address in &node.underlay {
            session.add_address(uplink, *address, host_prefix(*address)).await?;
        }
        session.add_address(uplink, FAR.into(), 64).await?;
        session.add_route(default_route(UNDERLAY_GATEWAY.into(), uplink)).await?;
        session.add_route(default_route(NEAR.into(), uplink)).await
    })?;
    let addresses = node.underlay.iter().chain(&topology.dns).map(|address| SocketAddr::new(*address, 0));
    wait_usable(netns, &addresses.collect::<Vec<_>>())
}

/// A workload's link to its node, with the addresses and routes of both ends.
fn wire_workload(topology: &Topology, workload: &WorkloadSpec, netns: &Netns) -> Result<(), NetnsError> {
    let node_netns = node_netns(topology, workload)?;
    let node = topology.node(&workload.cluster, &workload.node);
    let name = workload.node_interface();
    let device = node_netns.netlink(async |session: &Session| {
        session.add_veth(&name, "eth0", netns.as_fd(), topology.mtu).await?;
        let device = session.up(&name).await?;
        session.add_address(device, WORKLOAD_GATEWAY.into(), 32).await?;
        session.add_address(device, NEAR.into(), 64).await?;
        for address in &workload.addresses {
            // The node itself speaks to workloads with its own address, not with the gateway's.
            let source = node.and_then(|node| if address.is_ipv4() { node.underlay_v4() } else { node.underlay_v6() });
            session.add_route(host_route(*address, device, source)).await?;
        }
        Ok(device)
    })?;
    netns.netlink(async |session: &Session| {
        let device = session.up("eth0").await?;
        for address in &workload.addresses {
            session.add_address(device, *address, host_prefix(*address)).await?;
        }
        session.add_address(device, FAR.into(), 64).await?;
        if workload.addresses.iter().any(IpAddr::is_ipv4) {
            session.add_route(default_route(WORKLOAD_GATEWAY.into(), device)).await?;
        }
        if workload.addresses.iter().any(IpAddr::is_ipv6) {
            session.add_route(default_route(NEAR.into(), device)).await?;
        }
        Ok(())
    })?;
    wait_usable(&node_netns, &[SocketAddrV6::new(NEAR, 0, 0, device).into()])?;
    let addresses = workload.addresses.iter().map(|address| SocketAddr::new(*address, 0));
    wait_usable(netns, &addresses.collect::<Vec<_>>())
}

/// Does something with the underlay's routes to a workload, if it has any of its own: its node has no prefixes.
fn for_own_prefixes(
    topology: &Topology,
    workload: &WorkloadSpec,
    each: impl AsyncFn(&Session, Route) -> Result<(), NetlinkError> + Sync,
) -> Result<(), NetnsError> {
    let found = topology.nodes.iter().enumerate().find(|(_, node)| workload.runs_on(node));
    let Some((index, node)) = found.filter(|(_, node)| node.pod_cidrs.is_empty()) else { return Ok(()) };
    let routed = topology.underlay_prefixes(node);
    let underlay = match Netns::open(&topology.underlay_netns()) {
        Err(NetnsError::Missing(_)) => return Ok(()),
        underlay => underlay?,
    };
    underlay.netlink(async |session: &Session| {
        let device = session.index(&uplink(index)).await?;
        for prefix in workload.addresses.iter().map(|address| IpNetwork::from(*address)) {
            if routed.contains(&prefix) {
                each(session, pod_route(node, prefix, device)).await?;
            }
        }
        Ok(())
    })
}

fn node_netns(topology: &Topology, workload: &WorkloadSpec) -> Result<Netns, NetnsError> {
    Netns::open(&format!("{}-{}-{}", topology.name, workload.cluster, workload.node))
}

/// The underlay's interface to the node at `index` of the topology.
fn uplink(index: usize) -> String {
    format!("u{index}")
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn host_route(address: IpAddr, device: u32, source: Option<IpAddr>) -> Route {
    Route { destination: address.into(), via: None, device, source }
}

fn default_route(via: IpAddr, device: u32) -> Route {
    Route { destination: everything(via.is_ipv4()), via: Some(via), device, source: None }
}

/// The underlay's route to a prefix behind a node; IPv4 goes by an IPv6 next hop if the node has no IPv4 address.
fn pod_route(node: &NodeSpec, prefix: IpNetwork, device: u32) -> Route {
    let via = node.underlay_v4().filter(|_| prefix.is_ipv4()).unwrap_or(FAR.into());
    Route { destination: prefix, via: Some(via), device, source: None }
}

/// Waits until each address carries a datagram to itself.
fn wait_usable(netns: &Netns, addresses: &[SocketAddr]) -> Result<(), NetnsError> {
    let failed = |source| NetnsError::Step { step: "use an address of", name: netns.name().to_owned(), source };
    let deadline = Instant::now() + SETTLE;
    let wait = || addresses.iter().try_for_each(|address| retry(deadline, || reach_itself(*address)));
    netns.run(wait).map_err(failed)?.map_err(failed)
}

fn retry(deadline: Instant, mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            result => return result,
        }
    }
}

fn reach_itself(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    socket.connect(socket.local_addr()?)?;
    socket.send(b"?")?;
    socket.recv(&mut [0; 1]).map(drop)
}
