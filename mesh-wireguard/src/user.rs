//! The user tunnel: TUN, boringtun and UDP in this process, routes and services in the kernel.

use std::collections::BTreeMap;
use std::io;

use mesh_core::{FlowRecord, NodeId, Prefix};
use mesh_dataplane::{Actual, Op, Opening, Tunnel, TunnelError, Want};

use crate::NodeKey;
use crate::driver::{Driver, Ended, StatsHandle};
use crate::engine::Engine;
use crate::host::{Host, sysctl, unreadable};
use crate::netlink::NetlinkError;
use crate::services::ServicesError;
use crate::session::{BoringKey, BoringSession};
use crate::stats::TunnelStats;
use crate::tun::{Tun, TunError};
use crate::udp::Udp;

/// Packets that wait for the tunnel: the kernel's usual length for a TUN.
const QUEUE: u32 = 500;
/// The same where they are super-packets of up to 64 KiB. A long queue is delay and no rate: under four streams a ping takes 13 ms
/// with 500, and 3 ms with 32, for a twentieth of the rate; much shorter ones lose bursts of small packets.
const SUPER_QUEUE: u32 = 40;

/// What a user tunnel is started with.
#[derive(Clone, Debug)]
pub struct UserTunnelConfig {
    /// The TUN's name, `landbridge0`.
    pub device: String,
    /// The TUN's MTU: that of the underlay less 80 (1420 over Ethernet).
    pub mtu: u16,
    /// The UDP port, 51820; 0 takes any.
    pub port: u16,
    /// The node's key.
    pub key: NodeKey,
    /// The routing table, [`TABLE`](crate::TABLE).
    pub table: u32,
    /// The mark of the tunnel's own datagrams, for the node's routing rules.
    pub mark: Option<u32>,
    /// Super-packets and unfinished checksums at the device, where the kernel has them; several times the rate.
    pub offload: bool,
}

impl UserTunnelConfig {
    /// Returns the usual configuration of a node with this key.
    pub fn new(key: NodeKey) -> UserTunnelConfig {
        UserTunnelConfig {
            device: crate::DEVICE.into(),
            mtu: 1420,
            port: 51820,
            key,
            table: crate::TABLE,
            mark: None,
            offload: true,
        }
    }
}

