//! The fleet's state: events in, changes out, and the views that everything else derives from.
//!
//! Every fact that a source offers is kept; the admitted ones are those inside their cluster's grant. The admitted facts are
//! a function of what the sources say now, whatever the order in which they said it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use self::addresses::Addresses;
use crate::labels::{self, RESERVED_PREFIX};
use crate::settings::{CrossClusterDefault, DomainAddresses, Settings};
use crate::{
    Change, ClusterName, Event, Identity, Key, Labels, NamespaceName, Node, NodeId, Now, Prefix, PublicKey, Refusal, Resource,
    ServiceId, SourceId, Workload,
};

mod addresses;
mod admission;
mod facts;

pub use self::facts::Facts;

/// How a state decides what to believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// No fleet: every cluster speaks for everything. Plain directories of manifests.
    Open,
    /// An offline check of what grants say: facts and grants come from plain sources, and the grants bound the facts.
    Declared,
    /// A fleet: the own cluster's facts come from plain sources, everybody else's and all grants only signed.
    Signed {
        /// The fleet's root key.
        root: PublicKey,
        /// The own cluster.
        cluster: ClusterName,
    },
}

/// What a state is made with.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// The fleet's name; empty without a fleet.
    pub fleet: Arc<str>,
    /// What to believe.
    pub trust: Trust,
    /// The settings of policy.
    pub settings: Settings,
    /// Domain names and the addresses known for them.
    pub domains: DomainAddresses,
}

/// What the state knows of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located<'a> {
    /// A workload with an identity.
    Workload(&'a Workload),
    /// A node's own address (also a host-network pod's).
    Node(&'a NodeId),
    /// Inside a fleet prefix, identity not known (yet) or not granted.
    Pending,
    /// Outside the fleet.
    External,
}

/// Who offered a fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Source(SourceId),
}

/// The state of the fleet as one process knows it.
#[derive(Clone, Debug)]
pub struct State {
    config: StateConfig,
    /// Everything that is said, by whom; the first origin in order is the one that counts.
    offered: BTreeMap<Key, BTreeMap<Origin, Resource>>,
    /// The keys told since `Begin` by the sources that have not said `Synced` yet.
    shadows: BTreeMap<SourceId, BTreeSet<Key>>,
    synced: BTreeSet<SourceId>,
    facts: Facts,
    addresses: Addresses,
    /// Offered facts that are not admitted, with the reason.
    refused: BTreeMap<Key, Refusal>,
}

impl State {
    /// Makes an empty state.
    pub fn new(config: StateConfig) -> State {
        State {
            config,
            offered: BTreeMap::new(),
            shadows: BTreeMap::new(),
            synced: BTreeSet::new(),
            facts: Facts::default(),
            addresses: Addresses::default(),
            refused: BTreeMap::new(),
        }
    }

    /// Takes an event; returns what is different now.
    pub fn apply(&mut self, event: Event, _now: Now) -> Change {
        let mut change = Change::default();
        match event {
            Event::Begin(source) => {
                self.synced.remove(&source);
                self.shadows.insert(source, BTreeSet::new());
            }
            Event::Set(source, resource) => {
                let key = resource.key();
                if let Some(shadow) = self.shadows.get_mut(&source) {
                    shadow.insert(key.clone());
                }
                self.offered.entry(key.clone()).or_default().insert(Origin::Source(source), resource);
                self.refresh(&key, &mut change);
            }
            Event::Unset(source, key) => self.withdraw(&key, &Origin::Source(source), &mut change),
            Event::Record(_) => {}
            Event::Synced(source) => {
                if let Some(told) = self.shadows.remove(&source) {
                    let origin = Origin::Source(source.clone());
                    let gone = |(key, by): (&Key, &BTreeMap<Origin, Resource>)| {
                        (by.contains_key(&origin) && !told.contains(key)).then(|| key.clone())
                    };
                    for key in self.offered.iter().filter_map(gone).collect::<Vec<_>>() {
                        self.withdraw(&key, &origin, &mut change);
                    }
                }
                self.synced.insert(source);
            }
        }
        change
    }

    fn withdraw(&mut self, key: &Key, origin: &Origin, change: &mut Change) {
        let Some(by) = self.offered.get_mut(key) else { return };
        by.remove(origin);
        if by.is_empty() {
            self.offered.remove(key);
        }
        self.refresh(key, change);
    }

    /// Derives the admitted fact of `key` from what is offered for it, and what depends on it.
    fn refresh(&mut self, key: &Key, change: &mut Change) {
        let offered = self.offered.get(key).and_then(|by| by.first_key_value());
        let (admitted, refusal) = match offered {
            None => (None, None),
            Some((origin, resource)) => match self.admit(origin, resource) {
                Ok(()) => (Some(resource.clone()), None),
                Err((reason, detail)) => (None, Some(Refusal { subject: key.to_string(), reason, detail })),
            },
        };
        match refusal {
            Some(refusal) => {
                if self.refused.get(key) != Some(&refusal) {
                    change.refusals.push(refusal.clone());
                    change.dirty.insert(key.clone());
                    self.refused.insert(key.clone(), refusal);
                }
            }
            None => {
                if self.refused.remove(key).is_some() {
                    change.dirty.insert(key.clone());
                }
            }
        }
        let before = match &admitted {
            Some(resource) => self.facts.insert(resource.clone()),
            None => self.facts.remove(key),
        };
        if before == admitted {
            return;
        }
        if let Some(before) = &before {
            self.addresses.remove(before);
        }
        if let Some(after) = &admitted {
            self.addresses.add(after);
        }
        change.dirty.insert(key.clone());
        if let Key::Grant(cluster) = key {
            let of_cluster = |key: &&Key| key.cluster() == Some(cluster) && !matches!(key, Key::Grant(_));
            for key in self.offered.keys().filter(of_cluster).cloned().collect::<Vec<_>>() {
                self.refresh(&key, change);
            }
        }
    }

