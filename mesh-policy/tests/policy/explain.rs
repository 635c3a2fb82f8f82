//! Explanations: they agree with the evaluator, what they say is lacking is lacking, and with it the verdict turns.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::policy::*;
use mesh_core::*;
use mesh_policy::explain::{self, Explanation, Lack, Otherwise, Outcome, Side};
use mesh_policy::{PolicySet, naive};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::any;
use crate::fleet::*;

fn sides(why: &Explanation) -> [&Side; 2] {
    [&why.egress, &why.ingress]
}

/// The other end, as the side sees it.
fn peer(tuple: &FiveTuple, side: &Side) -> IpAddr {
    if side.direction == Direction::Egress { tuple.destination } else { tuple.source }
}

proptest! {
    #[test]
    fn an_explanation_agrees_with_the_evaluator_and_what_it_says_is_so(
        trust in any::trust(),
        settings in any::settings(),
        facts in vec(any::resource(), 10..70),
        tuples in vec(any::tuple(), 20..40),
    ) {
        let mut fleet = Fleet::with(trust, settings);
        for fact in facts {
            let _ = fleet.set(fact);
        }
        let set = PolicySet::compile(&fleet.state);
        for tuple in &tuples {
            let why = explain::connection(&fleet.state, &set, tuple);
            for side in sides(&why) {
                let decided = set.named(set.decide(&set.flow(tuple), side.direction));
                prop_assert_eq!(&side.decided, &decided);
                agrees(side)?;
                for lack in side.policies.iter().flat_map(|policy| &policy.rules).flat_map(|rule| &rule.lacks) {
                    prop_assert!(is_lacking(&fleet.state, tuple, side, lack), "{tuple}: {lack}");
                }
                if let Some(otherwise) = &side.otherwise {
                    prop_assert!(!otherwise.lacks.is_empty());
                    for lack in &otherwise.lacks {
                        prop_assert!(is_lacking(&fleet.state, tuple, side, lack), "{tuple}: {lack}");
                    }
                    turns(&fleet, tuple, side, otherwise)?;
                }
                if let Some(without) = &side.without {
                    let rule = decided.reason().rule().expect("a rule decided");
                    let mut other = Fleet { state: fleet.state.clone() };
                    silence(&mut other, rule);
                    prop_assert_eq!(&naive::decide(&other.state, tuple, side.direction), without);
                }
                nothing_asked_is_nearer(side)?;
            }
            prop_assert!(serde_json::to_value(&why).is_ok_and(|json| json["ingress"]["because"].is_string()));
            prop_assert!(!why.to_string().lines().any(|line| line.ends_with(' ')), "{}", why);
        }
    }
}

/// The rule that the explanation finds deciding is the evaluator's, and a rule matches where nothing is lacking.
fn agrees(side: &Side) -> Result<(), TestCaseError> {
    let rules = || side.policies.iter().flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)));
    let deciding: Vec<_> = rules().filter(|(_, rule)| rule.outcome == Outcome::Decides).collect();
    prop_assert!(deciding.len() <= 1);
    prop_assert_eq!(deciding.first().map(|(_, rule)| &rule.name), side.decided.reason().rule());
    for (policy, rule) in rules() {
        prop_assert_eq!(rule.peer && rule.port, rule.lacks.is_empty());
        prop_assert_eq!(rule.outcome == Outcome::Differs, !rule.lacks.is_empty());
        prop_assert!(policy.asked || !matches!(rule.outcome, Outcome::Decides | Outcome::Passes));
    }
    let tier_was_asked = |tier| side.policies.iter().any(|policy| policy.tier == tier && policy.asked);
    match side.decided.reason() {
        Reason::Isolated | Reason::NetworkPolicy(_) => prop_assert!(tier_was_asked(Tier::NetworkPolicy)),
        Reason::Admin(_) => prop_assert!(!tier_was_asked(Tier::NetworkPolicy) && !tier_was_asked(Tier::Baseline)),
        Reason::IdentityPending | Reason::OwnAddress | Reason::NotPoliced => prop_assert!(side.policies.is_empty()),
        _ => {}
    }
    Ok(())
}

