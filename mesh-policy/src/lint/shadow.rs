//! Rules that never decide, because others match all that they match.

use mesh_core::policy::{ClusterNetworkPolicy, RuleAction};
use mesh_core::{Direction, State};

use super::reach::{Reach, Stage};
use super::{Code, Report, rule_path};

pub(super) fn look(state: &State, report: &mut Report<'_>) {
    for direction in [Direction::Ingress, Direction::Egress] {
        let rules = in_order(state, direction);
        for (place, rule) in rules.iter().enumerate() {
            // In its own tier every rule that matches before it keeps it from deciding; of a tier before, those that decide
            // whatever matches them: no rule before them passes.
            let passes = |other: &Reach<'_>| other.action == Some(RuleAction::Pass) && other.meets(rule);
            let first_pass = rules.iter().position(|other| other.stage == Stage::Admin && passes(other));
            let before: Vec<&Reach<'_>> = rules[..place]
                .iter()
                .enumerate()
                .filter(|(at, other)| match (other.stage, rule.stage) {
                    (Stage::Admin, Stage::Admin) | (Stage::Baseline, Stage::Baseline) => true,
                    (Stage::Admin, _) => first_pass.is_none_or(|pass| *at < pass),
                    _ => false,
                })
                .map(|(_, other)| other)
                .collect();
            if let Some(by) = rule.inside(&before) {
                let message = format!("it can never decide: {} before it, for all that it matches", list(&by));
                let same = by.iter().all(|other| other.action == rule.action);
                let way_out = match same {
                    true => "delete it: nothing changes",
                    false => "it has no effect today: delete it, or put it before them by order or by a lower priority",
                };
                report.add(Code::ShadowedRule, &(rule.key.clone(), rule_path(direction, rule.index)), message, way_out);
            } else if rule.stage == Stage::Network {
                look_at_allowed_already(&rules, place, report);
            }
        }
    }
}

/// Rules of NetworkPolicies allow together, so any other one makes a rule redundant; of two that match the same, the later is it.
fn look_at_allowed_already(rules: &[Reach<'_>], place: usize, report: &mut Report<'_>) {
    let rule = &rules[place];
    let others: Vec<&Reach<'_>> = rules
        .iter()
        .enumerate()
        .filter(|(other_place, other)| {
            let this_one = *other_place == place || other.stage != Stage::Network;
            !this_one && (*other_place < place || other.inside(&[rule]).is_none())
        })
        .map(|(_, other)| other)
        .collect();
    if let Some(by) = rule.inside(&others) {
        let message = format!("it allows nothing more: {} already", list(&by));
        let way_out = "delete the rule, or the policy where its other rules are redundant too and others still apply to its pods";
        report.add(Code::RedundantRule, &(rule.key.clone(), rule_path(rule.direction, rule.index)), message, way_out);
    }
}

/// Returns all rules in the order in which they are asked.
fn in_order(state: &State, direction: Direction) -> Vec<Reach<'_>> {
    let facts = state.facts();
    let mut cluster: Vec<&ClusterNetworkPolicy> = facts.cluster_policies.values().map(AsRef::as_ref).collect();
    cluster.sort_by_key(|policy| (policy.priority, policy.name.clone(), policy.scope.clone()));
    let mut network: Vec<_> = facts.network_policies.values().collect();
    network.sort_by_key(|policy| (policy.name.clone(), policy.scope.clone(), policy.namespace.clone()));
    let mut rules: Vec<Reach<'_>> = cluster.into_iter().flat_map(|policy| Reach::of_cluster(policy, direction)).collect();
    rules.extend(network.into_iter().flat_map(|policy| Reach::of_network(policy, direction)));
    rules.sort_by_key(|rule| rule.stage);
    rules
}

/// Writes `ClusterNetworkPolicy fleet/a spec.ingress[0] denies`.
fn list(rules: &[&Reach<'_>]) -> String {
    let one = |rule: &&Reach<'_>| {
        let does = match rule.action {
            None | Some(RuleAction::Accept) => "allows",
            Some(RuleAction::Deny) => "denies",
            Some(RuleAction::Pass) => "passes",
        };
        format!("{} {} {does}", rule.key, rule_path(rule.direction, rule.index))
    };
    rules.iter().map(one).collect::<Vec<_>>().join(" and ")
}
