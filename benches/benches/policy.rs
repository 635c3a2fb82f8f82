//! What a verdict costs, and what a change of policy costs.
//!
//! The fleet of `fleet(rules)`: three clusters, ten workloads for each ten rules (at least 60 in all) over `rules / 10 + 3`
//! namespaces; one NetworkPolicy for each rule, selecting one application of its namespace, with a pod peer, an `ipBlock` and a
//! range of ports; three Admin and one Baseline ClusterNetworkPolicy. Queries are 1,024 fixed pairs of workloads and outside
//! addresses.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mesh_core::policy::*;
use mesh_core::*;
use mesh_policy::{Compiler, PolicySet, naive};

const CLUSTERS: [&str; 3] = ["east", "north", "west"];

fn labels(app: usize) -> Labels {
    [("app", format!("app-{}", app % 10)), ("tier", format!("t{}", app % 3))].into_iter().collect()
}

fn app(number: usize) -> Selector {
    Selector { requirements: vec![Requirement::In("app".into(), vec![format!("app-{}", number % 10).into()])] }
}

fn namespace(rules: usize, number: usize) -> NamespaceName {
    format!("ns-{}", number % (rules / 10 + 3)).parse().expect("valid")
}

fn workload(rules: usize, number: usize) -> Workload {
    let cluster = number % 3;
    let (high, low) = (u8::try_from(number / 3 / 250).expect("fits"), u8::try_from(number / 3 % 250).expect("fits") + 1);
    Workload {
        id: WorkloadId {
            cluster: CLUSTERS[cluster].parse().expect("valid"),
            namespace: namespace(rules, number / 3),
            name: format!("pod-{number}").parse().expect("valid"),
        },
        labels: labels(number / 7),
        service_account: "default".into(),
        node: None,
        host_network: false,
        addresses: vec![[10, u8::try_from(cluster).expect("fits"), high, low].into()],
        ports: vec![NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
    }
}

fn network_policy(rules: usize, number: usize) -> NetworkPolicy {
    let first = u16::try_from(number % 1000).expect("fits") + 8000;
    let peers = vec![
        NetworkPolicyPeer::Workloads { namespaces: None, pods: Some(app(number / 3)) },
        NetworkPolicyPeer::IpBlock {
            cidr: Prefix::new([192, 0, (number % 256) as u8, 0].into(), 24).expect("valid"),
            except: vec![Prefix::host([192, 0, (number % 256) as u8, 9].into())],
        },
    ];
    let rule = NetworkPolicyRule { peers, ports: vec![PortMatch::Range(Protocol::Tcp, first, first + 100)] };
    NetworkPolicy {
        scope: PolicyScope::Fleet,
        namespace: namespace(rules, number),
        name: format!("policy-{number}").parse().expect("valid"),
        subject: app(number),
        ingress: Some(vec![rule.clone()]),
        egress: number.is_multiple_of(2).then(|| vec![rule]),
    }
}

fn cluster_policy(number: i32) -> ClusterNetworkPolicy {
    let everyone = || WorkloadMatch { namespaces: Selector::ALL, pods: None };
    let rule = |action, port| ClusterRule {
        action,
        peers: vec![ClusterPeer::Workloads(everyone())],
        protocols: vec![PortMatch::Range(Protocol::Tcp, port, port)],
        unknown: false,
    };
    ClusterNetworkPolicy {
        scope: PolicyScope::Fleet,
        name: format!("tier-{number}").parse().expect("valid"),
        tier: if number == 3 { PolicyTier::Baseline } else { PolicyTier::Admin },
        priority: number,
        subject: everyone(),
        ingress: vec![rule(RuleAction::Deny, 22), rule(RuleAction::Pass, 8080)],
        egress: vec![rule(RuleAction::Deny, 23)],
    }
}

fn set(state: &mut State, resource: Resource) -> Change {
    state.apply(Event::Set(SourceId("bench".into()), resource), Now::default())
}

fn workloads(rules: usize) -> usize {
    rules.max(60)
}

fn fleet(rules: usize) -> State {
    let settings = Settings { cross_cluster_default: Some(CrossClusterDefault::Exports), ..Settings::default() };
    let mut state = State::new(StateConfig { fleet: "bench".into(), trust: Trust::Open, settings, domains: Default::default() });
    for number in 0..workloads(rules) {
        let _ = set(&mut state, Resource::Workload(workload(rules, number)));
    }
    for number in 0..rules {
        let _ = set(&mut state, Resource::NetworkPolicy(Arc::new(network_policy(rules, number))));
    }
    for number in 0..4 {
        let _ = set(&mut state, Resource::ClusterNetworkPolicy(Arc::new(cluster_policy(number))));
    }
    state
}

fn tuples(rules: usize) -> Vec<FiveTuple> {
    let address = |seed: usize| match seed % 8 {
        0 => [192, 0, (seed / 8 % 256) as u8, 7].into(),
        _ => workload(rules, seed % workloads(rules)).addresses[0],
    };
    let tuple = |number: usize| FiveTuple {
        source: address(number.wrapping_mul(2_654_435_761) >> 3),
        destination: address((number + 17).wrapping_mul(2_246_822_519) >> 3),
        protocol: if number.is_multiple_of(9) { Protocol::Udp } else { Protocol::Tcp },
        source_port: 40000,
        destination_port: 8000 + (number % 700) as u16,
    };
    (0..1024).map(tuple).collect()
}

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(1024));
    for rules in [10, 1000, 10_000] {
        let set = PolicySet::compile(&fleet(rules));
        let tuples = tuples(rules);
        // Both ends looked up and both sides decided, for each of 1,024 connections.
        group.bench_function(rules.to_string(), |bencher| {
            bencher.iter(|| {
                for tuple in &tuples {
                    let flow = set.flow(black_box(tuple));
                    let _ = black_box(set.decide(&flow, Direction::Egress));
                    let _ = black_box(set.decide(&flow, Direction::Ingress));
                }
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("decide_naive");
    let (state, tuples) = (fleet(1000), tuples(1000));
    group.throughput(Throughput::Elements(16));
    group.bench_function("1000", |bencher| {
        bencher.iter(|| {
            for tuple in &tuples[..16] {
                let _ = black_box(naive::decide(&state, black_box(tuple), Direction::Egress));
                let _ = black_box(naive::decide(&state, black_box(tuple), Direction::Ingress));
            }
        });
    });
    group.finish();
}

fn compile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    let mut state = fleet(1000);
    group.bench_function("full", |bencher| bencher.iter(|| PolicySet::compile(black_box(&state))));
    let mut compiler = Compiler::new();
    compiler.update(&state, &Change::default());
    let mut turn = 0;
    // One workload's labels change to another application's and back.
    group.bench_function("one_workload", |bencher| {
        bencher.iter(|| {
            turn += 1;
            let mut changed = workload(1000, 5);
            changed.labels = labels(turn % 2);
            let change = set(&mut state, Resource::Workload(changed));
            black_box(compiler.update(&state, &change));
        });
    });
    group.finish();
}

criterion_group! {
    name = policy;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = decide, compile
}
criterion_main!(policy);
