//! The routes around a tunnel, by metric:
//!
//! ```text
//!   100         dev landbridge0   overlay routes, and the local prefixes where they hairpin (user tunnel, scope node)
//!   200         throw             with scopes fleet and cluster the local prefixes: other routes know them
//!   200         blackhole         the local prefixes else: a rule has sent what is there to its workload (kernel tunnel, scope node)
//!   300         dev landbridge0   service addresses outside the guarded prefixes, for clients on the node itself
//!   2^32-3      dev landbridge0   the guarded prefixes: packets without an overlay route are dropped where it is counted
//!   2^32-2      blackhole         the guarded prefixes: they stay when the device goes
//!   2^32-1      blackhole, throw  those of the guard
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh_core::Prefix;
use mesh_dataplane::{Local, Scope, TunnelError};

use super::{Host, failed};
use crate::guard::METRIC_GUARD;
use crate::netlink::route::{Destination, Route};

const METRIC_OVERLAY: u32 = 100;
const METRIC_LOCAL: u32 = 200;
const METRIC_SERVICE: u32 = 300;
const METRIC_COUNTED: u32 = METRIC_GUARD - 2;
const METRIC_BLACKHOLE: u32 = METRIC_GUARD - 1;

/// Returns the prefixes that a tunnel guards, this one or one before it.
pub(super) fn guarded(routes: &[Route]) -> BTreeSet<Prefix> {
    routes.iter().filter(|route| route.metric == METRIC_BLACKHOLE).map(|route| route.prefix).collect()
}

/// Tells whether a static route follows from what is local.
pub(super) fn is_local(route: &Route) -> bool {
    matches!(route.metric, METRIC_OVERLAY | METRIC_LOCAL)
}

/// Tells whether a route may be the overlay's: a hairpin has the same metric.
pub(super) fn is_overlay(route: &Route) -> bool {
    route.metric == METRIC_OVERLAY && matches!(route.to, Destination::Device { .. })
}

/// Tells whether a static route follows from the service table.
pub(super) fn is_service(route: &Route) -> bool {
    route.metric == METRIC_SERVICE
}

impl Host {
    pub(super) fn overlay_route(&self, prefix: Prefix) -> Route {
        self.through_device(prefix, METRIC_OVERLAY)
    }

    fn through_device(&self, prefix: Prefix, metric: u32) -> Route {
        let to = Destination::Device { index: self.index, source: self.overlay_address(prefix.is_ipv4()) };
        Route { table: self.table, prefix, metric, to }
    }

    /// Tells whether packets between workloads of the node take the node's own ways, and are policed there.
    pub(super) fn is_direct(&self, local: &Local) -> bool {
        local.scope == Scope::Node && !self.hairpin
    }

    /// Returns every route but the overlay's.
    pub(super) fn static_routes(&self) -> BTreeSet<Route> {
        let mut routes = BTreeSet::new();
        let route = |prefix, metric, to| Route { table: self.table, prefix, metric, to };
        for prefix in &self.guarded {
            routes.insert(self.through_device(*prefix, METRIC_COUNTED));
            routes.insert(route(*prefix, METRIC_BLACKHOLE, Destination::Blackhole));
        }
        if let Some(local) = &self.local {
            routes.extend(local.prefixes.iter().map(|prefix| match local.scope {
                Scope::Node if self.hairpin => self.through_device(*prefix, METRIC_OVERLAY),
                Scope::Node => route(*prefix, METRIC_LOCAL, Destination::Blackhole),
                Scope::Fleet | Scope::Cluster => route(*prefix, METRIC_LOCAL, Destination::Throw),
            }));
        }
        let is_guarded = |address: IpAddr| self.guarded.iter().any(|prefix| prefix.contains(address));
        for frontend in self.services.iter().flat_map(|services| services.0.keys()) {
            if !is_guarded(frontend.address) {
                routes.insert(self.through_device(Prefix::host(frontend.address), METRIC_SERVICE));
            }
        }
        routes
    }

    /// Programs the routes that are not the overlay's: what is missing first, then what is too much goes.
    pub(super) fn program_routes(&mut self, what: &str) -> Result<(), TunnelError> {
        let failed = |error| failed(what, error);
        let wanted = self.static_routes();
        let present: BTreeSet<Route> = self.routing.routes(self.table).map_err(failed)?.into_iter().collect();
        for route in wanted.difference(&present) {
            self.routing.set_route(*route).map_err(failed)?;
        }
        // Overlay routes that an agent before has left through a device that stays are for the plan to keep or to remove.
        let is_ours = |route: &&Route| {
            let is_overlay = route.metric == METRIC_OVERLAY && (!self.hairpin || self.overlay.contains(&route.prefix));
            route.metric != METRIC_GUARD && !is_overlay
        };
        // A route that was set in the place of another one of its metric is gone already.
        let replaced = |route: &&Route| wanted.iter().any(|new| (new.prefix, new.metric) == (route.prefix, route.metric));
        let stale: Vec<Route> = present.difference(&wanted).filter(is_ours).filter(|route| !replaced(route)).copied().collect();
        for route in stale {
            self.routing.delete_route(route).map_err(failed)?;
        }
        Ok(())
    }
}
