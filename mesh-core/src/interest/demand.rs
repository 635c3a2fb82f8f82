//! What a node and its cluster ask for, of whatever cluster.

use std::collections::BTreeSet;

use crate::policy::{ClusterPeer, ClusterRule, NetworkPolicyPeer, NetworkPolicyRule, RuleAction, WorkloadMatch};
use crate::{ClusterName, CrossClusterDefault, Labels, NamespaceName, Prefix, Selector, State, Workload, WorkloadId};

/// What has to be known of other clusters to decide what the workloads of a node may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    /// Clusters allow each other everything where no tier decides.
    pub(super) everybody: bool,
    /// The namespaces that exist in the own cluster.
    pub(super) namespaces: BTreeSet<NamespaceName>,
    /// Those of them in which it exports something.
    pub(super) exporting: BTreeSet<NamespaceName>,
    /// The peers that policies allow to the workloads of the node.
    pub(super) peers: BTreeSet<Wanted>,
}

/// A peer that a policy speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    Anybody,
    /// Workloads of a namespace, by name.
    Named(NamespaceName, Option<Selector>),
    Selected(WorkloadMatch),
    Nodes(Selector),
    /// What is inside the first prefix, and in none of the others.
    Network(Prefix, Vec<Prefix>),
}

/// A workload of the node, with the labels that selectors see.
struct Subject<'a> {
    workload: &'a Workload,
    labels: Labels,
    namespace: Labels,
}

impl Demand {
    /// Returns what `cluster` and the workloads of a node of it ask for.
    pub(super) fn new(state: &State, cluster: &ClusterName, local: &BTreeSet<WorkloadId>) -> Demand {
        let facts = state.facts();
        let subject = |id: &WorkloadId| {
            let workload = facts.workloads.get(id)?;
            let namespace = state.namespace_labels(cluster, &id.namespace);
            Some(Subject { workload, labels: state.workload_labels(workload), namespace })
        };
        let subjects: Vec<Subject<'_>> = local.iter().filter_map(subject).collect();
        let mut peers = BTreeSet::new();
        for policy in facts.network_policies.values().filter(|policy| policy.scope.covers(cluster)) {
            let selects = |subject: &Subject<'_>| {
                subject.workload.id.namespace == policy.namespace && policy.subject.matches(&subject.labels)
            };
            if subjects.iter().any(selects) {
                let rules = [&policy.ingress, &policy.egress].into_iter().flatten().flatten();
                rules.for_each(|rule| network_rule(state, rule, &policy.namespace, &mut peers));
            }
        }
        for policy in facts.cluster_policies.values().filter(|policy| policy.scope.covers(cluster)) {
            let WorkloadMatch { namespaces, pods } = &policy.subject;
            let selects = |subject: &Subject<'_>| {
                namespaces.matches(&subject.namespace) && pods.as_ref().is_none_or(|pods| pods.matches(&subject.labels))
            };
            if subjects.iter().any(selects) {
                policy.ingress.iter().chain(&policy.egress).for_each(|rule| cluster_rule(state, rule, &mut peers));
            }
        }
        let exports = facts.service_exports.keys().filter(|key| key.0 == *cluster);
        Demand {
            everybody: state.cross_cluster_default() == CrossClusterDefault::Allow,
            namespaces: state.namespaces(cluster).cloned().collect(),
            exporting: exports.map(|key| key.1.namespace.clone()).collect(),
            peers,
        }
    }
}

fn network_rule(state: &State, rule: &NetworkPolicyRule, own: &NamespaceName, peers: &mut BTreeSet<Wanted>) {
    if rule.peers.is_empty() {
        peers.insert(Wanted::Anybody);
    }
    for peer in &rule.peers {
        match peer {
            NetworkPolicyPeer::Workloads { namespaces: None, pods } => {
                peers.insert(Wanted::Named(own.clone(), pods.clone()));
            }
            NetworkPolicyPeer::Workloads { namespaces: Some(namespaces), pods } => {
                peers.insert(Wanted::Selected(WorkloadMatch { namespaces: namespaces.clone(), pods: pods.clone() }));
            }
            NetworkPolicyPeer::IpBlock { cidr, except } => peers.extend(network(state, *cidr, except)),
            NetworkPolicyPeer::Nothing => {}
        }
    }
}

/// What is denied needs no identity: without one it is denied. Only of nodes it has to be known which address is theirs.
fn cluster_rule(state: &State, rule: &ClusterRule, peers: &mut BTreeSet<Wanted>) {
    let accepts = rule.action == RuleAction::Accept && !rule.unknown;
    for peer in &rule.peers {
        match peer {
            ClusterPeer::Nodes(selector) => drop(peers.insert(Wanted::Nodes(selector.clone()))),
            _ if !accepts => {}
            ClusterPeer::Workloads(who) => drop(peers.insert(Wanted::Selected(who.clone()))),
            ClusterPeer::Networks(networks) => peers.extend(networks.iter().filter_map(|prefix| network(state, *prefix, &[]))),
            ClusterPeer::DomainNames(_) => {
                // Whatever the names are: the addresses that any name is known to have.
                let addresses = state.config().domains.values().flatten();
                peers.extend(addresses.map(|address| Wanted::Network(Prefix::host(*address), Vec::new())));
            }
        }
    }
}

/// Addresses that are workloads' match only where the setting says so.
fn network(state: &State, prefix: Prefix, except: &[Prefix]) -> Option<Wanted> {
    state.config().settings.ipblock_matches_pods.then(|| Wanted::Network(prefix, except.to_vec()))
}
