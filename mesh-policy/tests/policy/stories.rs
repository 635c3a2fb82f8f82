//! One story for each rule of SEMANTICS §2, told in both evaluators at once (`Fleet::ask`).

use mesh_core::policy::*;
use mesh_core::*;

use crate::fleet::*;

/// East and west, one node each, `web` and `db` in the namespace `shop` of both, and a stranger in `bank`.
fn two_clusters(fleet: &mut Fleet) {
    for (cluster, number) in [("east", 1), ("west", 2)] {
        fleet.namespace(cluster, "shop", &format!("env={cluster}-prod")).namespace(cluster, "bank", "");
        fleet.node(&format!("{cluster}/n1"), &format!("172.16.{number}.1"), "role=worker");
        fleet.pod(&format!("{cluster}/shop/web"), &format!("10.{number}.0.1,fd00:{number}::1"), "app=web", "");
        fleet.pod(
            &format!("{cluster}/shop/db"),
            &format!("10.{number}.0.2,fd00:{number}::2"),
            "app=db",
            "sql:5432/TCP,dns:53/UDP",
        );
        fleet.pod(&format!("{cluster}/bank/vault"), &format!("10.{number}.0.3"), "app=web", "sql:15432/TCP");
    }
}

fn open() -> Fleet {
    let mut fleet = Fleet::open();
    two_clusters(&mut fleet);
    fleet
}

fn with(settings: Settings) -> Fleet {
    let mut fleet = Fleet::with(Trust::Open, settings);
    two_clusters(&mut fleet);
    fleet
}

fn ingress(name: &str, subject: &str, peers: Vec<NetworkPolicyPeer>, ports: Vec<PortMatch>) -> NetworkPolicy {
    let rules = Some(vec![NetworkPolicyRule { peers, ports }]);
    NetworkPolicy { ingress: rules, ..network_policy(own("east"), name, subject) }
}

fn egress(name: &str, subject: &str, peers: Vec<NetworkPolicyPeer>, ports: Vec<PortMatch>) -> NetworkPolicy {
    let rules = Some(vec![NetworkPolicyRule { peers, ports }]);
    NetworkPolicy { egress: rules, ..network_policy(own("east"), name, subject) }
}

const DB: &str = "10.1.0.1 > 10.1.0.2 5432/TCP";

#[test]
fn without_policies_everything_is_allowed_and_only_workloads_are_policed() {
    let fleet = open();
    assert_eq!(fleet.ingress(DB), "allow: default (Default)");
    assert_eq!(fleet.ingress("10.1.0.1 > 192.0.2.1 443/TCP"), "allow: not-policed (None)");
    assert_eq!(fleet.egress("192.0.2.1 > 10.1.0.1 443/TCP"), "allow: not-policed (None)");
    assert_eq!(fleet.ingress("10.1.0.1 > 172.16.1.1 22/TCP"), "allow: not-policed (None)");
}

#[test]
fn rule_2_tiers_come_in_order_and_pass_leaves_the_whole_tier() {
    let mut fleet = open();
    let deny = |name: &str, tier, priority, action| {
        let ingress = vec![rule(action, everyone(), vec![]), rule(RuleAction::Accept, everyone(), vec![])];
        ClusterNetworkPolicy { ingress, ..cluster_policy(own("east"), name, tier, priority) }
    };
    fleet.cluster_policy(deny("last", PolicyTier::Baseline, 0, RuleAction::Deny));
    assert_eq!(fleet.ingress(DB), "deny by east/ClusterNetworkPolicy/last/ingress[0] (Baseline)");
    fleet.network_policy(ingress("db-in", "app=db", vec![pods("app=web")], vec![]));
    assert_eq!(fleet.ingress(DB), "allow by east/NetworkPolicy/shop/db-in/ingress[0] (NetworkPolicy)");
    fleet.cluster_policy(deny("b", PolicyTier::Admin, 5, RuleAction::Deny));
    assert_eq!(fleet.ingress(DB), "deny by east/ClusterNetworkPolicy/b/ingress[0] (Admin)");
    // The same priority goes by name, and a pass leaves the accept behind it and the policy `b` unheard.
    fleet.cluster_policy(deny("a", PolicyTier::Admin, 5, RuleAction::Pass));
    assert_eq!(fleet.ingress(DB), "allow by east/NetworkPolicy/shop/db-in/ingress[0] (NetworkPolicy)");
    fleet.cluster_policy(deny("z", PolicyTier::Admin, 4, RuleAction::Accept));
    assert_eq!(fleet.ingress(DB), "allow by east/ClusterNetworkPolicy/z/ingress[0] (Admin)");
}

