//! The topics of one other cluster.

use std::collections::BTreeSet;

use super::Topic;
use super::demand::{Demand, Wanted};
use crate::labels::{CLUSTER_LABEL, NAMESPACE_NAME_LABEL, RESERVED_PREFIX, SERVICE_ACCOUNT_LABEL};
use crate::policy::WorkloadMatch;
use crate::{ClusterName, Grant, Labels, NamespaceName, Requirement, Selector, State};

/// Returns what of `cluster` can matter, as far as it is known now: what it asks for may make more of it matter.
pub(super) fn topics(state: &State, demand: &Demand, cluster: &ClusterName) -> BTreeSet<Topic> {
    let mut found = Found { state, cluster, topics: BTreeSet::new(), members: false };
    let Some(grant) = state.facts().grants.get(cluster).filter(|_| !demand.everybody) else { return found.topics };
    found.sameness(grant, demand);
    let labels: Labels = state.cluster_labels(cluster).collect();
    demand.peers.iter().for_each(|wanted| found.wanted(grant, &labels, wanted));
    if found.members {
        // Nobody is believed before the labels of its namespace are known: `NotIn` would hold for what is not.
        found.topics.insert(Topic::Members(cluster.clone()));
    }
    found.topics
}

struct Found<'a> {
    state: &'a State,
    cluster: &'a ClusterName,
    topics: BTreeSet<Topic>,
    members: bool,
}

impl Found<'_> {
    /// What follows from namespaces that are the same in both clusters.
    fn sameness(&mut self, grant: &Grant, demand: &Demand) {
        for namespace in demand.namespaces.iter().filter(|namespace| grant.speaks_for(namespace)) {
            let may_export = grant.exports.iter().any(|pattern| pattern.namespace.matches(namespace.as_str()));
            if may_export {
                self.topics.insert(Topic::Exports(self.cluster.clone(), namespace.clone()));
            }
            let exports_here = demand.exporting.contains(namespace);
            if exports_here {
                self.topics.insert(Topic::Namespace(self.cluster.clone(), namespace.clone()));
            }
            if self.state.has_export(self.cluster, namespace) || (exports_here && self.exists(namespace)) {
                self.slices(namespace.clone());
            }
        }
    }

    fn wanted(&mut self, grant: &Grant, labels: &Labels, wanted: &Wanted) {
        let may_run = |pods: &Option<Selector>| {
            // The service account is the workload's own.
            pods.as_ref().is_none_or(|pods| holds_in(pods, labels, |key| key != SERVICE_ACCOUNT_LABEL))
        };
        match wanted {
            Wanted::Anybody => self.members = true,
            Wanted::Named(namespace, pods) if grant.speaks_for(namespace) && may_run(pods) => self.slices(namespace.clone()),
            Wanted::Selected(WorkloadMatch { namespaces, pods }) if holds_in(namespaces, labels, |_| true) && may_run(pods) => {
                self.selected(grant, namespaces);
            }
            Wanted::Nodes(selector) => self.members |= holds_in(selector, labels, |_| true),
            Wanted::Network(prefix, except) => {
                let inside = |granted: &&crate::Prefix| granted.overlaps(*prefix) && !except.iter().any(|e| e.covers(**granted));
                self.members |= grant.prefixes.iter().any(|granted| inside(&granted));
            }
            Wanted::Named(..) | Wanted::Selected(_) => {}
        }
    }

    /// Namespaces by a selector that the cluster as such does not contradict.
    fn selected(&mut self, grant: &Grant, selector: &Selector) {
        let own: Vec<&Requirement> = selector.requirements.iter().filter(|each| !is_reserved(key_of(each))).collect();
        if own.is_empty() {
            self.members = true;
            let names_cluster = |each: &Requirement| matches!(each, Requirement::In(key, _) if **key == *CLUSTER_LABEL);
            if selector.requirements.iter().any(names_cluster) {
                self.topics.insert(Topic::AllSlices(self.cluster.clone()));
            }
            return;
        }
        let names = own.iter().find_map(|each| match each {
            Requirement::In(key, names) if **key == *NAMESPACE_NAME_LABEL => Some(names),
            _ => None,
        });
        if let Some(names) = names.filter(|_| own.iter().all(|each| key_of(each) == NAMESPACE_NAME_LABEL)) {
            for name in names.iter().filter_map(|name| NamespaceName::new(name).ok()) {
                let get = |key: &str| (key == NAMESPACE_NAME_LABEL).then_some(name.as_str());
                if grant.speaks_for(&name) && own.iter().all(|each| each.matches_by(get)) {
                    self.slices(name.clone());
                }
            }
            return;
        }
        self.topics.insert(Topic::Namespaces(self.cluster.clone()));
        // What only excludes names nobody.
        let names_some = own.iter().any(|each| {
            matches!(each, Requirement::In(..) | Requirement::Exists(_))
                && !matches!(each, Requirement::Exists(key) if **key == *NAMESPACE_NAME_LABEL)
        });
        let known: Vec<NamespaceName> = self.state.namespaces(self.cluster).filter(|name| self.exists(name)).cloned().collect();
        for name in known {
            if selector.matches(&self.state.namespace_labels(self.cluster, &name)) {
                self.members = true;
                if names_some {
                    self.slices(name);
                }
            }
        }
    }

    fn slices(&mut self, namespace: NamespaceName) {
        self.members = true;
        self.topics.insert(Topic::Slices(self.cluster.clone(), namespace));
    }

    /// Tells whether the cluster says that it has the namespace. What is in it does not count: it may have been pulled.
    fn exists(&self, namespace: &NamespaceName) -> bool {
        self.state.facts().namespaces.contains_key(&(self.cluster.clone(), namespace.clone()))
    }
}

/// Tells whether something in a cluster with these `labels` can match: the reserved keys are the cluster's to have, and as they
/// are for everything in it, as far as they are `known`.
fn holds_in(selector: &Selector, labels: &Labels, known: impl Fn(&str) -> bool) -> bool {
    let judged = |each: &&Requirement| is_reserved(key_of(each)) && known(key_of(each));
    selector.requirements.iter().filter(judged).all(|each| each.matches(labels))
}

fn is_reserved(key: &str) -> bool {
    key.starts_with(RESERVED_PREFIX)
}

fn key_of(requirement: &Requirement) -> &str {
    match requirement {
        Requirement::In(key, _) | Requirement::NotIn(key, _) | Requirement::Exists(key) | Requirement::DoesNotExist(key) => key,
    }
}
