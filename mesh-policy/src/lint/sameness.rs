//! Namespace sameness that no grant allows.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::labels::{CLUSTER_LABEL, NAMESPACE_NAME_LABEL};
use mesh_core::policy::{ClusterPeer, NetworkPolicyPeer, PolicyScope};
use mesh_core::{ClusterName, Direction, Key, NamespaceName, RefusalReason, Requirement, Selector, Trust};

use super::pods::Pods;
use super::{At, Code, Report, cluster_key, network_key, peer_path};

pub(super) fn look(pods: &Pods<'_>, report: &mut Report<'_>) {
    if matches!(pods.state.config().trust, Trust::Open) {
        return;
    }
    look_at_refused(pods, report);
    look_at_policies(pods, report);
}

/// What of one namespace of one cluster is refused.
#[derive(Default)]
struct Refused {
    objects: Vec<Key>,
    pods: usize,
}

fn look_at_refused(pods: &Pods<'_>, report: &mut Report<'_>) {
    let mut namespaces: BTreeMap<(&ClusterName, &NamespaceName), Refused> = BTreeMap::new();
    let mut clusters: BTreeMap<&ClusterName, Refused> = BTreeMap::new();
    for (key, refusal) in pods.state.refused() {
        let (cluster, namespace) = match key {
            Key::Namespace(cluster, name) => (cluster, Some(name)),
            Key::Workload(id) => (&id.cluster, Some(&id.namespace)),
            Key::ServiceExport(cluster, id) => (cluster, Some(&id.namespace)),
            _ => match key.cluster() {
                Some(cluster) => (cluster, None),
                None => continue,
            },
        };
        let refused = match (refusal.reason, namespace) {
            (RefusalReason::OutsideNamespaces, Some(namespace)) => namespaces.entry((cluster, namespace)).or_default(),
            (RefusalReason::NoGrant, _) => clusters.entry(cluster).or_default(),
            _ => continue,
        };
        refused.pods += usize::from(matches!(key, Key::Workload(_)));
        refused.objects.push(key.clone());
    }
    for ((cluster, namespace), refused) in namespaces {
        let others = elsewhere(pods, cluster, namespace);
        let same = if others.is_empty() { String::new() } else { format!(" (it is the namespace {namespace} of {others} only)") };
        let message = format!(
            "namespace {namespace} is not in the grant of cluster {cluster}{same}: {} refused, and denied both ways as \
             identity-pending",
            count(refused.pods)
        );
        let way_out = format!("add {namespace} to clusters.{cluster}.namespaces in fleet.yaml, or use another namespace");
        report.add(Code::NamespaceNotGranted, &(first(refused.objects), String::new()), message, way_out);
    }
    for (cluster, refused) in clusters {
        let message =
            format!("cluster {cluster} has no grant: everything of it is not believed, {} refused", count(refused.pods));
        let way_out = format!("add {cluster} to clusters in fleet.yaml, with its prefixes and namespaces");
        report.add(Code::ClusterNotGranted, &(first(refused.objects), String::new()), message, way_out);
    }
}

fn count(pods: usize) -> String {
    match pods {
        0 => "no pod is".into(),
        1 => "one pod is".into(),
        pods => format!("{pods} pods are"),
    }
}

/// Returns the Namespace where it is there, else the first object.
fn first(objects: Vec<Key>) -> Key {
    objects.into_iter().min_by_key(|key| (!matches!(key, Key::Namespace(..)), key.clone())).expect("something is refused")
}

