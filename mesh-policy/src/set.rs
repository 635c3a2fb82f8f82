//! The compiled policy: both ends of a connection looked up once, then a verdict for each side.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use mesh_core::{Direction, FiveTuple, IdentityName, Located, NodeId, RuleId, RuleName, State, Verdict, WorkloadId};

/// A workload of one [`PolicySet`]; it means nothing to another set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadHandle(pub u32);

/// A node of one [`PolicySet`]; it means nothing to another set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeHandle(pub u32);

/// What a set knows of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// A workload with an identity.
    Workload(WorkloadHandle),
    /// A node's own address (also a host-network pod's).
    Node(NodeHandle),
    /// Inside a fleet prefix, identity not known (yet) or not granted.
    Pending,
    /// Outside the fleet.
    External,
}

/// A connection with both its ends looked up in one [`PolicySet`]; it means nothing to another set.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    tuple: FiveTuple,
    source: End,
    destination: End,
}

impl Flow {
    /// Returns who opened it.
    pub fn source(&self) -> End {
        self.source
    }

    /// Returns to whom it was opened.
    pub fn destination(&self) -> End {
        self.destination
    }

    /// Returns its addresses and ports.
    pub fn tuple(&self) -> &FiveTuple {
        &self.tuple
    }
}

/// What a set knows of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkloadInfo<'a> {
    /// The workload.
    pub id: &'a WorkloadId,
    /// The name of its identity.
    pub identity: IdentityName,
    /// The node it runs on, once scheduled.
    pub node: Option<&'a NodeId>,
}

/// All policies of the fleet that can matter here, compiled: immutable, shared behind an `Arc`.
#[derive(Clone, Debug)]
pub struct PolicySet {
    state: Arc<State>,
    rules: Vec<RuleName>,
    ids: HashMap<RuleName, RuleId>,
    workloads: Vec<(WorkloadId, IdentityName, Option<NodeId>)>,
    nodes: Vec<NodeId>,
}

impl PolicySet {
    pub(crate) fn compile(state: &State) -> PolicySet {
        let facts = state.facts();
        let mut rules = Vec::new();
        let clusters: std::collections::BTreeSet<_> = facts.workloads.keys().map(|id| &id.cluster).collect();
        for cluster in clusters {
            let mut add = |scope: &mesh_core::policy::PolicyScope, namespace: Option<_>, name: &_, direction, len: usize| {
                for index in 0..len as u32 {
                    rules.push(RuleName {
                        cluster: cluster.clone(),
                        scope: scope.clone(),
                        namespace: namespace.clone(),
                        policy: std::clone::Clone::clone(name),
                        direction,
                        index,
                    });
                }
            };
            for p in facts.network_policies.values().filter(|p| p.scope.covers(cluster)) {
                add(&p.scope, Some(p.namespace.clone()), &p.name, Direction::Ingress, p.ingress.as_ref().map_or(0, Vec::len));
                add(&p.scope, Some(p.namespace.clone()), &p.name, Direction::Egress, p.egress.as_ref().map_or(0, Vec::len));
            }
            for p in facts.cluster_policies.values().filter(|p| p.scope.covers(cluster)) {
                add(&p.scope, None, &p.name, Direction::Ingress, p.ingress.len());
                add(&p.scope, None, &p.name, Direction::Egress, p.egress.len());
            }
        }
        let ids = rules.iter().enumerate().map(|(i, name)| (name.clone(), RuleId(i as u32))).collect();
        let workloads = facts.workloads.values().map(|w| {
            let node = w.node.clone().map(|name| NodeId { cluster: w.id.cluster.clone(), name });
            (w.id.clone(), state.identity(w).name(), node)
        });
        let workloads = workloads.collect();
        let nodes = facts.nodes.keys().chain(facts.links.keys()).cloned().collect();
        PolicySet { state: Arc::new(state.clone()), rules, ids, workloads, nodes }
    }

    /// Looks up both ends of `tuple`, the connection after service translation.
    pub fn flow(&self, tuple: &FiveTuple) -> Flow {
        Flow { tuple: *tuple, source: self.end(tuple.source), destination: self.end(tuple.destination) }
    }

    /// Decides one side of `flow`. Never allocates.
    pub fn decide(&self, flow: &Flow, direction: Direction) -> Verdict<RuleId> {
        crate::naive::decide(&self.state, &flow.tuple, direction).map(|name| self.ids[&name])
    }

    /// Replaces a rule's number by its name; `verdict` must be of this set.
    pub fn named(&self, verdict: Verdict<RuleId>) -> Verdict<RuleName> {
        verdict.map(|rule| self.rules[rule.0 as usize].clone())
    }

    /// Returns what is known of `address`.
    pub fn end(&self, address: IpAddr) -> End {
        match self.state.locate(address) {
            Located::Workload(workload) => {
                let at = self.workloads.iter().position(|(id, ..)| *id == workload.id).expect("every workload is listed");
                End::Workload(WorkloadHandle(at as u32))
            }
            Located::Node(node) => {
                let at = self.nodes.iter().position(|id| id == node).expect("every node is listed");
                End::Node(NodeHandle(at as u32))
            }
            Located::Pending => End::Pending,
            Located::External => End::External,
        }
    }

    /// Returns what is known of a workload end; `end` must be of this set.
    pub fn workload(&self, end: End) -> Option<WorkloadInfo<'_>> {
        let End::Workload(handle) = end else { return None };
        let (id, identity, node) = self.workloads.get(handle.0 as usize)?;
        Some(WorkloadInfo { id, identity: *identity, node: node.as_ref() })
    }

    /// Returns the node of a node end; `end` must be of this set.
    pub fn node(&self, end: End) -> Option<&NodeId> {
        let End::Node(handle) = end else { return None };
        self.nodes.get(handle.0 as usize)
    }

    /// Returns a hash of the content: equal sets have equal fingerprints.
    pub fn fingerprint(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hash = DefaultHasher::new();
        format!("{:?}", self.state.facts()).hash(&mut hash);
        hash.finish()
    }
}

impl Default for PolicySet {
    /// Makes the set of an empty state, in which nothing is policed.
    fn default() -> PolicySet {
        PolicySet::compile(&State::new(mesh_core::StateConfig {
            fleet: "".into(),
            trust: mesh_core::Trust::Open,
            settings: mesh_core::Settings::default(),
            domains: mesh_core::settings::DomainAddresses::default(),
        }))
    }
}
