//! The yardstick: SEMANTICS §2 in its own order, over the state itself, with linear scans and nothing clever.
//!
//! The compiled [`PolicySet`](crate::PolicySet) must give the same verdict for every tuple; a property test says so. Read this
//! file beside SEMANTICS, and the compiled one only when it is slow.

use std::net::IpAddr;

use mesh_core::policy::{ClusterNetworkPolicy, NetworkPolicy, NetworkPolicyRule, PolicyScope, PolicyTier, RuleAction};
use mesh_core::{
    CrossClusterDefault, Direction, FiveTuple, Located, NamespaceName, NodeId, ObjectName, Reason, RuleName, State, Verdict,
    Workload,
};

use crate::{exports, rules};

mod matching;

/// Decides one side of `tuple`, after service translation, by the facts of `state`.
pub fn decide(state: &State, tuple: &FiveTuple, direction: Direction) -> Verdict<RuleName> {
    let (source, destination) = (state.locate(tuple.source), state.locate(tuple.destination));

    // Rule 13: what has no identity yet is not external, and no side lets it pass.
    if source == Located::Pending || destination == Located::Pending {
        return Verdict::Deny(Reason::IdentityPending);
    }

    let (own, peer, peer_address) = match direction {
        Direction::Ingress => (destination, source, tuple.source),
        Direction::Egress => (source, destination, tuple.destination),
    };
    // Rule 6: nodes, host-network pods and external addresses are never subjects.
    let Located::Workload(subject) = own else { return Verdict::Allow(Reason::NotPoliced) };

    // Rule 10: a workload reaches itself by its own addresses, in all tiers.
    if peer == own {
        return Verdict::Allow(Reason::OwnAddress);
    }

    let side = Side { state, tuple, direction, subject, peer, peer_address, destination };
    side.cluster_tier(PolicyTier::Admin)
        .or_else(|| side.network_policies())
        .or_else(|| side.cluster_tier(PolicyTier::Baseline))
        .unwrap_or_else(|| side.no_tier())
}

/// One side of one connection: the policed workload, and who is at the other end.
struct Side<'a> {
    state: &'a State,
    tuple: &'a FiveTuple,
    direction: Direction,
    subject: &'a Workload,
    peer: Located<'a>,
    peer_address: IpAddr,
    /// Named ports are looked up there, whichever side decides.
    destination: Located<'a>,
}

impl Side<'_> {
    /// Rule 2: the rules of a tier in order. `None`: none of them matches, or the first that does says `Pass`.
    fn cluster_tier(&self, tier: PolicyTier) -> Option<Verdict<RuleName>> {
        let facts = self.state.facts();
        let mut policies: Vec<&ClusterNetworkPolicy> = facts.cluster_policies.values().map(AsRef::as_ref).collect();
        policies.retain(|policy| policy.tier == tier && self.is_subject_of(policy));
        policies.sort_by_key(|policy| (policy.priority, policy.name.clone(), policy.scope.clone()));
        for policy in policies {
            let rules = match self.direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            for (index, rule) in rules.iter().enumerate() {
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
    fn network_policies(&self) -> Option<Verdict<RuleName>> {
        let facts = self.state.facts();
        let mut policies: Vec<(&NetworkPolicy, &[NetworkPolicyRule])> = Vec::new();
        for policy in facts.network_policies.values() {
            let rules = match self.direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            if let (Some(rules), true) = (rules, self.is_selected_by(policy)) {
                policies.push((policy, rules));
            }
        }
        if policies.is_empty() {
            return None;
        }
        policies.sort_by_key(|(policy, _)| (policy.name.clone(), policy.scope.clone()));
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
    fn is_own_node_allowed(&self) -> bool {
        let settings = &self.state.config().settings;
        let allowed = match self.direction {
            Direction::Ingress => settings.own_node_ingress_allowed,
            Direction::Egress => settings.own_node_egress_allowed,
        };
        let Some(node) = &self.subject.node else { return false };
        let node = NodeId { cluster: self.subject.id.cluster.clone(), name: node.clone() };
        allowed && matches!(self.peer, Located::Node(_)) && rules::node_has_address(self.state, &node, self.peer_address)
    }

    /// Rule 4: between workloads of different clusters the fleet's default holds; everywhere else what no tier decides is allowed.
    fn no_tier(&self) -> Verdict<RuleName> {
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

    fn rule_name(&self, scope: &PolicyScope, namespace: Option<&NamespaceName>, policy: &ObjectName, index: usize) -> RuleName {
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
