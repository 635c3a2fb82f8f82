//! Each finding of the lint, and that a shadowed rule really never decides.

use std::collections::BTreeMap;

use mesh_core::policy::*;
use mesh_core::*;
use mesh_policy::explain::{self, Outcome};
use mesh_policy::lint::{self, Code, Finding, Severity};
use mesh_policy::{PolicySet, naive};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::any;
use crate::fleet::*;

fn found(fleet: &Fleet) -> Vec<Finding> {
    lint::lint(&fleet.state, &BTreeMap::new())
}

/// The findings as `code object part`.
fn codes(fleet: &Fleet) -> Vec<String> {
    let line = |finding: Finding| format!("{} {} {}", finding.code, finding.object, finding.field).trim_end().to_owned();
    found(fleet).into_iter().map(line).collect()
}

fn only(fleet: &Fleet, code: Code) -> Finding {
    let all = found(fleet);
    let of_code: Vec<_> = all.iter().filter(|finding| finding.code == code).cloned().collect();
    assert_eq!(of_code.len(), 1, "{all:#?}");
    of_code[0].clone()
}

fn shop() -> Fleet {
    let mut fleet = Fleet::open();
    for (cluster, number) in [("east", 1), ("west", 2)] {
        fleet.namespace(cluster, "shop", "");
        fleet.pod(&format!("{cluster}/shop/web"), &format!("10.{number}.0.1"), "app=web", "http:8080/TCP");
        fleet.pod(&format!("{cluster}/shop/db"), &format!("10.{number}.0.2"), "app=db", "sql:5432/TCP");
    }
    fleet
}

fn ingress(name: &str, subject: &str, peers: Vec<NetworkPolicyPeer>, ports: Vec<PortMatch>) -> NetworkPolicy {
    let rules = Some(vec![NetworkPolicyRule { peers, ports }]);
    NetworkPolicy { ingress: rules, ..network_policy(own("east"), name, subject) }
}

fn admin(scope: PolicyScope, name: &str, priority: i32, ingress: Vec<ClusterRule>) -> ClusterNetworkPolicy {
    ClusterNetworkPolicy { ingress, ..cluster_policy(scope, name, PolicyTier::Admin, priority) }
}

fn named(name: &str) -> PortMatch {
    PortMatch::Named(Some(Protocol::Tcp), name.into())
}

fn who(namespaces: &str, pods: &str) -> ClusterPeer {
    ClusterPeer::Workloads(WorkloadMatch { namespaces: selector(namespaces), pods: Some(selector(pods)) })
}

#[test]
fn good_policies_have_no_findings() {
    let mut fleet = shop();
    fleet.network_policy(ingress("db-in", "app=db", vec![pods("app=web")], vec![named("sql")]));
    fleet.cluster_policy(admin(PolicyScope::Fleet, "a", 1, vec![rule(RuleAction::Deny, who("", "app=db"), vec![tcp(22)])]));
    assert_eq!(codes(&fleet), Vec::<String>::new());
}

#[test]
fn subjects_peers_and_ports_that_mean_nobody() {
    let mut fleet = shop();
    fleet.network_policy(ingress("typo", "app=bd", vec![pods("app=web")], vec![]));
    fleet.network_policy(ingress("db-in", "app=db", vec![pods("app=wbe"), pods("app=web")], vec![named("pg")]));
    let mut nobody = admin(own("west"), "x", 1, vec![rule(RuleAction::Deny, everyone(), vec![])]);
    nobody.subject.namespaces = selector("team=red");
    fleet.cluster_policy(nobody);
    assert_eq!(
        codes(&fleet),
        [
            "matches-nobody NetworkPolicy east/shop/db-in spec.ingress[0].from[0]",
            "unknown-port NetworkPolicy east/shop/db-in spec.ingress[0].ports",
            "selects-nothing NetworkPolicy east/shop/typo spec.podSelector",
            "selects-nothing ClusterNetworkPolicy west/x spec.subject",
        ]
    );
    let typo = found(&fleet).into_iter().find(|finding| finding.object.to_string().ends_with("typo")).expect("found");
    assert_eq!(typo.severity, Severity::Warning);
    assert_eq!(typo.message, "it selects nothing: there are no pods app=bd in namespace shop of cluster east");
}