/// Returns the other clusters that have the namespace.
fn elsewhere(pods: &Pods<'_>, cluster: &ClusterName, namespace: &NamespaceName) -> String {
    let grants = pods.state.facts().grants.keys();
    let others = grants.filter(|other| *other != cluster && pods.state.namespace_exists(other, namespace));
    others.map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

fn look_at_policies(pods: &Pods<'_>, report: &mut Report<'_>) {
    let facts = pods.state.facts();
    for policy in facts.network_policies.values() {
        let key = network_key(policy);
        if let PolicyScope::Cluster(cluster) = &policy.scope
            && !speaks(pods, cluster, policy.namespace.as_str())
        {
            let namespace = &policy.namespace;
            let message = format!("it selects nobody: namespace {namespace} is not in the grant of cluster {cluster}");
            let way_out = format!("add {namespace} to clusters.{cluster}.namespaces in fleet.yaml, or delete the policy");
            report.add(Code::NamespaceNotGranted, &(key.clone(), String::new()), message, way_out);
        }
        for (direction, rules) in [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)] {
            for (index, rule) in rules.iter().flatten().enumerate() {
                for (nth, peer) in rule.peers.iter().enumerate() {
                    let NetworkPolicyPeer::Workloads { namespaces, pods: selected } = peer else { continue };
                    let own = Selector {
                        requirements: vec![Requirement::In(NAMESPACE_NAME_LABEL.into(), vec![policy.namespace.as_str().into()])],
                    };
                    let at = (key.clone(), peer_path(direction, index, nth));
                    look_at_peer(pods, namespaces.as_ref().unwrap_or(&own), selected.as_ref(), &at, report);
                }
            }
        }
    }
    for policy in facts.cluster_policies.values() {
        for (direction, rules) in [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)] {
            for (index, rule) in rules.iter().enumerate() {
                for (nth, peer) in rule.peers.iter().enumerate() {
                    let ClusterPeer::Workloads(who) = peer else { continue };
                    let at = (cluster_key(policy), peer_path(direction, index, nth));
                    look_at_peer(pods, &who.namespaces, who.pods.as_ref(), &at, report);
                }
            }
        }
    }
}

/// Looks whether a peer that names its namespace means one that some cluster is granted, of those that it names.
fn look_at_peer(pods: &Pods<'_>, namespaces: &Selector, selected: Option<&Selector>, at: &At, report: &mut Report<'_>) {
    let named = |selector: &Selector, label: &str| {
        let values = selector.requirements.iter().filter_map(|requirement| match requirement {
            Requirement::In(key, values) if **key == *label => Some(values.iter().map(ToString::to_string).collect()),
            _ => None,
        });
        values.reduce(|a: BTreeSet<String>, b| a.intersection(&b).cloned().collect())
    };
    let Some(wanted) = named(namespaces, NAMESPACE_NAME_LABEL) else { return };
    let pinned = [Some(namespaces), selected].into_iter().flatten().find_map(|selector| named(selector, CLUSTER_LABEL));
    for namespace in &wanted {
        let Some(clusters) = &pinned else {
            if !pods.state.facts().grants.keys().any(|cluster| speaks(pods, cluster, namespace)) {
                let message = format!("it names namespace {namespace}, which no cluster's grant holds: nobody can ever match");
                report.add(
                    Code::PeerNotGranted,
                    at,
                    message,
                    format!("grant {namespace} to a cluster in fleet.yaml, or correct the name"),
                );
            }
            continue;
        };
        for name in clusters {
            let Ok(cluster) = ClusterName::new(name) else { continue };
            let why = match pods.state.facts().grants.contains_key(&cluster) {
                false => "which has no grant",
                true if !speaks(pods, &cluster, namespace) => "whose grant does not hold it",
                true => continue,
            };
            let message = format!("it names namespace {namespace} of cluster {cluster}, {why}: nobody there can ever match");
            let way_out = format!("add {namespace} to clusters.{cluster}.namespaces in fleet.yaml, or correct the peer");
            report.add(Code::PeerNotGranted, at, message, way_out);
        }
    }
}

fn speaks(pods: &Pods<'_>, cluster: &ClusterName, namespace: &str) -> bool {
    let grant = pods.state.facts().grants.get(cluster);
    grant.is_some_and(|grant| grant.namespaces.iter().any(|pattern| pattern.matches(namespace)))
}
