//! The fleet's policies.

use std::sync::Arc;

use mesh_core::policy::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PolicyScope, PolicyTier,
    PortMatch, RuleAction, WorkloadMatch,
};
use mesh_core::{ObjectName, Prefix, Protocol, Requirement, Resource, Selector};

use super::{APPS, CLUSTERS, ENVIRONMENTS, Fleet, NAMESPACES, TEAMS, TIERS, tier};
use crate::random::{Random, Ranks};

/// The ports that rules and connections ask for, by popularity.
pub(crate) const PORTS: [u16; 24] = [
    8080, 443, 80, 8000, 3000, 9090, 5432, 6379, 8443, 3306, 9092, 27017, 50051, 9200, 5672, 11211, 2379, 8888, 4317, 9093,
    15432, 53, 123, 22,
];

/// The external networks that rules name, by popularity: documentation prefixes and what stands in for providers' ranges.
const NETWORKS: [&str; 12] = [
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "52.16.0.0/14",
    "104.16.0.0/13",
    "140.82.112.0/20",
    "34.64.0.0/10",
    "13.107.0.0/16",
    "151.101.0.0/16",
    "185.199.108.0/22",
    "20.33.0.0/16",
    "172.217.0.0/16",
];

/// Draws what rules are made of.
struct Author {
    random: Random,
    teams: Ranks,
    environments: Ranks,
    apps: Ranks,
    tiers: Ranks,
    ports: Ranks,
    networks: Ranks,
}

impl Fleet {
    /// Returns the policies, of which a larger fleet has the same ones and more.
    ///
    /// The first one is an Admin ClusterNetworkPolicy of the fleet whose subjects are all workloads, so that even one policy of
    /// ten rules is consulted for every connection. Of the others one in twenty is a ClusterNetworkPolicy (Admin and Baseline in
    /// turn), for an environment or one to three teams; the rest are NetworkPolicies, the same number in each namespace. One
    /// policy in seven is one cluster's own, the others are the fleet's. Six in ten have both directions, with half of the rules
    /// each.
    ///
    /// Of seven NetworkPolicies six select an app, the next one of its namespace; the seventh selects a tier, two apps, or its
    /// whole namespace. A rule has one or two peers
    /// (apps and tiers of the own namespace, namespaces by team, environment or region, both, or an `ipBlock`) and one or two
    /// ports (numbers by Zipf's law, ranges, a few by name, a few whole protocols).
    pub fn policies(&self) -> impl Iterator<Item = Resource> {
        (0..self.size.policies).map(|number| self.policy(number, self.size.rules_per_policy, 0))
    }

    /// Returns a policy with so many rules; another `revision` of it has another first rule.
    pub fn policy(&self, number: u32, rules: u32, revision: u32) -> Resource {
        let mut author = Author::new(Random::of("policy", number.into()));
        let own = author.random.percent(14) && number > 0;
        let cluster = author.random.one(&self.words.clusters).clone();
        let scope = if own { PolicyScope::Cluster(cluster) } else { PolicyScope::Fleet };
        let (ingress, egress) = match author.random.below(100) {
            _ if number == 0 => (rules / 2, rules - rules / 2),
            0..60 => (rules / 2, rules - rules / 2),
            60..85 => (rules, 0),
            _ => (0, rules),
        };
        let name = ObjectName::new(&format!("policy-{number:04}")).expect("valid");
        if number == 0 || number % 20 == 10 {
            let tier = if number == 0 || number % 40 == 10 { PolicyTier::Admin } else { PolicyTier::Baseline };
            let subject = if number == 0 { everyone() } else { author.subjects() };
            let mut of = |count, egress| (0..count).map(|_| author.cluster_rule(egress)).collect::<Vec<_>>();
            let (mut ingress, mut egress) = (of(ingress, false), of(egress, true));
            if revision > 0 {
                let first = ingress.first_mut().or_else(|| egress.first_mut()).expect("a policy has a rule");
                first.protocols = vec![PortMatch::Range(Protocol::Tcp, 20_000, 20_000)];
            }
            let priority = i32::try_from(number).expect("fewer policies than an i32 counts");
            let policy = ClusterNetworkPolicy { scope, name, tier, priority, subject, ingress, egress };
            return Resource::ClusterNetworkPolicy(Arc::new(policy));
        }
        let namespace = self.words.namespaces[((number - 1) % NAMESPACES) as usize].clone();
        let subject = match author.random.below(7) {
            0 => author.pods(),
            _ => one_of("app", [format!("app-{}", (number - 1) / NAMESPACES % APPS)]),
        };
        let mut of = |count| (count > 0).then(|| (0..count).map(|_| author.rule()).collect::<Vec<_>>());
        let (mut ingress, mut egress) = (of(ingress), of(egress));
        if revision > 0 {
            let first = ingress.iter_mut().chain(&mut egress).flatten().next().expect("a policy has a rule");
            first.ports = vec![PortMatch::Range(Protocol::Tcp, 20_000, 20_000)];
        }
        Resource::NetworkPolicy(Arc::new(NetworkPolicy { scope, namespace, name, subject, ingress, egress }))
    }
}