    /// Returns the admitted facts.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns what is offered and not believed, with the reasons.
    pub fn refused(&self) -> impl Iterator<Item = (&Key, &Refusal)> {
        self.refused.iter()
    }

    /// Tells whether `source` has told everything once and is not in the middle of telling it again.
    pub fn is_synced(&self, source: &SourceId) -> bool {
        self.synced.contains(source)
    }

    /// Returns the configuration that the state was made with.
    pub fn config(&self) -> &StateConfig {
        &self.config
    }

    /// Returns what holds between two clusters where no tier decides.
    pub fn cross_cluster_default(&self) -> CrossClusterDefault {
        self.config.settings.cross_cluster_default.unwrap_or(match self.config.trust {
            Trust::Open => CrossClusterDefault::Allow,
            Trust::Declared | Trust::Signed { .. } => CrossClusterDefault::Exports,
        })
    }

    /// Returns what is known of `address`.
    pub fn locate(&self, address: IpAddr) -> Located<'_> {
        if let Some(workload) = self.addresses.workload(address).and_then(|id| self.facts.workloads.get(id)) {
            return Located::Workload(workload);
        }
        if let Some(node) = self.addresses.node(address) {
            return Located::Node(node);
        }
        if self.pending_prefixes().any(|prefix| prefix.contains(address)) {
            return Located::Pending;
        }
        Located::External
    }

    /// Returns the prefixes in which an address without an identity is pending, never external: those of the grants, and the
    /// addresses of refused workloads of plain sources.
    pub fn pending_prefixes(&self) -> impl Iterator<Item = Prefix> {
        let granted = self.facts.grants.values().flat_map(|grant| grant.prefixes.iter().copied());
        let refused = self.refused.keys().filter_map(|key| match self.offered.get(key)?.first_key_value()? {
            (Origin::Source(_), Resource::Workload(workload)) => Some(&workload.addresses),
            _ => None,
        });
        granted.chain(refused.flatten().copied().map(Prefix::host))
    }

    /// Returns the identity of `workload`.
    pub fn identity(&self, workload: &Workload) -> Identity {
        Identity {
            fleet: self.config.fleet.clone(),
            cluster: workload.id.cluster.clone(),
            namespace: workload.id.namespace.clone(),
            service_account: workload.service_account.clone(),
            labels: workload.labels.clone(),
        }
    }

    /// Returns the labels that selectors see on `workload`: its own and the implicit ones.
    pub fn workload_labels(&self, workload: &Workload) -> Labels {
        let own = [(labels::SERVICE_ACCOUNT_LABEL, workload.service_account.as_ref())];
        self.with_cluster_labels(&workload.id.cluster, &workload.labels.with(own))
    }

    /// Returns the labels that selectors see on a namespace of a cluster; the implicit ones alone where it has no manifest.
    pub fn namespace_labels(&self, cluster: &ClusterName, namespace: &NamespaceName) -> Labels {
        let declared = self.facts.namespaces.get(&(cluster.clone(), namespace.clone()));
        let declared = declared.map(|namespace| namespace.labels.clone()).unwrap_or_default();
        self.with_cluster_labels(cluster, &declared.with([(labels::NAMESPACE_NAME_LABEL, namespace.as_str())]))
    }

    /// Returns the labels that selectors see on `node`.
    pub fn node_labels(&self, node: &Node) -> Labels {
        self.with_cluster_labels(&node.id.cluster, &node.labels)
    }

    fn with_cluster_labels(&self, cluster: &ClusterName, labels: &Labels) -> Labels {
        let attributes = self.facts.grants.get(cluster).map(|grant| &grant.attributes);
        let attributes =
            attributes.into_iter().flatten().map(|(key, value)| (format!("{RESERVED_PREFIX}{key}"), value.to_string()));
        let implicit: Vec<_> = attributes.chain([(labels::CLUSTER_LABEL.into(), cluster.to_string())]).collect();
        labels.with(implicit.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }

    /// Tells whether `namespace` exists in `cluster`: it has a Namespace, or something is in it.
    pub fn namespace_exists(&self, cluster: &ClusterName, namespace: &NamespaceName) -> bool {
        let id = |key: &(ClusterName, ServiceId)| key.0 == *cluster && key.1.namespace == *namespace;
        self.facts.namespaces.contains_key(&(cluster.clone(), namespace.clone()))
            || self.facts.services.keys().any(id)
            || self.facts.service_exports.keys().any(id)
            || self.facts.service_imports.keys().any(id)
            || self.facts.exports.keys().any(id)
            || self.facts.workloads.keys().any(|workload| workload.cluster == *cluster && workload.namespace == *namespace)
    }
}
