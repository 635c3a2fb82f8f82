//! Which signed records can matter to a node: an agent subscribes to these, and to nothing else of its fleet.
//!
//! ```text
//!   own workloads, namespaces, exports, policies ─> demand ─┐
//!   grant of a cluster ─────────────────────────────────────┼─> topics of that cluster ─> subscription
//!   its exports and namespaces, as far as they are known ───┘                                  │
//!              ^                                                                               │
//!              └──────────────── records that it asks for <────────────────────────────────────┘
//! ```
//!
//! Grants, revocations and fleet policies always matter, and so does the own cluster. Of another cluster matter
//!
//! 1. the exports in namespaces that exist in the own cluster and that its grant lets it speak for (namespace sameness), and,
//!    where the own cluster exports something in such a namespace, whether it exists there;
//! 2. its nodes, namespaces and lease, and the slices of such a namespace, once one of the two clusters exports something in
//!    it and it exists in the other;
//! 3. its nodes, namespaces and lease, where a policy that selects a workload of this node allows a peer that can be there; and
//!    the slices of the namespaces that the peer names: by name, by labels (for which its namespaces are asked for first), or
//!    all of them where it names the cluster.
//!
//! What a policy allows without naming anybody (an empty list of peers, `{}`, `ipBlock`), and clients of other namespaces that
//! an export lets in, have no slices subscribed: their identity is pulled from their node when their first packet comes, which
//! takes the nodes of 2 and 3 to know where to ask, and the namespaces to judge the answer.
//!
//! So a narrower subscription denies what a wide one denies, allows what that allows, and takes for pending what it has to pull
//! first. One thing it does not reach: the nodes themselves of a cluster of which nothing else matters.

use std::collections::{BTreeMap, BTreeSet};

use self::demand::Demand;
use crate::{Change, ClusterName, Key, NamespaceName, NodeId, ObjectName, RecordKey, State, Trust, WorkloadId};

mod cluster;
mod demand;

/// A part of the fleet's records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// All records of all clusters.
    Fleet,
    /// All records of a cluster.
    Cluster(ClusterName),
    /// A cluster's nodes, namespaces and lease.
    Members(ClusterName),
    /// A cluster's namespaces.
    Namespaces(ClusterName),
    /// One namespace of a cluster.
    Namespace(ClusterName, NamespaceName),
    /// A cluster's exports in a namespace.
    Exports(ClusterName, NamespaceName),
    /// A cluster's workloads.
    AllSlices(ClusterName),
    /// A cluster's workloads in a namespace.
    Slices(ClusterName, NamespaceName),
    /// A cluster's workloads in a namespace on a node, as pulled for a first packet.
    Slice(ClusterName, NamespaceName, ObjectName),
}

/// What is subscribed to, beside the root's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics(BTreeSet<Topic>);

impl Topics {
    /// Returns the topics in order.
    pub fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.0.iter()
    }

    /// Tells whether a record of `cluster` belongs to a topic.
    pub fn covers(&self, cluster: &ClusterName, key: &RecordKey) -> bool {
        let has = |topic: Topic| self.0.contains(&topic);
        let c = || cluster.clone();
        let by_kind = || match key {
            RecordKey::Node(_) | RecordKey::Lease => has(Topic::Members(c())),
            RecordKey::Namespace(name) => {
                has(Topic::Members(c())) || has(Topic::Namespaces(c())) || has(Topic::Namespace(c(), name.clone()))
            }
            RecordKey::Slice(namespace, node) => {
                has(Topic::AllSlices(c()))
                    || has(Topic::Slices(c(), namespace.clone()))
                    || has(Topic::Slice(c(), namespace.clone(), node.clone()))
            }
            RecordKey::Export(id) => has(Topic::Exports(c(), id.namespace.clone())),
            RecordKey::Import(_) => false,
        };
        has(Topic::Fleet) || has(Topic::Cluster(c())) || by_kind()
    }
}