/// No rule that was asked and would have decided otherwise lacks less.
fn nothing_asked_is_nearer(side: &Side) -> Result<(), TestCaseError> {
    let weight = |lacks: &[Lack]| lacks.iter().map(Lack::weight).sum::<usize>();
    let nearest = side.otherwise.as_ref().map(|otherwise| weight(&otherwise.lacks));
    let turning = if side.decided.is_allow() { explain::Action::Deny } else { explain::Action::Accept };
    let in_order = side.policies.iter().filter(|policy| policy.asked).flat_map(|policy| &policy.rules);
    let decisive = |rule: &explain::Rule| matches!(rule.outcome, Outcome::Decides | Outcome::Passes);
    for rule in in_order.take_while(|rule| !decisive(rule)).filter(|rule| rule.action == turning) {
        prop_assert!(nearest.is_some_and(|nearest| nearest <= weight(&rule.lacks)), "{}", rule.name);
    }
    Ok(())
}

/// Tells whether what is said to be lacking is, by the facts.
fn is_lacking(state: &State, tuple: &FiveTuple, side: &Side, lack: &Lack) -> bool {
    let address = peer(tuple, side);
    let Located::Workload(other) = state.locate(address) else {
        return match lack {
            Lack::NoWorkload { address: at, .. } => *at == address,
            Lack::NoNode { .. } => !matches!(state.locate(address), Located::Node(id) if state.facts().nodes.contains_key(id)),
            Lack::NodeLabel { node, wanted, .. } => !wanted.matches(&state.node_labels(&state.facts().nodes[node])),
            Lack::IdentityPending { address, .. } => state.locate(*address) == Located::Pending,
            lack => is_lacking_anywhere(state, tuple, side, lack),
        };
    };
    let namespace = || state.namespace_labels(&other.id.cluster, &other.id.namespace);
    match lack {
        Lack::Label { wanted, .. } => !wanted.matches(&state.workload_labels(other)),
        Lack::NamespaceLabel { wanted, .. } => !wanted.matches(&namespace()),
        Lack::Namespace { wanted, has } => *has == other.id.namespace && wanted != has,
        Lack::NetworksMatchNoPods => !state.config().settings.ipblock_matches_pods,
        Lack::NoNode { .. } => true,
        Lack::DefaultDenies => state.cross_cluster_default() == CrossClusterDefault::Deny,
        Lack::NotExported { .. } => state.cross_cluster_default() == CrossClusterDefault::Exports,
        Lack::IdentityPending { address, .. } => state.locate(*address) == Located::Pending,
        lack => is_lacking_anywhere(state, tuple, side, lack),
    }
}

fn is_lacking_anywhere(state: &State, tuple: &FiveTuple, side: &Side, lack: &Lack) -> bool {
    let address = peer(tuple, side);
    match lack {
        Lack::Network { wanted, has } => *has == address && !wanted.iter().any(|network| network.contains(address)),
        Lack::Excepted { except, has } => *has == address && except.contains(address),
        Lack::Domain { wanted, .. } => {
            let exact = wanted.iter().filter_map(|name| state.config().domains.get(name));
            !exact.flatten().any(|known| *known == address)
        }
        Lack::Port { ports, .. } => !ports.iter().any(|port| is_port(state, tuple, port)),
        Lack::Preceded { by } => {
            let before = side.policies.iter().flat_map(|policy| &policy.rules).find(|rule| rule.name == *by);
            before.is_some_and(|rule| rule.lacks.is_empty())
        }
        Lack::NetworkPolicyApplies { policies } => {
            let applying = side.policies.iter().filter(|policy| policy.tier == Tier::NetworkPolicy);
            applying.map(|policy| &policy.name).eq(policies)
        }
        Lack::UnknownPeer | Lack::NotUnderstood => true,
        _ => false,
    }
}

