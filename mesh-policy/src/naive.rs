//! The yardstick: SEMANTICS §2 in its own order, over the state itself, with linear scans and nothing clever.
//!
//! The compiled [`PolicySet`](crate::PolicySet) must give the same verdict for every tuple; a property test says so. Read this
//! file beside SEMANTICS, and the compiled one only when it is slow.

use std::net::IpAddr;

use mesh_core::policy::{
    ClusterNetworkPolicy, ClusterRule, NetworkPolicy, NetworkPolicyRule, PolicyScope, PolicyTier, RuleAction,
};
use mesh_core::{
    CrossClusterDefault, Direction, FiveTuple, Located, NamespaceName, NodeId, ObjectName, Reason, RuleName, State, Verdict,
    Workload,
};

use crate::{exports, rules};

mod matching;

/// Decides one side of `tuple`, after service translation, by the facts of `state`.
pub fn decide(state: &State, tuple: &FiveTuple, direction: Direction) -> Verdict<RuleName> {
    let ends = (state.locate(tuple.source), state.locate(tuple.destination));

    // Rule 13: what has no identity yet is not external, and no side lets it pass.
    if ends.0 == Located::Pending || ends.1 == Located::Pending {
        return Verdict::Deny(Reason::IdentityPending);
    }

    // Rule 6: nodes, host-network pods and external addresses are never subjects.
    let Some(side) = Side::new(state, tuple, direction, ends) else { return Verdict::Allow(Reason::NotPoliced) };

    // Rule 10: a workload reaches itself by its own addresses, in all tiers.
    if side.peer == Located::Workload(side.subject) {
        return Verdict::Allow(Reason::OwnAddress);
    }

    side.cluster_tier(PolicyTier::Admin)
        .or_else(|| side.network_tier())
        .or_else(|| side.cluster_tier(PolicyTier::Baseline))
        .unwrap_or_else(|| side.no_tier())
}

/// One side of one connection: the policed workload, and who is at the other end.
pub(crate) struct Side<'a> {
    pub(crate) state: &'a State,
    pub(crate) tuple: &'a FiveTuple,
    pub(crate) direction: Direction,
    pub(crate) subject: &'a Workload,
    pub(crate) peer: Located<'a>,
    pub(crate) peer_address: IpAddr,
    /// Named ports are looked up there, whichever side decides.
    pub(crate) destination: Located<'a>,
}

/// A NetworkPolicy that applies in a direction, with its rules for it.
pub(crate) type Applying<'a> = (&'a NetworkPolicy, &'a [NetworkPolicyRule]);

