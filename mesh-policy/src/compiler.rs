//! Keeps the compiled policy in step with the state, at the cost of what changed.
//!
//! ```text
//!   policies ──> book: rules, peers ──────────────────────────┐
//!   namespaces, grants ──> identities: which peers each is ───┤
//!   nodes, ipBlocks, domain names ──> regions ────────────────┼──> profiles ──┬─> classes of peers ──┐
//!   workloads ──> identity, named ports, addresses ───────────┘               └─> rule sets ─────────┴─> rows ─> PolicySet
//! ```
//!
//! Every table counts its users. What nobody uses any more goes at the end of an update; what nothing touched is neither looked
//! at nor copied.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use mesh_core::{Change, ClusterName, CrossClusterDefault, Key, NamedPort, NamespaceName, NodeId, State, WorkloadId};

use self::classes::Classes;
use self::digest::Digest;
use self::exports::Exports;
use self::identities::Identities;
pub(crate) use self::profiles::Assumed;
use self::profiles::Profiles;
use self::regions::PeerSet;
use self::rulesets::{Context, Rulesets, is_subject};
use self::workloads::Workloads;
use crate::PolicySet;
use crate::book::{Book, Edits, Source};
use crate::store::{Interner, Ranges};

mod classes;
mod digest;
mod exports;
mod identities;
mod nodes;
mod profiles;
mod regions;
mod rows;
mod rulesets;
mod split;
mod workloads;

/// How many profiles that nobody has any more are kept with what belongs to them: a pod that is replaced by its like, or a
/// deployment that is scaled to nothing and back, compiles nothing then.
const IDLE_PROFILES: usize = 1_024;

/// Compiles the state's policies, and again whatever changed.
///
/// The first update compiles everything. Each one after it looks at the facts that changed and at what depends on them: a
/// workload of a known identity costs an entry for it and one for each of its addresses, a policy the rule sets of its subjects
/// and the classes that its peers split. Whoever holds an earlier set goes on reading it.
#[derive(Debug, Default)]
pub struct Compiler {
    current: Arc<PolicySet>,
    /// The current set is of a state that the caller showed, not of the empty one.
    started: bool,
    parts: Parts,
}

/// What sets are compiled from and with.
#[derive(Debug)]
struct Parts {
    book: Book,
    sets: Interner<PeerSet>,
    regions: Ranges<u32>,
    /// Some peer is told by the nodes' labels.
    has_node_peers: bool,
    clusters: Interner<ClusterName>,
    /// How many of them the set has by name.
    named_clusters: u32,
    identities: Identities,
    tables: Interner<Vec<NamedPort>>,
    classes: Classes,
    rulesets: Rulesets,
    profiles: Profiles,
    workloads: Workloads,
    nodes: Interner<NodeId>,
    node_claims: HashMap<NodeId, nodes::Claims>,
    exports: Exports,
    digest: Digest,
    /// Of the prefixes that are the fleet's.
    pending: Digest,
    ipblock_matches_pods: bool,
}

/// What an update has to look at.
#[derive(Debug, Default)]
struct Dirty<'a> {
    policies: Vec<&'a Key>,
    grants: HashSet<&'a ClusterName>,
    namespaces: HashSet<(&'a ClusterName, &'a NamespaceName)>,
    nodes: Vec<&'a NodeId>,
    /// In order where possible: neighbours are near each other in memory too.
    workloads: Vec<&'a WorkloadId>,
    services: Vec<&'a Key>,
    /// The namespaces that may have come to exist, or ceased to.
    places: HashSet<(&'a ClusterName, &'a NamespaceName)>,
    domains: bool,
    /// The addresses whose owner may be another.
    addresses: Vec<IpAddr>,
}