#[test]
fn rule_2_pass_in_baseline_ends_in_the_default() {
    let mut fleet = open();
    let rules = vec![rule(RuleAction::Pass, everyone(), vec![]), rule(RuleAction::Deny, everyone(), vec![])];
    fleet.cluster_policy(ClusterNetworkPolicy { ingress: rules, ..cluster_policy(own("east"), "a", PolicyTier::Baseline, 0) });
    assert_eq!(fleet.ingress(DB), "allow: default (Default)");
}

#[test]
fn rule_3_network_policy_is_final_for_its_direction_only() {
    let mut fleet = open();
    let everything = vec![rule(RuleAction::Deny, everyone(), vec![])];
    fleet.cluster_policy(ClusterNetworkPolicy {
        ingress: everything.clone(),
        egress: everything,
        ..cluster_policy(own("east"), "base", PolicyTier::Baseline, 0)
    });
    fleet.network_policy(ingress("db-in", "app=db", vec![pods("app=web")], vec![]));
    assert_eq!(fleet.ingress("10.1.0.3 > 10.1.0.2 5432/TCP"), "deny: isolated-by-network-policy (NetworkPolicy)");
    // The same workload's egress has no NetworkPolicy, so Baseline is asked.
    assert_eq!(fleet.egress("10.1.0.2 > 10.1.0.1 80/TCP"), "deny by east/ClusterNetworkPolicy/base/egress[0] (Baseline)");
}

#[test]
fn rule_3_a_policy_without_rules_isolates() {
    let mut fleet = open();
    fleet.network_policy(NetworkPolicy { ingress: Some(vec![]), ..network_policy(own("east"), "none", "") });
    assert_eq!(fleet.ingress(DB), "deny: isolated-by-network-policy (NetworkPolicy)");
    assert_eq!(fleet.egress(DB), "allow: default (Default)");
}

#[test]
fn rule_3_the_first_of_several_allowing_policies_is_named() {
    let mut fleet = open();
    fleet.network_policy(ingress("b", "app=db", vec![], vec![]));
    fleet.network_policy(ingress("a", "app=db", vec![pods("app=other")], vec![]));
    assert_eq!(fleet.ingress(DB), "allow by east/NetworkPolicy/shop/b/ingress[0] (NetworkPolicy)");
}

#[test]
fn rule_4_a_policy_is_its_clusters_alone_and_its_peers_are_of_every_cluster() {
    let mut fleet = open();
    fleet.network_policy(ingress("db-in", "app=db", vec![pods("app=web")], vec![]));
    // Namespace sameness: web of shop in west, and not the vault of bank.
    assert_eq!(
        fleet.ingress("10.2.0.1 > 10.1.0.2 5432/TCP"),
        "allow by east/NetworkPolicy/shop/db-in/ingress[0] (NetworkPolicy)"
    );
    assert_eq!(fleet.ingress("10.2.0.3 > 10.1.0.2 5432/TCP"), "deny: isolated-by-network-policy (NetworkPolicy)");
    // The namesake in west is no subject.
    assert_eq!(fleet.ingress("10.2.0.3 > 10.2.0.2 5432/TCP"), "allow: default (Default)");
}

