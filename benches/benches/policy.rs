//! What a verdict costs, what a look-up costs, and what a change of the fleet costs the compiled policy.
//!
//! The fleets are those of `mesh_benches::fleet`, the connections those of `mesh_benches::queries`; the benchmarks' names are
//! fixed. Times are those of one decision, one look-up, one compilation or one update; `State::apply` is never timed. The sets
//! are made when a benchmark asks for them, so a filter (`-- decide/`) does not wait for the others'.

use std::cell::LazyCell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group, criterion_main};
use mesh_benches::allocations::Calls;
use mesh_benches::fleet::{Fleet, Size, set, unset};
use mesh_benches::random::Random;
use mesh_benches::{external, is_measured, queries};
use mesh_core::{Change, Direction, FiveTuple, Protocol, Resource, State};
use mesh_policy::{Compiler, Flow, PolicySet, naive};

#[global_allocator]
static ALLOCATOR: Calls = Calls;

/// The connections of `decide`: more than any branch predictor learns.
const QUERIES: u32 = 1 << 13;

/// The fleet of `decide`, whose identities are all there is: one workload for each.
const CONNECTED: Size = Size { workloads: 100_000, identities: 100_000, policies: 0, rules_per_policy: 0 };
/// The fleet of `compile`: 1,000 policies of ten rules.
const CHANGING: Size = Size { workloads: 100_000, identities: 20_000, policies: 1000, rules_per_policy: 10 };

/// Calls `one` with the numbers of `0..QUERIES`, over and over, `times` times; returns how long that took.
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
        let decided = LazyCell::new(|| Decided::new(policies, rules_per_policy));
        group.bench_function((policies * rules_per_policy).to_string(), |bencher| {
            // Made before the clock runs, or the warm-up would count it.
            let decided = &*decided;
            bencher.iter_custom(|times| decided.all(times));
        });
    }
    group.finish();
}

/// A compiled policy and connections to decide.
struct Decided {
    set: Arc<PolicySet>,
    flows: Vec<Flow>,
}

impl Decided {
    fn new(policies: u32, rules_per_policy: u32) -> Decided {
        let fleet = Fleet::new(Size { policies, rules_per_policy, ..CONNECTED }.to_measure());
        let set = compiled(&fleet.state());
        let flows = queries::connections(&fleet, QUERIES).iter().map(|tuple| set.flow(tuple)).collect();
        let decided = Decided { set, flows };
        let allowed = (0..).zip(&decided.flows).filter(|(at, flow)| decided.set.decide(flow, side(*at)).is_allow()).count();
        let before = Calls::of_this_thread();
        decided.all(u64::from(QUERIES) * 2);
        let allocations = Calls::of_this_thread() - before;
        println!("{QUERIES} connections, {allowed} allowed; {allocations} allocations in {} decisions", QUERIES * 2);
        assert_eq!(allocations, 0, "a decision must not allocate");
        decided
    }

    fn all(&self, times: u64) -> Duration {
        time(times, |at| {
            let _ = black_box(self.set.decide(black_box(&self.flows[at]), side(at)));
        })
    }
}

fn side(number: usize) -> Direction {
    if number.is_multiple_of(2) { Direction::Egress } else { Direction::Ingress }
}

/// One decision of one side by the yardstick, in the fleet of `decide/1000`; the ends are looked up each time.
fn decide_naive(criterion: &mut Criterion) {
    let fleet = LazyCell::new(|| {
        let fleet = Fleet::new(Size { policies: 10, rules_per_policy: 100, ..CONNECTED }.to_measure());
        (fleet.state(), queries::connections(&fleet, QUERIES))
    });
    let mut group = criterion.benchmark_group("decide_naive");
    group.bench_function("1000", |bencher| {
        let (state, tuples) = &*fleet;
        bencher.iter_custom(|times| {
            time(times, |at| {
                let _ = black_box(naive::decide(state, black_box(&tuples[at]), side(at)));
            })
        });
    });
    group.finish();
}

/// From an address to the handle of the workload behind it.
fn lookup_identity(criterion: &mut Criterion) {
    let known = LazyCell::new(|| {
        let size = Size { workloads: 1_000_000, identities: 100_000, policies: 10, rules_per_policy: 10 }.to_measure();
        let fleet = Fleet::new(size);
        let addresses: Vec<_> = random_workloads(size.workloads, QUERIES).map(|number| fleet.address(number)).collect();
        (compiled(&fleet.state()), addresses)
    });
    let mut group = criterion.benchmark_group("lookup_identity");
    group.bench_function("1000000", |bencher| {
        let (set, addresses) = &*known;
        bencher.iter_custom(|times| {
            time(times, |at| {
                black_box(set.end(black_box(addresses[at])));
            })
        });
    });
    group.finish();
}