fn is_port(state: &State, tuple: &FiveTuple, port: &PortMatch) -> bool {
    let is = |protocol: Protocol, first, last| {
        protocol == tuple.protocol && protocol.has_ports() && (first..=last).contains(&tuple.destination_port)
    };
    match (port, state.locate(tuple.destination)) {
        (PortMatch::Protocol(protocol), _) => *protocol == tuple.protocol,
        (PortMatch::Range(protocol, first, last), _) => is(*protocol, *first, *last),
        (PortMatch::Named(protocol, name), Located::Workload(workload)) => workload
            .ports
            .iter()
            .any(|own| own.name == *name && protocol.is_none_or(|p| p == own.protocol) && is(own.protocol, own.port, own.port)),
        (PortMatch::Named(..), _) => false,
    }
}

/// Gives the nearest rule all that it lacks: the side's verdict is then what the explanation says, the opposite of what it was.
fn turns(fleet: &Fleet, tuple: &FiveTuple, side: &Side, otherwise: &Otherwise) -> Result<(), TestCaseError> {
    let (Some(rule), Some(then)) = (&otherwise.rule, &otherwise.then) else { return Ok(()) };
    prop_assert_ne!(then.is_allow(), side.decided.is_allow());
    let mut other = Fleet { state: fleet.state.clone() };
    let peer = match other.state.locate(peer(tuple, side)) {
        Located::Workload(_) => everyone(),
        _ if side.direction == Direction::Egress => ClusterPeer::Networks(vec![Prefix::host(peer(tuple, side))]),
        // No peer of a ClusterNetworkPolicy means who is no workload in ingress: a manifest cannot give that.
        _ if rule.namespace.is_none() => return Ok(()),
        _ => everyone(),
    };
    // A rule that matches already stays as it is: what fails closed would not any more.
    let own = side.policies.iter().flat_map(|policy| &policy.rules).find(|other| other.name == *rule);
    if own.is_some_and(|own| !own.lacks.is_empty()) {
        edit(
            &mut other,
            rule,
            |rule| {
                (rule.unknown, rule.peers, rule.protocols) = (false, vec![peer.clone()], Vec::new());
            },
            |rule| *rule = NetworkPolicyRule::default(),
        );
    }
    for lack in &otherwise.lacks {
        match lack {
            Lack::Preceded { by } => silence(&mut other, by),
            Lack::NetworkPolicyApplies { .. } => {
                for (key, policy) in other.state.facts().network_policies.clone() {
                    let applies = |name: &String| name.ends_with(&format!("/NetworkPolicy/{}/{}", key.1, key.2));
                    if side.policies.iter().any(|policy| applies(&policy.name)) {
                        let mut policy = (*policy).clone();
                        (policy.ingress, policy.egress) = (None, None);
                        other.network_policy(policy);
                    }
                }
            }
            _ => {}
        }
    }
    prop_assert_eq!(&naive::decide(&other.state, tuple, side.direction), then, "{}\n{:?}", tuple, side);
    Ok(())
}

/// Makes a rule match nothing, in its place.
fn silence(fleet: &mut Fleet, rule: &RuleName) {
    let nobody = NetworkPolicyRule { peers: vec![NetworkPolicyPeer::Nothing], ports: Vec::new() };
    edit(fleet, rule, |rule| (rule.unknown, rule.action) = (true, RuleAction::Accept), |rule| *rule = nobody.clone());
}

fn edit(fleet: &mut Fleet, name: &RuleName, cluster: impl Fn(&mut ClusterRule), network: impl Fn(&mut NetworkPolicyRule)) {
    let (facts, index) = (fleet.state.facts(), name.index as usize);
    let ingress = name.direction == Direction::Ingress;
    if let Some(namespace) = &name.namespace {
        let mut policy = (*facts.network_policies[&(name.scope.clone(), namespace.clone(), name.policy.clone())]).clone();
        let rules = if ingress { &mut policy.ingress } else { &mut policy.egress };
        network(&mut rules.as_mut().expect("the policy has the direction")[index]);
        let _ = fleet.set(Resource::NetworkPolicy(Arc::new(policy)));
    } else {
        let mut policy = (*facts.cluster_policies[&(name.scope.clone(), name.policy.clone())]).clone();
        cluster(&mut (if ingress { &mut policy.ingress } else { &mut policy.egress })[index]);
        let _ = fleet.set(Resource::ClusterNetworkPolicy(Arc::new(policy)));
    }
}
