//! From the fleet's state to the plan of one node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{NodeId, NodeLink, Prefix, State, Trust};
use mesh_policy::PolicySet;

use crate::plan::{Local, Peer, PeerKeys, Plan, Scope};

mod services;

/// Derives the plan of one node from the fleet's state.
#[derive(Clone, Debug)]
pub struct Planner {
    node: NodeId,
    scope: Scope,
}

impl Planner {
    /// Makes the planner of `node`.
    pub fn new(node: NodeId, scope: Scope) -> Planner {
        Planner { node, scope }
    }

    /// Returns the plan that `state` and `policy` call for.
    ///
    /// A node speaks for its `spec.podCIDRs`, else for the addresses of its workloads, and for its overlay addresses; only
    /// inside its cluster's grant. A prefix that two nodes claim belongs to the first by name, so that every node of the fleet
    /// decides alike. Peers are the nodes within [`Scope`] whose WireGuard key is known; one of the two ends needs an endpoint.
    pub fn plan(&self, state: &State, policy: &Arc<PolicySet>) -> Plan {
        let mut owners = owners(state);
        let links = &state.facts().links;
        let own_link = links.get(&self.node);
        let calls_out_only = own_link.is_none_or(|link| link.endpoints.is_empty());
        let reachable = |link: &NodeLink| !link.endpoints.is_empty() || !calls_out_only;
        let peers: BTreeMap<NodeId, Peer> =
            links.values().filter(|link| self.is_peer(&link.id) && reachable(link)).map(|l| (l.id.clone(), peer(l))).collect();
        let local_prefixes = owners.extract_if(.., |_, owner| *owner == self.node).map(|(prefix, _)| prefix).collect();
        owners.retain(|_, owner| peers.contains_key(owner));
        Plan {
            policy: policy.clone(),
            services: Arc::new(services::table(state, &self.node.cluster)),
            guarded: self.guarded(state, &local_prefixes),
            local: Local {
                node: self.node.clone(),
                overlay: own_link.map(|link| granted_overlay(state, link)).unwrap_or_default(),
                prefixes: local_prefixes,
                scope: self.scope,
            },
            routes: owners,
            peers,
        }
    }

    fn is_peer(&self, node: &NodeId) -> bool {
        match self.scope {
            Scope::Fleet => node.cluster != self.node.cluster,
            Scope::Cluster | Scope::Node => *node != self.node,
        }
    }

    /// All grants' prefixes, without those whose connection is the CNI's: the own cluster's, or the own node's. What lies
    /// inside another guarded prefix is left out; an excepted prefix inside a guarded one is cut out of it.
    fn guarded(&self, state: &State, local: &BTreeSet<Prefix>) -> BTreeSet<Prefix> {
        let grants = &state.facts().grants;
        let all = grants.values().flat_map(|grant| grant.prefixes.iter().copied());
        let except: Vec<Prefix> = match self.scope {
            Scope::Fleet => grants.get(&self.node.cluster).into_iter().flat_map(|g| g.prefixes.iter().copied()).collect(),
            Scope::Cluster => local.iter().copied().collect(),
            Scope::Node => Vec::new(),
        };
        let mut guarded = BTreeSet::new();
        all.for_each(|prefix| without(prefix, &except, &mut guarded));
        let covered = |p: &Prefix| guarded.iter().any(|other| other != p && other.covers(*p));
        guarded.iter().filter(|prefix| !covered(prefix)).copied().collect()
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

/// Every prefix that a node speaks for, inside its cluster's grant, with the first claimant.
fn owners(state: &State) -> BTreeMap<Prefix, NodeId> {
    let facts = state.facts();
    let mut claims: BTreeMap<NodeId, BTreeSet<Prefix>> = BTreeMap::new();
    for node in facts.nodes.values() {
        claims.entry(node.id.clone()).or_default().extend(&node.prefixes);
    }
    for workload in facts.workloads.values().filter(|workload| !workload.host_network) {
        let Some(name) = &workload.node else { continue };
        let id = NodeId { cluster: workload.id.cluster.clone(), name: name.clone() };
        if facts.nodes.get(&id).is_none_or(|node| node.prefixes.is_empty()) {
            claims.entry(id).or_default().extend(workload.addresses.iter().map(|address| Prefix::host(*address)));
        }
    }
    for link in facts.links.values() {
        let own = claims.entry(link.id.clone()).or_default();
        let outside = |address: &&IpAddr| !own.iter().any(|prefix| prefix.contains(**address));
        let overlay: Vec<Prefix> = link.overlay.iter().filter(outside).map(|address| Prefix::host(*address)).collect();
        own.extend(overlay);
    }
    let mut owners = BTreeMap::new();
    for (node, prefixes) in claims {
        for prefix in prefixes.into_iter().filter(|prefix| is_granted(state, &node, *prefix)) {
            owners.entry(prefix).or_insert_with(|| node.clone());
        }
    }
    owners
}

fn is_granted(state: &State, node: &NodeId, prefix: Prefix) -> bool {
    match state.facts().grants.get(&node.cluster) {
        Some(grant) => grant.covers(prefix),
        None => matches!(state.config().trust, Trust::Open),
    }
}

fn granted_overlay(state: &State, link: &NodeLink) -> Vec<IpAddr> {
    link.overlay.iter().copied().filter(|address| is_granted(state, &link.id, Prefix::host(*address))).collect()
}

fn peer(link: &NodeLink) -> Peer {
    Peer { keys: PeerKeys { current: link.key, next: link.next_key }, endpoints: link.endpoints.clone() }
}

#[cfg(test)]
mod tests;
