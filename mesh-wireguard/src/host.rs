//! The node around a tunnel's device: addresses, routes, rules and services. Both tunnels stand on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::Prefix;
use mesh_dataplane::{Local, ServiceTable, TunnelError};

use crate::conntrack::has_lost_backends;
use crate::guard;
use crate::netlink::NetlinkError;
use crate::netlink::route::{Route, Routing};
use crate::services::{Ruleset, ServiceRules, ServicesError};

mod routes;
pub(crate) mod sysctl;

/// What a tunnel programs around its device, remembered and read back.
#[derive(Debug)]
pub(crate) struct Host {
    device: String,
    table: u32,
    /// With scope node, packets between workloads of the node pass the device and come back. Else their ways are the node's own.
    hairpin: bool,
    index: u32,
    pub(crate) routing: Routing,
    rules: ServiceRules,
    services: Option<Arc<ServiceTable>>,
    local: Option<Local>,
    guarded: BTreeSet<Prefix>,
    /// The prefixes that this process has set overlay routes for.
    overlay: BTreeSet<Prefix>,
}

/// What is programmed now.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) local: Option<Local>,
    pub(crate) services: Option<Arc<ServiceTable>>,
    pub(crate) guarded: BTreeSet<Prefix>,
    /// The prefixes with an overlay route, and whether it is as it should be.
    pub(crate) overlay: BTreeMap<Prefix, bool>,
}

impl Host {
    /// Opens the calling thread's network namespace for the device of this name, which need not exist yet.
    pub(crate) fn open(device: &str, table: u32, hairpin: bool) -> Result<Host, ServicesError> {
        Ok(Host {
            device: device.to_owned(),
            table,
            hairpin,
            index: 0,
            routing: Routing::open()?,
            rules: ServiceRules::open()?,
            services: None,
            local: None,
            guarded: BTreeSet::new(),
            overlay: BTreeSet::new(),
        })
    }

    /// Takes the device that is there now; what an agent before has guarded is still guarded.
    pub(crate) fn attach(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.index = index;
        self.overlay.clear();
        self.guarded = routes::guarded(&self.routing.routes(self.table)?);
        self.install_rules()
    }

    /// Returns the index of the device.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Replaces what is local: the device's addresses, the rules for the node's own packets, sources of routes.
    pub(crate) fn set_local(&mut self, what: &str, local: &Local) -> Result<(), TunnelError> {
        // Until the first step nothing is known of the addresses that the device may have been left with.
        let present = self.routing.addresses(self.index).map_err(|error| failed(what, error))?;
        for address in present.iter().filter(|address| !local.overlay.contains(address)) {
            self.routing.delete_address(self.index, *address).map_err(|error| failed(what, error))?;
        }
        for address in local.overlay.iter().filter(|address| !present.contains(address)) {
            self.routing.add_address(self.index, *address).map_err(|error| failed(what, error))?;
        }
        let before = self.local.replace(local.clone());
        let ruled = self.install_rules().map_err(|error| failed(what, error));
        let programmed = ruled.and_then(|()| self.program_routes(what)).and_then(|()| {
            // The preferred source of the overlay routes is the overlay address.
            let overlay: Vec<Route> = self.overlay.iter().map(|prefix| self.overlay_route(*prefix)).collect();
            overlay.into_iter().try_for_each(|route| self.routing.set_route(route)).map_err(|error| failed(what, error))
        });
        if let Err(error) = programmed.and_then(|()| self.program_services()) {
            self.local = before;
            return Err(error);
        }
        Ok(())
    }

    /// Replaces the guarded prefixes.
    pub(crate) fn set_guarded(&mut self, what: &str, prefixes: &BTreeSet<Prefix>) -> Result<(), TunnelError> {
        let before = std::mem::replace(&mut self.guarded, prefixes.clone());
        if let Err(error) = self.program_routes(what).and_then(|()| self.program_services()) {
            self.guarded = before;
            return Err(error);
        }
        Ok(())
    }

    /// Replaces the service table, and sends clients that wait for a lost backend to another one.
    pub(crate) fn set_services(&mut self, what: &str, services: &Arc<ServiceTable>) -> Result<(), TunnelError> {
        let before = self.services.replace(services.clone());
        if let Err(error) = self.program_services().and_then(|()| self.program_routes(what)) {
            self.services = before;
            return Err(error);
        }
        if before.is_none_or(|before| has_lost_backends(&before, services)) {
            self.forget_lost(services);
        }
        Ok(())
    }

    /// Sends a prefix into the device.
    pub(crate) fn set_route(&mut self, what: &str, prefix: Prefix) -> Result<(), TunnelError> {
        self.routing.set_route(self.overlay_route(prefix)).map_err(|error| failed(what, error))?;
        self.overlay.insert(prefix);
        Ok(())
    }

