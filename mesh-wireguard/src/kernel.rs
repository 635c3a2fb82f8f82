//! The kernel tunnel: WireGuard and routes in the kernel; this process tells it what to do and looks whether it is so.
//!
//! The device stays when the agent ends, and forwards what is established while another one starts. That one finds it by name and
//! kind, and gives the peers that are in the plan their names again; sessions go on. What is not in the plan goes.
//!
//! A prefix needs two things: it is an allowed IP of the peer (who may send from there, and whom it is sent to), and it has a
//! route into the device. Where one is missing, the prefix is not routed, and is told as such.
//!
//! Policy is a table of netfilter (`crate::policy`), which stands before the device comes up and stays with it. Packets between
//! workloads of the node do not pass the device, whatever the scope: with scope node the same table polices them on their way.

use std::time::{SystemTime, UNIX_EPOCH};

use mesh_core::{FlowRecord, NodeId, Prefix, WallTime};
use mesh_dataplane::{Actual, Op, Tunnel, TunnelError};

use self::peers::Peers;
use self::police::Police;
use crate::NodeKey;
use crate::host::{Host, failed, unreadable};
use crate::netlink::NetlinkError;
use crate::netlink::route::Routing;
use crate::netlink::wireguard::{Device, KIND, PeerChange, Verb, WireGuard};
use crate::policy::{PolicyError, PolicyRules};
use crate::services::ServicesError;
use crate::stats::{PeerStats, TunnelStats};

mod link;
mod peers;
mod police;

/// What a kernel tunnel is started with.
#[derive(Clone, Debug)]
pub struct KernelTunnelConfig {
    /// The device's name, `landbridge0`.
    pub device: String,
    /// The device's MTU: that of the underlay less 80 (1420 over Ethernet).
    pub mtu: u16,
    /// The UDP port, 51820; 0 takes any.
    pub port: u16,
    /// The node's key.
    pub key: NodeKey,
    /// The routing table, [`TABLE`](crate::TABLE).
    pub table: u32,
    /// The mark of the tunnel's own datagrams, for the node's routing rules.
    pub mark: Option<u32>,
}

impl KernelTunnelConfig {
    /// Returns the usual configuration of a node with this key.
    pub fn new(key: NodeKey) -> KernelTunnelConfig {
        KernelTunnelConfig { device: crate::DEVICE.into(), mtu: 1420, port: 51820, key, table: crate::TABLE, mark: None }
    }
}

