//! The peers that rules name, each distinct one once, and which identities they are.

use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use mesh_core::labels::SERVICE_ACCOUNT_LABEL;
use mesh_core::{Labels, NamespaceName, Prefix, Requirement, Selector};

use crate::store::Interner;

/// A distinct peer of some rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    Workloads { namespace: Option<NamespaceName>, namespaces: Option<Selector>, pods: Option<Selector> },
    Networks { networks: Vec<Prefix>, except: Vec<Prefix> },
    Nodes(Selector),
    Domains(Vec<Arc<str>>),
}

impl Peer {
    /// Tells whether the peer is told by its address rather than by its identity.
    pub(crate) fn is_by_address(&self) -> bool {
        !matches!(self, Peer::Workloads { .. })
    }
}

/// The labels that decide which peers and subjects an identity is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who<'a> {
    pub(crate) namespace: &'a NamespaceName,
    pub(crate) namespace_labels: &'a Labels,
    /// The implicit labels of the cluster, which win over the workload's own.
    pub(crate) implicit: &'a Labels,
    pub(crate) service_account: &'a str,
    pub(crate) labels: &'a Labels,
}

impl Who<'_> {
    /// Returns the value of a label as selectors see it on the workload.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.implicit.get(key).or_else(|| match key {
            SERVICE_ACCOUNT_LABEL => Some(self.service_account),
            _ => self.labels.get(key),
        })
    }

    /// Tells whether selectors for namespaces and pods select the workload.
    pub(crate) fn is_selected(&self, namespaces: Option<&Selector>, pods: Option<&Selector>) -> bool {
        namespaces.is_none_or(|selector| selector.matches(self.namespace_labels))
            && pods.is_none_or(|selector| selector.matches_by(|key| self.label(key)))
    }

    pub(crate) fn is(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Workloads { namespace, namespaces, pods } => {
                namespace.as_ref().is_none_or(|namespace| namespace == self.namespace)
                    && self.is_selected(namespaces.as_ref(), pods.as_ref())
            }
            _ => false,
        }
    }
}

/// Where to look for a peer: what every identity that it matches has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pivot {
    namespace: Option<NamespaceName>,
    of_namespace: Option<(Arc<str>, Arc<str>)>,
    of_pod: Option<(Arc<str>, Arc<str>)>,
}

/// A [`Pivot`] to look up.
#[derive(Clone, Copy, Hash)]
struct PivotRef<'a> {
    namespace: Option<&'a NamespaceName>,
    of_namespace: Option<(&'a str, &'a str)>,
    of_pod: Option<(&'a str, &'a str)>,
}

impl Equivalent<Pivot> for PivotRef<'_> {
    fn equivalent(&self, pivot: &Pivot) -> bool {
        fn text(label: &Option<(Arc<str>, Arc<str>)>) -> Option<(&str, &str)> {
            label.as_ref().map(|(key, value)| (key.as_ref(), value.as_ref()))
        }
        self.namespace == pivot.namespace.as_ref()
            && self.of_pod == text(&pivot.of_pod)
            && self.of_namespace == text(&pivot.of_namespace)
    }
}

/// Every distinct peer by its number, and the ones that are told by identity also by something that they ask for.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: Interner<Peer>,
    pivots: HashMap<Pivot, Vec<u32>>,
}

impl Peers {
    /// Returns the number of a peer, and whether it is new.
    pub(crate) fn intern(&mut self, peer: Peer) -> (u32, bool) {
        let (number, new) = self.peers.intern(peer);
        if new {
            for pivot in pivots(self.peers.get(number)) {
                self.pivots.entry(pivot).or_default().push(number);
            }
        }
        (number, new)
    }

    pub(crate) fn retain(&mut self, number: u32) {
        self.peers.retain(number);
    }

    pub(crate) fn release(&mut self, number: u32) {
        self.peers.release(number);
    }

    /// Forgets the peers that no rule names any more; returns them, sorted.
    pub(crate) fn collect(&mut self) -> Vec<(u32, Peer)> {
        let mut gone = self.peers.collect(0);
        for (number, peer) in &gone {
            for pivot in pivots(peer) {
                let Some(list) = self.pivots.get_mut(&pivot) else { continue };
                list.retain(|known| known != number);
                if list.is_empty() {
                    self.pivots.remove(&pivot);
                }
            }
        }
        gone.sort_unstable_by_key(|(number, _)| *number);
        gone
    }

    pub(crate) fn get(&self, number: u32) -> &Peer {
        self.peers.get(number)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Peer)> {
        self.peers.iter()
    }

    /// Returns the peers that `who` is, in ascending order.
    pub(crate) fn matching(&self, who: &Who<'_>) -> Vec<u32> {
        let mut matching = Vec::new();
        let account = [(SERVICE_ACCOUNT_LABEL, who.service_account)];
        let labels = who.implicit.iter().chain(account).chain(who.labels.iter()).map(Some);
        let of_pod: Vec<Option<(&str, &str)>> = [None].into_iter().chain(labels).collect();
        let mut look = |namespace: Option<&NamespaceName>, of_namespace: Option<(&str, &str)>| {
            for of_pod in of_pod.iter().copied() {
                let candidates = self.pivots.get(&PivotRef { namespace, of_namespace, of_pod }).into_iter().flatten();
                matching.extend(candidates.copied().filter(|number| who.is(self.peers.get(*number))));
            }
        };
        look(Some(who.namespace), None);
        look(None, None);
        who.namespace_labels.iter().for_each(|label| look(None, Some(label)));
        matching.sort_unstable();
        matching.dedup();
        matching
    }
}

/// Returns the pivots under one of which a matching identity finds the peer: the values of an `In` requirement for the labels of
/// the namespace, and of one for its own.
fn pivots(peer: &Peer) -> Vec<Pivot> {
    let Peer::Workloads { namespace, namespaces, pods } = peer else { return Vec::new() };
    let wanted = |selector: &Option<Selector>| -> Vec<Option<(Arc<str>, Arc<str>)>> {
        let requirements = selector.iter().flat_map(|selector| &selector.requirements);
        let one = requirements.filter_map(|requirement| match requirement {
            Requirement::In(key, values) => Some(values.iter().map(|value| Some((key.clone(), value.clone()))).collect()),
            _ => None,
        });
        one.min_by_key(Vec::len).unwrap_or_else(|| vec![None])
    };
    let (of_namespace, of_pod) = (wanted(namespaces), wanted(pods));
    let pairs = of_namespace.iter().flat_map(|of_namespace| of_pod.iter().map(move |of_pod| (of_namespace, of_pod)));
    pairs
        .map(|(of_namespace, of_pod)| Pivot {
            namespace: namespace.clone(),
            of_namespace: of_namespace.clone(),
            of_pod: of_pod.clone(),
        })
        .collect()
}
