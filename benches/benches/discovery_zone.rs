//! Keeping a zone in step: one endpoint of 1,000,000, and all of them.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use mesh_benches::services::Catalog;
use mesh_core::{Change, Services, State};
use mesh_discovery::{Zone, ZoneBuilder, ZoneConfig};

const MEASURED: Catalog = Catalog { services: 100_000, endpoints: 10, exported: true };

fn zone(criterion: &mut Criterion) {
    let catalog = if mesh_benches::is_measured() { MEASURED } else { Catalog { services: 100, ..MEASURED } };
    let mut state = catalog.state();
    let mut group = criterion.benchmark_group("zone");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    group.bench_function("full", |bencher| bencher.iter(|| Zone::build(&state, &Catalog::cluster(), &ZoneConfig::default())));
    group.sample_size(50);
    let (mut services, mut builder) = (Services::new(Catalog::cluster()), ZoneBuilder::new(&ZoneConfig::default()));
    let all = services.update(&state, &Change::default());
    builder.update(&services, &all);
    let mut round = 0u32;
    // Each time another service, whose memory is in no cache; a reader has the zone of before.
    let mut apply = |state: &mut State, which: u32| {
        let number = (round.wrapping_mul(7919) % (catalog.services / 2)) * 2 + which;
        round += 1;
        let change = Catalog::tell(state, catalog.slice(number, round / (catalog.services / 2) + 1));
        let reader = Arc::clone(builder.zone());
        let changed = services.update(state, &change);
        builder.update(&services, &changed);
        reader
    };
    group.bench_function("one_endpoint", |bencher| bencher.iter(|| apply(&mut state, 0)));
    group.bench_function("one_endpoint_behind_an_address", |bencher| bencher.iter(|| apply(&mut state, 1)));
    group.finish();
}

criterion_group!(benches, zone);
criterion_main!(benches);