/// Why a kernel tunnel did not start.
#[derive(Debug, thiserror::Error)]
pub enum KernelStartError {
    /// No such netlink family, and no module that has it.
    #[error("this kernel has no WireGuard: its module 'wireguard' (Linux 5.6 or later) is missing or cannot be loaded")]
    Missing,
    /// The kernel has no nftables, or the process may not use them.
    #[error("nftables (module 'nf_tables') cannot be used: {0}")]
    Nftables(#[source] NetlinkError),
    /// A device of the name is there and is no WireGuard device.
    #[error("the device '{name}' is there and is of kind '{kind}', not WireGuard: remove it, or give the tunnel another name")]
    Foreign {
        /// The name.
        name: String,
        /// The kind; empty for hardware.
        kind: String,
    },
    /// The process may not make network devices.
    #[error("no permission to make the WireGuard device '{0}': CAP_NET_ADMIN is needed")]
    Permission(String),
    /// The port is taken.
    #[error("UDP port {port}: {source}")]
    Port {
        /// The port.
        port: u16,
        /// The kernel's answer.
        source: NetlinkError,
    },
    /// The device, links or routes could not be programmed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The service table could not be read.
    #[error(transparent)]
    Services(#[from] ServicesError),
    /// The policy table could not be programmed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// A running kernel tunnel. Everything that it has programmed stays when this is dropped, the device with its sessions included;
/// [`Guard::down`](crate::Guard::down) removes it.
#[derive(Debug)]
pub struct KernelTunnel {
    config: KernelTunnelConfig,
    host: Host,
    wireguard: WireGuard,
    police: Police,
    /// The device as it was read last, with what was changed since.
    device: Device,
    peers: Peers,
}

impl KernelTunnel {
    /// Tells whether the kernel of the calling thread's network namespace has what the tunnel needs.
    pub fn check() -> Result<(), KernelStartError> {
        WireGuard::open()?.ok_or(KernelStartError::Missing)?;
        match PolicyRules::open().and_then(|mut rules| rules.fingerprint()) {
            Err(PolicyError::Netlink(error)) => Err(KernelStartError::Nftables(error)),
            found => Ok(found.map(drop)?),
        }
    }

    /// Removes what a kernel tunnel has left in the calling thread's network namespace, where there is something: its device, then
    /// its policy table.
    pub fn remove(device: &str) -> Result<(), NetlinkError> {
        let mut routing = Routing::open()?;
        if let Some(link) = routing.link(device)?.filter(|link| link.kind == KIND) {
            routing.delete_link(link.index)?;
        }
        match PolicyRules::open().and_then(|mut rules| rules.remove()) {
            Err(PolicyError::Netlink(error)) => Err(error),
            // Another's is none that it has left.
            Ok(()) | Err(PolicyError::ForeignTable(_)) => Ok(()),
        }
    }

    /// Takes over the device that an agent before has left, or makes one, in the calling thread's network namespace. A new one
    /// drops everything until the tunnel is told otherwise; an old one does what it did.
    pub fn start(config: KernelTunnelConfig) -> Result<KernelTunnel, KernelStartError> {
        let wireguard = WireGuard::open()?.ok_or(KernelStartError::Missing)?;
        let mut host = Host::open(&config.device, config.table, false)?;
        let found = host.routing.link(&config.device)?.is_some_and(|link| link.kind == KIND);
        // Before the device comes up.
        let police = Police::open(&config.device, found)?;
        let (device, peers) = (Device::default(), Peers::default());
        let mut tunnel = KernelTunnel { config, host, wireguard, police, device, peers };
        tunnel.take_device()?;
        let (name, port, left) = (&tunnel.config.device, tunnel.device.port, tunnel.device.peers.len());
        tracing::info!(device = name, port, found, left, key = %tunnel.config.key.public(), "kernel tunnel started");
        Ok(tunnel)
    }

    /// Returns the UDP port.
    pub fn port(&self) -> u16 {
        self.device.port
    }

    /// Returns one reading of the kernel's counters. What it shows of the keys that nodes use is followed at once, and a policy
    /// table that somebody has removed is put back: call it several times a second.
    pub fn stats(&mut self) -> Result<TunnelStats, TunnelError> {
        self.police.restore().map_err(|error| police::failed("restore the policy", error))?;
        self.device = self.wireguard.device(self.host.index()).map_err(unreadable)?.unwrap_or_default();
        self.follow()?;
        let stats = |(node, _, key): (&NodeId, _, _)| {
            let state = self.device.peers.get(&key)?;
            Some(PeerStats {
                node: node.clone(),
                key,
                endpoint: state.endpoint,
                last_handshake: state.last_handshake,
                rx_bytes: state.rx_bytes,
                tx_bytes: state.tx_bytes,
            })
        };
        Ok(TunnelStats { peers: self.peers.nodes().filter_map(stats).collect(), ..TunnelStats::default() })
    }

    fn apply_one(&mut self, op: &Op) -> Result<(), TunnelError> {
        let what = op.to_string();
        match op {
            Op::SetPolicy(policy) => self.police.set_policy(&what, policy)?,
            Op::SetServices(services) => self.host.set_services(&what, services)?,
            Op::SetLocal(local) => {
                self.police.set_local(&what, local)?;
                self.host.set_local(&what, local)?;
            }
            Op::SetGuarded(prefixes) => self.host.set_guarded(&what, prefixes)?,
            Op::SetPeer(node, peer) => {
                let (known, changes) = self.peers.set(node, peer, &self.device, now());
                self.change(&what, &changes)?;
                self.peers.insert(node, known);
            }
            Op::SetRoute(prefix, node) => self.set_route(&what, *prefix, node)?,
            Op::DelRoute(prefix) => {
                self.host.delete_route(&what, *prefix)?;
                self.disown(&what, *prefix)?;
            }
            Op::DelPeer(node) => {
                for prefix in self.peers.prefixes_of(node, &self.device) {
                    self.host.delete_route(&what, prefix)?;
                }
                let changes = self.peers.remove(node, &self.device);
                self.change(&what, &changes)?;
                self.peers.forget(node);
            }
        }
        Ok(())
    }

    /// Gives a prefix to a node's peer, whoever had it, and sends its packets into the device.
    fn set_route(&mut self, what: &str, prefix: Prefix, node: &NodeId) -> Result<(), TunnelError> {
        let key = self.peers.active(node).ok_or_else(|| TunnelError::UnknownPeer(node.clone()))?;
        self.change(what, &[PeerChange { allow: vec![prefix], ..PeerChange::new(Verb::Update, key) }])?;
        self.peers.route(prefix, Some(node));
        if let Err(error) = self.host.set_route(what, prefix) {
            // What was not set here must not be believed from there either.
            self.disown(what, prefix)?;
            return Err(error);
        }
        Ok(())
    }

    /// Takes a prefix from the peer that has it.
    fn disown(&mut self, what: &str, prefix: Prefix) -> Result<(), TunnelError> {
        if self.device.allowed.contains_key(&prefix) {
            self.change(what, &PeerChange::evict(vec![prefix]))?;
        }
        self.peers.route(prefix, None);
        Ok(())
    }

    fn change(&mut self, what: &str, changes: &[PeerChange]) -> Result<(), TunnelError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.wireguard.change(self.host.index(), changes).map_err(|error| failed(what, error))?;
        changes.iter().for_each(|change| self.device.note(change));
        Ok(())
    }

    /// Follows what the device shows: keys that are used now, peers that are gone or elsewhere.
    fn follow(&mut self) -> Result<(), TunnelError> {
        let changes = self.peers.follow(&self.device, now());
        self.change("follow the peers", &changes)
    }

    fn read_back(&mut self) -> Result<Actual, TunnelError> {
        self.police.restore().map_err(|error| police::failed("restore the policy", error))?;
        self.repair()?;
        self.follow()?;
        let policy = self.police.fingerprint()?;
        let seen = self.host.observe().map_err(unreadable)?;
        let routes = self.peers.routed(&self.device, &seen.overlay);
        let peers = self.peers.programmed(&self.device);
        Ok(Actual { policy, services: seen.services, peers, routes, local: seen.local, guarded: seen.guarded })
    }
}

impl Tunnel for KernelTunnel {
    /// Reads everything back from the kernel. A device that is gone is made again, and has neither peers nor routes; the calling
    /// thread must be in the tunnel's network namespace for that, where the device's settings under `/proc/sys` are.
    fn observe(&mut self) -> Result<Actual, TunnelError> {
        self.read_back()
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<(usize, TunnelError)> {
        ops.iter().enumerate().filter_map(|(index, op)| self.apply_one(op).err().map(|error| (index, error))).collect()
    }

    fn poll_flow(&mut self) -> Option<FlowRecord> {
        None
    }
}

fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime::from_unix_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
