//! What a node learns by its own interest decides like the whole: the law of `mesh_core::interest`, over random fleets.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::interest::{Topic, Topics, Tracker, derive};
use mesh_core::labels::{CLUSTER_LABEL, NAMESPACE_NAME_LABEL};
use mesh_core::policy::*;
use mesh_core::*;
use mesh_dataplane::{Plan, Planner, Scope};
use mesh_policy::{PolicySet, naive};
use proptest::prelude::*;

const CLUSTERS: [&str; 3] = ["a", "b", "c"];
const NAMESPACES: [&str; 3] = ["shop", "team", "web"];
const PORTS: [u16; 2] = [80, 81];

/// A fleet in a few numbers.
#[derive(Clone, Debug)]
struct Fleet {
    /// What each cluster may speak for, and its region.
    grants: Vec<(usize, bool)>,
    /// The `env` label of each namespace of each cluster that has a manifest.
    namespaces: BTreeMap<(usize, usize), usize>,
    /// Cluster, namespace, node, label.
    workloads: Vec<(usize, usize, usize, bool)>,
    /// Cluster, namespace, port.
    exports: BTreeSet<(usize, usize, usize)>,
    policies: Vec<Policy>,
    deny: bool,
}

#[derive(Clone, Debug)]
enum Policy {
    Network(NetworkPolicy),
    Cluster(ClusterNetworkPolicy),
}

fn root() -> SecretKey {
    SecretKey::from_bytes([7; 32])
}

fn key_of(cluster: usize) -> SecretKey {
    SecretKey::from_bytes([cluster as u8 + 1; 32])
}

