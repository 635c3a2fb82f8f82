//! Which backends take the connections to services, by what is in reach from this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{Change, NodeId, Now, PrefixMap, ServiceId, Services, State};
use mesh_dataplane::health::Moved;
use mesh_dataplane::planner::services::View;
use mesh_dataplane::{Health, Plan, ServicePlanner, ServiceTable, Tunnel};
use tracing::info;

use super::probe::Prober;
use crate::api::{self, ServiceTraffic};

/// The service table of the node, and the health that it follows from.
#[derive(Debug)]
pub struct TrafficRole {
    planner: ServicePlanner,
    health: Health,
    prober: Prober,
    moved: Moved,
    paths: BTreeMap<NodeId, IpAddr>,
}

impl TrafficRole {
    /// Begins with an empty table.
    pub fn start(node: NodeId) -> TrafficRole {
        TrafficRole {
            planner: ServicePlanner::new(node),
            health: Health::new(),
            prober: Prober::open(),
            moved: Moved::default(),
            paths: BTreeMap::new(),
        }
    }

    /// Probes, and hears what became of connections; tells whether something moved in or out of reach, so that there is a table to derive.
    pub fn turn(&mut self, tunnel: &mut dyn Tunnel, now: Now) -> bool {
        while let Some(opening) = tunnel.poll_opening() {
            self.health.handle_opening(opening.to, opening.refused, now.time);
        }
        self.prober.turn(&mut self.health, now);
        self.health.handle_timeout(now.time);
        let moved = self.health.take_moved();
        for node in &moved.nodes {
            let reach = self.health.reach_of(node);
            info!(%node, %reach, "the path to a node moved");
        }
        self.moved.nodes.extend(moved.nodes);
        self.moved.clusters.extend(moved.clusters);
        self.moved.backends.extend(moved.backends);
        !self.moved.is_empty()
    }

    /// Brings the table up to date.
    pub fn update(
        &mut self,
        state: &State,
        services: &Services,
        (change, changed): (&Change, &BTreeSet<ServiceId>),
        now: Now,
    ) -> Arc<ServiceTable> {
        for cluster in state.facts().grants.keys() {
            self.health.set_freshness(cluster, state.freshness(cluster, now.wall));
        }
        let mut moved = std::mem::take(&mut self.moved);
        moved.clusters.extend(self.health.take_moved().clusters);
        let view = View { state, services, health: &self.health };
        self.planner.update(&view, change, changed, &moved);
        self.planner.table().clone()
    }

    /// Probes the peers that have backends, each by its first overlay address that the plan leads to it.
    pub fn follow(&mut self, state: &State, plan: &Plan, now: Now) {
        let owners: PrefixMap<&NodeId> = plan.routes.iter().map(|(prefix, node)| (*prefix, node)).collect();
        let overlay = |node: &NodeId| {
            let link = state.facts().links.get(node)?;
            let reaches = |address: &IpAddr| owners.lookup(*address).is_some_and(|(_, owner)| *owner == node);
            link.overlay.iter().copied().find(|address| self.prober.speaks(*address) && reaches(address))
        };
        let hosts = self.planner.nodes().filter(|node| plan.peers.contains_key(*node));
        let paths: BTreeMap<NodeId, IpAddr> = hosts.filter_map(|node| Some((node.clone(), overlay(node)?))).collect();
        if paths != self.paths {
            self.health.set_paths(&paths, now.time);
            self.paths = paths;
        }
    }

    /// Tells who takes the connections to a service; nothing where the cluster has no such service.
    pub fn describe(&self, state: &State, services: &Services, id: &ServiceId) -> Option<ServiceTraffic> {
        let view = View { state, services, health: &self.health };
        let ports = self.planner.describe(&view, id);
        (!ports.is_empty())
            .then(|| ServiceTraffic { id: id.to_string(), ports: ports.iter().map(api::PortTraffic::from).collect() })
    }
}
