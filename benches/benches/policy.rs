//! What a verdict costs, what a look-up costs, and what a change of the fleet costs the compiled policy.
//!
//! The fleets are those of `mesh_benches::fleet`, the connections those of `mesh_benches::queries`; the benchmarks' names are
//! fixed. Times are those of one decision, one look-up, one compilation or one update; `State::apply` is never timed.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group, criterion_main};
use mesh_benches::allocations::Calls;
use mesh_benches::fleet::{Fleet, Size, set, unset};
use mesh_benches::{external, queries};
use mesh_core::{Change, Direction, FiveTuple, Namespace, Protocol, Resource, State};
use mesh_policy::{Compiler, Flow, PolicySet, naive};

#[global_allocator]
static ALLOCATOR: Calls = Calls;

/// The connections of `decide`: more than any branch predictor learns.
const QUERIES: u32 = 1 << 16;

/// Calls `one` with the numbers of `0..1 << 16`, over and over, `times` times; returns how long that took.
fn time(times: u64, mut one: impl FnMut(usize)) -> Duration {
    let start = Instant::now();
    for number in 0..times {
        one((number & u64::from(QUERIES - 1)) as usize);
    }
    start.elapsed()
}

/// One decision of one side: the flows hold the ends' handles, and the sides take turns.
fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for (policies, rules_per_policy) in [(1, 10), (10, 100), (1000, 100)] {
        let fleet = Fleet::new(Size { workloads: 100_000, identities: 100_000, policies, rules_per_policy });
        let set = compiled(&fleet.state());
        let flows: Vec<Flow> = queries::connections(&fleet, QUERIES).iter().map(|tuple| set.flow(tuple)).collect();
        let side = |number: usize| if number.is_multiple_of(2) { Direction::Egress } else { Direction::Ingress };
        let allowed = flows.iter().enumerate().filter(|(at, flow)| set.decide(flow, side(*at)).is_allow()).count();
        let before = Calls::of_this_thread();
        time(u64::from(QUERIES) * 2, |at| {
            let _ = black_box(set.decide(black_box(&flows[at]), side(at)));
        });
        let allocations = Calls::of_this_thread() - before;
        println!("decide/{}: {allocations} allocations in {} decisions", policies * rules_per_policy, QUERIES * 2);
        println!("decide/{}: {allowed} of {QUERIES} decisions allow", policies * rules_per_policy);
        assert_eq!(allocations, 0, "a decision must not allocate");
        group.bench_function((policies * rules_per_policy).to_string(), |bencher| {
            bencher.iter_custom(|times| {
                time(times, |at| {
                    let _ = black_box(set.decide(black_box(&flows[at]), side(at)));
                })
            });
        });
    }
    group.finish();
}

/// One decision of one side by the yardstick, in the fleet of `decide/1000`; the ends are looked up each time.
fn decide_naive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide_naive");
    let fleet = Fleet::new(Size { workloads: 100_000, identities: 100_000, policies: 10, rules_per_policy: 100 });
    let (state, tuples) = (fleet.state(), queries::connections(&fleet, QUERIES));
    group.bench_function("1000", |bencher| {
        bencher.iter_custom(|times| {
            time(times, |at| {
                let side = if at.is_multiple_of(2) { Direction::Egress } else { Direction::Ingress };
                let _ = black_box(naive::decide(&state, black_box(&tuples[at]), side));
            })
        });
    });
    group.finish();
}

/// From an address to who is behind it: a workload of a million, or nobody, by the longest of 100,000 prefixes.
fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup_identity");
    let fleet = Fleet::new(Size { workloads: 1_000_000, identities: 100_000, policies: 10, rules_per_policy: 10 });
    let set = compiled(&fleet.state());
    let addresses: Vec<_> = random_workloads(1_000_000, QUERIES).map(|number| fleet.address(number)).collect();
    drop(fleet);
    group.bench_function("1000000", |bencher| {
        bencher.iter_custom(|times| {
            time(times, |at| {
                black_box(set.end(black_box(addresses[at])));
            })
        });
    });
    drop((group, set));

    let mut group = criterion.benchmark_group("lookup_external");
    let fleet = Fleet::new(Size { workloads: 1000, identities: 100, policies: 0, rules_per_policy: 0 });
    let (mut state, prefixes) = (fleet.state(), external::prefixes(100_000));
    for policy in external::policies(&prefixes) {
        let _ = mesh_benches::fleet::set(&mut state, policy);
    }
    let set = compiled(&state);
    let addresses = external::addresses(&prefixes, QUERIES as usize + 1);
    // A flow looks up both its ends, so half as many flows are as many look-ups.
    group.bench_function("100000", |bencher| {
        bencher.iter_custom(|times| {
            time(times.div_ceil(2), |at| {
                black_box(set.flow(black_box(&FiveTuple {
                    source: addresses[at],
                    destination: addresses[at + 1],
                    protocol: Protocol::Tcp,
                    source_port: 40_000,
                    destination_port: 443,
                })));
            })
        });
    });
    group.finish();
}