/// Why a user tunnel did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The port is taken, or may not be used.
    #[error("UDP port {port}: {source}")]
    Udp {
        /// The port.
        port: u16,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Links and routes could not be programmed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The service table could not be read.
    #[error(transparent)]
    Services(#[from] ServicesError),
    /// No thread, or no event descriptor.
    #[error("cannot start the tunnel's thread: {0}")]
    Thread(#[source] io::Error),
}

/// A running user tunnel. Its device, and the routes through it, disappear when this is dropped; the rules, the blackhole routes
/// of the guarded prefixes and the service table stay, so that nothing leaves in the clear and connections survive a restart.
#[derive(Debug)]
pub struct UserTunnel {
    config: UserTunnelConfig,
    port: u16,
    /// The length of the device's queue.
    queue: u32,
    host: Host,
    driver: Driver,
    policy: Option<u64>,
    routes: BTreeMap<Prefix, NodeId>,
}

impl UserTunnel {
    /// Makes the device and starts the thread, in the calling thread's network namespace. It drops everything until it is told
    /// otherwise.
    pub fn start(config: UserTunnelConfig) -> Result<UserTunnel, StartError> {
        let mut host = Host::open(&config.device, config.table, true)?;
        let udp = Udp::bind(config.port, config.mark);
        let udp = udp.map_err(|source| StartError::Udp { port: config.port, source })?;
        let port = udp.port().map_err(|source| StartError::Udp { port: config.port, source })?;
        let tun = if config.offload { Tun::open(&config.device)? } else { Tun::open_plain(&config.device)? };
        let offload = tun.is_offloading();
        sysctl::prepare(&config.device);
        let gone = || TunError::Failed { name: config.device.clone(), source: io::ErrorKind::NotFound.into() };
        let index = host.routing.link(&config.device)?.ok_or_else(gone)?.index;
        let queue = if offload { SUPER_QUEUE } else { QUEUE };
        host.routing.bring_up(index, u32::from(config.mtu), Some(queue))?;
        host.attach(index)?;
        let engine = Engine::<BoringSession>::new(BoringKey::new(config.key.clone()));
        let driver = Driver::start(engine, tun, udp, config.mtu).map_err(StartError::Thread)?;
        tracing::info!(device = config.device, port, offload, key = %config.key.public(), "user tunnel started");
        Ok(UserTunnel { config, port, queue, host, driver, policy: None, routes: BTreeMap::new() })
    }

    /// Returns the UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns one reading of all counters.
    pub fn stats(&self) -> Result<TunnelStats, Ended> {
        self.driver.handle.stats()
    }

    /// Returns a handle that reads the counters from any thread.
    pub fn stats_handle(&self) -> StatsHandle {
        self.driver.handle.clone()
    }

    fn apply_one(&mut self, op: &Op) -> Result<(), TunnelError> {
        let what = op.to_string();
        match op {
            Op::SetPolicy(policy) => {
                self.tell(op)?;
                self.policy = Some(policy.fingerprint());
            }
            Op::SetServices(services) => self.host.set_services(&what, services)?,
            Op::SetLocal(local) => {
                self.tell(op)?;
                self.host.set_local(&what, local)?;
            }
            Op::SetGuarded(prefixes) => self.host.set_guarded(&what, prefixes)?,
            Op::SetPeer(..) => self.tell(op)?,
            Op::SetRoute(prefix, node) => {
                self.tell(op)?;
                if let Err(error) = self.host.set_route(&what, *prefix) {
                    // What was not set here must not be believed from there either.
                    self.routes.remove(prefix);
                    self.tell(&Op::DelRoute(*prefix))?;
                    return Err(error);
                }
                self.routes.insert(*prefix, node.clone());
            }
            Op::DelRoute(prefix) => {
                self.delete_route(&what, *prefix)?;
                self.tell(op)?;
            }
            Op::DelPeer(node) => {
                let left: Vec<Prefix> = self.routes.iter().filter(|(_, to)| *to == node).map(|(prefix, _)| *prefix).collect();
                left.into_iter().try_for_each(|prefix| self.delete_route(&what, prefix))?;
                self.tell(op)?;
            }
        }
        Ok(())
    }

    /// Has the engine take over a step.
    fn tell(&self, op: &Op) -> Result<(), TunnelError> {
        let refused = self.driver.apply(vec![op.clone()]).map_err(|error| TunnelError::refused(op.to_string(), error))?;
        refused.into_iter().next().map_or(Ok(()), |(_, unknown)| Err(TunnelError::UnknownPeer(unknown.0)))
    }

    fn delete_route(&mut self, what: &str, prefix: Prefix) -> Result<(), TunnelError> {
        self.host.delete_route(what, prefix)?;
        self.routes.remove(&prefix);
        Ok(())
    }

    fn read_back(&mut self) -> Result<Actual, TunnelError> {
        let peers = self.driver.peers().map_err(|error| TunnelError::refused("read back", error))?;
        let seen = self.host.observe().map_err(unreadable)?;
        // A device that somebody took down has lost its routes, and takes no new ones.
        let index = self.host.index();
        self.host.routing.bring_up(index, u32::from(self.config.mtu), Some(self.queue)).map_err(unreadable)?;
        let is_set = |prefix: &Prefix| seen.overlay.get(prefix) == Some(&true);
        let routes = self.routes.iter().filter(|(prefix, _)| is_set(prefix));
        let routes = routes.map(|(prefix, node)| (*prefix, node.clone())).collect();
        Ok(Actual { policy: self.policy, services: seen.services, peers, routes, local: seen.local, guarded: seen.guarded })
    }
}

impl Tunnel for UserTunnel {
    fn observe(&mut self) -> Result<Actual, TunnelError> {
        self.read_back()
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<(usize, TunnelError)> {
        ops.iter().enumerate().filter_map(|(index, op)| self.apply_one(op).err().map(|error| (index, error))).collect()
    }

    fn poll_flow(&mut self) -> Option<FlowRecord> {
        self.driver.flows.try_recv().ok()
    }

    fn poll_opening(&mut self) -> Option<Opening> {
        self.driver.openings.try_recv().ok()
    }

    fn poll_want(&mut self) -> Option<Want> {
        self.driver.wants.try_recv().ok()
    }
}
