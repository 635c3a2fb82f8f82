//! Every rule of every policy, flattened and in the order in which the tiers consult them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::policy::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PolicyScope, PolicyTier,
    PortMatch, RuleAction,
};
use mesh_core::{Direction, NamespaceName, ObjectName, State};

use super::peers::{Peer, Peers};
use crate::rules;

/// A run of rules in [`Rulebook::rules`].
pub(super) type Span = (u32, u32);

/// A rule whose peers are numbers.
#[derive(Debug)]
pub(super) struct Rule<'a> {
    /// `None`: every peer.
    pub(super) peers: Option<Vec<u32>>,
    /// Empty: every port and protocol.
    pub(super) ports: &'a [PortMatch],
    pub(super) action: RuleAction,
    pub(super) scope: &'a PolicyScope,
    pub(super) namespace: Option<&'a NamespaceName>,
    pub(super) policy: &'a ObjectName,
    pub(super) direction: Direction,
    pub(super) index: u32,
}

/// A policy and its rules by direction, [ingress, egress].
#[derive(Debug)]
pub(super) struct Entry<'a, P> {
    pub(super) policy: &'a P,
    pub(super) spans: [Option<Span>; 2],
}

/// All policies of the state.
#[derive(Debug, Default)]
pub(super) struct Rulebook<'a> {
    pub(super) rules: Vec<Rule<'a>>,
    pub(super) peers: Peers<'a>,
    pub(super) admin: Vec<Entry<'a, ClusterNetworkPolicy>>,
    pub(super) network: BTreeMap<&'a NamespaceName, Vec<Entry<'a, NetworkPolicy>>>,
    pub(super) baseline: Vec<Entry<'a, ClusterNetworkPolicy>>,
    /// The names of ports that rules use: no other named port makes a difference.
    pub(super) port_names: BTreeSet<&'a Arc<str>>,
}

impl<'a> Rulebook<'a> {
    pub(super) fn new(state: &'a State) -> Rulebook<'a> {
        let mut book = Rulebook::default();
        let mut cluster: Vec<&ClusterNetworkPolicy> = state.facts().cluster_policies.values().map(AsRef::as_ref).collect();
        cluster.sort_by_key(|policy| (policy.priority, &policy.name, &policy.scope));
        for policy in cluster {
            let spans = [
                Some(book.add_cluster_rules(policy, Direction::Ingress, &policy.ingress)),
                Some(book.add_cluster_rules(policy, Direction::Egress, &policy.egress)),
            ];
            match policy.tier {
                PolicyTier::Admin => book.admin.push(Entry { policy, spans }),
                PolicyTier::Baseline => book.baseline.push(Entry { policy, spans }),
            }
        }
        let mut network: Vec<&NetworkPolicy> = state.facts().network_policies.values().map(AsRef::as_ref).collect();
        network.sort_by_key(|policy| (&policy.name, &policy.scope));
        for policy in network {
            let spans = [
                policy.ingress.as_ref().map(|rules| book.add_rules(policy, Direction::Ingress, rules)),
                policy.egress.as_ref().map(|rules| book.add_rules(policy, Direction::Egress, rules)),
            ];
            book.network.entry(&policy.namespace).or_default().push(Entry { policy, spans });
        }
        book
    }

    /// Returns the rules of `spans`, in their order.
    pub(super) fn rules_of(&self, spans: &[Span]) -> impl Iterator<Item = (u32, &Rule<'a>)> {
        spans.iter().flat_map(|(first, end)| (*first..*end).map(|at| (at, &self.rules[at as usize])))
    }

    fn next(&self) -> u32 {
        u32::try_from(self.rules.len()).expect("fewer rules than a u32 counts")
    }

    fn add(&mut self, rule: Rule<'a>) {
        for port in rule.ports {
            if let PortMatch::Named(_, name) = port {
                self.port_names.insert(name);
            }
        }
        self.rules.push(rule);
    }

    fn add_cluster_rules(&mut self, policy: &'a ClusterNetworkPolicy, direction: Direction, rules: &'a [ClusterRule]) -> Span {
        let first = self.next();
        for (index, rule) in (0..).zip(rules) {
            let fails_closed = rules::fails_closed(rule, direction);
            if fails_closed && rule.action == RuleAction::Accept {
                continue;
            }
            let peers = rule.peers.iter().map(|peer| self.peers.intern(cluster_peer(peer))).collect();
            self.add(Rule {
                peers: if fails_closed { None } else { Some(peers) },
                ports: if fails_closed { &[] } else { &rule.protocols },
                action: if fails_closed { RuleAction::Deny } else { rule.action },
                scope: &policy.scope,
                namespace: None,
                policy: &policy.name,
                direction,
                index,
            });
        }
        (first, self.next())
    }

    fn add_rules(&mut self, policy: &'a NetworkPolicy, direction: Direction, rules: &'a [NetworkPolicyRule]) -> Span {
        let first = self.next();
        for (index, rule) in (0..).zip(rules) {
            let peers: Vec<u32> =
                rule.peers.iter().filter_map(|peer| Some(self.peers.intern(network_peer(policy, peer)?))).collect();
            self.add(Rule {
                // Not `peers.is_empty()`: a list of peers none of which is known matches nobody.
                peers: if rule.peers.is_empty() { None } else { Some(peers) },
                ports: &rule.ports,
                action: RuleAction::Accept,
                scope: &policy.scope,
                namespace: Some(&policy.namespace),
                policy: &policy.name,
                direction,
                index,
            });
        }
        (first, self.next())
    }
}

fn cluster_peer(peer: &ClusterPeer) -> Peer<'_> {
    match peer {
        ClusterPeer::Workloads(who) => {
            Peer::Workloads { namespace: None, namespaces: Some(&who.namespaces), pods: who.pods.as_ref() }
        }
        ClusterPeer::Nodes(selector) => Peer::Nodes(selector),
        ClusterPeer::Networks(networks) => Peer::Networks { networks, except: &[] },
        ClusterPeer::DomainNames(names) => Peer::Domains(names),
    }
}

fn network_peer<'a>(policy: &'a NetworkPolicy, peer: &'a NetworkPolicyPeer) -> Option<Peer<'a>> {
    Some(match peer {
        NetworkPolicyPeer::Workloads { namespaces, pods } => Peer::Workloads {
            namespace: if namespaces.is_none() { Some(&policy.namespace) } else { None },
            namespaces: namespaces.as_ref(),
            pods: pods.as_ref(),
        },
        NetworkPolicyPeer::IpBlock { cidr, except } => Peer::Networks { networks: std::slice::from_ref(cidr), except },
        NetworkPolicyPeer::Nothing => return None,
    })
}
