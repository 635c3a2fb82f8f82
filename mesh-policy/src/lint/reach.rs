//! What a rule matches, of either kind of policy, as sets that can be compared.

use mesh_core::labels::NAMESPACE_NAME_LABEL;
use mesh_core::policy::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PolicyScope, PolicyTier,
    PortMatch, RuleAction, WorkloadMatch,
};
use mesh_core::{Direction, Key, NamespaceName, Prefix, Requirement, Selector};

use super::{cluster_key, cover, network_key};
use crate::rules;

/// Where a rule is asked, in the order of the tiers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Admin,
    Network,
    Baseline,
}

/// A rule with all that it matches.
pub(super) struct Reach<'a> {
    pub(super) stage: Stage,
    pub(super) key: Key,
    pub(super) direction: Direction,
    pub(super) index: usize,
    /// `None` for a rule of a NetworkPolicy.
    pub(super) action: Option<RuleAction>,
    scope: &'a PolicyScope,
    subject: WorkloadMatch,
    peers: Vec<Peer<'a>>,
    ports: &'a [PortMatch],
}

/// A peer of either kind of policy.
enum Peer<'a> {
    Everybody,
    Pods(WorkloadMatch),
    Networks(&'a [Prefix], &'a [Prefix]),
    Nodes(&'a Selector),
    Domains(&'a [std::sync::Arc<str>]),
    Nobody,
}

impl<'a> Reach<'a> {
    /// Returns the rules of `policy` in `direction`; without those that match nothing because they fail closed.
    pub(super) fn of_cluster(policy: &'a ClusterNetworkPolicy, direction: Direction) -> impl Iterator<Item = Reach<'a>> {
        let rules = if direction == Direction::Ingress { &policy.ingress } else { &policy.egress };
        let matching = rules
            .iter()
            .enumerate()
            .filter(move |(_, rule)| rule.action != RuleAction::Accept || !rules::fails_closed(rule, direction));
        matching.map(move |(index, rule)| {
            let closed = rules::fails_closed(rule, direction);
            Reach {
                stage: if policy.tier == PolicyTier::Admin { Stage::Admin } else { Stage::Baseline },
                key: cluster_key(policy),
                direction,
                index,
                action: Some(if closed { RuleAction::Deny } else { rule.action }),
                scope: &policy.scope,
                subject: policy.subject.clone(),
                peers: if closed { vec![Peer::Everybody] } else { cluster_peers(rule) },
                ports: if closed { &[] } else { &rule.protocols },
            }
        })
    }

    /// Returns the rules of `policy` in `direction`.
    pub(super) fn of_network(policy: &'a NetworkPolicy, direction: Direction) -> impl Iterator<Item = Reach<'a>> {
        let rules = if direction == Direction::Ingress { &policy.ingress } else { &policy.egress };
        rules.iter().flatten().enumerate().map(move |(index, rule)| Reach {
            stage: Stage::Network,
            key: network_key(policy),
            direction,
            index,
            action: None,
            scope: &policy.scope,
            subject: WorkloadMatch { namespaces: by_name(&policy.namespace), pods: Some(policy.subject.clone()) },
            peers: network_peers(policy, rule),
            ports: &rule.ports,
        })
    }

    /// Tells whether the two hold in one cluster.
    pub(super) fn meets(&self, other: &Reach<'_>) -> bool {
        self.scope == other.scope || [self.scope, other.scope].contains(&&PolicyScope::Fleet)
    }

    /// Tells whether this rule is asked for all of the other's subjects, with all of its ports.
    fn is_asked_for(&self, other: &Reach<'_>) -> bool {
        let clusters = *self.scope == PolicyScope::Fleet || self.scope == other.scope;
        clusters && covers_pods(&self.subject, &other.subject) && cover::ports(self.ports, other.ports)
    }

    /// Returns the rules of `others` inside which this one lies, each peer inside one; `None` where it does not.
    pub(super) fn inside<'o>(&self, others: &'o [&'o Reach<'a>]) -> Option<Vec<&'o Reach<'a>>> {
        let asked: Vec<&Reach<'a>> = others.iter().copied().filter(|other| other.is_asked_for(self)).collect();
        let mut by: Vec<&Reach<'a>> = Vec::new();
        for peer in &self.peers {
            let holding = asked.iter().find(|other| other.peers.iter().any(|wide| covers(wide, peer)))?;
            if !by.iter().any(|known| std::ptr::eq(*known, *holding)) {
                by.push(holding);
            }
        }
        Some(by).filter(|by| !by.is_empty())
    }
}

fn by_name(namespace: &NamespaceName) -> Selector {
    Selector { requirements: vec![Requirement::In(NAMESPACE_NAME_LABEL.into(), vec![namespace.as_str().into()])] }
}

fn cluster_peers<'a>(rule: &'a ClusterRule) -> Vec<Peer<'a>> {
    let peer = |peer: &'a ClusterPeer| match peer {
        ClusterPeer::Workloads(who) => Peer::Pods(who.clone()),
        ClusterPeer::Nodes(selector) => Peer::Nodes(selector),
        ClusterPeer::Networks(networks) => Peer::Networks(networks, &[]),
        ClusterPeer::DomainNames(names) => Peer::Domains(names),
    };
    rule.peers.iter().map(peer).collect()
}

fn network_peers<'a>(policy: &NetworkPolicy, rule: &'a NetworkPolicyRule) -> Vec<Peer<'a>> {
    if rule.peers.is_empty() {
        return vec![Peer::Everybody];
    }
    let peer = |peer: &'a NetworkPolicyPeer| match peer {
        NetworkPolicyPeer::Workloads { namespaces, pods } => Peer::Pods(WorkloadMatch {
            namespaces: namespaces.clone().unwrap_or_else(|| by_name(&policy.namespace)),
            pods: pods.clone(),
        }),
        NetworkPolicyPeer::IpBlock { cidr, except } => Peer::Networks(std::slice::from_ref(cidr), except),
        NetworkPolicyPeer::Nothing => Peer::Nobody,
    };
    rule.peers.iter().map(peer).collect()
}

fn covers(wide: &Peer<'_>, narrow: &Peer<'_>) -> bool {
    match (wide, narrow) {
        (Peer::Everybody, _) | (_, Peer::Nobody) => true,
        (Peer::Pods(wide), Peer::Pods(narrow)) => covers_pods(wide, narrow),
        (Peer::Networks(wide, out), Peer::Networks(narrow, except)) => cover::networks((wide, out), (narrow, except)),
        (Peer::Nodes(wide), Peer::Nodes(narrow)) => cover::selector(wide, narrow),
        (Peer::Domains(wide), Peer::Domains(narrow)) => {
            narrow.iter().all(|name| wide.iter().any(|other| cover::domain(other, name)))
        }
        _ => false,
    }
}

fn covers_pods(wide: &WorkloadMatch, narrow: &WorkloadMatch) -> bool {
    let (all, pods) = (Selector::ALL, |who: &WorkloadMatch| who.pods.clone());
    cover::selector(&wide.namespaces, &narrow.namespaces)
        && cover::selector(&pods(wide).unwrap_or(all.clone()), &pods(narrow).unwrap_or(all))
}