impl<'a> Dirty<'a> {
    fn new(keys: impl IntoIterator<Item = &'a Key>) -> Dirty<'a> {
        let mut dirty = Dirty::default();
        for key in keys {
            match key {
                Key::Grant(cluster) => {
                    dirty.grants.insert(cluster);
                }
                Key::Namespace(cluster, namespace) => {
                    dirty.namespaces.insert((cluster, namespace));
                    dirty.places.insert((cluster, namespace));
                }
                Key::Node(node) | Key::NodeLink(node) => dirty.nodes.push(node),
                Key::Workload(id) => {
                    dirty.workloads.push(id);
                    dirty.places.insert((&id.cluster, &id.namespace));
                }
                Key::NetworkPolicy(..) | Key::ClusterNetworkPolicy(..) => dirty.policies.push(key),
                Key::EndpointSlice(..) => dirty.services.push(key),
                Key::Service(cluster, id)
                | Key::ServiceExport(cluster, id)
                | Key::ServiceImport(cluster, id)
                | Key::Export(cluster, id) => {
                    dirty.services.push(key);
                    dirty.places.insert((cluster, &id.namespace));
                }
                Key::Domain(_) => dirty.domains = true,
                Key::Lease(_) => {}
            }
        }
        dirty
    }

    /// Adds every workload there is.
    fn add_workloads(&mut self, state: &'a State) {
        let workloads = &state.facts().workloads;
        self.workloads.reserve_exact(workloads.len());
        self.workloads.extend(workloads.keys());
        self.places.extend(workloads.keys().map(|id| (&id.cluster, &id.namespace)));
        self.addresses.reserve_exact(workloads.values().map(|workload| workload.addresses.len()).sum());
    }

    fn is_empty(&self, exports: bool) -> bool {
        self.policies.is_empty()
            && self.grants.is_empty()
            && self.namespaces.is_empty()
            && self.nodes.is_empty()
            && self.workloads.is_empty()
            && (self.services.is_empty() || !exports)
            && !self.domains
    }
}

impl Compiler {
    /// Makes a compiler whose current set is that of an empty state, in which nothing is policed: take it up after an update.
    pub fn new() -> Compiler {
        Compiler::default()
    }

    /// Brings the set in step with `state`, in which `change` is what is different since the last call. The first call looks at
    /// all of the state, whatever changed.
    ///
    /// The set stays the same `Arc` where nothing changed that policy can depend on.
    pub fn update(&mut self, state: &State, change: &Change) -> &Arc<PolicySet> {
        let exports = state.cross_cluster_default() == CrossClusterDefault::Exports;
        let everything = if self.started { Vec::new() } else { other_keys(state) };
        let mut dirty = Dirty::new(everything.iter().chain(&change.dirty));
        if !self.started {
            dirty.add_workloads(state);
        }
        if !self.started || !dirty.is_empty(exports) {
            let mut set = PolicySet::clone(&self.current);
            set.settings = (state.config().settings.clone(), state.cross_cluster_default());
            self.parts.update(state, dirty, &mut set);
            self.current = Arc::new(set);
            self.started = true;
        }
        &self.current
    }

    /// Returns the set of the last update.
    pub fn current(&self) -> &Arc<PolicySet> {
        &self.current
    }

    pub(crate) fn into_current(self) -> PolicySet {
        drop(self.parts);
        Arc::unwrap_or_clone(self.current)
    }

    /// Returns what `id` would be at an address that is not its own, in a set that is to be thrown away; `beyond` numbers the
    /// ends so assumed.
    pub(crate) fn assume_workload(
        &mut self,
        id: &WorkloadId,
        address: IpAddr,
        beyond: u32,
        set: &mut PolicySet,
    ) -> Option<Assumed> {
        self.parts.assume_workload(id, address, beyond, set)
    }

    /// Returns what `node` would be at an address that is not its own, likewise.
    pub(crate) fn assume_node(&mut self, node: &NodeId, address: IpAddr, beyond: u32, set: &mut PolicySet) -> Assumed {
        self.parts.assume_node(node, address, beyond, set)
    }

    /// Tells the rule sets of `subject` who is assumed at the other end.
    pub(crate) fn introduce(&mut self, assumed: &Assumed, subject: crate::ProfileHandle, set: &mut PolicySet) {
        self.parts.introduce(assumed, subject, set);
    }

