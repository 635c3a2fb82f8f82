//! The plan of one node: everything that its tunnel shall do, as a value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_core::{Locality, NodeId, Prefix, Protocol, SessionAffinity, Traffic, WireGuardKey};
use mesh_policy::PolicySet;

use crate::balancer::{Balancer, Candidate, Standing};
use crate::op::Op;
use crate::tunnel::Actual;

/// What one node's tunnel shall do. A plan is a value made of functions: equal facts give equal plans. What did not change is
/// shared with the plan before.
#[derive(Clone)]
pub struct Plan {
    /// The policy in force, one immutable set.
    pub policy: Arc<PolicySet>,
    /// Service addresses and the backends behind them.
    pub services: Arc<ServiceTable>,
    /// The other nodes that this one speaks with.
    pub peers: Arc<BTreeMap<NodeId, Peer>>,
    /// Where to send, and who may send from there: a prefix cannot have two owners.
    pub routes: Arc<BTreeMap<Prefix, NodeId>>,
    /// This node itself.
    pub local: Local,
    /// Prefixes that must never leave in the clear: what is inside and has no route is dropped.
    pub guarded: Arc<BTreeSet<Prefix>>,
}

/// Another node, as the tunnel reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its WireGuard keys.
    pub keys: PeerKeys,
    /// Where it listens on the underlay, in order of preference; empty for a node that only calls out.
    pub endpoints: Vec<SocketAddr>,
}

/// The WireGuard public keys of a peer: both are accepted, the current one is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerKeys {
    /// The key in use.
    pub current: WireGuardKey,
    /// The key that the peer will use next.
    pub next: Option<WireGuardKey>,
}

/// This node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// The node.
    pub node: NodeId,
    /// The prefixes whose addresses live here, the overlay addresses included.
    pub prefixes: BTreeSet<Prefix>,
    /// The node's own addresses inside the mesh, one for each family at most.
    pub overlay: Vec<IpAddr>,
    /// What the node polices.
    pub scope: Scope,
}

/// What a node polices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everything to and from other clusters: beside a CNI that connects the cluster itself.
    #[default]
    Fleet,
    /// Also this cluster's other nodes.
    Cluster,
    /// Also between the workloads of the node.
    Node,
}

/// Service addresses and the backends behind them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTable(pub BTreeMap<Frontend, Backends>);

/// A service address and port that clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The service's address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The service's port.
    pub port: u16,
}

/// The backends of a frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// Whether a client's connections stay together.
    pub affinity: SessionAffinity,
    /// Those that take new connections, in order, each once, of the frontend's family; none: connections are refused.
    pub ready: Vec<(IpAddr, u16)>,
    /// For each slot the index of its backend: a connection's slot is a hash of its client. Empty only where nobody is ready.
    pub slots: Arc<[u16]>,
    /// The others: they take no new connections, and keep those that they have.
    pub rest: Vec<(IpAddr, u16)>,
}

impl Backends {
    /// Makes backends that are all alike.
    pub fn alike(affinity: SessionAffinity, ready: &[(IpAddr, u16)]) -> Backends {
        let candidate = |(address, port): &(IpAddr, u16)| Candidate {
            address: *address,
            port: *port,
            locality: Locality::Anywhere,
            weight: Traffic::DEFAULT_WEIGHT,
            standing: Standing::Healthy,
        };
        let balance = Balancer::default().balance(&ready.iter().map(candidate).collect::<Vec<_>>());
        Backends { affinity, ready: balance.backends, slots: balance.slots.into(), rest: Vec::new() }
    }
}

impl Plan {
    /// Returns what a tunnel says of itself that has carried out this plan.
    pub fn programmed(&self) -> Actual {
        Actual {
            policy: Some(self.policy.fingerprint()),
            services: Some(self.services.clone()),
            peers: (*self.peers).clone(),
            routes: (*self.routes).clone(),
            local: Some(self.local.clone()),
            guarded: (*self.guarded).clone(),
        }
    }

    /// Returns the steps from `actual` to this plan: policy, then peers before routes on the way up and after them on the way
    /// down. What is guarded grows first and shrinks last, so that no step lets a packet out in the clear.
    pub fn diff(&self, actual: &Actual) -> Vec<Op> {
        let mut ops = Vec::new();
        if actual.policy != Some(self.policy.fingerprint()) {
            ops.push(Op::SetPolicy(self.policy.clone()));
        }
        let grows = !self.guarded.is_subset(&actual.guarded);
        let shrinks = !actual.guarded.is_subset(&self.guarded);
        if grows {
            ops.push(Op::SetGuarded(self.guarded.union(&actual.guarded).copied().collect()));
        }
        if actual.local.as_ref() != Some(&self.local) {
            ops.push(Op::SetLocal(self.local.clone()));
        }
        let peers = self.peers.iter().filter(|(node, peer)| actual.peers.get(node) != Some(peer));
        ops.extend(peers.map(|(node, peer)| Op::SetPeer(node.clone(), peer.clone())));
        let routes = self.routes.iter().filter(|(prefix, node)| actual.routes.get(prefix) != Some(node));
        ops.extend(routes.map(|(prefix, node)| Op::SetRoute(*prefix, node.clone())));
        // After the routes to new backends are there, and before those to old ones go.
        if actual.services.as_deref() != Some(&*self.services) {
            ops.push(Op::SetServices(self.services.clone()));
        }
        ops.extend(actual.routes.keys().filter(|prefix| !self.routes.contains_key(prefix)).copied().map(Op::DelRoute));
        ops.extend(actual.peers.keys().filter(|node| !self.peers.contains_key(node)).cloned().map(Op::DelPeer));
        if shrinks {
            ops.push(Op::SetGuarded((*self.guarded).clone()));
        }
        ops
    }
}

impl PartialEq for Plan {
    /// Compares the policies by their fingerprints.
    fn eq(&self, other: &Plan) -> bool {
        self.policy.fingerprint() == other.policy.fingerprint()
            && self.services == other.services
            && self.peers == other.peers
            && self.routes == other.routes
            && self.local == other.local
            && self.guarded == other.guarded
    }
}

impl Eq for Plan {}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("policy", &format_args!("{:016x}", self.policy.fingerprint()))
            .field("services", &self.services)
            .field("peers", &self.peers)
            .field("routes", &self.routes)
            .field("local", &self.local)
            .field("guarded", &self.guarded)
            .finish()
    }
}