fn everyone() -> WorkloadMatch {
    WorkloadMatch { namespaces: Selector::ALL, pods: None }
}

fn one_of<V: Into<Arc<str>>>(key: &str, values: impl IntoIterator<Item = V>) -> Selector {
    Selector { requirements: vec![Requirement::In(key.into(), values.into_iter().map(Into::into).collect())] }
}

impl Author {
    fn new(random: Random) -> Author {
        Author {
            random,
            teams: Ranks::zipf(TEAMS),
            environments: Ranks::zipf(ENVIRONMENTS.len() as u32),
            apps: Ranks::zipf(APPS),
            tiers: Ranks::zipf(TIERS.len() as u32),
            ports: Ranks::zipf(PORTS.len() as u32),
            networks: Ranks::zipf(NETWORKS.len() as u32),
        }
    }

    fn app(&mut self) -> u32 {
        self.apps.draw(&mut self.random)
    }

    /// Selects pods of a namespace.
    fn pods(&mut self) -> Selector {
        let app = |number: u32| format!("app-{number}");
        match self.random.below(100) {
            0..70 => one_of("app", [app(self.app())]),
            70..82 => one_of("tier", [TIERS[self.tiers.draw(&mut self.random) as usize]]),
            82..92 => one_of("app", [app(self.app()), app(self.app())]),
            _ => Selector::ALL,
        }
    }

    /// Selects namespaces.
    fn namespaces(&mut self) -> Selector {
        match self.random.below(100) {
            0..60 => one_of("team", [format!("team-{}", self.teams.draw(&mut self.random))]),
            60..80 => one_of("env", [ENVIRONMENTS[self.environments.draw(&mut self.random) as usize]]),
            80..92 => {
                let mut both = one_of("team", [format!("team-{}", self.teams.draw(&mut self.random))]);
                both.requirements.extend(one_of("env", [*self.random.one(&ENVIRONMENTS)]).requirements);
                both
            }
            _ => {
                let (eu, us) = CLUSTERS.split_at(4);
                one_of(mesh_core::labels::CLUSTER_LABEL, self.random.one(&[eu, us]).iter().copied())
            }
        }
    }

    fn subjects(&mut self) -> WorkloadMatch {
        let teams = self.random.below(3) + 1;
        let namespaces = match self.random.percent(30) {
            true => one_of("env", [ENVIRONMENTS[self.environments.draw(&mut self.random) as usize]]),
            false => one_of("team", (0..teams).map(|_| format!("team-{}", self.random.below(TEAMS))).collect::<Vec<_>>()),
        };
        let pods = self.random.percent(40).then(|| one_of("tier", [tier(self.random.below(5))]));
        WorkloadMatch { namespaces, pods }
    }