    /// Sends a prefix into the device no more; its packets are dropped where it is guarded.
    pub(crate) fn delete_route(&mut self, what: &str, prefix: Prefix) -> Result<(), TunnelError> {
        // One that an agent before has left may have had another source.
        let route = self.overlay_route(prefix).without_source();
        self.routing.delete_route(route).map_err(|error| failed(what, error))?;
        self.overlay.remove(&prefix);
        Ok(())
    }

    /// Programs what is not the overlay's anew, as it has to be where the device is another one.
    pub(crate) fn restore(&mut self) -> Result<(), TunnelError> {
        match self.local.clone() {
            Some(local) => self.set_local("restore what is local", &local),
            None => self.program_routes("restore routes"),
        }
    }

    /// Reads back what is programmed, and puts the rules back, as they belong to no step.
    pub(crate) fn observe(&mut self) -> Result<Seen, NetlinkError> {
        let programmed = self.routing.routes(self.table)?;
        let addresses: BTreeSet<IpAddr> = self.routing.addresses(self.index)?.into_iter().collect();
        // Without the rules no route of ours is asked.
        self.install_rules()?;
        let statics = self.static_routes();
        let local = self.local.clone().filter(|local| {
            let expected: BTreeSet<IpAddr> = local.overlay.iter().copied().collect();
            let routes = statics.iter().filter(|route| routes::is_local(route));
            expected == addresses && routes.clone().all(|route| programmed.contains(route))
        });
        let services = self.services.clone().filter(|services| {
            let routes = statics.iter().filter(|route| routes::is_service(route));
            self.has_services(services) && routes.clone().all(|route| programmed.contains(route))
        });
        let overlay: BTreeMap<Prefix, bool> = programmed
            .iter()
            .filter(|route| routes::is_overlay(route) && !statics.contains(route))
            .map(|route| (route.prefix, *route == self.overlay_route(route.prefix)))
            .collect();
        self.overlay.retain(|prefix| overlay.get(prefix) == Some(&true));
        Ok(Seen { local, services, guarded: routes::guarded(&programmed), overlay })
    }

    fn install_rules(&mut self) -> Result<(), NetlinkError> {
        let local = self.local.iter().flat_map(|local| local.prefixes.iter().copied());
        let mut wanted = guard::rules(&self.device, self.table, local);
        if let Some(local) = self.local.as_ref().filter(|local| self.is_direct(local)) {
            wanted.extend(local.prefixes.iter().copied().map(guard::rule_to_local));
        }
        match self.local {
            Some(_) => guard::update_rules(&mut self.routing, &wanted),
            None => guard::install_rules(&mut self.routing, &wanted),
        }
    }

    /// Writes the service table, once there is one: a restarted agent leaves the one of the agent before until then.
    fn program_services(&mut self) -> Result<(), TunnelError> {
        let Some(services) = self.services.clone() else { return Ok(()) };
        let ruleset = Ruleset {
            services: &services,
            local: self.local.as_ref(),
            fleet: &self.guarded,
            device: &self.device,
            hairpin: self.hairpin,
        };
        self.rules.set(&ruleset).map_err(|error| match error {
            ServicesError::ForeignTable => TunnelError::refused("set services", error),
            ServicesError::Netlink(_) => TunnelError::failed("set services", error),
        })
    }

    /// Tells whether the service table is programmed; not where it cannot be read.
    fn has_services(&mut self, services: &ServiceTable) -> bool {
        let ruleset =
            Ruleset { services, local: self.local.as_ref(), fleet: &self.guarded, device: &self.device, hairpin: self.hairpin };
        self.rules.is(&ruleset).unwrap_or(false)
    }

    /// Sends clients that wait for a lost backend to another one. Where that fails, they find it by themselves in two minutes.
    fn forget_lost(&mut self, services: &ServiceTable) {
        match self.rules.forget_lost(services) {
            Ok(0) => {}
            Ok(connections) => tracing::info!(connections, "forgot connections to backends that are gone"),
            Err(error) => tracing::warn!(%error, "connections that wait for a lost backend stay with it for up to two minutes"),
        }
    }

    /// Returns the node's own overlay address of a family.
    fn overlay_address(&self, ipv4: bool) -> Option<IpAddr> {
        self.local.as_ref()?.overlay.iter().copied().find(|address| address.is_ipv4() == ipv4)
    }
}

/// Makes the error of a step that the kernel refused.
pub(crate) fn failed(what: &str, error: NetlinkError) -> TunnelError {
    match error.errno() {
        Some(libc::EPERM | libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => TunnelError::refused(what, error),
        _ => TunnelError::failed(what, error),
    }
}

/// Makes the error of what the kernel did not tell.
pub(crate) fn unreadable(error: NetlinkError) -> TunnelError {
    TunnelError::failed("read back", error)
}