#[test]
fn rule_4_a_namespace_selector_sees_the_labels_in_the_peers_own_cluster() {
    let mut fleet = open();
    let peer = NetworkPolicyPeer::Workloads { namespaces: Some(selector("env=west-prod")), pods: None };
    fleet.network_policy(ingress("db-in", "app=db", vec![peer], vec![]));
    assert!(fleet.ingress("10.2.0.1 > 10.1.0.2 5432/TCP").starts_with("allow by"));
    assert_eq!(fleet.ingress(DB), "deny: isolated-by-network-policy (NetworkPolicy)");
}

#[test]
fn rule_4_a_fleet_policy_is_in_force_in_every_cluster_and_named_by_the_deciding_one() {
    let mut fleet = open();
    let rules = vec![rule(RuleAction::Deny, everyone(), vec![tcp(23)])];
    fleet.cluster_policy(ClusterNetworkPolicy {
        ingress: rules,
        ..cluster_policy(PolicyScope::Fleet, "no", PolicyTier::Admin, 0)
    });
    assert_eq!(fleet.ingress("10.2.0.1 > 10.1.0.1 23/TCP"), "deny by east/ClusterNetworkPolicy/no/ingress[0] (Admin)");
    assert_eq!(fleet.ingress("10.1.0.1 > 10.2.0.1 23/TCP"), "deny by west/ClusterNetworkPolicy/no/ingress[0] (Admin)");
    // A cluster's own policy of that name comes first.
    let accept = vec![rule(RuleAction::Accept, everyone(), vec![])];
    fleet.cluster_policy(ClusterNetworkPolicy { ingress: accept, ..cluster_policy(own("east"), "no", PolicyTier::Admin, 0) });
    assert_eq!(fleet.ingress("10.2.0.1 > 10.1.0.1 23/TCP"), "allow by east/ClusterNetworkPolicy/no/ingress[0] (Admin)");
}

fn declared() -> Fleet {
    let mut fleet = Fleet::with(Trust::Declared, Settings::default());
    fleet.grant("east", "10.1.0.0/16,fd00:1::/32", "region=eu").grant("west", "10.2.0.0/16,fd00:2::/32", "region=us");
    two_clusters(&mut fleet);
    fleet
}

fn export(fleet: &mut Fleet, port: Option<u16>) {
    let name = Some("sql".into());
    let ports = vec![EndpointPort { name: name.clone(), protocol: Protocol::Tcp, port }];
    let endpoint =
        Endpoint { addresses: vec![ip("10.1.0.2")], ready: false, terminating: false, hostname: None, node: None, ports };
    let _ = fleet.set(Resource::Export(Export {
        cluster: "east".parse().expect("name"),
        id: "shop/db".parse().expect("service"),
        created: None,
        kind: ServiceKind::ClusterIp,
        ports: vec![ServicePort { name, protocol: Protocol::Tcp, port: 3306, app_protocol: None }],
        affinity: SessionAffinity::None,
        traffic: Traffic::default(),
        publish_not_ready: false,
        endpoints: vec![endpoint],
    }));
}

#[test]
fn rule_4_joining_opens_no_path_and_an_export_is_consent() {
    let mut fleet = declared();
    let asked = "10.2.0.1 > 10.1.0.2 5432/TCP";
    assert_eq!(fleet.egress(asked), "deny: not-exported (Fleet)");
    assert_eq!(fleet.ingress(asked), "deny: not-exported (Fleet)");
    export(&mut fleet, Some(5432));
    assert_eq!(fleet.egress(asked), "allow: fleet-default (Fleet)");
    assert_eq!(fleet.ingress(asked), "allow: fleet-default (Fleet)");
    for other in [
        "10.2.0.1 > 10.1.0.2 5433/TCP",
        "10.2.0.1 > 10.1.0.2 5432/UDP",
        "10.2.0.1 > 10.1.0.1 5432/TCP",
        "10.2.0.1 > 10.1.0.2 0/ICMP",
    ] {
        assert_eq!(fleet.ingress(other), "deny: not-exported (Fleet)", "{other}");
    }
    // Inside a cluster nobody needs an export; nodes and the outside are no cluster's.
    assert_eq!(fleet.ingress(DB), "allow: default (Default)");
    assert_eq!(fleet.egress("10.1.0.1 > 172.16.2.1 22/TCP"), "allow: default (Default)");
    // An endpoint port without a number is the Service port's own.
    export(&mut fleet, None);
    assert_eq!(fleet.ingress("10.2.0.1 > 10.1.0.2 3306/TCP"), "allow: fleet-default (Fleet)");
}

