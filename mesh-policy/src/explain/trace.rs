//! The policies that apply to one side, rule by rule, in the order in which they are asked.

use mesh_core::policy::{ClusterNetworkPolicy, PolicyScope, PolicyTier, RuleAction};
use mesh_core::{Reason, RuleName, Tier, Verdict};

use super::lack::{Lack, weight};
use super::unmet::Unmet;
use super::{Action, Outcome, Policy, Rule};
use crate::naive::{Applying, Side};
use crate::{rules, words};

/// One rule with what it does and lacks.
pub(super) struct Step {
    tier: Tier,
    /// Which policy of the trace.
    policy: usize,
    name: RuleName,
    action: Action,
    unmet: Unmet,
    peers: Vec<String>,
    ports: String,
}

/// The rules of all policies that apply to one side.
pub(super) struct Trace<'a> {
    side: &'a Side<'a>,
    policies: Vec<Policy>,
    steps: Vec<Step>,
    /// The NetworkPolicies that apply: where there is one, Baseline is not asked.
    network_policies: Vec<String>,
}

/// What to leave out and what to take as matching, for a run that answers "what if".
#[derive(Default)]
struct What {
    without: Vec<usize>,
    matching: Option<usize>,
    without_network_policies: bool,
}

/// A rule that would turn the verdict, and all that it lacks for that.
pub(super) struct Turning {
    pub(super) rule: RuleName,
    pub(super) then: Verdict<RuleName>,
    pub(super) lacks: Vec<Lack>,
}

impl Step {
    fn matches(&self) -> bool {
        self.unmet.peer.is_empty() && self.unmet.port.is_empty()
    }
}

