//! The routes of a user tunnel, by metric:
//!
//! ```text
//!   100         dev landbridge0   overlay routes, and with scope node the local prefixes
//!   200         throw             with other scopes the local prefixes: other routes know them
//!   300         dev landbridge0   service addresses outside the guarded prefixes, for clients on the node itself
//!   2^32-3      dev landbridge0   the guarded prefixes: packets without an overlay route are dropped where it is counted
//!   2^32-2      blackhole         the guarded prefixes: they stay when the device goes
//!   2^32-1      blackhole, throw  those of the guard
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh_core::Prefix;
use mesh_dataplane::{Scope, TunnelError};

use super::UserTunnel;
use crate::guard::METRIC_GUARD;
use crate::netlink::route::{Destination, Route};

const METRIC_OVERLAY: u32 = 100;
const METRIC_LOCAL_THROW: u32 = 200;
const METRIC_SERVICE: u32 = 300;
const METRIC_COUNTED: u32 = METRIC_GUARD - 2;
const METRIC_BLACKHOLE: u32 = METRIC_GUARD - 1;

/// Returns the prefixes that a tunnel guards, this one or one before it.
pub(super) fn guarded(routes: &[Route]) -> BTreeSet<Prefix> {
    routes.iter().filter(|route| route.metric == METRIC_BLACKHOLE).map(|route| route.prefix).collect()
}

/// Tells whether a static route follows from what is local.
pub(super) fn is_local(route: &Route) -> bool {
    matches!(route.metric, METRIC_OVERLAY | METRIC_LOCAL_THROW)
}

/// Tells whether a static route follows from the service table.
pub(super) fn is_service(route: &Route) -> bool {
    route.metric == METRIC_SERVICE
}

impl UserTunnel {
    pub(super) fn overlay_route(&self, prefix: Prefix) -> Route {
        self.through_device(prefix, METRIC_OVERLAY)
    }

    fn through_device(&self, prefix: Prefix, metric: u32) -> Route {
        let to = Destination::Device { index: self.index, source: self.overlay_address(prefix.is_ipv4()) };
        Route { table: self.config.table, prefix, metric, to }
    }

    /// Returns every route but the overlay's.
    pub(super) fn static_routes(&self) -> BTreeSet<Route> {
        let mut routes = BTreeSet::new();
        for prefix in &self.guarded {
            routes.insert(self.through_device(*prefix, METRIC_COUNTED));
            let to = Destination::Blackhole;
            routes.insert(Route { table: self.config.table, prefix: *prefix, metric: METRIC_BLACKHOLE, to });
        }
        for prefix in self.local.iter().flat_map(|local| &local.prefixes) {
            let hairpin = self.local.as_ref().is_some_and(|local| local.scope == Scope::Node);
            let to = Destination::Throw;
            routes.insert(match hairpin {
                true => self.through_device(*prefix, METRIC_OVERLAY),
                false => Route { table: self.config.table, prefix: *prefix, metric: METRIC_LOCAL_THROW, to },
            });
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
        let failed = |error| TunnelError::failed(what, error);
        let wanted = self.static_routes();
        let present: BTreeSet<Route> = self.routing.routes(self.config.table).map_err(failed)?.into_iter().collect();
        for route in wanted.difference(&present) {
            self.routing.set_route(*route).map_err(failed)?;
        }
        let is_ours = |route: &&Route| {
            route.metric != METRIC_GUARD && !(route.metric == METRIC_OVERLAY && self.routes.contains_key(&route.prefix))
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