#[test]
fn rule_4_an_export_reaches_clusters_where_its_namespace_exists() {
    let mut fleet = with(Settings { cross_cluster_default: Some(CrossClusterDefault::Exports), ..Settings::default() });
    export(&mut fleet, Some(5432));
    fleet.pod("north/bank/job", "10.3.0.1", "", "");
    let asked = "10.3.0.1 > 10.1.0.2 5432/TCP";
    assert_eq!(fleet.egress(asked), "deny: not-exported (Fleet)");
    fleet.namespace("north", "shop", "");
    assert_eq!(fleet.egress(asked), "allow: fleet-default (Fleet)");
}

#[test]
fn rule_4_the_default_between_clusters_is_a_setting() {
    let asked = "10.2.0.1 > 10.1.0.2 5432/TCP";
    let fleet = with(Settings { cross_cluster_default: Some(CrossClusterDefault::Deny), ..Settings::default() });
    assert_eq!(fleet.ingress(asked), "deny: not-exported (Fleet)");
    assert_eq!(open().ingress(asked), "allow: fleet-default (Fleet)");
    // A rule of any tier decides before it.
    let mut fleet = fleet;
    fleet.network_policy(ingress("db-in", "app=db", vec![], vec![]));
    assert!(fleet.ingress(asked).starts_with("allow by"));
    assert_eq!(fleet.egress(asked), "deny: not-exported (Fleet)");
}

#[test]
fn rule_4_attributes_of_the_grant_are_labels() {
    let mut fleet = declared();
    let peer = NetworkPolicyPeer::Workloads { namespaces: Some(selector("cluster-mesh.io/region=us")), pods: None };
    fleet.network_policy(ingress("db-in", "app=db", vec![peer], vec![]));
    assert!(fleet.ingress("10.2.0.1 > 10.1.0.2 5432/TCP").starts_with("allow by"));
    assert!(fleet.ingress(DB).starts_with("deny"));
}

#[test]
fn rule_5_an_ip_block_matches_workloads_too_and_except_is_no_deny() {
    let mut fleet = open();
    fleet.network_policy(ingress("a", "app=db", vec![block("10.1.0.0/16", "10.1.0.0/31")], vec![]));
    assert_eq!(fleet.ingress(DB), "deny: isolated-by-network-policy (NetworkPolicy)");
    assert!(fleet.ingress("10.1.0.3 > 10.1.0.2 1/TCP").starts_with("allow by"));
    assert!(fleet.ingress("fd00:1::1 > fd00:1::2 1/TCP").starts_with("deny"));
    fleet.network_policy(ingress("b", "app=db", vec![block("10.1.0.1/32", "")], vec![]));
    assert_eq!(fleet.ingress(DB), "allow by east/NetworkPolicy/shop/b/ingress[0] (NetworkPolicy)");

    let mut fleet = with(Settings { ipblock_matches_pods: false, ..Settings::default() });
    fleet.network_policy(ingress("a", "app=db", vec![block("0.0.0.0/0", "")], vec![]));
    assert!(fleet.ingress(DB).starts_with("deny"));
    assert!(fleet.ingress("192.0.2.1 > 10.1.0.2 1/TCP").starts_with("allow by"));
}

