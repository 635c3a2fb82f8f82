//! Answering from the zone must not allocate: it happens for every query of every workload.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use mesh_core::manifest::Checked;
use mesh_core::{ClusterName, Time};
use mesh_discovery::{Handled, Reply, Resolver, ResolverConfig, Transport, Zone, ZoneConfig};

/// Counts this thread's allocations: the harness allocates on others.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator unchanged.
#[allow(unsafe_code, reason = "a global allocator is unsafe by its trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more, and nobody asks it.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const EAST: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432}]
endpoints: [{addresses: [10.1.0.1], hostname: zero}, {addresses: [10.1.0.2]}, {addresses: [10.1.0.3]}]
";

/// A query as it travels, with an OPT record.
fn query(name: &str, rtype: u8) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, rtype, 0, 1]);
    packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    packet
}

#[test]
fn an_answer_of_the_zone_does_not_allocate() {
    let checked = Checked::load([("clusters/east/shop.yaml", EAST)]).expect("correct manifests");
    let zone = Zone::build(&checked.state, &ClusterName::new("east").expect("a name"), &ZoneConfig::default());
    let mut resolver: Resolver<()> = Resolver::new(ResolverConfig::default(), Arc::new(zone), Box::new(|| 0));
    let responder = resolver.responder();
    let queries = [
        query("web.shop.svc.cluster.local", 1),
        query("WEB.shop.SVC.cluster.local", 1),
        query("db.shop.svc.cluster.local", 1),
        query("zero.db.shop.svc.cluster.local", 1),
        query("_sql._tcp.db.shop.svc.cluster.local", 33),
        query("_http._tcp.web.shop.svc.cluster.local", 33),
        query("1.0.96.10.in-addr.arpa", 12),
        query("dns-version.cluster.local", 16),
        // Nothing of the type, and no such name.
        query("web.shop.svc.cluster.local", 28),
        query("ghost.shop.svc.cluster.local", 1),
    ];
    let mut reply = Vec::with_capacity(2048);
    let before = COUNT.get();
    for packet in queries.iter().cycle().take(1000) {
        assert_eq!(responder.answer(packet, Transport::Udp, &mut reply), Handled::Answer);
    }
    assert_eq!(COUNT.get() - before, 0, "allocations");
    assert_eq!(resolver.counters().queries.values().sum::<u64>(), 1000);
    // The counter counts.
    let before = COUNT.get();
    assert!(matches!(resolver.handle_message(&queries[0], Transport::Udp, (), Time::ZERO), Reply::Answer(_)));
    assert!(COUNT.get() > before);
}
