//! The policies in force, each read once: rules with numbered peers, in the order in which tiers consult them.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::HashMap;
use mesh_core::policy::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PolicyScope, PolicyTier,
    PortMatch, RuleAction,
};
use mesh_core::{ClusterName, Direction, Key, NamespaceName, ObjectName, Protocol, RuleName, State};

use crate::peers::{Peer, Peers};
use crate::rules;
use crate::set::rows::{key, span_of_protocol};
use crate::set::side;

/// A policy of the state, by what it is.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Network(Arc<NetworkPolicy>),
    Cluster(Arc<ClusterNetworkPolicy>),
}

/// One reading of a policy: a policy that changes is another one.
#[derive(Debug)]
pub(crate) struct Policy {
    /// Never given twice.
    number: u64,
    pub(crate) source: Source,
    /// The rules by direction, [ingress, egress]; `None` where the policy does not have that direction.
    pub(crate) sides: [Option<Vec<Rule>>; 2],
}

/// A rule that may match something.
#[derive(Debug)]
pub(crate) struct Rule {
    /// `None`: every peer.
    pub(crate) peers: Option<Box<[u32]>>,
    pub(crate) ports: Ports,
    pub(crate) action: RuleAction,
    /// Its place in the manifest.
    index: u32,
}

/// The ports of a rule.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    /// Every port and protocol.
    pub(crate) all: bool,
    /// The places that numbers name, the second ones excluded.
    pub(crate) spans: Box<[(u32, u32)]>,
    /// The names, each with its protocol where one is given.
    pub(crate) named: Box<[(Option<Protocol>, Arc<str>)]>,
}

impl PartialEq for Policy {
    fn eq(&self, other: &Policy) -> bool {
        self.number == other.number
    }
}

impl Eq for Policy {}

impl Hash for Policy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl Policy {
    pub(crate) fn scope(&self) -> &PolicyScope {
        match &self.source {
            Source::Network(policy) => &policy.scope,
            Source::Cluster(policy) => &policy.scope,
        }
    }

    /// Returns the rules of a direction, none where the policy does not have it.
    pub(crate) fn rules(&self, direction: Direction) -> &[Rule] {
        self.sides[side(direction)].as_deref().unwrap_or_default()
    }

    /// Returns the name of a rule, as `cluster` decides by it.
    pub(crate) fn rule_name(&self, cluster: &ClusterName, direction: Direction, at: u32) -> RuleName {
        let (namespace, name) = match &self.source {
            Source::Network(policy) => (Some(policy.namespace.clone()), &policy.name),
            Source::Cluster(policy) => (None, &policy.name),
        };
        RuleName {
            cluster: cluster.clone(),
            scope: self.scope().clone(),
            namespace,
            policy: name.clone(),
            direction,
            index: self.rules(direction)[at as usize].index,
        }
    }

    fn peers(&self) -> impl Iterator<Item = u32> {
        self.sides.iter().flatten().flatten().flat_map(|rule| rule.peers.iter().flatten()).copied()
    }

    fn port_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.sides.iter().flatten().flatten().flat_map(|rule| rule.ports.named.iter().map(|(_, name)| name))
    }
}

/// The order within a tier: priority, then name, and a cluster's own before the fleet's.
type Rank = (i32, ObjectName, PolicyScope);

/// All policies in force.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) peers: Peers,
    pub(crate) admin: BTreeMap<Rank, Arc<Policy>>,
    pub(crate) baseline: BTreeMap<Rank, Arc<Policy>>,
    pub(crate) network: HashMap<NamespaceName, BTreeMap<(ObjectName, PolicyScope), Arc<Policy>>>,
    by_key: HashMap<Key, Arc<Policy>>,
    /// The names of ports that rules use, with how many: no other named port makes a difference.
    port_names: HashMap<Arc<str>, u32>,
    next: u64,
}

/// What an edit of the book changed.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    pub(crate) added: Vec<Arc<Policy>>,
    pub(crate) removed: Vec<Arc<Policy>>,
    /// Peers that no rule named before.
    pub(crate) new_peers: Vec<u32>,
    /// Port names that some rule began or ceased to use.
    pub(crate) port_names: Vec<Arc<str>>,
}