#[test]
fn rule_6_a_host_network_pod_is_its_node() {
    let mut fleet = open();
    let mut host = workload("east/shop/agent", "172.16.1.1", "app=web", "");
    host.host_network = true;
    let _ = fleet.set(Resource::Workload(host));
    fleet.network_policy(ingress("a", "", vec![pods("app=web")], vec![]));
    // Never a peer (the own node's exception apart, so another cluster's node is asked), never a subject.
    assert_eq!(fleet.ingress("172.16.2.1 > 10.1.0.2 1/TCP"), "deny: isolated-by-network-policy (NetworkPolicy)");
    assert_eq!(fleet.ingress("10.1.0.2 > 172.16.1.1 1/TCP"), "allow: not-policed (None)");
    fleet.network_policy(ingress("b", "", vec![block("172.16.2.0/24", "")], vec![]));
    assert!(fleet.ingress("172.16.2.1 > 10.1.0.2 1/TCP").starts_with("allow by east/NetworkPolicy/shop/b"));
}

#[test]
fn rule_7_an_empty_peer_selector_is_not_a_missing_one() {
    let mut fleet = open();
    let all = NetworkPolicyPeer::Workloads { namespaces: Some(Selector::ALL), pods: None };
    fleet.network_policy(ingress("a", "app=db", vec![all], vec![]));
    assert!(fleet.ingress("10.2.0.3 > 10.1.0.2 1/TCP").starts_with("allow by"));
    fleet.network_policy(ingress("a", "app=db", vec![pods("")], vec![]));
    assert!(fleet.ingress("10.2.0.3 > 10.1.0.2 1/TCP").starts_with("deny"));
    assert!(fleet.ingress("192.0.2.1 > 10.1.0.2 1/TCP").starts_with("deny"), "a selector matches workloads only");
    fleet.network_policy(ingress("a", "app=db", vec![pods("tier!=back,!legacy")], vec![]));
    assert!(fleet.ingress(DB).starts_with("allow by"), "absent keys satisfy NotIn and DoesNotExist");
}

#[test]
fn rule_9_ports_are_inclusive_and_named_ports_are_the_destinations() {
    let mut fleet = open();
    fleet.network_policy(ingress("a", "", vec![], vec![PortMatch::Range(Protocol::Tcp, 80, 90)]));
    for (port, word) in [(79, "deny"), (80, "allow"), (90, "allow"), (91, "deny")] {
        assert!(fleet.ingress(&format!("10.1.0.1 > 10.1.0.2 {port}/TCP")).starts_with(word), "{port}");
    }
    let named = |protocol, name: &str| PortMatch::Named(protocol, name.into());
    fleet.network_policy(ingress("a", "", vec![], vec![named(Some(Protocol::Tcp), "sql"), named(Some(Protocol::Tcp), "dns")]));
    assert!(fleet.ingress(DB).starts_with("allow by"));
    assert!(fleet.ingress("10.1.0.1 > 10.1.0.2 53/UDP").starts_with("deny"), "the container port dns is not TCP");
    assert!(fleet.ingress("10.1.0.2 > 10.1.0.1 5432/TCP").starts_with("deny"), "web has no such port");
    // Egress: one rule, another number at every destination, and none on what is no pod.
    fleet.network_policy(egress("out", "app=web", vec![], vec![named(Some(Protocol::Tcp), "sql")]));
    assert!(fleet.egress("10.1.0.1 > 10.2.0.2 5432/TCP").starts_with("allow by"));
    assert!(fleet.egress("10.1.0.1 > 10.2.0.3 15432/TCP").starts_with("allow by"));
    assert!(fleet.egress("10.1.0.1 > 10.2.0.3 5432/TCP").starts_with("deny"));
    assert!(fleet.egress("10.1.0.1 > 192.0.2.1 5432/TCP").starts_with("deny"));
    // ClusterNetworkPolicy: the protocol is the container port's.
    let rules = vec![rule(RuleAction::Deny, everyone(), vec![named(None, "dns")])];
    fleet.cluster_policy(ClusterNetworkPolicy { ingress: rules, ..cluster_policy(own("west"), "no-dns", PolicyTier::Admin, 0) });
    assert!(fleet.ingress("10.1.0.1 > 10.2.0.2 53/UDP").starts_with("deny by west"));
    assert!(fleet.ingress("10.1.0.1 > 10.2.0.2 53/TCP").starts_with("allow"));
}

