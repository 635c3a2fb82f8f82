//! One agent of a fleet that grows, simulated: real records of generated clusters, one real publisher, mirror and agent state.
//!
//!     cargo run --release -p mesh-benches --example fleet_scale [CLUSTERS…]       (10 100 1000 unless said; short: 10 50)
//!
//! Every cluster has 100 nodes and 5,000 workloads. The agent follows what matters to it, which is the same however many
//! clusters there are, and derives from each change what an agent derives: services, policy, service table, plan, interest. CPU
//! time is this thread's, as the kernel counts it, without generating and signing; bytes are those asked for and not given back.
//! Links are not simulated: their delays are assumed, and printed beside.

use std::sync::Arc;
use std::time::Duration;

use mesh_benches::allocations::LiveBytes;
use mesh_benches::peers;
use mesh_core::interest::Tracker;
use mesh_core::{
    Change, Event, NodeId, Now, Publisher, RecordKey, Resource, Services, Settings, SourceId, State, StateConfig, Time, Trust,
    WallTime,
};
use mesh_dataplane::health::{Health, Moved};
use mesh_dataplane::planner::services::{ServicePlanner, View};
use mesh_dataplane::{Plan, Planner, Scope};
use mesh_policy::Compiler;
use mesh_source::{MemoryStore, Mirror, MirrorFrom, RecordPath, Store};

#[global_allocator]
static ALLOCATOR: LiveBytes = LiveBytes;

/// Changes that each agent takes.
const CHANGES: u64 = 1000;
/// Pods that are replaced each second in each cluster, for the queue: 5,000 pods that live 40 minutes on average.
const CHURN: f64 = 2.0;
/// What links are assumed to take: a store's watch, and the way between two clusters.
const WATCH: Duration = Duration::from_millis(5);
const BETWEEN: Duration = Duration::from_millis(40);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sizes: Vec<usize> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let sizes = if sizes.is_empty() { vec![10, 100, 1000] } else { sizes };
    let publishing = publisher();
    mirror()?;
    // All sizes take their changes in turn: what the machine does meanwhile it does to all of them.
    let mut agents: Vec<Joined> = sizes.into_iter().map(Joined::new).collect();
    for round in 1..=CHANGES {
        agents.iter_mut().for_each(|agent| agent.change(round));
    }
    let mut first: Option<Figures> = None;
    for agent in agents {
        let figures = agent.tell(publishing);
        if let Some(first) = &first {
            let part = |now: f64, then: f64| format!("{:+.1} %", (now / then - 1.0) * 100.0);
            println!(
                "    against the first: memory {}, CPU of joining {}, CPU of a change {}",
                part(figures.memory, first.memory),
                part(figures.join, first.join),
                part(figures.change, first.change),
            );
        }
        first.get_or_insert(figures);
    }
    Ok(())
}

/// Returns the CPU time of this thread. The kernel brings it up to date at a tick, or when the thread yields.
fn cpu() -> Duration {
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts");
    Duration::from_nanos(text.split(' ').next().and_then(|text| text.parse().ok()).expect("nanoseconds come first"))
}

fn measured<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = cpu();
    let result = work();
    *total += cpu() - start;
    result
}

fn now(seconds: u64) -> Now {
    Now { time: Time::from_nanos(seconds * 1_000_000_000), wall: WallTime::from_unix_secs(1000 + seconds) }
}

fn state() -> State {
    State::new(StateConfig {
        fleet: "scale".into(),
        trust: Trust::Signed { root: peers::root().public(), cluster: peers::cluster(0) },
        settings: Settings::default(),
        domains: Default::default(),
    })
}

fn source() -> SourceId {
    SourceId("manifests".into())
}

/// What an agent has and derives.
struct Agent {
    state: State,
    services: Services,
    compiler: Compiler,
    table: ServicePlanner,
    planner: Planner,
    tracker: Tracker,
    plan: Option<Plan>,
    pending: Change,
}

impl Agent {
    fn new() -> Agent {
        let node = NodeId { cluster: peers::cluster(0), name: peers::node(0) };
        Agent {
            state: state(),
            services: Services::new(peers::cluster(0)),
            compiler: Compiler::new(),
            table: ServicePlanner::new(node.clone()),
            planner: Planner::new(node.clone(), Scope::Cluster),
            tracker: Tracker::new(node),
            plan: None,
            pending: Change::default(),
        }
    }

    fn tell(&mut self, event: Event, seconds: u64) {
        let change = self.state.apply(event, now(seconds));
        assert!(change.refusals.is_empty(), "{:?}", change.refusals.first());
        self.pending.merge(change);
    }

