//! The service table of a node, kept up to date at the cost of what changed: clusterset addresses and the cluster's own, each
//! with its backends balanced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{
    Backend, Change, ClusterName, Key, NodeId, ServiceId, ServiceKind, ServicePort, Services, SessionAffinity, State, Traffic,
};

use crate::balancer::{Balancer, Candidate, Group, Standing};
use crate::health::{Health, Moved, Reach};
use crate::plan::{Backends, Frontend, ServiceTable};

use self::near::Near;

mod near;
#[cfg(test)]
mod tests;

/// What the table is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The fleet.
    pub state: &'a State,
    /// The services of the node's cluster, up to date.
    pub services: &'a Services,
    /// What is in reach.
    pub health: &'a Health,
}

/// Keeps the service table of one node.
#[derive(Clone, Debug)]
pub struct ServicePlanner {
    node: NodeId,
    table: Arc<ServiceTable>,
    /// Everything was read once.
    begun: bool,
    /// Who wants a frontend, and with what: the first has it, the cluster's own service before an imported one, then by name.
    claims: BTreeMap<Frontend, BTreeMap<(Side, ServiceId), Backends>>,
    services: BTreeMap<(Side, ServiceId), Uses>,
    by_node: BTreeMap<NodeId, BTreeSet<ServiceId>>,
    by_cluster: BTreeMap<ClusterName, BTreeSet<ServiceId>>,
}

/// By which of its two names a service is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The cluster's own Service, at its cluster addresses.
    Local,
    /// The imported one, at its clusterset addresses.
    Imported,
}

/// What a service's part of the table depends on.
#[derive(Clone, Debug, Default)]
struct Uses {
    frontends: Vec<Frontend>,
    nodes: BTreeSet<NodeId>,
    clusters: BTreeSet<ClusterName>,
}

/// Who takes the connections to one port of a service, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortTraffic {
    /// Of the cluster's own Service, or of the imported one.
    pub side: Side,
    /// What clients use.
    pub frontends: Vec<Frontend>,
    /// The service's setting.
    pub traffic: Traffic,
    /// The groups and their shares.
    pub groups: Vec<Group>,
    /// Nothing is healthy: demoted backends are used.
    pub last_resort: bool,
    /// The number of slots.
    pub slots: usize,
    /// Every backend.
    pub backends: Vec<BackendTraffic>,
}

/// One backend of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTraffic {
    /// The backend as the balancer has it.
    pub candidate: Candidate,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its node.
    pub node: Option<NodeId>,
    /// Whether it is in reach, and why.
    pub reach: Reach,
    /// How many slots it has.
    pub slots: usize,
}

/// One of the two sides of a service.
struct Service<'a> {
    side: Side,
    addresses: &'a [IpAddr],
    ports: &'a [ServicePort],
    affinity: SessionAffinity,
    traffic: Traffic,
    backends: &'a [Backend],
    weights: BTreeMap<&'a ClusterName, u16>,
}

impl ServicePlanner {
    /// Makes the empty table of `node`.
    pub fn new(node: NodeId) -> ServicePlanner {
        ServicePlanner {
            node,
            table: Arc::default(),
            begun: false,
            claims: BTreeMap::new(),
            services: BTreeMap::new(),
            by_node: BTreeMap::new(),
            by_cluster: BTreeMap::new(),
        }
    }

    /// Returns the table.
    pub fn table(&self) -> &Arc<ServiceTable> {
        &self.table
    }