#[test]
fn rule_10_a_workload_reaches_itself_in_all_tiers() {
    let mut fleet = open();
    let all = vec![rule(RuleAction::Deny, everyone(), vec![])];
    fleet.cluster_policy(ClusterNetworkPolicy {
        ingress: all.clone(),
        egress: all,
        ..cluster_policy(PolicyScope::Fleet, "no", PolicyTier::Admin, 0)
    });
    assert_eq!(fleet.ingress("10.1.0.2 > 10.1.0.2 1/TCP"), "allow: own-address (Self)");
    assert_eq!(fleet.egress("10.1.0.2 > 10.1.0.2 1/TCP"), "allow: own-address (Self)");
}

#[test]
fn rule_10_the_own_node_reaches_its_workloads_under_network_policy() {
    let mut fleet = open();
    fleet.network_policy(NetworkPolicy {
        ingress: Some(vec![]),
        egress: Some(vec![]),
        ..network_policy(own("east"), "none", "")
    });
    assert_eq!(fleet.ingress("172.16.1.1 > 10.1.0.2 1/TCP"), "allow: own-node (NetworkPolicy)");
    assert_eq!(fleet.ingress("172.16.2.1 > 10.1.0.2 1/TCP"), "deny: isolated-by-network-policy (NetworkPolicy)");
    assert_eq!(fleet.egress("10.1.0.2 > 172.16.1.1 1/TCP"), "deny: isolated-by-network-policy (NetworkPolicy)");
    let all = vec![rule(RuleAction::Deny, everyone(), vec![])];
    fleet.cluster_policy(ClusterNetworkPolicy { ingress: all, ..cluster_policy(own("east"), "pods", PolicyTier::Admin, 0) });
    assert_eq!(fleet.ingress("172.16.1.1 > 10.1.0.2 1/TCP"), "allow: own-node (NetworkPolicy)");
    let settings = Settings { own_node_ingress_allowed: false, own_node_egress_allowed: true, ..Settings::default() };
    let mut fleet = with(settings);
    fleet.network_policy(NetworkPolicy {
        ingress: Some(vec![]),
        egress: Some(vec![]),
        ..network_policy(own("east"), "none", "")
    });
    assert!(fleet.ingress("172.16.1.1 > 10.1.0.2 1/TCP").starts_with("deny"));
    assert_eq!(fleet.egress("10.1.0.2 > 172.16.1.1 1/TCP"), "allow: own-node (NetworkPolicy)");
}

#[test]
fn rule_11_nodes_of_all_clusters_networks_and_domain_names() {
    let mut fleet = open();
    let accept = |peer| rule(RuleAction::Accept, peer, vec![]);
    let egress = vec![
        accept(ClusterPeer::Nodes(selector("role=worker"))),
        accept(ClusterPeer::DomainNames(vec!["*.example.com".into()])),
        accept(ClusterPeer::Networks(vec![prefix("198.51.100.0/24"), prefix("2001:db8::/32")])),
        rule(RuleAction::Deny, ClusterPeer::Networks(vec![prefix("0.0.0.0/0")]), vec![]),
    ];
    fleet.cluster_policy(ClusterNetworkPolicy { egress, ..cluster_policy(own("east"), "out", PolicyTier::Admin, 0) });
    for (to, index) in
        [("172.16.2.1", 0), ("192.0.2.7", 1), ("192.0.2.8", 1), ("198.51.100.9", 2), ("192.0.2.9", 3), ("10.2.0.1", 3)]
    {
        let verdict = fleet.egress(&format!("10.1.0.1 > {to} 1/TCP"));
        assert!(verdict.contains(&format!("out/egress[{index}]")), "{to}: {verdict}");
    }
}