/// From an address that is nobody's to its class, by the longest of 100,000 prefixes.
fn lookup_external(criterion: &mut Criterion) {
    let outside = LazyCell::new(|| {
        let prefixes = external::prefixes(if is_measured() { 100_000 } else { 1000 });
        let mut state = Fleet::new(Size { workloads: 1000, identities: 100, policies: 0, rules_per_policy: 0 }).state();
        for policy in external::policies(&prefixes) {
            let _ = set(&mut state, policy);
        }
        (compiled(&state), external::addresses(&prefixes, QUERIES as usize + 1))
    });
    let mut group = criterion.benchmark_group("lookup_external");
    group.bench_function("100000", |bencher| {
        let (set, addresses) = &*outside;
        // A flow looks up both its ends, so half as many flows are as many look-ups.
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
    // The same policies with 100,000 rules in all; not in memory longer than it takes.
    {
        let large = LazyCell::new(|| Fleet::new(Size { rules_per_policy: 100, ..CHANGING }.to_measure()).state());
        group.bench_function("full_100000_rules", |bencher| {
            let state = &*large;
            bencher.iter_custom(|times| from_nothing(state, times));
        });
    }
    let fleet = Fleet::new(CHANGING.to_measure());
    let state = LazyCell::new(|| fleet.state());
    group.bench_function("full", |bencher| {
        let state = &*state;
        bencher.iter_custom(|times| from_nothing(state, times));
    });
    drop(state);

    group.sample_size(20).sampling_mode(SamplingMode::Auto).measurement_time(Duration::from_secs(2));
    let workloads = fleet.size().workloads;
    let mut updates = Updates { fleet: &fleet, group, current: None };
    // One workload after another becomes a pod of another app's rollout, and again what it was.
    let moves: Vec<[Resource; 2]> = random_workloads(workloads, 256)
        .filter_map(|number| Some([fleet.relabelled(number)?, fleet.workload(number)].map(Resource::Workload)))
        .collect();
    updates.bench("one_workload", |turn| Edit::Set(moves[turn / 2 % moves.len()][turn % 2].clone()));
    // A pod of a rollout that nobody has seen appears, and goes: the mean of the two updates.
    let newcomers: Vec<u32> = random_workloads(workloads, 256).collect();
    updates.bench("new_identity", |turn| {
        let mut newcomer = fleet.rolled_out(newcomers[turn / 2 % newcomers.len()], turn / 2);
        newcomer.id.name = "newcomer".parse().expect("valid");
        newcomer.addresses = vec!["10.31.255.254".parse().expect("valid")];
        let newcomer = Resource::Workload(newcomer);
        if turn.is_multiple_of(2) { Edit::Set(newcomer) } else { Edit::Unset(newcomer) }
    });
    // One policy after another: the ports of its first rule change, and change back.
    let policies = fleet.size().policies;
    let policies: Vec<[Resource; 2]> =
        (0..64).map(|at| at * 15 % policies).map(|at| [1, 0].map(|revision| fleet.policy(at, 10, revision))).collect();
    updates.bench("one_policy", |turn| Edit::Set(policies[turn / 2 % policies.len()][turn % 2].clone()));
    // A namespace of one cluster gets another team, and its own again.
    updates.bench("one_namespace", |turn| {
        let number = u32::try_from(turn / 2 % 512).expect("less than 512");
        Edit::Set(Resource::Namespace(fleet.namespace(number % 8, number / 8, turn.is_multiple_of(2).then_some("team-15"))))
    });
    updates.group.finish();
}

/// Compiles `times` times; the compilers are dropped after the clock stopped.
fn from_nothing(state: &State, times: u64) -> Duration {
    (0..times).map(|_| timed(&mut Compiler::new(), state, &Change::default())).sum()
}

/// An edit of the state.
enum Edit {
    Set(Resource),
    Unset(Resource),
}

/// A compiler in step with a state.
struct Updates<'f, 'c> {
    fleet: &'f Fleet,
    group: BenchmarkGroup<'c, WallTime>,
    current: Option<(State, Compiler)>,
}

impl Updates<'_, '_> {
    /// Times the update after each of the edits that `edit` returns for 0, 1, 2, …: an edit and its reverse by turns.
    fn bench(&mut self, name: &str, edit: impl Fn(usize) -> Edit) {
        let (fleet, current) = (self.fleet, &mut self.current);
        let mut turn = 0;
        self.group.bench_function(name, |bencher| {
            let (state, compiler) = current.get_or_insert_with(|| {
                let (state, mut compiler) = (fleet.state(), Compiler::new());
                compiler.update(&state, &Change::default());
                (state, compiler)
            });
            let mut next = || {
                let change = match edit(turn) {
                    Edit::Set(resource) => set(state, resource),
                    Edit::Unset(resource) => unset(state, &resource),
                };
                turn += 1;
                timed(compiler, state, &change)
            };
            // Pairs, so that every edit is taken back before another benchmark.
            bencher.iter_custom(|times| (0..times).map(|_| (next() + next()) / 2).sum());
        });
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
    (0..count).map(move |number| Random::of("workload", number.into()).below(workloads))
}

criterion_group! {
    name = policy;
    config = Criterion::default().sample_size(50).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = decide, decide_naive, lookup_identity, lookup_external, compile
}
criterion_main!(policy);