fn name<T: std::str::FromStr<Err = NameError>>(text: &str) -> T {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn now() -> Now {
    Now { time: Time::ZERO, wall: WallTime::from_unix_secs(1000) }
}

fn source() -> SourceId {
    SourceId("manifests".into())
}

fn here() -> NodeId {
    "a/n0".parse().unwrap()
}

fn selector() -> impl Strategy<Value = Selector> {
    let one = |key: &str, value: &str| Requirement::In(key.into(), vec![value.into()]);
    let not = |key: &str, value: &str| Requirement::NotIn(key.into(), vec![value.into()]);
    let region = "cluster-mesh.io/region";
    let all = vec![
        one(NAMESPACE_NAME_LABEL, "shop"),
        one(NAMESPACE_NAME_LABEL, "team"),
        not(NAMESPACE_NAME_LABEL, "shop"),
        Requirement::Exists(NAMESPACE_NAME_LABEL.into()),
        one("env", "prod"),
        not("env", "prod"),
        Requirement::Exists("env".into()),
        Requirement::DoesNotExist("env".into()),
        one(CLUSTER_LABEL, "b"),
        not(CLUSTER_LABEL, "b"),
        one(region, "eu"),
        not(region, "eu"),
        Requirement::DoesNotExist("cluster-mesh.io/tier".into()),
    ];
    prop::collection::vec(prop::sample::select(all), 0..3).prop_map(|requirements| Selector { requirements })
}

fn pods() -> impl Strategy<Value = Option<Selector>> {
    let one = |key: &str, value: &str| Selector { requirements: vec![Requirement::In(key.into(), vec![value.into()])] };
    let account = one("cluster-mesh.io/service-account", "default");
    prop::sample::select(vec![None, None, Some(one("app", "x")), Some(one(CLUSTER_LABEL, "c")), Some(account)])
}

fn networks() -> impl Strategy<Value = Prefix> {
    prop::sample::select(vec!["0.0.0.0/0", "10.1.0.0/16", "10.1.1.0/24", "10.2.0.11/32", "192.0.2.0/24", "8.8.8.8/32"])
        .prop_map(|text| text.parse().unwrap())
}

fn port() -> impl Strategy<Value = Vec<PortMatch>> {
    prop::sample::select(vec![Vec::new(), vec![PortMatch::Range(Protocol::Tcp, 80, 80)]])
}

fn network_policy() -> impl Strategy<Value = Policy> {
    let peer = prop_oneof![
        3 => (prop::option::of(selector()), pods()).prop_map(|(namespaces, pods)| match (namespaces, pods) {
            (None, None) => NetworkPolicyPeer::Nothing,
            (namespaces, pods) => NetworkPolicyPeer::Workloads { namespaces, pods },
        }),
        1 => (networks(), prop::collection::vec(networks(), 0..2))
            .prop_map(|(cidr, except)| NetworkPolicyPeer::IpBlock { cidr, except }),
    ];
    let rule = (prop::collection::vec(peer, 0..3), port()).prop_map(|(peers, ports)| NetworkPolicyRule { peers, ports }).boxed();
    let rules = || prop::option::of(prop::collection::vec(rule.clone(), 0..3));
    (0..3usize, pods(), rules(), rules(), "p[0-9]").prop_map(|(namespace, subject, ingress, egress, policy)| {
        Policy::Network(NetworkPolicy {
            scope: PolicyScope::Cluster(name("a")),
            namespace: name(NAMESPACES[namespace]),
            name: name(&policy),
            subject: subject.unwrap_or_default(),
            ingress,
            egress,
        })
    })
}

fn cluster_policy() -> impl Strategy<Value = Policy> {
    let who = || (selector(), pods()).prop_map(|(namespaces, pods)| WorkloadMatch { namespaces, pods });
    let action = prop::sample::select(vec![RuleAction::Accept, RuleAction::Accept, RuleAction::Deny, RuleAction::Pass]);
    let workloads = who().prop_map(ClusterPeer::Workloads);
    let outside = prop_oneof![
        4 => who().prop_map(ClusterPeer::Workloads),
        1 => selector().prop_map(ClusterPeer::Nodes),
        1 => networks().prop_map(|prefix| ClusterPeer::Networks(vec![prefix])),
        1 => Just(ClusterPeer::DomainNames(vec!["api.example.com".into()])),
    ];
    let rule = |peer: BoxedStrategy<ClusterPeer>| {
        (action.clone(), prop::collection::vec(peer, 1..3), port()).prop_map(|(action, peers, protocols)| ClusterRule {
            action,
            peers,
            protocols,
            unknown: false,
        })
    };
    let (ingress, egress) = (rule(workloads.boxed()), rule(outside.boxed()));
    let tier = prop::sample::select(vec![PolicyTier::Admin, PolicyTier::Baseline]);
    let rules = (prop::collection::vec(ingress, 0..3), prop::collection::vec(egress, 0..3));
    (who(), tier, 0..3i32, rules, "c[0-9]").prop_map(|(subject, tier, priority, (ingress, egress), policy)| {
        let scope = PolicyScope::Cluster(name("a"));
        Policy::Cluster(ClusterNetworkPolicy { scope, name: name(&policy), tier, priority, subject, ingress, egress })
    })
}

fn fleet() -> impl Strategy<Value = Fleet> {
    let policy = prop_oneof![network_policy(), cluster_policy()];
    (
        prop::collection::vec((0..4usize, any::<bool>()), 3),
        prop::collection::btree_map((0..3usize, 0..3usize), 0..3usize, 0..8),
        prop::collection::vec((0..3usize, 0..3usize, 0..2usize, any::<bool>()), 3..12),
        prop::collection::btree_set((0..3usize, 0..3usize, 0..2usize), 0..6),
        prop::collection::vec(policy, 0..4),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(grants, namespaces, workloads, exports, policies, deny)| Fleet {
            grants,
            namespaces,
            workloads,
            exports,
            policies,
            deny,
        })
}

impl Fleet {
    fn grant(&self, cluster: usize) -> Bytes {
        let (which, is_eu) = self.grants[cluster];
        let patterns: &[&str] = [&["*"][..], &["shop"], &["shop", "team"], &["t*", "web"]][which];
        let grant = Grant {
            cluster: name(CLUSTERS[cluster]),
            key: Some(key_of(cluster).public()),
            next_key: None,
            prefixes: vec![format!("10.{cluster}.0.0/16").parse().unwrap()],
            service_prefixes: vec![format!("100.80.{cluster}.0/24").parse().unwrap()],
            namespaces: patterns.iter().map(|pattern| NamePattern((*pattern).into())).collect(),
            exports: vec![if which == 2 { "shop/*" } else { "*" }.parse().unwrap()],
            attributes: BTreeMap::from([("region".into(), if is_eu { "eu" } else { "us" }.into())]),
            not_before: WallTime::from_unix_secs(0),
            not_after: WallTime::from_unix_secs(100_000),
            epoch: 1,
        };
        RootRecord::Grant(Arc::new(grant)).sign(&root()).unwrap()
    }

    /// What a cluster's own sources say.
    fn facts(&self, cluster: usize) -> Vec<Resource> {
        let own: ClusterName = name(CLUSTERS[cluster]);
        let mut facts = Vec::new();
        for node in 0..2u8 {
            let id = NodeId { cluster: own.clone(), name: name(&format!("n{node}")) };
            facts.push(Resource::Node(Node {
                id: id.clone(),
                labels: [("env", ["prod", "dev"][usize::from(node)])].into_iter().collect(),
                addresses: vec![underlay(cluster, node.into())],
                prefixes: vec![format!("10.{cluster}.{node}.0/24").parse().unwrap()],
            }));
            facts.push(Resource::NodeLink(NodeLink {
                id,
                key: WireGuardKey([cluster as u8 * 10 + node + 1; 32]),
                next_key: None,
                endpoints: vec![(underlay(cluster, node.into()), 51820).into()],
                overlay: vec![overlay(cluster, node.into())],
            }));
        }
        for ((_, namespace), env) in self.namespaces.iter().filter(|((of, _), _)| *of == cluster) {
            let labels = [("env", ["prod", "dev", "prod"][*env])].into_iter().filter(|_| *env < 2).collect();
            facts.push(Resource::Namespace(Namespace { cluster: own.clone(), name: name(NAMESPACES[*namespace]), labels }));
        }
        facts.extend(self.workloads_of(cluster).map(Resource::Workload));
        for (_, namespace, port) in self.exports.iter().filter(|(of, ..)| *of == cluster) {
            let id = ServiceId { namespace: name(NAMESPACES[*namespace]), name: name(&format!("s{port}")) };
            let port = PORTS[*port];
            let backends = self.workloads_of(cluster).filter(|workload| workload.id.namespace == id.namespace);
            let endpoint = |workload: Workload| Endpoint {
                addresses: workload.addresses,
                ready: true,
                terminating: false,
                hostname: None,
                node: workload.node,
                ports: vec![EndpointPort { name: None, protocol: Protocol::Tcp, port: Some(port) }],
            };
            let endpoints = backends.map(endpoint).collect();
            facts.push(Resource::Service(Service {
                cluster: own.clone(),
                id: id.clone(),
                kind: ServiceKind::ClusterIp,
                addresses: Vec::new(),
                ports: vec![ServicePort { name: None, protocol: Protocol::Tcp, port, app_protocol: None }],
                affinity: SessionAffinity::None,
                traffic: Traffic::default(),
                publish_not_ready: false,
                external_name: None,
            }));
            facts.push(Resource::EndpointSlice(EndpointSlice {
                cluster: own.clone(),
                name: name(&format!("{}-1", id.name)),
                service: id.clone(),
                endpoints,
            }));
            let export = ServiceExport { cluster: own.clone(), id, created: None, traffic: Default::default() };
            facts.push(Resource::ServiceExport(export));
        }
        facts
    }

    fn workloads_of(&self, cluster: usize) -> impl Iterator<Item = Workload> {
        let of = self.workloads.iter().enumerate().filter(move |(_, workload)| workload.0 == cluster);
        of.map(move |(index, (_, namespace, node, is_x))| Workload {
            id: WorkloadId {
                cluster: name(CLUSTERS[cluster]),
                namespace: name(NAMESPACES[*namespace]),
                name: name(&format!("w{index}")),
            },
            labels: [("app", if *is_x { "x" } else { "y" })].into_iter().collect(),
            service_account: "default".into(),
            node: Some(name(&format!("n{node}"))),
            host_network: false,
            addresses: vec![ip(&format!("10.{cluster}.{node}.{}", 10 + index))],
            ports: Vec::new(),
        })
    }

    fn state(&self, cluster: usize) -> State {
        let default = if self.deny { CrossClusterDefault::Deny } else { CrossClusterDefault::Exports };
        let mut state = State::new(StateConfig {
            fleet: "test".into(),
            trust: Trust::Signed { root: root().public(), cluster: name(CLUSTERS[cluster]) },
            settings: Settings { cross_cluster_default: Some(default), ..Settings::default() },
            domains: BTreeMap::from([("api.example.com".into(), vec![ip("10.2.1.12"), ip("8.8.8.8")])]),
        });
        let _ = state.apply(Event::Begin(source()), now());
        for other in 0..3 {
            let _ = state.apply(Event::Record(self.grant(other)), now());
        }
        for fact in self.facts(cluster) {
            let _ = state.apply(Event::Set(source(), fact), now());
        }
        if cluster == 0 {
            for policy in self.policies.iter().cloned() {
                let fact = match policy {
                    Policy::Network(policy) => Resource::NetworkPolicy(Arc::new(policy)),
                    Policy::Cluster(policy) => Resource::ClusterNetworkPolicy(Arc::new(policy)),
                };
                let _ = state.apply(Event::Set(source(), fact), now());
            }
        }
        let _ = state.apply(Event::Synced(source()), now());
        state
    }

    /// All records of all clusters, as their publishers sign them.
    fn records(&self) -> Vec<(ClusterName, RecordKey, Bytes)> {
        let of = |cluster: usize| {
            let mut publisher = Publisher::new(name(CLUSTERS[cluster]), key_of(cluster), root().public(), 1);
            let records = publisher.update(&self.state(cluster), now());
            records.into_iter().map(move |(key, bytes)| (name(CLUSTERS[cluster]), key, bytes))
        };
        (0..3).flat_map(of).collect()
    }
}

fn underlay(cluster: usize, node: usize) -> IpAddr {
    ip(&format!("192.0.2.{}", 10 * cluster + node + 1))
}

fn overlay(cluster: usize, node: usize) -> IpAddr {
    ip(&format!("10.{cluster}.{node}.1"))
}

/// Feeds what the interest asks for, until it asks for nothing more.
fn follow(state: &mut State, records: &[(ClusterName, RecordKey, Bytes)]) -> Topics {
    let mut tracker = Tracker::new(here());
    tracker.update(state, &Change::default());
    let mut told = BTreeSet::new();
    loop {
        let topics = tracker.topics();
        assert_eq!(topics, derive(state, &here()), "a tracker has what is derived from scratch");
        let mut fed = false;
        for (cluster, key, bytes) in records.iter().filter(|(cluster, key, _)| topics.covers(cluster, key)) {
            if told.insert((cluster, key)) {
                let change = state.apply(Event::Record(bytes.clone()), now());
                tracker.update(state, &change);
                fed = true;
            }
        }
        if !fed {
            return topics;
        }
    }
}

fn plan(state: &State) -> Plan {
    Planner::new(here(), Scope::Cluster).plan(state, &Arc::new(PolicySet::compile(state)))
}

fn route(plan: &Plan, address: IpAddr) -> Option<NodeId> {
    let around = plan.routes.iter().filter(|(prefix, _)| prefix.contains(address));
    around.max_by_key(|(prefix, _)| prefix.len()).map(|(_, node)| node.clone())
}

fn tuples(local: IpAddr, peer: IpAddr) -> impl Iterator<Item = (FiveTuple, Direction)> {
    PORTS.into_iter().flat_map(move |port| {
        let tuple = |source, destination| FiveTuple {
            source,
            destination,
            protocol: Protocol::Tcp,
            source_port: 40000,
            destination_port: port,
        };
        [(tuple(local, peer), Direction::Egress), (tuple(peer, local), Direction::Ingress)]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_interest_asks_for_decides_like_everything(fleet in fleet()) {
        let records = fleet.records();
        let mut whole = fleet.state(0);
        for (_, _, bytes) in &records {
            let _ = whole.apply(Event::Record(bytes.clone()), now());
        }
        let mut narrow = fleet.state(0);
        let topics = follow(&mut narrow, &records);
        let members = |cluster: &ClusterName| {
            cluster.as_str() == "a" || topics.iter().any(|topic| *topic == Topic::Members(cluster.clone()))
        };
        for topic in topics.iter() {
            if let Topic::Slices(cluster, _) | Topic::AllSlices(cluster) = topic {
                prop_assert!(members(cluster), "nobody of {} is believed without its nodes and namespaces", cluster);
            }
        }
        prop_assert_eq!(narrow.imported_services(&name("a")), whole.imported_services(&name("a")));
        prop_assert_eq!(narrow.local_services(&name("a")), whole.local_services(&name("a")));

        // The plan is a part of the whole one, and whole for the clusters whose nodes are asked for.
        let (some, all) = (plan(&narrow), plan(&whole));
        for (node, peer) in all.peers.iter() {
            prop_assert_eq!(some.peers.get(node), Some(peer).filter(|_| members(&node.cluster)), "peer {}", node);
        }
        for (prefix, node) in all.routes.iter() {
            prop_assert_eq!(some.routes.get(prefix), Some(node).filter(|_| members(&node.cluster)), "route {}", prefix);
        }
        prop_assert_eq!((&some.guarded, &some.local, &some.services), (&all.guarded, &all.local, &all.services));
        prop_assert!(some.peers.len() <= all.peers.len() && some.routes.len() <= all.routes.len());

        let mut peers: Vec<IpAddr> = fleet.workloads.iter().enumerate()
            .map(|(index, (cluster, _, node, _))| ip(&format!("10.{cluster}.{node}.{}", 10 + index))).collect();
        peers.extend([ip("8.8.8.8"), ip("10.1.1.200")]);
        for (cluster, node) in (0..3).flat_map(|cluster| [(cluster, 0), (cluster, 1)]) {
            peers.push(underlay(cluster, node));
            if members(&name(CLUSTERS[cluster])) {
                peers.push(overlay(cluster, node));
            }
        }
        let local: Vec<Workload> = fleet.workloads_of(0).filter(|workload| workload.node == Some(here().name)).collect();
        for (local, peer) in local.iter().flat_map(|local| peers.iter().map(|peer| (local.addresses[0], *peer))) {
            for (tuple, direction) in tuples(local, peer) {
                let expected = naive::decide(&whole, &tuple, direction);
                let found = naive::decide(&narrow, &tuple, direction);
                if found.is_allow() == expected.is_allow() {
                    continue;
                }
                prop_assert_eq!(&found, &Verdict::Deny(Reason::IdentityPending), "{:?} {}: {}", tuple, direction, expected);
                // Its packet is held, its identity pulled from the node that the routes name, and decided.
                let node = route(&some, peer);
                prop_assert!(node.is_some() && node == route(&all, peer), "{:?} {}: {} without a way", tuple, direction, expected);
                prop_assert!(
                    direction == Direction::Ingress || !matches!(expected, Verdict::Allow(Reason::FleetDefault)),
                    "backends of imported services are known before the first packet: {:?}", tuple
                );
                let Located::Workload(pulled) = whole.locate(peer) else { panic!("{peer} is allowed and nobody") };
                let key = RecordKey::Slice(pulled.id.namespace.clone(), pulled.node.clone().unwrap());
                let slice = records.iter().find(|(cluster, of, _)| *cluster == pulled.id.cluster && *of == key).unwrap();
                let mut pulling = narrow.clone();
                let _ = pulling.apply(Event::Record(slice.2.clone()), now());
                let decided = naive::decide(&pulling, &tuple, direction);
                prop_assert_eq!(decided.is_allow(), expected.is_allow(), "{:?} {}: {}, {}", tuple, direction, decided, expected);
                prop_assert_eq!(derive(&pulling, &here()), topics.clone(), "what is pulled asks for nothing");
            }
        }
    }
}
