//! The user tunnel: TUN, boringtun and UDP in this process, routes and services in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{FlowRecord, NodeId, Prefix};
use mesh_dataplane::{Actual, Local, Op, Opening, ServiceTable, Tunnel, TunnelError, Want};

use crate::NodeKey;
use crate::conntrack::has_lost_backends;
use crate::driver::{Driver, Ended, StatsHandle};
use crate::engine::Engine;
use crate::guard;
use crate::netlink::NetlinkError;
use crate::netlink::route::{Route, Routing};
use crate::services::{Ruleset, ServiceRules, ServicesError};
use crate::session::{BoringKey, BoringSession};
use crate::stats::TunnelStats;
use crate::tun::{Tun, TunError};
use crate::udp::Udp;

mod routes;
mod sysctl;

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
    index: u32,
    /// The length of the device's queue.
    queue: u32,
    routing: Routing,
    rules: ServiceRules,
    driver: Driver,
    policy: Option<u64>,
    services: Option<Arc<ServiceTable>>,
    local: Option<Local>,
    guarded: BTreeSet<Prefix>,
    routes: BTreeMap<Prefix, NodeId>,
}

impl UserTunnel {
    /// Makes the device and starts the thread, in the calling thread's network namespace. It drops everything until it is told
    /// otherwise.
    pub fn start(config: UserTunnelConfig) -> Result<UserTunnel, StartError> {
        let mut routing = Routing::open()?;
        let rules = ServiceRules::open()?;
        let udp = Udp::bind(config.port, config.mark);
        let udp = udp.map_err(|source| StartError::Udp { port: config.port, source })?;
        let port = udp.port().map_err(|source| StartError::Udp { port: config.port, source })?;
        let tun = if config.offload { Tun::open(&config.device)? } else { Tun::open_plain(&config.device)? };
        let offload = tun.is_offloading();
        sysctl::prepare(&config.device);
        let gone = || TunError::Failed { name: config.device.clone(), source: io::ErrorKind::NotFound.into() };
        let index = routing.link(&config.device)?.ok_or_else(gone)?;
        let queue = if offload { SUPER_QUEUE } else { QUEUE };
        routing.bring_up(index, u32::from(config.mtu), queue)?;
        let guarded = routes::guarded(&routing.routes(config.table)?);
        guard::install_rules(&mut routing, &guard::rules(&config.device, config.table, []))?;
        let engine = Engine::<BoringSession>::new(BoringKey::new(config.key.clone()));
        let driver = Driver::start(engine, tun, udp, config.mtu).map_err(StartError::Thread)?;
        tracing::info!(device = config.device, port, offload, key = %config.key.public(), "user tunnel started");
        Ok(UserTunnel {
            config,
            port,
            index,
            queue,
            routing,
            rules,
            driver,
            policy: None,
            services: None,
            local: None,
            guarded,
            routes: BTreeMap::new(),
        })
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
        match op {
            Op::SetPolicy(policy) => {
                self.tell(op)?;
                self.policy = Some(policy.fingerprint());
            }
            Op::SetServices(services) => {
                let before = self.services.replace(services.clone());
                if let Err(error) = self.program_services().and_then(|()| self.program_routes(&op.to_string())) {
                    self.services = before;
                    return Err(error);
                }
                if before.is_none_or(|before| has_lost_backends(&before, services)) {
                    self.forget_lost(services);
                }
            }
            Op::SetLocal(local) => self.set_local(op, local)?,
            Op::SetGuarded(prefixes) => {
                let before = std::mem::replace(&mut self.guarded, prefixes.clone());
                if let Err(error) = self.program_routes(&op.to_string()).and_then(|()| self.program_services()) {
                    self.guarded = before;
                    return Err(error);
                }
            }
            Op::SetPeer(..) => self.tell(op)?,
            Op::SetRoute(prefix, node) => {
                self.tell(op)?;
                let route = self.overlay_route(*prefix);
                if let Err(error) = self.routing.set_route(route) {
                    // What was not set here must not be believed from there either.
                    self.routes.remove(prefix);
                    self.tell(&Op::DelRoute(*prefix))?;
                    return Err(failed(op, error));
                }
                self.routes.insert(*prefix, node.clone());
            }
            Op::DelRoute(prefix) => {
                self.delete_route(op, *prefix)?;
                self.tell(op)?;
            }
            Op::DelPeer(node) => {
                let left: Vec<Prefix> = self.routes.iter().filter(|(_, to)| *to == node).map(|(prefix, _)| *prefix).collect();
                left.into_iter().try_for_each(|prefix| self.delete_route(op, prefix))?;
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

    fn set_local(&mut self, op: &Op, local: &Local) -> Result<(), TunnelError> {
        // Until the first step nothing is known of the addresses that the device may have been left with.
        let present = self.routing.addresses(self.index).map_err(|error| failed(op, error))?;
        for address in present.iter().filter(|address| !local.overlay.contains(address)) {
            self.routing.delete_address(self.index, *address).map_err(|error| failed(op, error))?;
        }
        for address in local.overlay.iter().filter(|address| !present.contains(address)) {
            self.routing.add_address(self.index, *address).map_err(|error| failed(op, error))?;
        }
        self.tell(op)?;
        let before = self.local.replace(local.clone());
        let ruled = self.install_rules().map_err(|error| failed(op, error));
        let programmed = ruled.and_then(|()| self.program_routes(&op.to_string())).and_then(|()| {
            // The preferred source of the overlay routes is the overlay address.
            let overlay: Vec<Route> = self.routes.keys().map(|prefix| self.overlay_route(*prefix)).collect();
            overlay.into_iter().try_for_each(|route| self.routing.set_route(route)).map_err(|error| failed(op, error))
        });
        if let Err(error) = programmed.and_then(|()| self.program_services()) {
            self.local = before;
            return Err(error);
        }
        Ok(())
    }

    fn install_rules(&mut self) -> Result<(), NetlinkError> {
        let local = self.local.iter().flat_map(|local| local.prefixes.iter().copied());
        let wanted = guard::rules(&self.config.device, self.config.table, local);
        match self.local {
            Some(_) => guard::update_rules(&mut self.routing, &wanted),
            None => guard::install_rules(&mut self.routing, &wanted),
        }
    }

    /// Writes the service table, once there is one: a restarted agent leaves the one of the agent before until then.
    fn program_services(&mut self) -> Result<(), TunnelError> {
        let Some(services) = self.services.clone() else { return Ok(()) };
        let ruleset = ruleset(&services, self.local.as_ref(), &self.guarded, &self.config.device);
        self.rules.set(&ruleset).map_err(|error| match error {
            ServicesError::ForeignTable => TunnelError::refused("set services", error),
            ServicesError::Netlink(_) => TunnelError::failed("set services", error),
        })
    }

    /// Sends clients that wait for a lost backend to another one. Where that fails, they find it by themselves in two minutes.
    fn forget_lost(&mut self, services: &ServiceTable) {
        match self.rules.forget_lost(services) {
            Ok(0) => {}
            Ok(connections) => tracing::info!(connections, "forgot connections to backends that are gone"),
            Err(error) => tracing::warn!(%error, "connections that wait for a lost backend stay with it for up to two minutes"),
        }
    }

    fn delete_route(&mut self, op: &Op, prefix: Prefix) -> Result<(), TunnelError> {
        let route = self.overlay_route(prefix);
        self.routing.delete_route(route).map_err(|error| failed(op, error))?;
        self.routes.remove(&prefix);
        Ok(())
    }

    /// Returns the node's own overlay address of a family.
    fn overlay_address(&self, ipv4: bool) -> Option<IpAddr> {
        self.local.as_ref()?.overlay.iter().copied().find(|address| address.is_ipv4() == ipv4)
    }

    fn read_back(&mut self) -> Result<Actual, TunnelError> {
        let unreadable = |error: NetlinkError| TunnelError::failed("read back", error);
        let peers = self.driver.peers().map_err(|error| TunnelError::refused("read back", error))?;
        let programmed = self.routing.routes(self.config.table).map_err(unreadable)?;
        let addresses: BTreeSet<IpAddr> = self.routing.addresses(self.index).map_err(unreadable)?.into_iter().collect();
        // A device that somebody took down has lost its routes, and takes no new ones.
        self.routing.bring_up(self.index, u32::from(self.config.mtu), self.queue).map_err(unreadable)?;
        // Without the rules no route of ours is asked; they are put back here, as they belong to no step.
        self.install_rules().map_err(unreadable)?;
        let statics = self.static_routes();
        let local = self.local.clone().filter(|local| {
            let expected: BTreeSet<IpAddr> = local.overlay.iter().copied().collect();
            let routes = statics.iter().filter(|route| routes::is_local(route));
            expected == addresses && routes.clone().all(|route| programmed.contains(route))
        });
        let services = self.services.clone().filter(|services| {
            let ruleset = ruleset(services, self.local.as_ref(), &self.guarded, &self.config.device);
            let routes = statics.iter().filter(|route| routes::is_service(route));
            self.rules.is(&ruleset).unwrap_or(false) && routes.clone().all(|route| programmed.contains(route))
        });
        let routes = self.routes.iter().filter(|(prefix, _)| programmed.contains(&self.overlay_route(**prefix)));
        let routes = routes.map(|(prefix, node)| (*prefix, node.clone())).collect();
        Ok(Actual { policy: self.policy, services, peers, routes, local, guarded: routes::guarded(&programmed) })
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

fn ruleset<'a>(services: &'a ServiceTable, local: Option<&'a Local>, guarded: &BTreeSet<Prefix>, device: &'a str) -> Ruleset<'a> {
    Ruleset { services, local, fleet: guarded.clone(), device }
}

fn failed(op: &Op, error: NetlinkError) -> TunnelError {
    match error.errno() {
        Some(libc::EPERM | libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => TunnelError::refused(op.to_string(), error),
        _ => TunnelError::failed(op.to_string(), error),
    }
}
