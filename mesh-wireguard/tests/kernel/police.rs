//! What passes the device, and when.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::policy::{NetworkPolicy, PolicyScope};
use mesh_core::{
    Change, ClusterName, Event, Labels, NamespaceName, Now, ObjectName, Resource, Selector, Settings, SourceId, State,
    StateConfig, Trust, Workload, WorkloadId,
};
use mesh_dataplane::{Op, Scope, Tunnel};
use mesh_policy::{Compiler, PolicySet};
use mesh_wireguard::{KernelStartError, KernelTunnel, KernelTunnelConfig, UserTunnel, UserTunnelConfig};

use crate::netns::{eventually, possible_in_kernel};
use crate::node::{Node, allow_all, apply, echo, introduce, reaches, tcp, udp};
use crate::tunnel::{endpoint, pair};

/// A policy by which a workload of cluster c1 or c2 with these addresses takes no connections.
fn isolating(cluster: &str, addresses: [IpAddr; 2]) -> Arc<PolicySet> {
    let config = StateConfig { fleet: "".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
    let mut state = State::new(config);
    let (cluster, namespace) = (ClusterName::new(cluster).unwrap(), NamespaceName::new("shop").unwrap());
    let policy = NetworkPolicy {
        scope: PolicyScope::Cluster(cluster.clone()),
        namespace: namespace.clone(),
        name: ObjectName::new("isolate").unwrap(),
        subject: Selector::ALL,
        ingress: Some(Vec::new()),
        egress: None,
    };
    let workload = Workload {
        id: WorkloadId { cluster, namespace, name: ObjectName::new("db").unwrap() },
        labels: Labels::default(),
        service_account: "default".into(),
        node: None,
        host_network: false,
        addresses: addresses.into(),
        ports: Vec::new(),
    };
    let mut compiler = Compiler::new();
    compiler.update(&state, &Change::default());
    for resource in [Resource::Workload(workload), Resource::NetworkPolicy(Arc::new(policy))] {
        let change = state.apply(Event::Set(SourceId("test".into()), resource), Now::default());
        compiler.update(&state, &change);
    }
    compiler.current().clone()
}

fn is_closed(from: &Node, addresses: [IpAddr; 2]) -> bool {
    addresses.iter().all(|address| tcp(&from.netns, *address, 7000, 10).is_err() && udp(&from.netns, *address, 7000).is_err())
}

#[test]
fn nothing_passes_before_there_is_a_policy_and_then_what_it_allows() {
    if !possible_in_kernel(&["ip"]) {
        return;
    }
    let (a, b) = pair();
    let server = b.pod(6);
    echo(&server.netns, 7000, "s");
    let mut tunnel_a = a.start_kernel();
    introduce(&mut tunnel_a, &b, endpoint(&b));
    let config = KernelTunnelConfig::new(b.key.clone());
    let mut tunnel_b = b.netns.run(move || KernelTunnel::start(config)).unwrap();
    // Peers and routes, as a reconciler would not have set them before the policy.
    introduce(&mut tunnel_b, &a, endpoint(&a));
    eventually("they shake hands", || tunnel_b.stats().unwrap().peers.iter().any(|peer| peer.last_handshake.is_some()));
    assert!(is_closed(&a, server.addresses), "no policy");
    apply(&mut tunnel_b, &[Op::SetPolicy(allow_all())]);
    assert!(is_closed(&a, server.addresses), "a policy for nobody");
    apply(&mut tunnel_b, &[Op::SetGuarded(b.guarded()), Op::SetLocal(b.local())]);
    reaches(&a.netns, &server.addresses, 7000);
    let isolating = isolating("c2", server.addresses);
    apply(&mut tunnel_b, &[Op::SetPolicy(isolating.clone())]);
    assert!(is_closed(&a, server.addresses), "isolated");
    assert_eq!(tunnel_b.observe().unwrap().policy, Some(isolating.fingerprint()));
    apply(&mut tunnel_b, &[Op::SetPolicy(allow_all())]);
    reaches(&a.netns, &server.addresses, 7000);
}

#[test]
fn with_scope_node_workloads_of_one_node_are_policed_too() {
    if !possible_in_kernel(&["ip"]) {
        return;
    }
    let mut a = Node::new(1);
    a.scope = Scope::Node;
    let (client, server) = (a.pod(5), a.pod(6));
    echo(&server.netns, 7000, "s");
    let mut tunnel = a.start_kernel();
    reaches(&client.netns, &server.addresses, 7000);
    apply(&mut tunnel, &[Op::SetPolicy(isolating("c1", server.addresses))]);
    for address in server.addresses {
        assert!(tcp(&client.netns, address, 7000, 10).is_err() && udp(&client.netns, address, 7000).is_err(), "{address}");
    }
}

#[test]
fn a_policy_table_that_was_removed_is_put_back() {
    if !possible_in_kernel(&["ip", "nft"]) {
        return;
    }
    let (a, b) = pair();
    let server = b.pod(6);
    echo(&server.netns, 7000, "s");
    let (mut tunnel_a, mut tunnel_b) = (a.start_kernel(), b.start_kernel());
    introduce(&mut tunnel_a, &b, endpoint(&b));
    introduce(&mut tunnel_b, &a, endpoint(&a));
    reaches(&a.netns, &server.addresses, 7000);
    let isolating = isolating("c2", server.addresses);
    apply(&mut tunnel_b, &[Op::SetPolicy(isolating.clone())]);
    assert!(is_closed(&a, server.addresses), "isolated");
    b.netns.command("nft flush ruleset");
    reaches(&a.netns, &server.addresses, 7000);
    tunnel_b.stats().unwrap();
    assert!(is_closed(&a, server.addresses), "isolated again");
    // And where the agent has ended meanwhile: the next one closes before it knows anything.
    drop(tunnel_b);
    b.netns.command("nft flush ruleset");
    let config = KernelTunnelConfig::new(b.key.clone());
    let mut tunnel_b = b.netns.run(move || KernelTunnel::start(config)).unwrap();
    assert!(is_closed(&a, server.addresses), "nothing is known");
    assert_eq!(tunnel_b.observe().unwrap().policy, None);
    b.settle(&mut tunnel_b);
    introduce(&mut tunnel_b, &a, endpoint(&a));
    reaches(&a.netns, &server.addresses, 7000);
}

#[test]
fn a_foreign_table_of_the_policys_name_keeps_the_tunnel_from_starting() {
    if !possible_in_kernel(&["ip", "nft"]) {
        return;
    }
    let a = Node::new(1);
    a.netns.command("nft add table inet landbridge-policy");
    let config = KernelTunnelConfig::new(a.key.clone());
    let error = a.netns.run(move || KernelTunnel::start(config)).unwrap_err();
    assert!(matches!(error, KernelStartError::Policy(_)) && error.to_string().contains("not ours"), "{error}");
    assert!(!a.netns.ip("link show").contains("landbridge0"), "no device without a policy");
    a.netns.run(|| KernelTunnel::remove("landbridge0").unwrap());
    assert!(a.netns.command("nft list tables").1.contains("landbridge-policy"), "it is another's");
}

#[test]
fn a_node_changes_from_the_kernel_tunnel_to_the_user_tunnel_and_back() {
    if !possible_in_kernel(&["ip", "nft"]) {
        return;
    }
    let (a, b) = pair();
    let server = b.pod(6);
    echo(&server.netns, 7000, "s");
    let mut tunnel_b = b.start_kernel();
    introduce(&mut tunnel_b, &a, endpoint(&a));
    for _ in 0..2 {
        let mut kernel = a.start_kernel();
        introduce(&mut kernel, &b, endpoint(&b));
        reaches(&a.netns, &server.addresses, 7000);
        drop(kernel);
        let config = UserTunnelConfig::new(a.key.clone());
        let mut user = a.netns.run(move || {
            KernelTunnel::remove(&config.device).unwrap();
            UserTunnel::start(config).unwrap()
        });
        assert!(!a.netns.command("nft list tables").1.contains("landbridge-policy"), "the user tunnel polices by itself");
        a.settle(&mut user);
        introduce(&mut user, &b, endpoint(&b));
        reaches(&a.netns, &server.addresses, 7000);
    }
}