impl<'a> Trace<'a> {
    pub(super) fn new(side: &'a Side<'a>) -> Trace<'a> {
        let mut trace = Trace { side, policies: Vec::new(), steps: Vec::new(), network_policies: Vec::new() };
        side.cluster_policies(PolicyTier::Admin).into_iter().for_each(|policy| trace.add_cluster(policy));
        side.network_policies().into_iter().for_each(|policy| trace.add_network(policy));
        side.cluster_policies(PolicyTier::Baseline).into_iter().for_each(|policy| trace.add_cluster(policy));
        trace
    }

    fn add_cluster(&mut self, policy: &'a ClusterNetworkPolicy) {
        let tier = match policy.tier {
            PolicyTier::Admin => Tier::Admin,
            PolicyTier::Baseline => Tier::Baseline,
        };
        let side = self.side;
        for (index, rule) in side.rules_of(policy).iter().enumerate() {
            let closed = rules::fails_closed(rule, side.direction);
            let (action, mut unmet) = match rule.action {
                RuleAction::Deny | RuleAction::Pass if closed => (Action::Deny, Unmet::default()),
                RuleAction::Accept => (Action::Accept, side.unmet_cluster(rule)),
                RuleAction::Deny => (Action::Deny, side.unmet_cluster(rule)),
                RuleAction::Pass => (Action::Pass, side.unmet_cluster(rule)),
            };
            if closed && rule.action == RuleAction::Accept {
                unmet.peer.insert(0, Lack::NotUnderstood);
            }
            self.steps.push(Step {
                tier,
                policy: self.policies.len(),
                name: side.rule_name(&policy.scope, None, &policy.name, index),
                action,
                unmet,
                peers: match closed && action == Action::Deny {
                    true => vec!["everybody (it holds something that is not understood)".into()],
                    false => words::cluster_peers(rule),
                },
                ports: words::ports(&rule.protocols),
            });
        }
        self.policies.push(Policy {
            name: format!("{}/ClusterNetworkPolicy/{}", side.subject.id.cluster, policy.name),
            fleet: policy.scope == PolicyScope::Fleet,
            tier,
            priority: Some(policy.priority),
            selects: words::who(&policy.subject),
            asked: false,
            rules: Vec::new(),
        });
    }

    fn add_network(&mut self, (policy, rules): Applying<'a>) {
        let side = self.side;
        for (index, rule) in rules.iter().enumerate() {
            self.steps.push(Step {
                tier: Tier::NetworkPolicy,
                policy: self.policies.len(),
                name: side.rule_name(&policy.scope, Some(&policy.namespace), &policy.name, index),
                action: Action::Accept,
                unmet: side.unmet(policy, rule),
                peers: words::peers(policy, rule),
                ports: words::ports(&rule.ports),
            });
        }
        let name = format!("{}/NetworkPolicy/{}/{}", side.subject.id.cluster, policy.namespace, policy.name);
        self.network_policies.push(name.clone());
        self.policies.push(Policy {
            name,
            fleet: policy.scope == PolicyScope::Fleet,
            tier: Tier::NetworkPolicy,
            priority: None,
            selects: format!("{} in namespace {}", words::pods_of(Some(&policy.subject)), policy.namespace),
            asked: false,
            rules: Vec::new(),
        });
    }

    pub(super) fn network_policies(&self) -> &[String] {
        &self.network_policies
    }

    /// Returns the first rule of a tier that matches, of those that `what` leaves.
    fn first(&self, tier: Tier, what: &What) -> Option<usize> {
        (0..self.steps.len()).find(|index| {
            let step = &self.steps[*index];
            step.tier == tier && !what.without.contains(index) && (what.matching == Some(*index) || step.matches())
        })
    }

    /// Decides as the yardstick does; also returns the rule that decided.
    fn run(&self, what: &What) -> (Verdict<RuleName>, Option<usize>) {
        let by = |index: usize, reason: fn(RuleName) -> Reason<RuleName>| {
            let step = &self.steps[index];
            let reason = reason(step.name.clone());
            let verdict = if step.action == Action::Accept { Verdict::Allow(reason) } else { Verdict::Deny(reason) };
            (verdict, Some(index))
        };
        match self.first(Tier::Admin, what) {
            Some(index) if self.steps[index].action != Action::Pass => return by(index, Reason::Admin),
            _ => {}
        }
        if !self.network_policies.is_empty() && !what.without_network_policies {
            return match self.first(Tier::NetworkPolicy, what) {
                Some(index) => by(index, Reason::NetworkPolicy),
                None if self.side.is_own_node_allowed() => (Verdict::Allow(Reason::OwnNode), None),
                None => (Verdict::Deny(Reason::Isolated), None),
            };
        }
        match self.first(Tier::Baseline, what) {
            Some(index) if self.steps[index].action != Action::Pass => by(index, Reason::Baseline),
            _ => (self.side.no_tier(), None),
        }
    }

    /// Returns what decides where the rule that decides now is not there; `None` where no rule decides.
    pub(super) fn without_the_deciding_rule(&self) -> Option<Verdict<RuleName>> {
        let (_, deciding) = self.run(&What::default());
        Some(self.run(&What { without: vec![deciding?], ..What::default() }).0)
    }

    /// Returns the rule that lacks least of those that would turn the verdict, the first of equals.
    pub(super) fn nearest(&self) -> Option<Turning> {
        let (now, _) = self.run(&What::default());
        let turning = (0..self.steps.len()).filter_map(|index| {
            let (blockers, what) = self.in_the_way(index);
            let (then, _) = self.run(&what);
            let step = &self.steps[index];
            let lacks: Vec<Lack> = step.unmet.peer.iter().chain(&step.unmet.port).cloned().chain(blockers).collect();
            (then.is_allow() != now.is_allow()).then(|| Turning { rule: step.name.clone(), then, lacks })
        });
        turning.min_by_key(|turning| weight(&turning.lacks))
    }

    /// Returns why a rule is not asked, and the run in which it is asked and matches.
    fn in_the_way(&self, index: usize) -> (Vec<Lack>, What) {
        let step = &self.steps[index];
        let mut what = What { matching: Some(index), ..What::default() };
        let mut lacks = Vec::new();
        for (earlier, other) in self.steps[..index].iter().enumerate().filter(|(_, other)| other.matches()) {
            let leaves = match (other.tier, step.tier) {
                (Tier::Admin, Tier::Admin) => true,
                // The first rule that passes leaves the tier for the next one: what comes after it is not in the way.
                (Tier::Admin, _) if other.action == Action::Pass => break,
                (Tier::Admin, _) => true,
                _ => false,
            };
            if leaves {
                lacks.push(Lack::Preceded { by: other.name.clone() });
                what.without.push(earlier);
            }
        }
        if step.tier == Tier::Baseline {
            self.add_baseline_blockers(index, &mut lacks, &mut what);
        }
        (lacks, what)
    }

    fn add_baseline_blockers(&self, index: usize, lacks: &mut Vec<Lack>, what: &mut What) {
        if !self.network_policies.is_empty() {
            lacks.push(Lack::NetworkPolicyApplies { policies: self.network_policies.clone() });
            what.without_network_policies = true;
        }
        for (earlier, other) in self.steps[..index].iter().enumerate() {
            if other.tier == Tier::Baseline && other.matches() {
                lacks.push(Lack::Preceded { by: other.name.clone() });
                what.without.push(earlier);
            }
        }
    }

    /// Returns the policies with what became of each rule.
    pub(super) fn finish(mut self) -> Vec<Policy> {
        let (verdict, deciding) = self.run(&What::default());
        let passing = [Tier::Admin, Tier::Baseline].map(|tier| self.first(tier, &What::default()));
        let last = verdict.reason().tier();
        // The last policy of each tier that is asked: the one whose rule matches first.
        let asked_to = passing.map(|first| first.map(|index| self.steps[index].policy));
        for (index, policy) in self.policies.iter_mut().enumerate() {
            policy.asked = match policy.tier {
                Tier::Admin => asked_to[0].is_none_or(|policy| index <= policy),
                Tier::NetworkPolicy => last != Tier::Admin,
                _ => !matches!(last, Tier::Admin | Tier::NetworkPolicy) && asked_to[1].is_none_or(|policy| index <= policy),
            };
        }
        for (index, step) in self.steps.into_iter().enumerate() {
            let asked = self.policies[step.policy].asked;
            let outcome = match step.matches() {
                _ if deciding == Some(index) => Outcome::Decides,
                true if asked && step.action == Action::Pass && passing.contains(&Some(index)) => Outcome::Passes,
                true => Outcome::Matches,
                false => Outcome::Differs,
            };
            let (peer, port) = (step.unmet.peer.is_empty(), step.unmet.port.is_empty());
            let lacks = step.unmet.peer.into_iter().chain(step.unmet.port).collect();
            self.policies[step.policy].rules.push(Rule {
                name: step.name,
                action: step.action,
                outcome,
                peers: step.peers,
                ports: step.ports,
                peer,
                port,
                lacks,
            });
        }
        self.policies
    }
}
