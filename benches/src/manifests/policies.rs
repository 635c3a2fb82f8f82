//! Policies as manifests.

use mesh_core::policy::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PolicyTier, PortMatch,
    RuleAction, WorkloadMatch,
};

use crate::yaml::Yaml;

pub(super) fn network_policy(yaml: &mut Yaml<'_>, policy: &NetworkPolicy) {
    let name = (Some(policy.namespace.as_str()), policy.name.as_str());
    yaml.object("networking.k8s.io/v1", "NetworkPolicy", name, None);
    yaml.line(0, "spec:");
    for (direction, peers, rules) in [("egress", "to", &policy.egress), ("ingress", "from", &policy.ingress)] {
        if let Some(rules) = rules {
            yaml.line(2, format_args!("{direction}:{}", if rules.is_empty() { " []" } else { "" }));
            rules.iter().for_each(|rule| network_rule(yaml, peers, rule));
        }
    }
    yaml.selector(2, "podSelector", &policy.subject);
    yaml.line(2, "policyTypes:");
    for (direction, has) in [("Ingress", policy.ingress.is_some()), ("Egress", policy.egress.is_some())] {
        if has {
            yaml.line(2, format_args!("- {direction}"));
        }
    }
}

fn network_rule(yaml: &mut Yaml<'_>, peers: &str, rule: &NetworkPolicyRule) {
    yaml.line(2, format_args!("- {peers}:"));
    for peer in &rule.peers {
        match peer {
            NetworkPolicyPeer::Workloads { namespaces, pods } => {
                yaml.line(4, "-");
                for (key, selector) in [("namespaceSelector", namespaces), ("podSelector", pods)] {
                    selector.iter().for_each(|selector| yaml.selector(6, key, selector));
                }
            }
            NetworkPolicyPeer::IpBlock { cidr, except } => {
                yaml.line(4, format_args!("- ipBlock:\n        cidr: {cidr}"));
                if !except.is_empty() {
                    yaml.line(8, "except:");
                }
                except.iter().for_each(|except| yaml.line(8, format_args!("- {except}")));
            }
            NetworkPolicyPeer::Nothing => yaml.line(4, "- {}"),
        }
    }
    yaml.line(4, "ports:");
    for port in &rule.ports {
        match port {
            PortMatch::Protocol(protocol) => yaml.line(4, format_args!("- protocol: {protocol}")),
            PortMatch::Range(protocol, first, last) if first == last => {
                yaml.line(4, format_args!("- port: {first}\n      protocol: {protocol}"));
            }
            PortMatch::Range(protocol, first, last) => {
                yaml.line(4, format_args!("- endPort: {last}\n      port: {first}\n      protocol: {protocol}"));
            }
            PortMatch::Named(protocol, name) => {
                yaml.line(4, format_args!("- port: {name}"));
                protocol.iter().for_each(|protocol| yaml.line(6, format_args!("protocol: {protocol}")));
            }
        }
    }
}

pub(super) fn cluster_policy(yaml: &mut Yaml<'_>, policy: &ClusterNetworkPolicy) {
    yaml.object("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", (None, policy.name.as_str()), None);
    yaml.line(0, "spec:");
    for (direction, peers, rules) in [("egress", "to", &policy.egress), ("ingress", "from", &policy.ingress)] {
        if !rules.is_empty() {
            yaml.line(2, format_args!("{direction}:"));
            rules.iter().for_each(|rule| cluster_rule(yaml, peers, rule));
        }
    }
    yaml.line(2, format_args!("priority: {}", policy.priority));
    yaml.line(2, "subject:");
    workloads(yaml, 4, &policy.subject);
    let tier = match policy.tier {
        PolicyTier::Admin => "Admin",
        PolicyTier::Baseline => "Baseline",
    };
    yaml.line(2, format_args!("tier: {tier}"));
}

fn cluster_rule(yaml: &mut Yaml<'_>, peers: &str, rule: &ClusterRule) {
    let action = match rule.action {
        RuleAction::Accept => "Accept",
        RuleAction::Deny => "Deny",
        RuleAction::Pass => "Pass",
    };
    yaml.line(2, format_args!("- action: {action}"));
    yaml.line(4, "protocols:");
    for port in &rule.protocols {
        match port {
            PortMatch::Range(protocol, first, last) => {
                let protocol = protocol.to_string().to_lowercase();
                yaml.line(4, format_args!("- {protocol}:\n        destinationPort:"));
                match first == last {
                    true => yaml.line(10, format_args!("number: {first}")),
                    false => yaml.line(10, format_args!("range: {{end: {last}, start: {first}}}")),
                }
            }
            PortMatch::Named(_, name) => yaml.line(4, format_args!("- destinationNamedPort: {name}")),
            PortMatch::Protocol(protocol) => unreachable!("a ClusterNetworkPolicy cannot say 'every port of {protocol}'"),
        }
    }
    yaml.line(4, format_args!("{peers}:"));
    for peer in &rule.peers {
        match peer {
            ClusterPeer::Workloads(who) => {
                yaml.line(4, "-");
                workloads(yaml, 6, who);
            }
            ClusterPeer::Nodes(selector) => {
                yaml.line(4, "-");
                yaml.selector(6, "nodes", selector);
            }
            ClusterPeer::Networks(networks) => {
                yaml.line(4, "- networks:");
                networks.iter().for_each(|network| yaml.line(6, format_args!("- {network}")));
            }
            ClusterPeer::DomainNames(names) => {
                yaml.line(4, "- domainNames:");
                names.iter().for_each(|name| yaml.line(6, format_args!("- '{name}'")));
            }
        }
    }
}

fn workloads(yaml: &mut Yaml<'_>, column: usize, who: &WorkloadMatch) {
    match &who.pods {
        None => yaml.selector(column, "namespaces", &who.namespaces),
        Some(pods) => {
            yaml.line(column, "pods:");
            yaml.selector(column + 2, "namespaceSelector", &who.namespaces);
            yaml.selector(column + 2, "podSelector", pods);
        }
    }
}