    /// Sees to it that `id` can be assumed at an address, before sets are made for that.
    pub(crate) fn prepare(&mut self, id: &WorkloadId) {
        let mut set = PolicySet::clone(&self.current);
        self.parts.prepare(id, &mut set);
        self.current = Arc::new(set);
    }
}

impl Default for Parts {
    fn default() -> Parts {
        let mut parts = Parts {
            book: Book::default(),
            sets: Interner::default(),
            regions: Ranges::default(),
            has_node_peers: false,
            clusters: Interner::default(),
            named_clusters: 0,
            identities: Identities::default(),
            tables: Interner::default(),
            classes: Classes::new(),
            rulesets: Rulesets::default(),
            profiles: Profiles::default(),
            workloads: Workloads::default(),
            nodes: Interner::default(),
            node_claims: HashMap::new(),
            exports: Exports::default(),
            digest: Digest::default(),
            pending: Digest::default(),
            ipblock_matches_pods: true,
        };
        // Number 0 of each is the empty one, for good.
        let (nobody, _) = parts.sets.intern(PeerSet::default());
        parts.sets.retain(nobody);
        let (unnamed, _) = parts.tables.intern(Vec::new());
        parts.tables.retain(unnamed);
        parts.profiles.begin();
        parts
    }
}

impl Parts {
    fn update<'a>(&mut self, state: &'a State, mut dirty: Dirty<'a>, set: &mut PolicySet) {
        self.ipblock_matches_pods = state.config().settings.ipblock_matches_pods;
        let has_grants = !dirty.grants.is_empty();
        let mut edits = Edits::default();
        for key in &dirty.policies {
            self.book.update(state, key, &mut edits);
        }
        let gone = self.book.peers.collect();
        self.note_policies(&edits);
        let identities =
            self.update_identities(state, &dirty, &edits, &gone.iter().map(|(number, _)| *number).collect::<Vec<_>>());
        let by_address = |number: &u32| self.book.peers.get(*number).is_by_address();
        let peers_by_address = edits.new_peers.iter().any(by_address) || gone.iter().any(|(_, peer)| peer.is_by_address());
        self.update_nodes(state, &mut dirty, set);
        let by_nodes = self.has_node_peers && !(dirty.nodes.is_empty() && dirty.grants.is_empty());
        if peers_by_address || by_nodes || dirty.domains {
            self.update_regions(state, &mut dirty, set);
        }
        self.mark_port_names(state, &mut dirty, &edits);
        for id in ordered(&mut dirty.workloads) {
            self.update_workload(state, id, &mut dirty, set);
        }
        if set.settings.1 == CrossClusterDefault::Exports {
            self.exports.update(state, &mut dirty, (&mut self.clusters, &mut self.digest), set);
        }
        for address in ordered(&mut dirty.addresses) {
            self.resolve(state, address, set);
        }
        // What is idle may be of peers that are gone: it cannot be built anew.
        let forgets = !gone.is_empty() || !edits.removed.is_empty();
        self.collect_profiles(if forgets { 0 } else { IDLE_PROFILES });
        self.rebuild_profiles(&identities, set);
        self.compile_fresh(set);
        self.collect(set);
        self.number_clusters(set);
        if has_grants {
            self.pending = Digest::default();
            let named = state.cluster_prefixes().filter(|(_, prefixes)| !prefixes.is_empty());
            named.for_each(|named| self.pending.add(&named));
        }
        set.fingerprint = self.fingerprint(state);
    }

    fn note_policies(&mut self, edits: &Edits) {
        for policy in &edits.added {
            match &policy.source {
                Source::Network(policy) => self.digest.add(&("policy", policy)),
                Source::Cluster(policy) => self.digest.add(&("policy", policy)),
            }
        }
        for policy in &edits.removed {
            match &policy.source {
                Source::Network(policy) => self.digest.sub(&("policy", policy)),
                Source::Cluster(policy) => self.digest.sub(&("policy", policy)),
            }
        }
    }

