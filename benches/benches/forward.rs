//! The packet path of the user tunnel without its devices: a packet read from the TUN of one engine, through policy, session
//! and demultiplexing, to the packet for the TUN of another. Time and allocations are per packet, both engines together.

#[path = "../../mesh-wireguard/tests/common/pair.rs"]
mod pair;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mesh_core::WireGuardKey;
use mesh_wireguard::NodeKey;
use mesh_wireguard::batch::{Datagrams, Packets};
use mesh_wireguard::session::{BoringKey, BoringSession, PlainKey, PlainSession, Session};
use pair::{Pair, packet};

/// Packets in a batch, as the driver reads them.
const BATCH: usize = 64;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is the system allocator's, counted.
#[allow(unsafe_code, reason = "an allocator is unsafe by its trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and the pointer is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`, and the pointer is the system allocator's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Carries a batch from the first engine's TUN to the second's.
fn carry<S: Session>(pair: &mut Pair<S>, batch: &Packets, wire: &mut Datagrams) {
    let [a, b] = &mut pair.engines;
    let [from_a, from_b] = &mut pair.outputs;
    a.handle_tun(batch, pair.now, from_a);
    from_a.datagrams.iter().for_each(|(_, bytes)| wire.push(pair.addresses[0], bytes));
    b.handle_udp(wire, pair.now, from_b);
    assert_eq!(black_box(from_b.packets.len()), batch.len(), "every packet arrives");
    wire.clear();
    from_a.clear();
    from_b.clear();
}

fn bench<S: Session>(criterion: &mut Criterion, name: &str, len: usize, mut pair: Pair<S>) {
    pair.introduce();
    pair.settle();
    let (mut batch, mut wire) = (Packets::new(), Datagrams::new());
    (0..BATCH).for_each(|_| batch.push(&packet(0, 1, true, len)));
    // The first batches grow the buffers.
    (0..4).for_each(|_| carry(&mut pair, &batch, &mut wire));
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..1000).for_each(|_| carry(&mut pair, &batch, &mut wire));
    let counted = ALLOCATIONS.load(Ordering::Relaxed) - before;
    println!("{name}: {:.4} allocations per packet", counted as f64 / (1000 * BATCH) as f64);

    let mut group = criterion.benchmark_group("forward");
    // Criterion divides the time of a batch by its packets.
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(name, |bencher| bencher.iter(|| carry(&mut pair, &batch, &mut wire)));
    group.finish();
}

fn forward(criterion: &mut Criterion) {
    let keys = || [NodeKey::from_bytes([1; 32]), NodeKey::from_bytes([2; 32])];
    let plain: fn() -> Pair<PlainSession> = || {
        let keys = [WireGuardKey([1; 32]), WireGuardKey([2; 32])];
        Pair::new(keys.map(PlainKey), keys)
    };
    let boring = || Pair::<BoringSession>::new(keys().map(BoringKey::new), keys().map(|key| key.public()));
    bench(criterion, "plain/1400", 1400, plain());
    bench(criterion, "boring/1400", 1400, boring());
    bench(criterion, "boring/64", 64, boring());
}

criterion_group!(benches, forward);
criterion_main!(benches);
