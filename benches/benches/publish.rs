//! What a publisher costs: one workload of 5,000 changes.

use criterion::{Criterion, criterion_group, criterion_main};
use mesh_benches::peers;
use mesh_core::{Event, Now, Publisher, Resource, Settings, SourceId, State, StateConfig, Time, Trust, WallTime};

fn now() -> Now {
    Now { time: Time::ZERO, wall: WallTime::from_unix_secs(1000) }
}

fn publish(criterion: &mut Criterion) {
    let trust = Trust::Signed { root: peers::root().public(), cluster: peers::cluster(0) };
    let mut state =
        State::new(StateConfig { fleet: "bench".into(), trust, settings: Settings::default(), domains: Default::default() });
    let source = SourceId("manifests".into());
    let _ = state.apply(Event::Record(peers::grant(0)), now());
    for fact in peers::own_facts() {
        let _ = state.apply(Event::Set(source.clone(), fact), now());
    }
    let _ = state.apply(Event::Synced(source.clone()), now());
    let mut publisher = Publisher::new(peers::cluster(0), peers::key_of(0), peers::root().public(), 1);
    let records = publisher.update(&state, now());
    println!("{} workloads, {} records", peers::WORKLOADS, records.len());
    let mut group = criterion.benchmark_group("publish");
    let mut round = 0;
    group.bench_function("one_workload", |bencher| {
        bencher.iter(|| {
            round += 1;
            let mut workload = peers::workload(0, (0, 0, 0), 0);
            workload.labels = [("rollout", format!("r{round}"))].into_iter().collect();
            publisher.note(&state.apply(Event::Set(source.clone(), Resource::Workload(workload)), now()));
            publisher.update(&state, now())
        });
    });
    group.bench_function("look_at_everything", |bencher| {
        bencher.iter(|| {
            publisher.look_again();
            publisher.update(&state, now())
        });
    });
    group.finish();
}

criterion_group!(benches, publish);
criterion_main!(benches);
