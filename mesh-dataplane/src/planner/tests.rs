use std::sync::Arc;

use mesh_core::{
    Endpoint, EndpointPort, EndpointSlice, Event, Grant, Key, Labels, Node, Now, Protocol, Resource, RootRecord, SecretKey,
    Service, ServiceKind, ServicePort, SessionAffinity, Settings, StateConfig,
};

use proptest::prelude::*;

use super::*;
use crate::test_fleet::*;

fn prefixes<'a>(set: impl IntoIterator<Item = &'a Prefix>) -> Vec<String> {
    set.into_iter().map(ToString::to_string).collect()
}

fn routes(plan: &Plan) -> Vec<String> {
    plan.routes.iter().map(|(prefix, node)| format!("{prefix} {node}")).collect()
}

#[test]
fn routes_and_peers_are_the_other_nodes_of_the_scope() {
    let mut fleet = Fleet::new();
    fleet.node("east/n2", 4, &["10.1.1.0/24"]);
    let plan = fleet.plan("east/n1", Scope::Fleet);
    assert_eq!(routes(&plan), ["10.2.0.0/24 west/n1", "10.3.0.0/24 west/n2", "fd00:2::/64 west/n1"]);
    assert_eq!(prefixes(&plan.local.prefixes), ["10.1.0.0/24", "fd00:1::/64"]);
    assert_eq!(plan.local.overlay, [prefix("10.1.0.0/24").address(), prefix("fd00:1::/64").address()]);
    for scope in [Scope::Cluster, Scope::Node] {
        let plan = fleet.plan("east/n1", scope);
        assert_eq!(routes(&plan)[0], "10.1.1.0/24 east/n2");
        assert_eq!(plan.peers.len(), 3);
        assert!(!plan.peers.contains_key(&node_id("east/n1")), "a node is no peer of its own");
    }
}

#[test]
fn guarded_is_what_may_only_go_through_the_tunnel() {
    let fleet = Fleet::new();
    let guarded = |scope| prefixes(&*fleet.plan("east/n1", scope).guarded);
    assert_eq!(guarded(Scope::Node), ["10.1.0.0/16", "10.2.0.0/15", "fd00:1::/48", "fd00:2::/48"]);
    assert_eq!(guarded(Scope::Fleet), ["10.2.0.0/15", "fd00:2::/48"], "the own cluster is the CNI's");
    let cluster = fleet.plan("east/n1", Scope::Cluster).guarded;
    let holds = |text: &str| cluster.iter().any(|prefix| prefix.contains(text.parse().expect("an address")));
    assert!(!holds("10.1.0.5") && !holds("fd00:1::5"), "the own node is the CNI's");
    assert!(holds("10.1.1.5") && holds("10.1.255.255") && holds("fd00:1:0:1::1") && holds("10.2.0.9"));
}

#[test]
fn a_node_without_prefixes_speaks_for_its_workloads_and_overlay() {
    let mut fleet = Fleet::new();
    fleet.set(Resource::Node(Node {
        id: node_id("west/n1"),
        labels: Labels::default(),
        addresses: Vec::new(),
        prefixes: Vec::new(),
    }));
    assert_eq!(
        routes(&fleet.plan("east/n1", Scope::Fleet)),
        ["10.2.0.0/32 west/n1", "10.2.0.9/32 west/n1", "10.3.0.0/24 west/n2", "fd00:2::/128 west/n1", "fd00:2::9/128 west/n1"]
    );
}

#[test]
fn a_prefix_that_two_nodes_claim_belongs_to_the_first_by_name() {
    let mut fleet = Fleet::new();
    fleet.node("west/n0", 5, &["10.3.0.0/24"]);
    let plan = fleet.plan("east/n1", Scope::Fleet);
    assert_eq!(plan.routes[&prefix("10.3.0.0/24")], node_id("west/n0"));
    let plan = fleet.plan("west/n2", Scope::Node);
    assert!(!plan.local.prefixes.contains(&prefix("10.3.0.0/24")), "the loser does not claim it either");
}

#[test]
fn a_grant_that_is_gone_takes_the_routes_along() {
    let mut fleet = Fleet::new();
    fleet.unset(Key::Grant("west".parse().expect("a name")));
    let plan = fleet.plan("east/n1", Scope::Fleet);
    assert!(plan.routes.is_empty(), "{:?}", plan.routes);
    assert!(plan.guarded.is_empty());
}

#[test]
fn peers_need_an_endpoint_on_one_side() {
    let mut fleet = Fleet::new();
    let silence = |fleet: &mut Fleet, id: &str| {
        let mut link = fleet.state.facts().links[&node_id(id)].clone();
        link.endpoints.clear();
        fleet.set(Resource::NodeLink(link));
    };
    silence(&mut fleet, "west/n2");
    assert!(fleet.plan("east/n1", Scope::Fleet).peers.contains_key(&node_id("west/n2")), "it calls us");
    silence(&mut fleet, "east/n1");
    let plan = fleet.plan("east/n1", Scope::Fleet);
    assert_eq!(plan.peers.keys().collect::<Vec<_>>(), [&node_id("west/n1")], "neither can call the other");
    assert!(plan.routes.values().all(|node| plan.peers.contains_key(node)), "no route without its peer");
}