    /// Tells the known identities of other labels and other peers; returns those of which profiles must be built anew.
    fn update_identities(&mut self, state: &State, dirty: &Dirty<'_>, edits: &Edits, gone: &[u32]) -> HashSet<u32> {
        let relabels = !dirty.grants.is_empty() || !dirty.namespaces.is_empty();
        let concerns = |cluster: &ClusterName, namespace: &NamespaceName| {
            dirty.grants.contains(cluster) || dirty.namespaces.contains(&(cluster, namespace))
        };
        let relabelled = if relabels { self.identities.relabel(state, concerns, &mut self.digest) } else { Vec::new() };
        let mut changed = HashSet::new();
        if edits.added.is_empty() && edits.removed.is_empty() && !relabelled.contains(&true) {
            return changed;
        }
        for number in self.identities.numbers() {
            let who = self.identities.who(number);
            let cluster = self.identities.cluster(number);
            let known = self.identities.peers(number);
            let is_relabelled = relabelled.get(self.identities.place(number) as usize).copied().unwrap_or(false);
            let peers = if is_relabelled {
                Some(self.book.peers.matching(&who))
            } else {
                let new = edits.new_peers.iter().copied().filter(|peer| who.is(self.book.peers.get(*peer)));
                patched(self.sets.get(known), new.collect(), gone)
            };
            let selects = |policy: &Arc<crate::book::Policy>| policy.scope().covers(cluster) && is_subject(policy, &who);
            if is_relabelled || edits.added.iter().chain(&edits.removed).any(selects) {
                changed.insert(number);
            }
            if let Some(peers) = peers {
                let (now, _) = self.sets.intern(peers.into());
                if now != known {
                    self.sets.retain(now);
                    self.sets.release(known);
                    self.identities.set_peers(number, now);
                    changed.insert(number);
                }
            }
        }
        changed
    }

    fn update_regions(&mut self, state: &State, dirty: &mut Dirty<'_>, set: &mut PolicySet) {
        self.has_node_peers = self.book.peers.iter().any(|(_, peer)| matches!(peer, crate::peers::Peer::Nodes(_)));
        let now = regions::regions(state, &self.book.peers, &mut self.sets);
        let before = std::mem::replace(&mut self.regions, now);
        for (address, known) in set.ends.iter() {
            if self.profiles.region(known.profile.0) != self.regions.lookup(address).copied().unwrap_or(0) {
                dirty.addresses.push(address);
            }
        }
        self.update_outside(set);
        before.values().for_each(|set| self.sets.release(*set));
    }

    /// Has the workloads looked at again that have ports of names which rules began or ceased to use.
    fn mark_port_names<'a>(&self, state: &'a State, dirty: &mut Dirty<'a>, edits: &Edits) {
        if edits.port_names.is_empty() {
            return;
        }
        let concerned = state
            .facts()
            .workloads
            .iter()
            .filter(|(_, workload)| workload.ports.iter().any(|port| edits.port_names.contains(&port.name)));
        dirty.workloads.extend(concerned.map(|(id, _)| id));
    }

    /// Compiles the rule sets and the classes that are new.
    fn compile_fresh(&mut self, set: &mut PolicySet) {
        let fresh = self.classes.take_fresh();
        let context = Context { classes: &self.classes, tables: &self.tables };
        self.rulesets.compile(&context, &fresh, &mut set.rulesets);
    }

    /// Forgets the profiles that nobody has, up to `keep`.
    fn collect_profiles(&mut self, keep: usize) {
        for (seat, region, built) in self.profiles.collect(keep) {
            if let profiles::Seat::Workload { identity, ports } = seat {
                self.identities.release(identity);
                self.tables.release(ports);
            }
            self.profiles.release_subject(built.subject);
            self.sets.release(region);
            self.classes.release(built.class);
        }
    }

    /// Forgets what neither a workload nor a profile uses.
    fn collect(&mut self, set: &mut PolicySet) {
        for peers in self.identities.collect() {
            self.sets.release(peers);
        }
        for ruleset in self.profiles.collect_subjects() {
            self.rulesets.release(ruleset);
        }
        for table in self.rulesets.collect(&mut set.rulesets) {
            self.tables.release(table);
        }
        let gone = self.classes.collect();
        self.rulesets.forget(&gone, &mut set.rulesets);
        gone.iter().for_each(|(_, class)| self.tables.release(class.ports));
        self.sets.collect(0);
        self.tables.collect(0);
        for (number, _) in self.nodes.collect(0) {
            set.ends.nodes.set(number, None);
        }
    }

    /// Names the clusters that are new: their numbers ascend, and none is ever taken back.
    fn number_clusters(&mut self, set: &mut PolicySet) {
        for number in self.named_clusters..self.clusters.bound() {
            set.clusters.set(number, Some(self.clusters.get(number).clone()));
        }
        self.named_clusters = self.clusters.bound();
    }

    fn fingerprint(&self, state: &State) -> u64 {
        let settings = &state.config().settings;
        let flags = [settings.ipblock_matches_pods, settings.own_node_ingress_allowed, settings.own_node_egress_allowed];
        self.digest.fingerprint(&(flags, state.cross_cluster_default() as u8, self.pending, &state.config().domains))
    }
}