    /// Derives what follows from the changes; tells whether more has become of interest.
    fn converge(&mut self) -> bool {
        let change = std::mem::take(&mut self.pending);
        let changed = self.services.update(&self.state, &change);
        let policy = self.compiler.update(&self.state, &change).clone();
        let health = Health::new();
        let view = View { state: &self.state, services: &self.services, health: &health };
        self.table.update(&view, &change, &changed, &Moved::default());
        self.plan = Some(self.planner.update(&self.state, &change, &policy, self.table.table().clone()));
        self.tracker.update(&self.state, &change)
    }
}

struct Figures {
    memory: f64,
    join: f64,
    change: f64,
}

/// An agent that has joined a fleet of so many clusters, and what that took.
struct Joined {
    clusters: usize,
    agent: Agent,
    memory: f64,
    join: Duration,
    grants: Duration,
    bytes: usize,
    records: usize,
    changes: Vec<Duration>,
    change_bytes: usize,
}

impl Joined {
    fn new(clusters: usize) -> Joined {
        let root = peers::root().public();
        let before = LiveBytes::now();
        let (mut join, mut bytes, mut records) = (Duration::ZERO, 0, 0usize);
        let mut agent = Agent::new();
        for number in 0..clusters {
            let grant = peers::grant(number);
            bytes += grant.len();
            measured(&mut join, || agent.tell(Event::Record(grant), 0));
        }
        let grants = join;
        let facts = peers::own_facts();
        measured(&mut join, || {
            for fact in facts {
                agent.tell(Event::Set(source(), fact), 0);
            }
            agent.tell(Event::Synced(source()), 0);
            agent.converge();
        });
        let mut told = std::collections::BTreeSet::new();
        // What a store does for its subscribers: every record of every cluster is offered, and made where it is asked for.
        loop {
            let topics = agent.tracker.topics();
            for of in 1..clusters {
                for key in peers::keys(of).filter(|key| topics.covers(&peers::cluster(of), key)) {
                    if told.insert((of, key.clone())) {
                        let record = peers::record(of, key, 0, &root);
                        (bytes, records) = (bytes + record.len(), records + 1);
                        measured(&mut join, || agent.tell(Event::Record(record), 0));
                    }
                }
            }
            if !measured(&mut join, || agent.converge()) {
                break;
            }
        }
        drop(told);
        let memory = (LiveBytes::now() - before) as f64;
        Joined { clusters, agent, memory, join, grants, bytes, records, changes: Vec::new(), change_bytes: 0 }
    }

    /// Replaces one workload of a partner, told and derived by itself.
    fn change(&mut self, round: u64) {
        let of = 1 + round as usize % peers::PARTNERS.min(self.clusters - 1);
        let key = RecordKey::Slice(peers::namespace(of, 0), peers::node(round as usize % peers::NODES));
        let record = peers::record(of, key, round, &peers::root().public());
        self.change_bytes += record.len();
        let mut time = Duration::ZERO;
        measured(&mut time, || {
            self.agent.tell(Event::Record(record), round / 20);
            self.agent.converge();
        });
        self.changes.push(time);
    }

    fn tell(self, (publish, _): (Duration, usize)) -> Figures {
        let Joined { clusters, agent, memory, join, grants, bytes, records, changes: mut times, change_bytes } = self;
        let plan = agent.plan.as_ref().expect("it converged");
        let facts = agent.state.facts();
        println!("{clusters} clusters, {} nodes, {} workloads, simulated:", clusters * peers::NODES, clusters * peers::WORKLOADS);
        println!(
            "    the agent knows {} nodes and {} workloads, {} peers, {} routes; {} topics",
            facts.nodes.len(),
            facts.workloads.len(),
            plan.peers.len(),
            plan.routes.len(),
            agent.tracker.topics().iter().count(),
        );
        println!("    memory {:.1} MiB", memory / (1 << 20) as f64);
        println!(
            "    joining: {bytes} bytes, {records} records and {clusters} grants, {join:.1?} of CPU, of that {grants:.1?} for the grants"
        );
        times.sort();
        let median = times[times.len() / 2];
        let (mean_wait, longest) = queue(&times, CHURN * peers::PARTNERS as f64 / peers::NAMESPACES as f64);
        println!(
            "    a change: {} bytes, {median:.1?} of CPU (median), {:.1?} (highest)",
            change_bytes / CHANGES as usize,
            times[times.len() - 1]
        );
        println!(
            "    of {CHURN} replaced pods a second in a cluster: busy {:.2} % of one core, waiting {mean_wait:.1?} (mean), {longest:.1?} (longest of 100,000)",
            CHURN * peers::PARTNERS as f64 / peers::NAMESPACES as f64 * median.as_secs_f64() * 100.0
        );
        println!(
            "    from pod to plan: {publish:.1?} to sign + {WATCH:?} to the mirror + {BETWEEN:?} between clusters + {WATCH:?} to the agent (assumed) + {median:.1?}"
        );
        Figures { memory, join: join.as_secs_f64(), change: median.as_secs_f64() }
    }
}