#[test]
fn rules_that_earlier_ones_shadow() {
    let mut fleet = shop();
    let rules = vec![
        rule(RuleAction::Pass, who("", "app=web"), vec![PortMatch::Range(Protocol::Tcp, 80, 90)]),
        rule(RuleAction::Accept, who("team=blue", "app=web,tier=a"), vec![tcp(80), tcp(85)]),
        rule(RuleAction::Accept, who("", "app=web"), vec![tcp(91)]),
    ];
    fleet.cluster_policy(admin(PolicyScope::Fleet, "a", 1, rules));
    let shadowed = only(&fleet, Code::ShadowedRule);
    assert_eq!(
        (shadowed.object.to_string(), shadowed.field.as_str()),
        ("ClusterNetworkPolicy fleet/a".into(), "spec.ingress[1]")
    );
    assert!(shadowed.message.contains("ClusterNetworkPolicy fleet/a spec.ingress[0] passes before it"), "{}", shadowed.message);

    // Another cluster's policy shadows nothing, the fleet's does; a pass does not reach the next tier, a deny does.
    let mut fleet = shop();
    fleet.network_policy(ingress("db-in", "app=db", vec![pods("app=web")], vec![]));
    fleet.cluster_policy(admin(own("west"), "a", 1, vec![rule(RuleAction::Deny, who("", "app=web"), vec![])]));
    fleet.cluster_policy(admin(own("east"), "b", 1, vec![rule(RuleAction::Pass, who("", "app=web"), vec![])]));
    assert!(!codes(&fleet).iter().any(|line| line.starts_with("shadowed")), "{:?}", codes(&fleet));
    fleet.cluster_policy(admin(PolicyScope::Fleet, "c", 2, vec![rule(RuleAction::Deny, who("", "app=web"), vec![])]));
    assert!(!codes(&fleet).iter().any(|line| line.starts_with("shadowed")), "what passes does not come to the deny");
    fleet.cluster_policy(admin(PolicyScope::Fleet, "d", 0, vec![rule(RuleAction::Deny, who("", "app=web"), vec![])]));
    let lines = codes(&fleet);
    assert!(lines.contains(&"shadowed-rule NetworkPolicy east/shop/db-in spec.ingress[0]".into()), "{lines:?}");
}

#[test]
fn a_rule_that_another_network_policy_allows_already() {
    let mut fleet = shop();
    fleet.network_policy(ingress("b", "app=db", vec![pods("app=web")], vec![tcp(5432)]));
    fleet.network_policy(ingress("a", "app=db", vec![pods("app=web")], vec![tcp(5432)]));
    assert_eq!(only(&fleet, Code::RedundantRule).object.to_string(), "NetworkPolicy east/shop/b", "of equals the later");
    fleet.network_policy(ingress("c", "", vec![pods("")], vec![]));
    let redundant: Vec<_> = codes(&fleet).into_iter().filter(|line| line.starts_with("redundant")).collect();
    assert_eq!(redundant.len(), 2, "the wider rule allows what both allow, also after them: {redundant:?}");
}

#[test]
fn equal_priorities_that_disagree_and_only_those() {
    let mut fleet = shop();
    fleet.cluster_policy(admin(own("east"), "a", 5, vec![rule(RuleAction::Accept, who("", "app=web"), vec![tcp(80)])]));
    fleet.cluster_policy(admin(PolicyScope::Fleet, "b", 5, vec![rule(RuleAction::Deny, who("", ""), vec![])]));
    let finding = only(&fleet, Code::EqualPriorities);
    assert_eq!(finding.object.to_string(), "ClusterNetworkPolicy fleet/b");
    assert!(finding.message.ends_with("80/TCP is accepted there and denied here: a wins, by its name"), "{}", finding.message);
    for (priority, action, ports) in
        [(6, RuleAction::Deny, vec![]), (5, RuleAction::Accept, vec![]), (5, RuleAction::Deny, vec![tcp(81)])]
    {
        fleet.cluster_policy(admin(PolicyScope::Fleet, "b", priority, vec![rule(action, who("", ""), ports)]));
        let lines = codes(&fleet);
        assert!(!lines.iter().any(|line| line.starts_with("equal")), "{lines:?}");
    }
}

#[test]
fn equal_priorities_are_seen_where_the_first_subject_is_the_only_peer() {
    let mut fleet = Fleet::open();
    fleet.pod("east/shop/db", "10.1.0.2", "app=db", "").pod("east/shop/web", "10.1.0.1", "app=web", "");
    for (name, action) in [("a", RuleAction::Accept), ("b", RuleAction::Deny)] {
        fleet.cluster_policy(admin(own("east"), name, 5, vec![rule(action, who("", "app=db"), vec![])]));
    }
    let finding = only(&fleet, Code::EqualPriorities);
    assert!(finding.message.contains("ingress of east/shop/db > east/shop/web"), "{}", finding.message);
}

#[test]
fn sameness_that_no_grant_allows() {
    let mut fleet = Fleet::with(Trust::Declared, Settings::default());
    fleet.grant("east", "10.1.0.0/16", "").grant("west", "10.2.0.0/16", "");
    fleet.namespace("east", "shop", "").namespace("west", "bank", "").namespace("north", "shop", "");
    fleet.pod("east/shop/web", "10.1.0.1", "app=web", "").pod("west/bank/vault", "10.2.0.1", "", "").pod(
        "north/shop/x",
        "10.3.0.1",
        "",
        "",
    );
    let of = |namespace: &str, cluster: &str| NetworkPolicyPeer::Workloads {
        namespaces: Some(selector(&format!("kubernetes.io/metadata.name={namespace},cluster-mesh.io/cluster={cluster}"))),
        pods: None,
    };
    let anywhere = NetworkPolicyPeer::Workloads { namespaces: Some(selector("kubernetes.io/metadata.name=bank")), pods: None };
    fleet.network_policy(ingress("in", "", vec![of("bank", "west"), of("shop", "north"), of("shop", "east"), anywhere], vec![]));
    let mut lines = codes(&fleet);
    lines.sort();
    assert_eq!(
        lines,
        [
            "cluster-not-granted Namespace north/shop",
            "namespace-not-granted Namespace west/bank",
            "peer-not-granted NetworkPolicy east/shop/in spec.ingress[0].from[0]",
            "peer-not-granted NetworkPolicy east/shop/in spec.ingress[0].from[1]",
            "peer-not-granted NetworkPolicy east/shop/in spec.ingress[0].from[3]",
        ]
    );
    let refused = only(&fleet, Code::NamespaceNotGranted);
    assert_eq!(refused.severity, Severity::Error);
    assert!(refused.message.contains("one pod is refused"), "{}", refused.message);
    assert!(refused.way_out.contains("clusters.west.namespaces"), "{}", refused.way_out);
}

