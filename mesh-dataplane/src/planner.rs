//! From the fleet's state to the plan of one node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{Change, Key, NodeId, NodeLink, Prefix, PrefixMap, Services, State, Trust, Workload, WorkloadId};
use mesh_policy::PolicySet;

use crate::health::{Health, Moved};
use crate::plan::{Local, Peer, PeerKeys, Plan, Scope, ServiceTable};

pub mod services;

use self::services::{ServicePlanner, View};

/// Derives the plan of one node from the fleet's state.
///
/// It keeps what follows from nodes, links and grants: a change of anything else, which is nearly all that changes, costs what
/// it is about and not what the node knows.
#[derive(Clone, Debug)]
pub struct Planner {
    node: NodeId,
    scope: Scope,
    overlay: Option<Overlay>,
}

/// The part of a plan that says who is where.
#[derive(Clone, Debug)]
struct Overlay {
    peers: Arc<BTreeMap<NodeId, Peer>>,
    routes: Arc<BTreeMap<Prefix, NodeId>>,
    local: Local,
    guarded: Arc<BTreeSet<Prefix>>,
    /// The workloads by which nodes without prefixes have addresses.
    claimants: BTreeSet<WorkloadId>,
}

impl Planner {
    /// Makes the planner of `node`.
    pub fn new(node: NodeId, scope: Scope) -> Planner {
        Planner { node, scope, overlay: None }
    }

    /// Returns the plan that `state` and `policy` call for.
    ///
    /// A node speaks for its `spec.podCIDRs`, else for the addresses of its workloads, and for its overlay addresses; only
    /// inside its cluster's grant. A prefix that two nodes claim belongs to the first by name, so that every node of the fleet
    /// decides alike; an address that a node claims by itself is not taken out of another node's prefixes or workloads. Peers
    /// are the nodes within [`Scope`] whose WireGuard key is known; one of the two ends needs an endpoint. A node that claims
    /// this node's own key is none.
    ///
    /// The services are balanced as if every backend were in reach; [`Planner::update`] takes them as they are.
    pub fn plan(&self, state: &State, policy: &Arc<PolicySet>) -> Plan {
        let mut services = Services::new(self.node.cluster.clone());
        let changed = services.update(state, &Change::default());
        let mut table = ServicePlanner::new(self.node.clone());
        let health = Health::new();
        table.update(&View { state, services: &services, health: &health }, &Change::default(), &changed, &Moved::default());
        let anew = &mut Planner::new(self.node.clone(), self.scope);
        anew.update(state, &Change::default(), policy, table.table().clone())
    }

    /// Returns the plan that `state` and `policy` call for, with a service table that is kept up to date elsewhere; `change` is
    /// all that is different in `state` since the last plan.
    pub fn update(&mut self, state: &State, change: &Change, policy: &Arc<PolicySet>, services: Arc<ServiceTable>) -> Plan {
        let moves = |overlay: &Overlay| change.dirty.iter().any(|key| overlay.follows(state, key));
        let overlay = match self.overlay.take() {
            Some(overlay) if !moves(&overlay) => overlay,
            _ => self.overlay(state),
        };
        let Overlay { peers, routes, local, guarded, .. } = self.overlay.insert(overlay).clone();
        Plan { policy: policy.clone(), services, peers, routes, local, guarded }
    }

    fn overlay(&self, state: &State) -> Overlay {
        let (mut owners, claimants) = owners(state);
        let links = &state.facts().links;
        let own_link = links.get(&self.node);
        let calls_out_only = own_link.is_none_or(|link| link.endpoints.is_empty());
        let reachable = |link: &NodeLink| !link.endpoints.is_empty() || !calls_out_only;
        let is_own = |link: &NodeLink| own_link.is_some_and(|own| shares_key(own, link));
        let wanted = links.values().filter(|link| self.is_peer(&link.id) && reachable(link) && !is_own(link));
        let peers: BTreeMap<NodeId, Peer> = wanted.map(|link| (link.id.clone(), peer(link))).collect();
        let local_prefixes: BTreeSet<Prefix> =
            owners.extract_if(.., |_, owner| *owner == self.node).map(|(prefix, _)| prefix).collect();
        owners.retain(|_, owner| peers.contains_key(owner));
        Overlay {
            guarded: Arc::new(self.guarded(state, &local_prefixes)),
            local: Local {
                node: self.node.clone(),
                overlay: own_link.map(|link| own_overlay(link, &local_prefixes)).unwrap_or_default(),
                prefixes: local_prefixes,
                scope: self.scope,
            },
            routes: Arc::new(owners),
            peers: Arc::new(peers),
            claimants,
        }
    }

    fn is_peer(&self, node: &NodeId) -> bool {
        match self.scope {
            Scope::Fleet => node.cluster != self.node.cluster,
            Scope::Cluster | Scope::Node => *node != self.node,
        }
    }