#[test]
fn cluster_addresses_lead_to_the_ready_backends_of_their_family() {
    let mut fleet = Fleet::new();
    let (cluster, id): (mesh_core::ClusterName, mesh_core::ServiceId) =
        ("east".parse().expect("valid"), "shop/cart".parse().expect("valid"));
    fleet.set(Resource::Service(Service {
        cluster: cluster.clone(),
        id: id.clone(),
        kind: ServiceKind::ClusterIp,
        addresses: vec!["10.96.0.7".parse().expect("valid")],
        ports: vec![ServicePort { name: None, protocol: Protocol::Tcp, port: 80, app_protocol: None }],
        affinity: SessionAffinity::None,
        traffic: mesh_core::Traffic::default(),
        publish_not_ready: false,
        external_name: None,
    }));
    let endpoint = |address: &str, ready| Endpoint {
        addresses: vec![address.parse().expect("valid")],
        ready,
        terminating: false,
        hostname: None,
        node: None,
        ports: vec![EndpointPort { name: None, protocol: Protocol::Tcp, port: Some(8080) }],
    };
    fleet.set(Resource::EndpointSlice(EndpointSlice {
        cluster,
        name: "cart-1".parse().expect("valid"),
        service: id,
        endpoints: vec![endpoint(CART, true), endpoint(WEB, false), endpoint(WEB6, true)],
    }));
    let table = |node| fleet.plan(node, Scope::Node).services;
    let services = table("east/n1");
    let [(frontend, backends)] = &services.0.iter().collect::<Vec<_>>()[..] else { panic!("one frontend: {services:?}") };
    assert_eq!((frontend.address.to_string(), frontend.port), ("10.96.0.7".into(), 80));
    assert_eq!(backends.ready, [(CART.parse().expect("valid"), 8080)]);
    assert!(table("west/n1").0.is_empty(), "another cluster's own addresses are its own affair");
}

#[test]
fn a_nodes_own_word_gets_it_no_address_of_another_node() {
    let mut fleet = Fleet::new();
    let claim = |fleet: &mut Fleet, id: &str, address: &str| {
        let mut link = fleet.state.facts().links[&node_id(id)].clone();
        link.overlay = vec![address.parse().expect("an address")];
        fleet.set(Resource::NodeLink(link));
    };
    claim(&mut fleet, "west/n2", DB);
    let plan = fleet.plan("east/n1", Scope::Fleet);
    assert_eq!(plan.routes.get(&prefix("10.2.0.9/32")), None, "{:?}", plan.routes);
    assert!(fleet.plan("west/n2", Scope::Fleet).local.overlay.is_empty(), "it does not take it for itself either");

    // Without prefixes the workloads are a node's, whatever the name of the one that claims them.
    let bare = Node { id: node_id("west/n1"), labels: Labels::default(), addresses: Vec::new(), prefixes: Vec::new() };
    fleet.set(Resource::Node(bare));
    fleet.node("west/n0", 5, &[]);
    claim(&mut fleet, "west/n0", DB);
    assert_eq!(fleet.plan("east/n1", Scope::Fleet).routes[&prefix("10.2.0.9/32")], node_id("west/n1"));
}

#[test]
fn a_node_that_claims_our_own_key_is_no_peer() {
    let mut fleet = Fleet::new();
    let ours = fleet.state.facts().links[&node_id("east/n1")].key;
    for next in [false, true] {
        let mut link = fleet.state.facts().links[&node_id("west/n2")].clone();
        if next {
            (link.key, link.next_key) = (mesh_core::WireGuardKey([3; 32]), Some(ours));
        } else {
            link.key = ours;
        }
        fleet.set(Resource::NodeLink(link));
        let plan = fleet.plan("east/n1", Scope::Fleet);
        assert_eq!(plan.peers.keys().collect::<Vec<_>>(), [&node_id("west/n1")]);
        assert!(!plan.routes.values().any(|node| *node == node_id("west/n2")));
    }
}

#[test]
fn the_own_clusters_service_addresses_do_not_leave_when_their_service_is_gone() {
    let mut fleet = Fleet::new();
    let mut grant = east(&fleet);
    grant.service_prefixes = vec![prefix("100.80.1.0/24")];
    fleet.set(Resource::Grant(Arc::new(grant)));
    for scope in [Scope::Fleet, Scope::Cluster, Scope::Node] {
        assert!(fleet.plan("east/n1", scope).guarded.contains(&prefix("100.80.1.0/24")), "{scope:?}");
        assert!(!fleet.plan("west/n1", scope).guarded.contains(&prefix("100.80.1.0/24")), "they mean nothing elsewhere");
    }
}

