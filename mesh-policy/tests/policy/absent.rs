//! Who selects by labels that are absent (`NotIn`, `DoesNotExist`) never takes in a workload whose namespace is not known yet.

use std::sync::Arc;

use mesh_core::policy::*;
use mesh_core::*;
use mesh_policy::Compiler;

use crate::fleet::*;

const PACKET: &str = "10.1.0.1 > 10.2.0.2 80/TCP";

fn root() -> SecretKey {
    SecretKey::from_bytes([7; 32])
}

fn key() -> SecretKey {
    SecretKey::from_bytes([1; 32])
}

fn grant(cluster: &str, net: u8) -> Bytes {
    let grant = Grant {
        cluster: cluster.parse().expect("name"),
        key: Some(key().public()),
        next_key: None,
        prefixes: vec![prefix(&format!("10.{net}.0.0/16"))],
        service_prefixes: Vec::new(),
        namespaces: vec![NamePattern("*".into())],
        exports: Vec::new(),
        attributes: Default::default(),
        not_before: WallTime::from_unix_secs(0),
        not_after: WallTime::from_unix_secs(1000),
        epoch: 1,
    };
    RootRecord::Grant(Arc::new(grant)).sign(&root()).expect("fits")
}

fn record(counter: u64, key_of: &str, resources: Vec<Resource>) -> Bytes {
    let version = Version { incarnation: 1, counter };
    let record = Record { cluster: "east".parse().expect("name"), version, key: key_of.parse().expect("a key"), resources };
    record.sign(&root().public(), &key()).expect("fits")
}

fn namespace(counter: u64, text: &str) -> Bytes {
    let (cluster, name) = ("east".parse().expect("name"), "team".parse().expect("name"));
    record(counter, "namespace/team", vec![Resource::Namespace(Namespace { cluster, name, labels: labels(text) })])
}

/// The records of east: a node, a namespace that is `env=prod`, and a pod in it.
fn east() -> [Bytes; 3] {
    let (id, addresses) = ("east/n1".parse().expect("name"), vec![ip("172.16.1.1")]);
    let node = Node { id, labels: Labels::default(), addresses, prefixes: vec![prefix("10.1.0.0/24")] };
    let pod = workload("east/team/web", "10.1.0.1", "app=web", "");
    [
        record(1, "node/n1", vec![Resource::Node(node)]),
        namespace(2, "env=prod"),
        record(3, "slice/team/n1", vec![Resource::Workload(pod)]),
    ]
}

/// West, which lets in who is in a namespace of the selector, by a policy of either kind.
fn west(peer: &str, by_cluster_policy: bool) -> Fleet {
    let trust = Trust::Signed { root: root().public(), cluster: "west".parse().expect("name") };
    let mut fleet = Fleet::with(trust, Settings::default());
    for bytes in [grant("east", 1), grant("west", 2)] {
        assert_eq!(fleet.state.apply(Event::Record(bytes), now()).refusals, []);
    }
    fleet.namespace("west", "shop", "").node("west/n1", "172.16.2.1", "").pod("west/shop/db", "10.2.0.2", "app=db", "");
    if by_cluster_policy {
        let peer = ClusterPeer::Workloads(WorkloadMatch { namespaces: selector(peer), pods: None });
        let ingress = vec![rule(RuleAction::Accept, peer, vec![])];
        fleet.cluster_policy(ClusterNetworkPolicy { ingress, ..cluster_policy(own("west"), "a", PolicyTier::Admin, 1) });
    } else {
        let peers = vec![NetworkPolicyPeer::Workloads { namespaces: Some(selector(peer)), pods: None }];
        let ingress = Some(vec![NetworkPolicyRule { peers, ports: vec![] }]);
        fleet.network_policy(NetworkPolicy { ingress, ..network_policy(own("west"), "a", "app=db") });
    }
    fleet
}

/// Tells west a record; returns what both evaluators and the compiler that goes along say of the packet.
fn tell(fleet: &mut Fleet, compiler: &mut Compiler, bytes: &Bytes) -> String {
    let change = fleet.state.apply(Event::Record(bytes.clone()), now());
    let set = compiler.update(&fleet.state, &change).clone();
    let told = fleet.ingress(PACKET);
    assert_eq!(set.named(set.decide(&set.flow(&tuple(PACKET)), Direction::Ingress)).to_string(), told, "step by step");
    told
}

#[test]
fn what_is_absent_is_never_what_has_not_come_yet() {
    for (peer, by_cluster_policy) in [("env!=prod", false), ("env!=prod", true), ("!env", false), ("!env", true)] {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (mut fleet, mut compiler) = (west(peer, by_cluster_policy), Compiler::new());
            for (step, index) in order.into_iter().enumerate() {
                let told = tell(&mut fleet, &mut compiler, &east()[index]);
                assert!(told.starts_with("deny"), "{peer}, {order:?}, step {step}: {told}");
                assert_eq!(told.contains("identity-pending"), step < 2, "{peer}, {order:?}, step {step}: {told}");
            }
            // Where it is so, and is said, they match.
            assert!(tell(&mut fleet, &mut compiler, &namespace(4, "")).starts_with("allow"), "{peer}, {order:?}");
            let gone = tell(&mut fleet, &mut compiler, &record(5, "namespace/team", Vec::new()));
            assert!(gone.contains("identity-pending"), "{peer}, {order:?}: {gone}");
        }
    }
}