    /// Returns the nodes that have backends of services, of whatever cluster.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.by_node.keys()
    }

    /// Brings the table up to date after a `change` of the state by which the `changed` services are others, and after what
    /// `moved` in or out of reach; the first time everything is read. Returns whether the table is another one.
    pub fn update(&mut self, view: &View<'_>, change: &Change, changed: &BTreeSet<ServiceId>, moved: &Moved) -> bool {
        let node = self.node.clone();
        let near = Near::new(view.state, &node);
        let mut is_other = false;
        let all = !self.begun || change.dirty.iter().any(|key| self.moves_everything(key));
        let due = if all { self.everything(view) } else { self.due(view.state, change, changed, moved) };
        self.begun = true;
        for id in &due {
            for side in [Side::Local, Side::Imported] {
                is_other |= self.renew(view, &near, side, id);
            }
        }
        is_other
    }

    /// Tells who takes the connections to a service now, for each of its ports.
    pub fn describe(&self, view: &View<'_>, id: &ServiceId) -> Vec<PortTraffic> {
        let near = Near::new(view.state, &self.node);
        let sides = [Side::Local, Side::Imported].into_iter().filter_map(|side| service(view.services, side, id));
        sides.flat_map(|service| describe(&service, view.health, &near)).collect()
    }

    /// The own node's zone and the own cluster's region are part of every distance.
    fn moves_everything(&self, key: &Key) -> bool {
        match key {
            Key::Node(node) => *node == self.node,
            Key::Grant(cluster) => *cluster == self.node.cluster,
            _ => false,
        }
    }

    fn everything(&self, view: &View<'_>) -> BTreeSet<ServiceId> {
        let known = self.services.keys().map(|(_, id)| id);
        known.chain(view.services.local().keys()).chain(view.services.imported().keys()).cloned().collect()
    }

    fn due(&self, state: &State, change: &Change, changed: &BTreeSet<ServiceId>, moved: &Moved) -> BTreeSet<ServiceId> {
        let mut due = changed.clone();
        let of_node = |node: &NodeId| self.by_node.get(node).into_iter().flatten().cloned();
        let of_cluster = |cluster: &ClusterName| self.by_cluster.get(cluster).into_iter().flatten().cloned();
        for key in &change.dirty {
            match key {
                Key::Node(node) => due.extend(of_node(node)),
                Key::Grant(cluster) => due.extend(of_cluster(cluster)),
                _ => {}
            }
        }
        moved.nodes.iter().for_each(|node| due.extend(of_node(node)));
        moved.clusters.iter().for_each(|cluster| due.extend(of_cluster(cluster)));
        for address in &moved.backends {
            let workload = state.workload_at(*address).and_then(|id| state.facts().workloads.get(id));
            match workload.and_then(|workload| Some((&workload.id.cluster, workload.node.as_ref()?))) {
                Some((cluster, name)) => due.extend(of_node(&NodeId { cluster: cluster.clone(), name: name.clone() })),
                // An endpoint that is no workload of the fleet's.
                None => due.extend(self.by_cluster.values().flatten().cloned()),
            }
        }
        due
    }

    /// Replaces what a service has in the table; tells whether it is something else.
    fn renew(&mut self, view: &View<'_>, near: &Near<'_>, side: Side, id: &ServiceId) -> bool {
        let key = (side, id.clone());
        let before = self.services.remove(&key).unwrap_or_default();
        let service = service(view.services, side, id);
        let mut uses = Uses::default();
        for frontend in &before.frontends {
            if let Some(claims) = self.claims.get_mut(frontend) {
                claims.remove(&key);
            }
        }
        if let Some(service) = &service {
            for (port, index) in service.ports.iter().zip(0..) {
                for address in service.addresses {
                    let frontend = Frontend { address: *address, protocol: port.protocol, port: port.port };
                    let backends = balance(service, index, address.is_ipv4(), view.health, near);
                    self.claims.entry(frontend).or_default().entry(key.clone()).or_insert(backends);
                    uses.frontends.push(frontend);
                }
            }
            uses.nodes = service.backends.iter().filter_map(|backend| backend.node.clone()).collect();
            uses.clusters = service.backends.iter().map(|backend| backend.cluster.clone()).collect();
        }
        let touched: BTreeSet<Frontend> = before.frontends.iter().chain(&uses.frontends).copied().collect();
        let is_other = touched.into_iter().fold(false, |is_other, frontend| self.settle(frontend) | is_other);
        let other = match side {
            Side::Local => Side::Imported,
            Side::Imported => Side::Local,
        };
        let other = self.services.get(&(other, id.clone()));
        for node in before.nodes.difference(&uses.nodes).filter(|node| other.is_none_or(|other| !other.nodes.contains(*node))) {
            remove(&mut self.by_node, node, id);
        }
        for cluster in before
            .clusters
            .difference(&uses.clusters)
            .filter(|cluster| other.is_none_or(|other| !other.clusters.contains(*cluster)))
        {
            remove(&mut self.by_cluster, cluster, id);
        }
        for node in &uses.nodes {
            self.by_node.entry(node.clone()).or_default().insert(id.clone());
        }
        for cluster in &uses.clusters {
            self.by_cluster.entry(cluster.clone()).or_default().insert(id.clone());
        }
        if service.is_some() {
            self.services.insert(key, uses);
        }
        is_other
    }

    /// Gives a frontend to its first claimant; tells whether that is another one, or another choice.
    fn settle(&mut self, frontend: Frontend) -> bool {
        let first = self.claims.get(&frontend).and_then(|claims| claims.values().next());
        if self.table.0.get(&frontend) == first {
            return false;
        }
        let first = first.cloned();
        let table = &mut Arc::make_mut(&mut self.table).0;
        match first {
            Some(backends) => {
                table.insert(frontend, backends);
            }
            None => {
                table.remove(&frontend);
                self.claims.remove(&frontend);
            }
        }
        true
    }
}

