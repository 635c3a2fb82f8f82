//! Topologies with names of their own, and waiting with a deadline.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh_lab::{Lab, LabOptions, NETNS_DIR, NodeSpec, Topology, WorkloadSpec};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Says whether labs can run here. If not, the test is skipped, or fails if all are required.
pub(crate) fn privileged() -> bool {
    let Err(missing) = Lab::check_privileges() else { return true };
    let reasons: String = missing.iter().map(|missing| format!("\n  {missing}")).collect();
    assert!(std::env::var("MESH_REQUIRE_ALL").as_deref() != Ok("1"), "a lab cannot run here:{reasons}");
    // Past the harness, which hides what a passing test prints.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("\nSKIPPED: a lab cannot run here:{reasons}\n").as_bytes());
    false
}

/// Returns a name that no other test, nor another run of this one, has.
pub(crate) fn unique(test: &str) -> String {
    format!("t{}-{test}", std::process::id())
}

pub(crate) fn v4(cluster: usize, workload: usize) -> IpAddr {
    IpAddr::from([10, cluster as u8, 0, 5 + workload as u8])
}

pub(crate) fn v6(cluster: usize, workload: usize) -> IpAddr {
    IpAddr::from([0xfd00, cluster as u16, 0, 0, 0, 0, 0, 5 + workload as u16])
}

pub(crate) fn workload(cluster: usize, index: usize) -> WorkloadSpec {
    WorkloadSpec {
        cluster: format!("c{cluster}"),
        namespace: "shop".to_owned(),
        pod: format!("w{index}"),
        node: "n1".to_owned(),
        addresses: vec![v4(cluster, index), v6(cluster, index)],
    }
}

/// Returns clusters `c1`, `c2`, … of one node `n1` each, with `workloads` workloads `w0`, `w1`, … each.
pub(crate) fn topology(name: String, clusters: usize, workloads: usize) -> Topology {
    let mut topology = Topology::new(name);
    for cluster in 1..=clusters {
        topology.nodes.push(NodeSpec {
            cluster: format!("c{cluster}"),
            node: "n1".to_owned(),
            underlay: vec![
                IpAddr::from([198, 51, 100, cluster as u8]),
                IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, cluster as u16]),
            ],
            pod_cidrs: vec![format!("10.{cluster}.0.0/16").parse().unwrap(), format!("fd00:{cluster}::/64").parse().unwrap()],
        });
        topology.workloads.extend((0..workloads).map(|index| workload(cluster, index)));
    }
    topology
}

pub(crate) fn up(test: &str, clusters: usize, workloads: usize) -> Lab {
    Lab::up(&topology(unique(test), clusters, workloads), LabOptions::default()).unwrap_or_else(|error| panic!("{error:#?}"))
}

/// Returns the network namespaces whose names begin with the lab's.
pub(crate) fn namespaces(lab: &str) -> Vec<String> {
    let prefix = format!("{lab}-");
    let entries = std::fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with(&prefix));
    names.sort();
    names
}

pub(crate) fn assert_nothing_left(lab: &str, run_dir: &Path) {
    assert_eq!(namespaces(lab), [""; 0]);
    assert!(!run_dir.exists(), "{}", run_dir.display());
    let links = std::fs::read_dir("/etc/netns").into_iter().flatten().flatten();
    let links: Vec<_> = links.filter(|link| link.file_name().to_string_lossy().starts_with(&format!("{lab}-"))).collect();
    assert!(links.is_empty(), "{links:?}");
}

/// Polls until `done`, at most [`PATIENCE`].
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