    /// The prefixes of all clusters, also of those whose grant is over, and the service addresses of the own one; without those
    /// whose connection is the CNI's: the own cluster's, or the own node's. What lies inside another guarded prefix is left
    /// out; an excepted prefix inside a guarded one is cut out of it.
    fn guarded(&self, state: &State, local: &BTreeSet<Prefix>) -> BTreeSet<Prefix> {
        let own_grant = state.facts().grants.get(&self.node.cluster);
        let services = own_grant.into_iter().flat_map(|grant| grant.service_prefixes.iter().copied());
        let all = state.cluster_prefixes().flat_map(|(_, prefixes)| prefixes.iter().copied()).chain(services);
        let own = state.cluster_prefixes().filter(|(cluster, _)| **cluster == self.node.cluster);
        let except: Vec<Prefix> = match self.scope {
            Scope::Fleet => own.flat_map(|(_, prefixes)| prefixes.iter().copied()).collect(),
            Scope::Cluster => local.iter().copied().collect(),
            Scope::Node => Vec::new(),
        };
        let mut guarded = BTreeSet::new();
        all.for_each(|prefix| without(prefix, &except, &mut guarded));
        // In their order a prefix comes right before what it covers.
        let mut last = None;
        guarded.retain(|prefix| {
            let covered = last.is_some_and(|last: Prefix| last.covers(*prefix));
            last = if covered { last } else { Some(*prefix) };
            !covered
        });
        guarded
    }
}

/// Puts the parts of `prefix` that lie outside all of `except` into `out`.
fn without(prefix: Prefix, except: &[Prefix], out: &mut BTreeSet<Prefix>) {
    let inside: Vec<Prefix> = except.iter().copied().filter(|e| e.overlaps(prefix)).collect();
    if inside.is_empty() {
        out.insert(prefix);
    } else if !inside.iter().any(|e| e.covers(prefix)) {
        let (low, high) = halves(prefix).expect("a prefix that strictly holds another has two halves");
        without(low, &inside, out);
        without(high, &inside, out);
    }
}

fn halves(prefix: Prefix) -> Option<(Prefix, Prefix)> {
    let len = prefix.len() + 1;
    let low = Prefix::new(prefix.address(), len)?;
    Some((low, Prefix::new(prefix.last_address(), len)?))
}

impl Overlay {
    /// Tells whether the overlay follows from the fact, as it was or as it is.
    fn follows(&self, state: &State, key: &Key) -> bool {
        match key {
            Key::Grant(_) | Key::Node(_) | Key::NodeLink(_) => true,
            Key::Workload(id) => {
                let workload = state.facts().workloads.get(id);
                self.claimants.contains(id) || workload.is_some_and(|workload| claimed_by(state, workload).is_some())
            }
            _ => false,
        }
    }
}

/// Returns the node that speaks for the addresses of a workload because it has no prefixes.
fn claimed_by(state: &State, workload: &Workload) -> Option<NodeId> {
    let name = workload.node.clone().filter(|_| !workload.host_network)?;
    let id = NodeId { cluster: workload.id.cluster.clone(), name };
    state.facts().nodes.get(&id).is_none_or(|node| node.prefixes.is_empty()).then_some(id)
}

/// Every prefix that a node speaks for, inside its cluster's grant, with the first claimant; and the workloads that had a part
/// in it.
///
/// The prefixes of nodes come first, then the addresses of workloads, then the overlay addresses: those are a node's own word,
/// by which it must not get what is another's.
fn owners(state: &State) -> (BTreeMap<Prefix, NodeId>, BTreeSet<WorkloadId>) {
    let facts = state.facts();
    let mut owners = BTreeMap::new();
    let mut declared = PrefixMap::new();
    for node in facts.nodes.values() {
        for prefix in node.prefixes.iter().copied().filter(|prefix| is_granted(state, &node.id, *prefix)) {
            owners.entry(prefix).or_insert_with(|| node.id.clone());
            declared.insert(prefix, ());
        }
    }
    let may_claim =
        |node: &NodeId, address: IpAddr| declared.lookup(address).is_none() && is_granted(state, node, Prefix::host(address));
    let mut claimants = BTreeSet::new();
    for workload in facts.workloads.values() {
        let Some(id) = claimed_by(state, workload) else { continue };
        claimants.insert(workload.id.clone());
        for address in workload.addresses.iter().copied().filter(|address| may_claim(&id, *address)) {
            let owner = owners.entry(Prefix::host(address)).or_insert_with(|| id.clone());
            if id < *owner {
                owner.clone_from(&id);
            }
        }
    }
    for link in facts.links.values() {
        for address in link.overlay.iter().copied().filter(|address| may_claim(&link.id, *address)) {
            owners.entry(Prefix::host(address)).or_insert_with(|| link.id.clone());
        }
    }
    (owners, claimants)
}

fn is_granted(state: &State, node: &NodeId, prefix: Prefix) -> bool {
    match state.facts().grants.get(&node.cluster) {
        Some(grant) => grant.covers(prefix),
        None => matches!(state.config().trust, Trust::Open),
    }
}

fn own_overlay(link: &NodeLink, local: &BTreeSet<Prefix>) -> Vec<IpAddr> {
    link.overlay.iter().copied().filter(|address| local.iter().any(|prefix| prefix.contains(*address))).collect()
}

fn shares_key(a: &NodeLink, b: &NodeLink) -> bool {
    let keys = |link: &NodeLink| [Some(link.key), link.next_key];
    keys(a).into_iter().flatten().any(|key| keys(b).contains(&Some(key)))
}

fn peer(link: &NodeLink) -> Peer {
    Peer { keys: PeerKeys { current: link.key, next: link.next_key }, endpoints: link.endpoints.clone() }
}

#[cfg(test)]
mod tests;