#[test]
fn prefixes_stay_guarded_when_their_grant_is_over() {
    let root = SecretKey::from_bytes([7; 32]);
    let trust = Trust::Signed { root: root.public(), cluster: "east".parse().expect("a name") };
    let config = StateConfig { fleet: "test".into(), trust, settings: Settings::default(), domains: Default::default() };
    let mut state = State::new(config);
    let fleet = Fleet::new();
    for (name, grant) in &fleet.state.facts().grants {
        let key = SecretKey::from_bytes([name.as_str().len() as u8; 32]).public();
        let grant = Grant { key: Some(key), ..(**grant).clone() };
        let bytes = RootRecord::Grant(Arc::new(grant)).sign(&root).expect("fits");
        let _ = state.apply(Event::Record(bytes), Now::default());
    }
    let guarded = |state: &State, scope| {
        let mut compiler = mesh_policy::Compiler::new();
        let policy = compiler.update(state, &Change::default()).clone();
        prefixes(&*Planner::new(node_id("east/n1"), scope).plan(state, &policy).guarded)
    };
    let before = guarded(&state, Scope::Fleet);
    assert_eq!(before, ["10.2.0.0/15", "fd00:2::/48"]);
    let end = RootRecord::Revocation { cluster: "west".parse().expect("a name"), epoch: 1 };
    let _ = state.apply(Event::Record(end.sign(&root).expect("fits")), Now::default());
    assert!(!state.facts().grants.contains_key("west"));
    assert_eq!(guarded(&state, Scope::Fleet), before, "or its traffic would leave in the clear");
    let end = RootRecord::Revocation { cluster: "east".parse().expect("a name"), epoch: 1 };
    let _ = state.apply(Event::Record(end.sign(&root).expect("fits")), Now::default());
    assert_eq!(guarded(&state, Scope::Fleet), before, "nor does the own cluster's end change what is the CNI's");
}

#[test]
fn overlapping_grants_are_guarded_once() {
    let mut fleet = Fleet::new();
    let grant = Grant { cluster: "north".parse().expect("valid"), prefixes: vec![prefix("10.2.7.0/24")], ..east(&fleet) };
    fleet.set(Resource::Grant(Arc::new(grant)));
    assert_eq!(prefixes(&*fleet.plan("east/n1", Scope::Fleet).guarded), ["10.2.0.0/15", "fd00:2::/48"]);
}

fn east(fleet: &Fleet) -> Grant {
    (*fleet.state.facts().grants["east"]).clone()
}

proptest! {
    /// A change costs what it is about, and the plan is the one that is made anew.
    #[test]
    fn an_updated_plan_is_the_one_made_from_scratch(edits in prop::collection::vec((0..5u8, 0..4u8, 0..4u8), 1..40)) {
        let mut fleet = Fleet::new();
        let scopes = [Scope::Fleet, Scope::Cluster, Scope::Node];
        let mut planners = scopes.map(|scope| Planner::new(node_id("east/n1"), scope));
        let mut before = fleet.state.clone();
        for (kind, which, how) in edits {
            let (cluster, number) = [("east", 1), ("east", 1), ("west", 2), ("west", 3)][usize::from(which)];
            let node = if which % 2 == 0 { "n1" } else { "n2" };
            let id = format!("{cluster}/shop/pod-{how}");
            match kind {
                0 if how < 2 => fleet.node(&format!("{cluster}/{node}"), which, &[]),
                0 => fleet.node(&format!("{cluster}/{node}"), which, &[&format!("10.{number}.{which}.0/24")]),
                1 => fleet.unset(Key::Node(node_id(&format!("{cluster}/{node}")))),
                2 | 3 => fleet.workload(&id, node, &[&format!("10.{number}.{which}.{}", 10 + how)]),
                _ => fleet.unset(Key::Workload(id.parse().expect("a workload"))),
            }
            let change = difference(&before, &fleet.state);
            before = fleet.state.clone();
            for (planner, scope) in planners.iter_mut().zip(scopes) {
                let anew = fleet.plan("east/n1", scope);
                prop_assert_eq!(planner.update(&fleet.state, &change, fleet.policy(), anew.services.clone()), anew);
            }
        }
    }
}

/// What a state would have said on the way from one to the other.
fn difference(before: &State, after: &State) -> Change {
    let (then, now) = (before.facts(), after.facts());
    let mut change = Change::default();
    let nodes = then.nodes.keys().chain(now.nodes.keys()).filter(|id| then.nodes.get(*id) != now.nodes.get(*id));
    change.dirty.extend(nodes.cloned().map(Key::Node));
    let links = then.links.keys().chain(now.links.keys()).filter(|id| then.links.get(*id) != now.links.get(*id));
    change.dirty.extend(links.cloned().map(Key::NodeLink));
    let workloads = then.workloads.keys().chain(now.workloads.keys());
    let workloads = workloads.filter(|id| then.workloads.get(*id) != now.workloads.get(*id));
    change.dirty.extend(workloads.cloned().map(Key::Workload));
    change
}