    fn network(&mut self) -> Prefix {
        NETWORKS[self.networks.draw(&mut self.random) as usize].parse().expect("valid")
    }

    fn peer(&mut self) -> NetworkPolicyPeer {
        match self.random.below(100) {
            0..45 => NetworkPolicyPeer::Workloads { namespaces: None, pods: Some(self.pods()) },
            45..60 => NetworkPolicyPeer::Workloads { namespaces: Some(self.namespaces()), pods: None },
            60..85 => NetworkPolicyPeer::Workloads { namespaces: Some(self.namespaces()), pods: Some(self.pods()) },
            85..95 => NetworkPolicyPeer::IpBlock { cidr: self.network(), except: Vec::new() },
            95..98 => NetworkPolicyPeer::IpBlock {
                cidr: "0.0.0.0/0".parse().expect("valid"),
                except: vec!["10.0.0.0/8".parse().expect("valid"), "169.254.169.254/32".parse().expect("valid")],
            },
            // One region's pods, as somebody who does not trust labels writes it.
            _ => {
                let region = *self.random.one(&["10.0.0.0/9", "10.128.0.0/9"]);
                NetworkPolicyPeer::IpBlock { cidr: region.parse().expect("valid"), except: Vec::new() }
            }
        }
    }

    fn port(&mut self) -> PortMatch {
        let protocol = if self.random.percent(10) { Protocol::Udp } else { Protocol::Tcp };
        let first = PORTS[self.ports.draw(&mut self.random) as usize];
        match self.random.below(100) {
            0..75 => PortMatch::Range(protocol, first, first),
            75..90 => PortMatch::Range(protocol, first, first + u16::try_from(self.random.below(100)).expect("less than 100")),
            90..98 => PortMatch::Named(Some(Protocol::Tcp), (*self.random.one(&["http", "metrics"])).into()),
            _ => PortMatch::Protocol(protocol),
        }
    }

    /// Draws one or two.
    fn few<T>(&mut self, mut draw: impl FnMut(&mut Author) -> T) -> Vec<T> {
        let first = draw(self);
        let second = self.random.percent(50).then(|| draw(self));
        [Some(first), second].into_iter().flatten().collect()
    }

    fn rule(&mut self) -> NetworkPolicyRule {
        NetworkPolicyRule { peers: self.few(Author::peer), ports: self.few(Author::port) }
    }

    fn cluster_rule(&mut self, egress: bool) -> ClusterRule {
        let action = match self.random.below(100) {
            0..30 => RuleAction::Accept,
            30..75 => RuleAction::Deny,
            _ => RuleAction::Pass,
        };
        let peers = self.few(|author| match author.random.below(100) {
            0..15 if egress => ClusterPeer::Networks(author.few(Author::network)),
            0..2 => ClusterPeer::Workloads(everyone()),
            _ => ClusterPeer::Workloads(WorkloadMatch { namespaces: author.namespaces(), pods: Some(author.pods()) }),
        });
        let mut protocols = self.few(Author::cluster_port);
        if peers.iter().any(|peer| matches!(peer, ClusterPeer::Networks(_))) {
            // Networks have no named ports.
            protocols.retain(|port| !matches!(port, PortMatch::Named(..)));
        }
        if protocols.is_empty() {
            protocols.push(PortMatch::Range(Protocol::Tcp, 443, 443));
        }
        ClusterRule { action, peers, protocols, unknown: false }
    }

    /// Draws a port as a ClusterNetworkPolicy can say it.
    fn cluster_port(&mut self) -> PortMatch {
        match self.port() {
            PortMatch::Protocol(protocol) => PortMatch::Range(protocol, 1, u16::MAX),
            PortMatch::Named(_, name) => PortMatch::Named(None, name),
            range => range,
        }
    }
}
