//! A fleet for a test: the demo's manifests in a lab of the test's own.

#![allow(dead_code, unreachable_pub, reason = "every test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use landbridge::config::{AgentConfig, InterestConfig};
use landbridge::lab::Cancel;
use landbridge::lab::fleet::{Fleet, FleetOptions};
use landbridge::lab::nodes::Underlay;
use landbridge::lab::shipped;
use landbridge::lab::stores::LabStore;
use mesh_core::{NodeId, WorkloadId};
use mesh_lab::Lab;
use mesh_lab::probe::ProbeResult;
use tempfile::TempDir;

pub mod manifests;
pub mod operator;
pub mod streams;

pub const PATIENCE: Duration = Duration::from_secs(30);

/// The usual patience, or the longer one that a slow machine asks for by MESH_TEST_PATIENCE (seconds).
fn patience() -> Duration {
    let asked = std::env::var("MESH_TEST_PATIENCE").ok().and_then(|seconds| seconds.parse().ok());
    asked.map_or(PATIENCE, |seconds| PATIENCE.max(Duration::from_secs(seconds)))
}

/// Tells whether this machine lets a test build a lab. A skip says why; with MESH_REQUIRE_ALL=1 it is a failure.
pub fn may_build_labs() -> bool {
    let Err(missing) = Lab::check_privileges() else { return true };
    let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
    assert!(std::env::var("MESH_REQUIRE_ALL").is_err(), "MESH_REQUIRE_ALL is set, and labs need: {missing:?}");
    // Past the harness, which hides what a passing test prints.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("\nSKIPPED: labs need {missing:?}\n").as_bytes());
    false
}

/// Tells whether a program is installed. A skip says which package has it; with MESH_REQUIRE_ALL=1 it is a failure.
pub fn is_installed(program: &str, package: &str) -> bool {
    let null = std::process::Stdio::null;
    if std::process::Command::new(program).arg("--help").stdout(null()).stderr(null()).status().is_ok() {
        return true;
    }
    assert!(std::env::var("MESH_REQUIRE_ALL").is_err(), "MESH_REQUIRE_ALL is set, and {program} is not installed");
    let text = format!("\nSKIPPED: {program} is not installed (Debian: {package})\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    false
}

pub fn meshctl() -> PathBuf {
    env!("CARGO_BIN_EXE_meshctl").into()
}

pub fn agent() -> PathBuf {
    env!("CARGO_BIN_EXE_mesh-agent").into()
}

/// A unique lab name: tests run beside each other, and beside a demo.
pub fn lab_name(test: &str) -> String {
    format!("t{}-{test}", std::process::id())
}

pub fn shipped_fleet() -> TempDir {
    shipped::unpack().unwrap()
}

pub fn options(test: &str) -> FleetOptions {
    FleetOptions {
        name: lab_name(test),
        keep: false,
        underlay: Underlay::V4,
        store: LabStore::Directory,
        etcd_members: 1,
        interest: InterestConfig::default(),
        agent: agent(),
        meshctl: meshctl(),
    }
}

/// Builds the fleet of a directory; nothing runs yet.
pub fn build(test: &str, directory: &Path, underlay: Underlay) -> Fleet {
    build_with(directory, FleetOptions { underlay, ..options(test) })
}

pub fn build_with(directory: &Path, options: FleetOptions) -> Fleet {
    Fleet::build(directory, options).unwrap_or_else(|error| panic!("{error}"))
}

/// Tells how many workloads of a cluster a node knows.
pub fn workloads(fleet: &Fleet, node: &NodeId, of: &str) -> usize {
    let clusters = fleet.status(node).unwrap().clusters;
    clusters.iter().find(|cluster| cluster.name.as_str() == of).map_or(0, |cluster| cluster.workloads)
}

/// Edits the configuration of a node's agent, for its next start.
pub fn configure(fleet: &Fleet, node: &NodeId, edit: impl FnOnce(&mut AgentConfig)) {
    let path = fleet.socket(node).with_file_name("agent.yaml");
    let mut config = AgentConfig::load(&path).unwrap();
    edit(&mut config);
    std::fs::write(&path, serde_saphyr::to_string(&config).unwrap()).unwrap();
}

/// Kills an agent as a crash does.
pub fn kill(fleet: &Fleet, node: &NodeId) {
    fleet.agent(node).unwrap().kill().unwrap();
}

/// Puts the guard up, starts agents and servers, and waits until all is ready.
pub fn start(fleet: &mut Fleet) {
    fleet.guard("up").unwrap();
    fleet.start_agents().unwrap();
    fleet.start_servers().unwrap();
    fleet.wait_ready(&Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
}

/// The demo's fleet, running.
pub fn demo_fleet(test: &str) -> Fleet {
    let mut fleet = build(test, shipped_fleet().path(), Underlay::V4);
    start(&mut fleet);
    fleet
}

pub fn workload(text: &str) -> WorkloadId {
    text.parse().unwrap()
}

pub fn node(text: &str) -> NodeId {
    text.parse().unwrap()
}

/// Repeats a request until it is as wanted; panics when patience ends.
pub fn fetch_until(fleet: &Fleet, from: &str, url: &str, is_right: impl Fn(&ProbeResult) -> bool) -> ProbeResult {
    let deadline = Instant::now() + patience();
    loop {
        let result = fleet.probe(&workload(from), url, Duration::from_secs(2)).unwrap();
        if is_right(&result) {
            return result;
        }
        assert!(Instant::now() < deadline, "{from} {url}: {result:?}");
    }
}

/// Looks until it is so; panics when patience ends.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {:?}: {what}", patience());
        std::thread::yield_now();
        Cancel::default().pause(Duration::from_millis(20)).unwrap();
    }
}

/// Stops the fleet as a user would, and holds every agent's log to having no error in it.
pub fn finish(fleet: Fleet) {
    for node in fleet.nodes() {
        if let Some(log) = fleet.agent(&node).and_then(|agent| agent.log().ok()) {
            let errors: Vec<_> = log.lines().filter(|line| line.contains(" ERROR ") || line.contains("panicked")).collect();
            assert!(errors.is_empty(), "{node}: {errors:#?}");
        }
    }
    fleet.down().unwrap();
}

/// A record that says of `node` that one workload `liar` with `address` runs there, and nothing else.
pub fn slice_record(cluster: &str, node: &str, address: &str, version: (u64, u64)) -> mesh_core::Record {
    let workload = mesh_core::Workload {
        id: workload(&format!("{cluster}/shop/liar")),
        labels: mesh_core::Labels::default(),
        service_account: "default".into(),
        node: Some(node.parse().unwrap()),
        host_network: false,
        addresses: vec![address.parse().unwrap()],
        ports: Vec::new(),
    };
    mesh_core::Record {
        cluster: cluster.parse().unwrap(),
        version: mesh_core::Version { incarnation: version.0, counter: version.1 },
        key: mesh_core::RecordKey::Slice("shop".parse().unwrap(), node.parse().unwrap()),
        resources: vec![mesh_core::Resource::Workload(workload)],
    }
}
