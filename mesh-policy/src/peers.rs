//! The peers that rules name, each distinct one once, and which identities they are.

use std::sync::Arc;

use hashbrown::HashMap;
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
            mesh_core::labels::SERVICE_ACCOUNT_LABEL => Some(self.service_account),
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
    has: Option<Has>,
}

/// A label that a peer asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Has {
    OfPod(Arc<str>, Arc<str>),
    OfNamespace(Arc<str>, Arc<str>),
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
        let mut look = |has: Option<Has>| {
            let mut pivot = Pivot { namespace: None, has };
            for namespace in [None, Some(who.namespace.clone())] {
                pivot.namespace = namespace;
                let candidates = self.pivots.get(&pivot).into_iter().flatten();
                matching.extend(candidates.copied().filter(|number| who.is(self.peers.get(*number))));
            }
        };
        look(None);
        let shared = |(key, value): (&str, &str)| (Arc::from(key), Arc::from(value));
        let account = [(mesh_core::labels::SERVICE_ACCOUNT_LABEL, who.service_account)];
        for (key, value) in who.implicit.iter().chain(account).chain(who.labels.iter()).map(shared) {
            look(Some(Has::OfPod(key, value)));
        }
        for (key, value) in who.namespace_labels.iter().map(shared) {
            look(Some(Has::OfNamespace(key, value)));
        }
        matching.sort_unstable();
        matching.dedup();
        matching
    }
}

/// Returns the pivots under one of which a matching identity finds the peer: the values of one `In` requirement.
fn pivots(peer: &Peer) -> Vec<Pivot> {
    let Peer::Workloads { namespace, namespaces, pods } = peer else { return Vec::new() };
    let wanted = |selector: &Option<Selector>| {
        selector.iter().flat_map(|selector| &selector.requirements).find_map(|requirement| match requirement {
            Requirement::In(key, values) => Some((key.clone(), values.clone())),
            _ => None,
        })
    };
    let has: Vec<Option<Has>> = if let Some((key, values)) = wanted(pods) {
        values.into_iter().map(|value| Some(Has::OfPod(key.clone(), value))).collect()
    } else if let Some((key, values)) = wanted(namespaces) {
        values.into_iter().map(|value| Some(Has::OfNamespace(key.clone(), value))).collect()
    } else {
        vec![None]
    };
    has.into_iter().map(|has| Pivot { namespace: namespace.clone(), has }).collect()
}