fn remove<K: Ord>(index: &mut BTreeMap<K, BTreeSet<ServiceId>>, key: &K, id: &ServiceId) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

/// Returns a side of a service, where it has addresses of its own.
fn service<'a>(services: &'a Services, side: Side, id: &ServiceId) -> Option<Service<'a>> {
    match side {
        Side::Local => {
            let local = services.local().get(id).filter(|local| local.service.kind == ServiceKind::ClusterIp)?;
            let service = &local.service;
            Some(Service {
                side,
                addresses: &service.addresses,
                ports: &service.ports,
                affinity: service.affinity,
                traffic: service.traffic,
                backends: &local.backends,
                weights: BTreeMap::new(),
            })
        }
        Side::Imported => {
            let import = services.imported().get(id).filter(|import| import.kind == ServiceKind::ClusterIp)?;
            Some(Service {
                side,
                addresses: &import.addresses,
                ports: &import.ports,
                affinity: import.affinity,
                traffic: import.traffic,
                backends: &import.backends,
                weights: import.exporters.iter().map(|exporter| (&exporter.cluster, exporter.weight)).collect(),
            })
        }
    }
}

/// Returns the backends of a port in one family, as the balancer sees them.
fn candidates<'a>(
    service: &'a Service<'a>,
    index: usize,
    ipv4: bool,
    health: &'a Health,
    near: &'a Near<'a>,
) -> impl Iterator<Item = (&'a Backend, Candidate, Reach)> {
    service.backends.iter().flat_map(move |backend| {
        let port = backend.ports.get(index).copied().flatten();
        let weight = service.weights.get(&backend.cluster).copied().unwrap_or(Traffic::DEFAULT_WEIGHT);
        let locality = near.locality(backend);
        let of_family = backend.addresses.iter().copied().filter(move |address| address.is_ipv4() == ipv4);
        of_family.filter_map(move |address| {
            let port = port?;
            let reach = health.reach((address, port), backend.node.as_ref(), &backend.cluster);
            let standing = match (backend.ready, backend.terminating) {
                (true, _) if reach.is_good() => Standing::Healthy,
                (true, _) => Standing::Demoted,
                (false, false) => Standing::Unready,
                (false, true) => Standing::Leaving,
            };
            Some((backend, Candidate { address, port, locality, weight, standing }, reach))
        })
    })
}

fn balancer(traffic: Traffic) -> Balancer {
    Balancer { first: traffic.first, node_only: traffic.node_only }
}

fn balance(service: &Service<'_>, index: usize, ipv4: bool, health: &Health, near: &Near<'_>) -> Backends {
    let candidates: Vec<Candidate> = candidates(service, index, ipv4, health, near).map(|(_, candidate, _)| candidate).collect();
    let balance = balancer(service.traffic).balance(&candidates);
    let rest: BTreeSet<_> = candidates.iter().map(|candidate| (candidate.address, candidate.port)).collect();
    let rest = rest.into_iter().filter(|at| balance.backends.binary_search(at).is_err()).collect();
    Backends { affinity: service.affinity, ready: balance.backends, slots: balance.slots.into(), rest }
}

fn describe(service: &Service<'_>, health: &Health, near: &Near<'_>) -> Vec<PortTraffic> {
    let mut ports = Vec::new();
    for (port, index) in service.ports.iter().zip(0..) {
        for ipv4 in [true, false] {
            let addresses = service.addresses.iter().filter(|address| address.is_ipv4() == ipv4);
            let frontends = addresses.map(|address| Frontend { address: *address, protocol: port.protocol, port: port.port });
            let frontends: Vec<Frontend> = frontends.collect();
            if frontends.is_empty() {
                continue;
            }
            let candidates: Vec<_> = candidates(service, index, ipv4, health, near).collect();
            let balance = balancer(service.traffic).balance(&candidates.iter().map(|(_, c, _)| *c).collect::<Vec<_>>());
            let slots_of = |candidate: &Candidate| {
                let place = balance.backends.binary_search(&(candidate.address, candidate.port)).ok();
                balance.slots.iter().filter(|slot| Some(usize::from(**slot)) == place).count()
            };
            let backends = candidates.iter().map(|(backend, candidate, reach)| BackendTraffic {
                candidate: *candidate,
                cluster: backend.cluster.clone(),
                node: backend.node.clone(),
                reach: *reach,
                slots: slots_of(candidate),
            });
            ports.push(PortTraffic {
                side: service.side,
                frontends,
                traffic: service.traffic,
                groups: balance.groups.clone(),
                last_resort: balance.last_resort,
                slots: balance.slots.len(),
                backends: backends.collect(),
            });
        }
    }
    ports
}
