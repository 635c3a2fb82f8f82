//! The pods of today, one for all that no selector and no named port tells apart.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_core::policy::{ClusterNetworkPolicy, ClusterPeer, NetworkPolicy, NetworkPolicyPeer, WorkloadMatch};
use mesh_core::{ClusterName, Labels, NamedPort, NamespaceName, Selector, State, Workload};

/// Pods that selectors and named ports do not tell apart.
pub(super) struct Kind<'a> {
    /// The first of them, and the second where there is one: a pod is no peer of itself.
    pub(super) pods: (&'a Workload, Option<&'a Workload>),
    pub(super) labels: Labels,
    pub(super) namespace_labels: Labels,
}

/// The pods that selectors can match.
pub(super) struct Pods<'a> {
    pub(super) state: &'a State,
    pub(super) kinds: Vec<Kind<'a>>,
}

type Alike<'a> = (&'a ClusterName, &'a NamespaceName, &'a str, &'a Labels, &'a [NamedPort]);

impl<'a> Pods<'a> {
    pub(super) fn new(state: &'a State) -> Pods<'a> {
        let mut alike: BTreeMap<Alike<'a>, (&'a Workload, Option<&'a Workload>)> = BTreeMap::new();
        for pod in state.facts().workloads.values().filter(|pod| !pod.host_network) {
            let key = (&pod.id.cluster, &pod.id.namespace, pod.service_account.as_ref(), &pod.labels, pod.ports.as_slice());
            alike.entry(key).and_modify(|pods| pods.1 = pods.1.or(Some(pod))).or_insert((pod, None));
        }
        let kinds = alike.into_values().map(|pods| Kind {
            pods,
            labels: state.workload_labels(pods.0),
            namespace_labels: state.namespace_labels(&pods.0.id.cluster, &pods.0.id.namespace),
        });
        Pods { state, kinds: kinds.collect() }
    }

    /// Returns the kinds that are subjects of `policy`.
    pub(super) fn selected(&self, policy: &NetworkPolicy) -> impl Iterator<Item = &Kind<'a>> {
        self.kinds.iter().filter(move |kind| {
            let id = &kind.pods.0.id;
            policy.scope.covers(&id.cluster) && policy.namespace == id.namespace && policy.subject.matches(&kind.labels)
        })
    }

    /// Returns the kinds that are subjects of `policy`.
    pub(super) fn subjects(&self, policy: &ClusterNetworkPolicy) -> impl Iterator<Item = &Kind<'a>> {
        self.kinds.iter().filter(move |kind| policy.scope.covers(&kind.pods.0.id.cluster) && kind.is(&policy.subject))
    }
}

impl Kind<'_> {
    pub(super) fn is(&self, who: &WorkloadMatch) -> bool {
        who.namespaces.matches(&self.namespace_labels) && self.is_pod(who.pods.as_ref())
    }

    fn is_pod(&self, pods: Option<&Selector>) -> bool {
        pods.is_none_or(|pods| pods.matches(&self.labels))
    }

    /// Tells whether a peer's selectors match; a peer of addresses matches no pod by its labels.
    pub(super) fn is_peer(&self, policy: &NetworkPolicy, peer: &NetworkPolicyPeer) -> bool {
        let NetworkPolicyPeer::Workloads { namespaces, pods } = peer else { return false };
        let in_namespace = match namespaces {
            Some(namespaces) => namespaces.matches(&self.namespace_labels),
            None => self.pods.0.id.namespace == policy.namespace,
        };
        in_namespace && self.is_pod(pods.as_ref())
    }

    pub(super) fn is_cluster_peer(&self, peer: &ClusterPeer) -> bool {
        matches!(peer, ClusterPeer::Workloads(who) if self.is(who))
    }

    /// Returns an address of a pod, any where it has none: labels decide.
    pub(super) fn address(pod: &Workload) -> IpAddr {
        pod.addresses.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }
}