#[test]
fn rule_12_what_is_not_understood_fails_closed() {
    let mut fleet = open();
    let unknown = |action| ClusterRule { unknown: true, ..rule(action, everyone(), vec![tcp(1)]) };
    let policy = |rules| ClusterNetworkPolicy { ingress: rules, ..cluster_policy(own("east"), "a", PolicyTier::Admin, 0) };
    fleet.cluster_policy(policy(vec![unknown(RuleAction::Accept)]));
    assert_eq!(fleet.ingress("10.1.0.1 > 10.1.0.2 1/TCP"), "allow: default (Default)");
    for action in [RuleAction::Deny, RuleAction::Pass] {
        fleet.cluster_policy(policy(vec![unknown(action)]));
        // Everything: other ports, and ends that its peers do not name.
        assert!(fleet.ingress("192.0.2.1 > 10.1.0.2 9/UDP").starts_with("deny by"));
    }
    // Rule 11: networks have no meaning in ingress, so the rule is not understood either.
    fleet.cluster_policy(policy(vec![rule(RuleAction::Deny, ClusterPeer::Networks(vec![prefix("203.0.113.0/24")]), vec![])]));
    assert!(fleet.ingress("192.0.2.1 > 10.1.0.2 9/UDP").starts_with("deny by"));
}

#[test]
fn rule_13_pending_is_never_external_and_denied_both_ways() {
    let mut fleet = declared();
    fleet.network_policy(ingress("a", "", vec![block("0.0.0.0/0", "")], vec![]));
    assert_eq!(fleet.ingress("10.2.0.99 > 10.1.0.2 1/TCP"), "deny: identity-pending (Fleet)");
    assert_eq!(fleet.egress("10.2.0.99 > 10.1.0.2 1/TCP"), "deny: identity-pending (Fleet)");
    assert_eq!(fleet.egress("10.1.0.2 > 10.2.0.99 1/TCP"), "deny: identity-pending (Fleet)");
    assert_eq!(fleet.ingress("192.0.2.1 > 10.2.0.99 1/TCP"), "deny: identity-pending (Fleet)");
    // The vault is in `bank`, which is not granted: its record is refused.
    assert_eq!(fleet.egress("10.1.0.3 > 10.1.0.2 1/TCP"), "deny: identity-pending (Fleet)");
    assert!(fleet.ingress("192.0.2.1 > 10.1.0.2 1/TCP").starts_with("allow by"));
}

#[test]
fn rule_14_protocols_without_ports_match_rules_without_ports() {
    let mut fleet = open();
    fleet.network_policy(ingress("a", "", vec![], vec![PortMatch::Range(Protocol::Tcp, 1, 65535)]));
    assert!(fleet.ingress("10.1.0.1 > 10.1.0.2 0/ICMP").starts_with("deny"));
    fleet.network_policy(ingress("b", "", vec![], vec![PortMatch::Protocol(Protocol::Other(1))]));
    assert!(fleet.ingress("10.1.0.1 > 10.1.0.2 0/ICMP").starts_with("allow by east/NetworkPolicy/shop/b"));
    assert!(fleet.ingress("10.1.0.1 > 10.1.0.2 0/47").starts_with("deny"));
    fleet.network_policy(ingress("c", "", vec![], vec![]));
    assert!(fleet.ingress("10.1.0.1 > 10.1.0.2 0/47").starts_with("allow by east/NetworkPolicy/shop/c"));
}

#[test]
fn nodes_of_two_clusters_may_share_an_underlay_address() {
    let mut fleet = open();
    fleet.node("west/n1", "172.16.1.1", "role=worker");
    fleet.network_policy(NetworkPolicy { ingress: Some(vec![]), ..network_policy(PolicyScope::Fleet, "none", "") });
    assert_eq!(fleet.ingress("172.16.1.1 > 10.1.0.2 1/TCP"), "allow: own-node (NetworkPolicy)");
    assert_eq!(fleet.ingress("172.16.1.1 > 10.2.0.2 1/TCP"), "allow: own-node (NetworkPolicy)");
}