/// Returns the mean and the longest wait of changes that come by themselves, `rate` in a second, and take these times.
fn queue(times: &[Duration], rate: f64) -> (Duration, Duration) {
    let (mut wait, mut total, mut longest) = (0.0f64, 0.0, 0.0f64);
    let mut seed = 1u64;
    for at in 0..100_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = ((seed >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        let gap = -uniform.min(1.0).ln() / rate;
        let service = times[(seed >> 33) as usize % times.len()].as_secs_f64();
        if at > 0 {
            wait = (wait + service - gap).max(0.0);
        }
        total += wait;
        longest = longest.max(wait);
    }
    (Duration::from_secs_f64(total / 100_000.0), Duration::from_secs_f64(longest))
}

/// Publishes the own cluster, and one change after the other; returns the CPU time and the bytes of a change.
fn publisher() -> (Duration, usize) {
    let mut state = state();
    let mut publisher = Publisher::new(peers::cluster(0), peers::key_of(0), peers::root().public(), 1);
    let _ = state.apply(Event::Record(peers::grant(0)), now(0));
    for fact in peers::own_facts() {
        let _ = state.apply(Event::Set(source(), fact), now(0));
    }
    let _ = state.apply(Event::Synced(source()), now(0));
    let mut first = Duration::ZERO;
    let records = measured(&mut first, || publisher.update(&state, now(0)));
    let bytes: usize = records.iter().map(|(_, bytes)| bytes.len()).sum();
    println!(
        "publisher of {} workloads: {} records, {bytes} bytes, {first:.1?} of CPU at first",
        peers::WORKLOADS,
        records.len()
    );
    let mut opening = Duration::ZERO;
    measured(&mut opening, || records.iter().for_each(|(_, bytes)| drop(mesh_core::record::open(bytes).expect("signed right"))));
    println!("verification: {:.0} records a second and core", records.len() as f64 / opening.as_secs_f64());
    let (mut times, mut changed) = (Vec::new(), 0);
    for round in 1..=CHANGES {
        let mut workload = peers::workload(0, (0, round as usize % peers::NODES, 0), 0);
        workload.labels = [("rollout", format!("r{round}"))].into_iter().collect();
        let change = state.apply(Event::Set(source(), Resource::Workload(workload)), now(1));
        let mut time = Duration::ZERO;
        let records = measured(&mut time, || {
            publisher.note(&change);
            publisher.update(&state, now(1))
        });
        assert_eq!(records.len(), 1, "one slice");
        changed += records[0].1.len();
        times.push(time);
    }
    times.sort();
    let (median, bytes) = (times[times.len() / 2], changed / CHANGES as usize);
    publisher.look_again();
    let mut whole = Duration::ZERO;
    let none = measured(&mut whole, || publisher.update(&state, now(1)));
    assert!(none.is_empty(), "nothing changed");
    println!(
        "    a change of one workload: {bytes} bytes, {median:.1?} of CPU (median); looking at everything takes {whole:.1?}"
    );
    (median, bytes)
}

/// Mirrors one cluster from a store in memory to another one.
fn mirror() -> Result<(), Box<dyn std::error::Error>> {
    let root = peers::root().public();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (from, to) = (MemoryStore::default(), MemoryStore::default());
        let mut bytes = 0;
        for key in peers::keys(1) {
            let record = peers::record(1, key.clone(), 0, &root);
            bytes += record.len();
            from.put(&RecordPath::record(&peers::cluster(1), &key), record, None).await?;
        }
        let all = from.list().await?.len();
        let ours: Arc<dyn Store> = Arc::new(to.clone());
        let mirror = Mirror::new([MirrorFrom { cluster: peers::cluster(1), store: Arc::new(from.clone()) }], &ours);
        let start = cpu();
        let running = tokio::spawn(mirror.run());
        while to.list().await?.len() < all {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!("mirror of {all} records, {bytes} bytes: {:.1?} of CPU, the two stores in memory included", cpu() - start);
        running.abort();
        Ok(())
    })
}
