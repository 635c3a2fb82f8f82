//! Answers out of a zone in memory: one packet in, one packet out.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mesh_core::{
    ClusterName, Event, Now, Resource, Service, ServiceExport, ServiceId, ServiceKind, ServicePort, SessionAffinity, Settings,
    SourceId, State, StateConfig, Time, Trust,
};
use mesh_discovery::{Resolver, ResolverConfig, Transport, Zone, ZoneConfig};

fn zone(services: usize) -> Arc<Zone> {
    let config =
        StateConfig { fleet: "bench".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
    let mut state = State::new(config);
    let (cluster, source) = (ClusterName::new("east").expect("a name"), SourceId("bench".into()));
    for index in 0..services {
        let id: ServiceId = format!("ns-{}/svc-{index}", index % 50).parse().expect("a service");
        let port = ServicePort { name: Some("http".into()), protocol: mesh_core::Protocol::Tcp, port: 80, app_protocol: None };
        let service = Service {
            cluster: cluster.clone(),
            id: id.clone(),
            kind: ServiceKind::ClusterIp,
            addresses: vec![std::net::Ipv4Addr::from_bits(0x0a60_0000 + index as u32).into()],
            ports: vec![port],
            affinity: SessionAffinity::None,
            traffic: mesh_core::Traffic::default(),
            publish_not_ready: false,
            external_name: None,
        };
        let export = ServiceExport { cluster: cluster.clone(), id, created: None, traffic: Default::default() };
        for resource in [Resource::Service(service), Resource::ServiceExport(export)] {
            let _ = state.apply(Event::Set(source.clone(), resource), Now::default());
        }
    }
    Arc::new(Zone::build(&state, &cluster, &ZoneConfig::default()))
}

/// A query for an address, as it travels.
fn query(name: &str) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

fn resolve(criterion: &mut Criterion) {
    let cases = [("clusterset_a", "svc-707.ns-7.svc.clusterset.local"), ("nxdomain", "ghost.ns-7.svc.clusterset.local")];
    let zones = [1_000, 10_000].map(|services| (services, zone(services)));
    for (case, name) in cases {
        let mut group = criterion.benchmark_group(format!("resolve/{case}"));
        group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        for (services, zone) in &zones {
            let mut resolver: Resolver<()> = Resolver::new(ResolverConfig::default(), zone.clone(), Box::new(|| 0));
            let packet = query(name);
            group.bench_function(BenchmarkId::from_parameter(services), |bencher| {
                bencher.iter(|| resolver.handle_message(black_box(&packet), Transport::Udp, (), Time::default()));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, resolve);
criterion_main!(benches);
