//! Records per second and core: reading and verifying one, and taking it into a state that knows a cluster of 5,000 workloads.
//!
//! Bytes are those of one record as it travels; elements are records.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mesh_benches::records::{self, Remote};
use mesh_core::{Event, record};

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("records/open");
    group.throughput(Throughput::Elements(1));
    for (name, bytes) in [("node", records::node(1, 1)), ("slice50", records::slice(1, 1))] {
        println!("records/open/{name}: {} bytes", bytes.len());
        group.bench_function(name, |bencher| bencher.iter(|| record::open(black_box(&bytes)).expect("signed right")));
    }
    group.finish();
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("records/apply");
    group.throughput(Throughput::Elements(1));
    let mut state = Remote::state();
    Remote { nodes: 100 }.records().into_iter().for_each(|bytes| records::tell(&mut state, bytes));
    // A newer version of the same slice each time: what a heartbeat of a busy node costs.
    let mut counter = 2;
    group.bench_function("slice50", |bencher| {
        bencher.iter_batched(
            || {
                counter += 1;
                Event::Record(records::slice(7, counter))
            },
            |event| black_box(state.apply(event, Remote::now())),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, open, apply);
criterion_main!(benches);