impl FromIterator<Topic> for Topics {
    fn from_iter<I: IntoIterator<Item = Topic>>(topics: I) -> Topics {
        Topics(topics.into_iter().collect())
    }
}

/// Keeps the topics of one node up to date, at the cost of what changed: nothing where workloads of other clusters do.
#[derive(Clone, Debug)]
pub struct Tracker {
    node: NodeId,
    /// The workloads on the node.
    local: BTreeSet<WorkloadId>,
    /// What the node and its cluster ask for; `None` before the first update.
    demand: Option<Demand>,
    clusters: BTreeMap<ClusterName, BTreeSet<Topic>>,
}

impl Tracker {
    /// Makes the tracker of a node that has not seen its state yet.
    pub fn new(node: NodeId) -> Tracker {
        Tracker { node, local: BTreeSet::new(), demand: None, clusters: BTreeMap::new() }
    }

    /// Returns the topics.
    pub fn topics(&self) -> Topics {
        self.clusters.values().flatten().cloned().collect()
    }

    /// Brings the topics up to date with `state`, of which `change` says what is different since the last time; the first time
    /// everything is read. Tells whether they are others now.
    pub fn update(&mut self, state: &State, change: &Change) -> bool {
        let own = self.node.cluster.clone();
        let mut asks = self.demand.is_none();
        let mut due = BTreeSet::new();
        if asks {
            let on_node = state.facts().workloads.keys().filter(|id| self.is_here(state, id));
            self.local = on_node.cloned().collect();
        }
        for key in &change.dirty {
            match key {
                Key::Workload(id) if id.cluster == own => {
                    if self.is_here(state, id) {
                        self.local.insert(id.clone());
                    } else {
                        self.local.remove(id);
                    }
                    asks = true;
                }
                Key::NetworkPolicy(..) | Key::ClusterNetworkPolicy(..) | Key::Domain(_) => asks = true,
                Key::Grant(cluster) | Key::Namespace(cluster, _) | Key::Export(cluster, _) if *cluster != own => {
                    due.insert(cluster.clone());
                }
                key => asks |= key.cluster() == Some(&own),
            }
        }
        if asks {
            let demand = Demand::new(state, &own, &self.local);
            if self.demand.as_ref() != Some(&demand) {
                self.demand = Some(demand);
                due = state.facts().grants.keys().chain(self.clusters.keys()).cloned().collect();
                due.insert(own.clone());
            }
        }
        let Some(demand) = &self.demand else { return false };
        let mut changed = false;
        for cluster in due {
            let topics = if cluster == own { own_topics(state, &own, demand) } else { cluster::topics(state, demand, &cluster) };
            let before = self.clusters.get(&cluster);
            changed |= before.map_or(!topics.is_empty(), |before| *before != topics);
            if topics.is_empty() {
                self.clusters.remove(&cluster);
            } else {
                self.clusters.insert(cluster, topics);
            }
        }
        changed
    }

    fn is_here(&self, state: &State, id: &WorkloadId) -> bool {
        let workload = state.facts().workloads.get(id).filter(|workload| !workload.host_network);
        id.cluster == self.node.cluster && workload.is_some_and(|workload| workload.node.as_ref() == Some(&self.node.name))
    }
}

/// Returns the topics of `node`, as a [`Tracker`] has them that was told every change.
pub fn derive(state: &State, node: &NodeId) -> Topics {
    let mut tracker = Tracker::new(node.clone());
    tracker.update(state, &Change::default());
    tracker.topics()
}

/// Where everybody may talk to everybody, or nothing is signed, everything matters.
fn own_topics(state: &State, own: &ClusterName, demand: &Demand) -> BTreeSet<Topic> {
    let all = demand.everybody || !matches!(state.config().trust, Trust::Signed { .. });
    BTreeSet::from([if all { Topic::Fleet } else { Topic::Cluster(own.clone()) }])
}