impl Book {
    /// Tells whether some rule uses that name of a port.
    pub(crate) fn uses_port_name(&self, name: &Arc<str>) -> bool {
        self.port_names.contains_key(name)
    }

    /// Brings the policy of `key` in step with the state.
    pub(crate) fn update(&mut self, state: &State, key: &Key, edits: &mut Edits) {
        let facts = state.facts();
        let now = match key {
            Key::NetworkPolicy(scope, namespace, name) => {
                facts.network_policies.get(&(scope.clone(), namespace.clone(), name.clone())).cloned().map(Source::Network)
            }
            Key::ClusterNetworkPolicy(scope, name) => {
                facts.cluster_policies.get(&(scope.clone(), name.clone())).cloned().map(Source::Cluster)
            }
            _ => return,
        };
        let before = self.by_key.get(key);
        if before.is_none() && now.is_none() || before.zip(now.as_ref()).is_some_and(|(before, now)| before.source == *now) {
            return;
        }
        let added = now.map(|source| self.read(source, edits));
        if let Some(before) = self.by_key.remove(key) {
            self.take_out(&before, edits);
            edits.removed.push(before);
        }
        if let Some(policy) = added {
            self.put_in(&policy);
            self.by_key.insert(key.clone(), policy.clone());
            edits.added.push(policy);
        }
    }

    fn read(&mut self, source: Source, edits: &mut Edits) -> Arc<Policy> {
        let mut peer = |peer: Peer| {
            let (number, new) = self.peers.intern(peer);
            if new {
                edits.new_peers.push(number);
            }
            number
        };
        let sides = match &source {
            Source::Network(policy) => {
                let mut read = |rules: &Option<Vec<NetworkPolicyRule>>| {
                    Some(
                        rules
                            .as_ref()?
                            .iter()
                            .zip(0..)
                            .map(|(rule, index)| network_rule(policy, (rule, index), &mut peer))
                            .collect(),
                    )
                };
                [read(&policy.ingress), read(&policy.egress)]
            }
            Source::Cluster(policy) => {
                let mut read = |rules: &[ClusterRule], direction| {
                    Some(
                        rules
                            .iter()
                            .zip(0..)
                            .filter_map(|(rule, index)| cluster_rule((rule, index), direction, &mut peer))
                            .collect(),
                    )
                };
                [read(&policy.ingress, Direction::Ingress), read(&policy.egress, Direction::Egress)]
            }
        };
        self.next += 1;
        let policy = Policy { number: self.next, source, sides };
        policy.peers().for_each(|number| self.peers.retain(number));
        for name in policy.port_names() {
            let users = self.port_names.entry(name.clone()).or_insert(0);
            if *users == 0 {
                edits.port_names.push(name.clone());
            }
            *users += 1;
        }
        Arc::new(policy)
    }

    fn put_in(&mut self, policy: &Arc<Policy>) {
        match &policy.source {
            Source::Network(network) => {
                let of_namespace = self.network.entry(network.namespace.clone()).or_default();
                of_namespace.insert((network.name.clone(), network.scope.clone()), policy.clone());
            }
            Source::Cluster(cluster) => {
                self.tier(cluster.tier).insert(rank(cluster), policy.clone());
            }
        }
    }

    fn take_out(&mut self, policy: &Arc<Policy>, edits: &mut Edits) {
        match &policy.source {
            Source::Network(network) => {
                if let Some(of_namespace) = self.network.get_mut(&network.namespace) {
                    of_namespace.remove(&(network.name.clone(), network.scope.clone()));
                    if of_namespace.is_empty() {
                        self.network.remove(&network.namespace);
                    }
                }
            }
            Source::Cluster(cluster) => {
                self.tier(cluster.tier).remove(&rank(cluster));
            }
        }
        policy.peers().for_each(|number| self.peers.release(number));
        for name in policy.port_names() {
            let Some(users) = self.port_names.get_mut(name) else { continue };
            *users -= 1;
            if *users == 0 {
                self.port_names.remove(name);
                edits.port_names.push(name.clone());
            }
        }
    }

