//! Looking up a flow and deciding it must not allocate: it happens for packets.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use mesh_core::policy::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PolicyScope, PortMatch};
use mesh_core::{
    Direction, Event, FiveTuple, Now, Protocol, Resource, Selector, Settings, SourceId, State, StateConfig, Trust, Workload,
};
use mesh_policy::PolicySet;

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

fn state() -> State {
    let config = StateConfig { fleet: "".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
    let mut state = State::new(config);
    let mut facts: Vec<Resource> = Vec::new();
    for host in 1..=50u8 {
        facts.push(Resource::Workload(Workload {
            id: format!("east/shop/pod-{host}").parse().expect("valid"),
            labels: [("n", format!("{}", host % 5))].into_iter().collect(),
            service_account: "default".into(),
            node: None,
            host_network: false,
            addresses: vec![[10, 1, 0, host].into()],
            ports: Vec::new(),
        }));
    }
    for name in ["a", "b", "c"] {
        let block = NetworkPolicyPeer::IpBlock { cidr: "192.0.2.0/24".parse().expect("valid"), except: Vec::new() };
        let rule = NetworkPolicyRule { peers: vec![block], ports: vec![PortMatch::Range(Protocol::Tcp, 80, 90)] };
        facts.push(Resource::NetworkPolicy(Arc::new(NetworkPolicy {
            scope: PolicyScope::Cluster("east".parse().expect("valid")),
            namespace: "shop".parse().expect("valid"),
            name: name.parse().expect("valid"),
            subject: Selector::ALL,
            ingress: Some(vec![rule]),
            egress: None,
        })));
    }
    for fact in facts {
        let _ = state.apply(Event::Set(SourceId("test".into()), fact), Now::default());
    }
    state
}

#[test]
fn decide_does_not_allocate() {
    let set = PolicySet::compile(&state());
    let mut allowed = 0;
    let before = COUNT.get();
    for host in 0..=255u8 {
        for source in [[10, 1, 0, host], [192, 0, 2, host], [203, 0, 113, host]] {
            for (protocol, destination_port) in [(Protocol::Tcp, 85), (Protocol::Udp, 85), (Protocol::Other(1), 0)] {
                let (source, destination) = (source.into(), [10, 1, 0, 7].into());
                let flow = set.flow(&FiveTuple { source, destination, protocol, source_port: 1, destination_port });
                for direction in [Direction::Ingress, Direction::Egress] {
                    allowed += usize::from(set.decide(&flow, direction).is_allow());
                }
            }
        }
    }
    assert_eq!(COUNT.get() - before, 0, "allocations");
    // 256 from the block, the own address three times; and every egress side.
    assert_eq!(allowed, 256 + 3 + 256 * 9);
    // The counter counts.
    let before = COUNT.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(COUNT.get() - before, 1);
}