impl<'a> Side<'a> {
    /// Makes a side of a connection between `ends` (source, destination); `None` where the own end is no workload.
    pub(crate) fn new(
        state: &'a State,
        tuple: &'a FiveTuple,
        direction: Direction,
        (source, destination): (Located<'a>, Located<'a>),
    ) -> Option<Side<'a>> {
        let (own, peer, peer_address) = match direction {
            Direction::Ingress => (destination, source, tuple.source),
            Direction::Egress => (source, destination, tuple.destination),
        };
        let Located::Workload(subject) = own else { return None };
        Some(Side { state, tuple, direction, subject, peer, peer_address, destination })
    }

    /// Returns the ClusterNetworkPolicies of a tier that apply, in the order in which they are asked.
    pub(crate) fn cluster_policies(&self, tier: PolicyTier) -> Vec<&'a ClusterNetworkPolicy> {
        let mut policies: Vec<_> = self.state.facts().cluster_policies.values().map(AsRef::as_ref).collect();
        policies.retain(|policy| policy.tier == tier && self.is_subject_of(policy));
        policies.sort_by_key(|policy| (policy.priority, policy.name.clone(), policy.scope.clone()));
        policies
    }

    /// Returns the NetworkPolicies that apply: they select the workload and have the direction. They are named in this order.
    pub(crate) fn network_policies(&self) -> Vec<Applying<'a>> {
        let mut policies = Vec::new();
        for policy in self.state.facts().network_policies.values() {
            let rules = match self.direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            if let (Some(rules), true) = (rules, self.is_selected_by(policy)) {
                policies.push((policy.as_ref(), rules.as_slice()));
            }
        }
        policies.sort_by_key(|(policy, _)| (policy.name.clone(), policy.scope.clone()));
        policies
    }

    /// Returns the rules of `policy` for the direction.
    pub(crate) fn rules_of(&self, policy: &'a ClusterNetworkPolicy) -> &'a [ClusterRule] {
        match self.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        }
    }

    /// Rule 2: the rules of a tier in order. `None`: none of them matches, or the first that does says `Pass`.
    fn cluster_tier(&self, tier: PolicyTier) -> Option<Verdict<RuleName>> {
        for policy in self.cluster_policies(tier) {
            for (index, rule) in self.rules_of(policy).iter().enumerate() {
                let action = match rules::fails_closed(rule, self.direction) {
                    // Rule 12: what is not understood allows nothing, and where it does not allow, it denies everything.
                    true if rule.action == RuleAction::Accept => continue,
                    true => RuleAction::Deny,
                    false if self.matches_cluster_rule(rule) => rule.action,
                    false => continue,
                };
                let name = self.rule_name(&policy.scope, None, &policy.name, index);
                let reason = match tier {
                    PolicyTier::Admin => Reason::Admin(name),
                    PolicyTier::Baseline => Reason::Baseline(name),
                };
                return match action {
                    RuleAction::Accept => Some(Verdict::Allow(reason)),
                    RuleAction::Deny => Some(Verdict::Deny(reason)),
                    RuleAction::Pass => None,
                };
            }
        }
        None
    }

    /// Rule 3: where a NetworkPolicy selects the workload and has the direction, NetworkPolicy decides finally.
    fn network_tier(&self) -> Option<Verdict<RuleName>> {
        let policies = self.network_policies();
        if policies.is_empty() {
            return None;
        }
        for (policy, rules) in policies {
            for (index, rule) in rules.iter().enumerate() {
                if self.matches_rule(policy, rule) {
                    let name = self.rule_name(&policy.scope, Some(&policy.namespace), &policy.name, index);
                    return Some(Verdict::Allow(Reason::NetworkPolicy(name)));
                }
            }
        }
        if self.is_own_node_allowed() {
            return Some(Verdict::Allow(Reason::OwnNode));
        }
        Some(Verdict::Deny(Reason::Isolated))
    }

    /// Rule 10: the workload's own node, by any of the node's addresses.
    pub(crate) fn is_own_node_allowed(&self) -> bool {
        let settings = &self.state.config().settings;
        let allowed = match self.direction {
            Direction::Ingress => settings.own_node_ingress_allowed,
            Direction::Egress => settings.own_node_egress_allowed,
        };
        let Some(node) = &self.subject.node else { return false };
        let node = NodeId { cluster: self.subject.id.cluster.clone(), name: node.clone() };
        allowed && matches!(self.peer, Located::Node(_)) && self.is_peer_address_of(&node)
    }

    /// Rule 4: between workloads of different clusters the fleet's default holds; everywhere else what no tier decides is allowed.
    pub(crate) fn no_tier(&self) -> Verdict<RuleName> {
        let Located::Workload(peer) = self.peer else { return Verdict::Allow(Reason::Default) };
        if peer.id.cluster == self.subject.id.cluster {
            return Verdict::Allow(Reason::Default);
        }
        let (client, server) = match self.direction {
            Direction::Ingress => (&peer.id.cluster, &self.subject.id.cluster),
            Direction::Egress => (&self.subject.id.cluster, &peer.id.cluster),
        };
        let allowed = match self.state.cross_cluster_default() {
            CrossClusterDefault::Allow => true,
            CrossClusterDefault::Deny => false,
            CrossClusterDefault::Exports => exports::backend_ports(self.state).iter().any(|backend| {
                backend.cluster == *server
                    && backend.address == self.tuple.destination
                    && backend.protocol == self.tuple.protocol
                    && backend.port == self.tuple.destination_port
                    && self.state.namespace_exists(client, &backend.namespace)
            }),
        };
        if allowed { Verdict::Allow(Reason::FleetDefault) } else { Verdict::Deny(Reason::NotExported) }
    }

    pub(crate) fn rule_name(
        &self,
        scope: &PolicyScope,
        namespace: Option<&NamespaceName>,
        policy: &ObjectName,
        index: usize,
    ) -> RuleName {
        RuleName {
            cluster: self.subject.id.cluster.clone(),
            scope: scope.clone(),
            namespace: namespace.cloned(),
            policy: policy.clone(),
            direction: self.direction,
            index: u32::try_from(index).expect("a policy has fewer rules than a u32 counts"),
        }
    }
}