/// A compilation from nothing, and updates of a compiler that has done it.
fn compile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).sampling_mode(SamplingMode::Flat);
    let size = Size { workloads: 100_000, identities: 20_000, policies: 1000, rules_per_policy: 10 };
    let full = |group: &mut BenchmarkGroup<'_, WallTime>, name: &str, state: &State| {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                (0..times).map(|_| timed(&mut Compiler::new(), state, &Change::default())).sum::<Duration>()
            });
        });
    };
    // All of the policies' rules: 100,000.
    let large = Fleet::new(Size { rules_per_policy: 100, ..size }).state();
    full(&mut group, "full_100000_rules", &large);
    drop(large);
    let (fleet, mut state) = (Fleet::new(size), Fleet::new(size).state());
    full(&mut group, "full", &state);

    let mut compiler = Compiler::new();
    compiler.update(&state, &Change::default());
    let mut updates = Updates { group, state: &mut state, compiler: &mut compiler };
    // Workloads of all sizes of namespaces, one after another.
    let moves: Vec<[Resource; 2]> = random_workloads(100_000, 256)
        .filter_map(|number| Some([fleet.relabelled(number)?, fleet.workload(number)].map(Resource::Workload)))
        .collect();
    updates.bench("one_workload", |turn| Edit::Set(moves[turn / 2 % moves.len()][turn % 2].clone()));
    let newcomers: Vec<u32> = random_workloads(100_000, 256).collect();
    updates.bench("new_identity", |turn| {
        let mut newcomer = fleet.rolled_out(newcomers[turn / 2 % newcomers.len()], turn as u32 / 2);
        newcomer.id.name = "newcomer".parse().expect("valid");
        newcomer.addresses = vec!["10.31.255.254".parse().expect("valid")];
        if turn.is_multiple_of(2) { Edit::Set(Resource::Workload(newcomer)) } else { Edit::Unset(Resource::Workload(newcomer)) }
    });
    let policies: Vec<[Resource; 2]> = (1..65).map(|at| [1, 0].map(|revision| fleet.policy(at * 15, 10, revision))).collect();
    updates.bench("one_policy", |turn| Edit::Set(policies[turn / 2 % policies.len()][turn % 2].clone()));
    let moved = |turn: usize| -> Namespace {
        let (cluster, number) = (turn as u32 / 2 % 8, turn as u32 / 2 % 64);
        fleet.namespace(cluster, number, turn.is_multiple_of(2).then_some("team-15"))
    };
    updates.bench("one_namespace", |turn| Edit::Set(Resource::Namespace(moved(turn))));
    updates.group.finish();
}

/// An edit of the state.
enum Edit {
    Set(Resource),
    Unset(Resource),
}

/// A compiler in step with a state.
struct Updates<'a, 'c> {
    group: BenchmarkGroup<'c, WallTime>,
    state: &'a mut State,
    compiler: &'a mut Compiler,
}

impl Updates<'_, '_> {
    /// Times the update after each of the edits that `edit` returns for 0, 1, 2, …: an edit and its reverse by turns.
    fn bench(&mut self, name: &str, edit: impl Fn(usize) -> Edit) {
        let mut turn = 0;
        let (state, compiler) = (&mut *self.state, &mut *self.compiler);
        let mut one = |turn: usize| {
            let change = match edit(turn) {
                Edit::Set(resource) => set(state, resource),
                Edit::Unset(resource) => unset(state, &resource),
            };
            timed(compiler, state, &change)
        };
        self.group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let mut sum = Duration::ZERO;
                for _ in 0..times {
                    sum += one(turn);
                    turn += 1;
                }
                sum
            });
        });
        if !turn.is_multiple_of(2) {
            one(turn);
        }
    }
}

/// Returns how long an update took. Somebody holds the set that was, as packet paths do; it is dropped after the clock stopped.
fn timed(compiler: &mut Compiler, state: &State, change: &Change) -> Duration {
    let before = Arc::clone(compiler.current());
    let start = Instant::now();
    black_box(compiler.update(black_box(state), black_box(change)));
    let elapsed = start.elapsed();
    drop(before);
    elapsed
}

fn compiled(state: &State) -> Arc<PolicySet> {
    let start = Instant::now();
    let set = Arc::clone(Compiler::new().update(state, &Change::default()));
    println!("compiled {} workloads in {:.1?}", state.facts().workloads.len(), start.elapsed());
    set
}

fn random_workloads(workloads: u32, count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |number| mesh_benches::random::Random::of("workload", number.into()).below(workloads))
}

criterion_group! {
    name = policy;
    config = Criterion::default().sample_size(50).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = decide, decide_naive, lookup, compile
}
criterion_main!(policy);