#[test]
fn networks_that_hold_pods_and_rules_that_fail_closed() {
    let mut fleet = shop();
    fleet.network_policy(ingress("in", "", vec![block("0.0.0.0/0", ""), block("192.0.2.0/24", "")], vec![]));
    let hint = only(&fleet, Code::BlockHitsPods);
    assert_eq!((hint.severity, hint.field.as_str()), (Severity::Hint, "spec.ingress[0].from[0]"));
    let unknown = ClusterRule { unknown: true, ..rule(RuleAction::Pass, everyone(), vec![]) };
    let networks = rule(RuleAction::Accept, ClusterPeer::Networks(vec![prefix("192.0.2.0/24")]), vec![]);
    fleet.cluster_policy(admin(own("east"), "a", 1, vec![networks, unknown]));
    let closed: Vec<_> = codes(&fleet).into_iter().filter(|line| line.starts_with("not-understood")).collect();
    assert_eq!(closed.len(), 2, "{closed:?}");

    let mut fleet = Fleet::with(Trust::Declared, Settings { ipblock_matches_pods: false, ..Settings::default() });
    fleet.grant("east", "10.1.0.0/16", "").pod("east/shop/web", "10.1.0.1", "app=web", "");
    fleet.network_policy(ingress("in", "", vec![block("10.1.0.0/24", "")], vec![]));
    assert_eq!(codes(&fleet), ["matches-nobody NetworkPolicy east/shop/in spec.ingress[0].from[0]"]);
}

proptest! {
    #[test]
    fn shadowed_and_redundant_rules_decide_nothing(
        settings in any::settings(),
        facts in vec(any::resource(), 20..70),
        tuples in vec(any::tuple(), 40..80),
    ) {
        let mut fleet = Fleet::with(Trust::Open, settings);
        for fact in facts {
            let _ = fleet.set(fact);
        }
        let findings = found(&fleet);
        prop_assert_eq!(&findings, &found(&fleet), "the order is always the same");
        let set = PolicySet::compile(&fleet.state);
        for finding in &findings {
            prop_assert!(!finding.message.is_empty() && !finding.way_out.is_empty());
            if !matches!(finding.code, Code::ShadowedRule | Code::RedundantRule) {
                continue;
            }
            let is_it = |rule: &RuleName| {
                let object = match &rule.namespace {
                    Some(namespace) => Key::NetworkPolicy(rule.scope.clone(), namespace.clone(), rule.policy.clone()),
                    None => Key::ClusterNetworkPolicy(rule.scope.clone(), rule.policy.clone()),
                };
                object == finding.object && format!("spec.{}[{}]", rule.direction, rule.index) == finding.field
            };
            for tuple in &tuples {
                let why = explain::connection(&fleet.state, &set, tuple);
                for side in [&why.egress, &why.ingress] {
                    let rules = || side.policies.iter().flat_map(|policy| &policy.rules);
                    if finding.code == Code::ShadowedRule {
                        prop_assert!(!side.decided.reason().rule().is_some_and(is_it), "{tuple} {finding}");
                    } else if rules().any(|rule| is_it(&rule.name) && rule.outcome == Outcome::Decides) {
                        let other = rules().any(|rule| rule.outcome == Outcome::Matches && rule.name.namespace.is_some());
                        prop_assert!(other, "{tuple} {finding}");
                    }
                }
            }
        }
        for finding in findings.iter().filter(|finding| finding.code == Code::SelectsNothing) {
            for tuple in &tuples {
                for direction in [Direction::Ingress, Direction::Egress] {
                    let decided = naive::decide(&fleet.state, tuple, direction);
                    let by = decided.reason().rule().is_some_and(|rule| match (&finding.object, &rule.namespace) {
                        (Key::ClusterNetworkPolicy(scope, name), None) => *scope == rule.scope && *name == rule.policy,
                        (Key::NetworkPolicy(scope, namespace, name), Some(own)) => {
                            *scope == rule.scope && *name == rule.policy && namespace == own
                        }
                        _ => false,
                    });
                    prop_assert!(!by, "{tuple} {finding}");
                }
            }
        }
    }
}