/// Takes the items, each once and in order.
fn ordered<T: Ord>(items: &mut Vec<T>) -> Vec<T> {
    let mut items = std::mem::take(items);
    items.sort_unstable();
    items.dedup();
    items
}

/// Returns the set of peers after `new` came and `gone` (sorted) went; `None` where it is the same.
fn patched(known: &[u32], new: Vec<u32>, gone: &[u32]) -> Option<Vec<u32>> {
    let is_gone = |peer: &u32| gone.binary_search(peer).is_ok();
    if new.is_empty()
        && !(gone.len() < known.len() && gone.iter().any(|peer| known.binary_search(peer).is_ok()) || known.iter().any(is_gone))
    {
        return None;
    }
    let mut peers: Vec<u32> = known.iter().copied().filter(|peer| !is_gone(peer)).chain(new).collect();
    peers.sort_unstable();
    peers.dedup();
    Some(peers)
}

/// Returns the key of everything that policy depends on, but for the workloads that are believed: they are many.
fn other_keys(state: &State) -> Vec<Key> {
    let facts = state.facts();
    let mut keys: Vec<Key> = Vec::new();
    keys.extend(facts.grants.keys().cloned().map(Key::Grant));
    keys.extend(state.cluster_prefixes().map(|(cluster, _)| Key::Grant(cluster.clone())));
    keys.extend(facts.namespaces.keys().cloned().map(|(cluster, name)| Key::Namespace(cluster, name)));
    keys.extend(facts.nodes.keys().cloned().map(Key::Node));
    keys.extend(facts.links.keys().cloned().map(Key::NodeLink));
    keys.extend(state.refused().map(|(key, _)| key.clone()));
    keys.extend(facts.services.keys().cloned().map(|(cluster, id)| Key::Service(cluster, id)));
    keys.extend(facts.slices.keys().cloned().map(|(cluster, namespace, name)| Key::EndpointSlice(cluster, namespace, name)));
    keys.extend(facts.service_exports.keys().cloned().map(|(cluster, id)| Key::ServiceExport(cluster, id)));
    keys.extend(facts.service_imports.keys().cloned().map(|(cluster, id)| Key::ServiceImport(cluster, id)));
    keys.extend(facts.exports.keys().cloned().map(|(cluster, id)| Key::Export(cluster, id)));
    keys.extend(
        facts.network_policies.keys().cloned().map(|(scope, namespace, name)| Key::NetworkPolicy(scope, namespace, name)),
    );
    keys.extend(facts.cluster_policies.keys().cloned().map(|(scope, name)| Key::ClusterNetworkPolicy(scope, name)));
    keys
}