    fn tier(&mut self, tier: PolicyTier) -> &mut BTreeMap<Rank, Arc<Policy>> {
        match tier {
            PolicyTier::Admin => &mut self.admin,
            PolicyTier::Baseline => &mut self.baseline,
        }
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Source) -> bool {
        match (self, other) {
            (Source::Network(a), Source::Network(b)) => Arc::ptr_eq(a, b) || a == b,
            (Source::Cluster(a), Source::Cluster(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        }
    }
}

fn rank(policy: &ClusterNetworkPolicy) -> Rank {
    (policy.priority, policy.name.clone(), policy.scope.clone())
}

fn network_rule(policy: &NetworkPolicy, (rule, index): (&NetworkPolicyRule, u32), peer: &mut impl FnMut(Peer) -> u32) -> Rule {
    let peers: Vec<u32> = rule.peers.iter().filter_map(|known| Some(peer(network_peer(policy, known)?))).collect();
    Rule {
        // Not `peers.is_empty()`: a list of peers none of which is known matches nobody.
        peers: if rule.peers.is_empty() { None } else { Some(distinct(peers)) },
        ports: Ports::new(&rule.ports),
        action: RuleAction::Accept,
        index,
    }
}

/// Returns the rule as it works; `None` for one that fails closed by matching nothing.
fn cluster_rule((rule, index): (&ClusterRule, u32), direction: Direction, peer: &mut impl FnMut(Peer) -> u32) -> Option<Rule> {
    if rules::fails_closed(rule, direction) {
        let all = Ports { all: true, ..Ports::default() };
        return (rule.action != RuleAction::Accept).then_some(Rule { peers: None, ports: all, action: RuleAction::Deny, index });
    }
    let peers = distinct(rule.peers.iter().map(|known| peer(cluster_peer(known))).collect());
    Some(Rule { peers: Some(peers), ports: Ports::new(&rule.protocols), action: rule.action, index })
}

fn distinct(mut peers: Vec<u32>) -> Box<[u32]> {
    peers.sort_unstable();
    peers.dedup();
    peers.into()
}

impl Ports {
    fn new(ports: &[PortMatch]) -> Ports {
        let spans = ports.iter().filter_map(|port| match port {
            PortMatch::Protocol(protocol) => Some(span_of_protocol(*protocol)),
            PortMatch::Range(protocol, first, last) if protocol.has_ports() && first <= last => {
                Some((key(*protocol, *first), key(*protocol, *last) + 1))
            }
            PortMatch::Range(..) | PortMatch::Named(..) => None,
        });
        let named = ports.iter().filter_map(|port| match port {
            PortMatch::Named(protocol, name) => Some((*protocol, name.clone())),
            _ => None,
        });
        Ports { all: ports.is_empty(), spans: spans.collect(), named: named.collect() }
    }
}

fn cluster_peer(peer: &ClusterPeer) -> Peer {
    match peer {
        ClusterPeer::Workloads(who) => {
            Peer::Workloads { namespace: None, namespaces: Some(who.namespaces.clone()), pods: who.pods.clone() }
        }
        ClusterPeer::Nodes(selector) => Peer::Nodes(selector.clone()),
        ClusterPeer::Networks(networks) => Peer::Networks { networks: networks.clone(), except: Vec::new() },
        ClusterPeer::DomainNames(names) => Peer::Domains(names.clone()),
    }
}

fn network_peer(policy: &NetworkPolicy, peer: &NetworkPolicyPeer) -> Option<Peer> {
    Some(match peer {
        NetworkPolicyPeer::Workloads { namespaces, pods } => Peer::Workloads {
            namespace: if namespaces.is_none() { Some(policy.namespace.clone()) } else { None },
            namespaces: namespaces.clone(),
            pods: pods.clone(),
        },
        NetworkPolicyPeer::IpBlock { cidr, except } => Peer::Networks { networks: vec![*cidr], except: except.clone() },
        NetworkPolicyPeer::Nothing => return None,
    })
}
