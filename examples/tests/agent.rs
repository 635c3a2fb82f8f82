//! The agent as an operator meets it: its configuration, its API, its restarts.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{agent, demo_fleet, eventually, fetch_until, finish, may_build_labs, meshctl, node, workload};
use landbridge::config::StoreConfig;
use landbridge::lab::Cancel;
use mesh_core::ClusterName;
use mesh_lab::probe::ProbeResult;

const DB: &str = "http://db.shop.svc.clusterset.local:5432/";

#[test]
fn an_unknown_field_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.yaml");
    fs::write(&path, "node: east/node-1\nscoop: node\n").unwrap();
    let output = Command::new(agent()).args(["run", "--check", "--config"]).arg(&path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("scoop") && text.contains("agent.yaml"), "{text}");

    let output = Command::new(agent()).args(["run", "--config", "/nowhere/agent.yaml"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("/nowhere/agent.yaml") && text.contains("--config"), "{text}");
}

#[test]
fn an_agent_answers_restarts_and_keeps_what_it_knows() {
    if !may_build_labs() {
        return;
    }
    let mut fleet = demo_fleet("agent");
    let victim = node("east/node-2");
    let socket = fleet.socket(&victim);

    // `--check` accepts what the agent runs with, and a second agent does not take its place.
    let config = socket.with_file_name("agent.yaml");
    let output = fleet.command_on(&victim, &agent()).unwrap().args(["run", "--check", "--config"]).arg(&config).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    asks_for_the_kernel_tunnel(&config);
    let output = fleet.command_on(&victim, &agent()).unwrap().args(["run", "--config"]).arg(&config).output().unwrap();
    assert!(!output.status.success(), "a second agent on the same node must not start");
    assert!(fleet.agent(&victim).unwrap().is_running());
    fetch_until(&fleet, "east/shop/web-0", "http://10.1.2.10:8080/", ProbeResult::is_ok);
    eventually("the flow is on record", || fleet.flows().unwrap().iter().any(|flow| flow.node == victim));

    // The command line, for people and for programs.
    for arguments in [&["status"][..], &["peers"], &["state"], &["flows", "--limit", "5"], &["metrics"]] {
        let output = Command::new(meshctl()).args(arguments).arg("--socket").arg(&socket).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }
    let output = Command::new(meshctl()).args(["status", "--output", "json", "--socket"]).arg(&socket).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["node"], &status["health"]["ready"]), (&"east/node-2".into(), &true.into()));
    assert_eq!((&status["tunnel"], &status["tunnel_reason"]), (&"user".into(), &"as configured".into()));
    let metrics = fleet.metrics(&victim).unwrap();
    assert!(metrics.contains("landbridge_ready 1") && metrics.ends_with("# EOF\n"), "{metrics}");

    // A polite end takes the socket and the device away; the guard stays.
    let process = fleet.agent(&victim).unwrap().clone();
    assert!(process.stop(Duration::from_secs(10)).unwrap().success());
    assert!(!socket.exists());
    let guard = fleet.command_on(&victim, &agent()).unwrap().args(["guard", "status", "--config"]).arg(&config).output().unwrap();
    assert!(guard.status.success(), "{guard:?}");

    // The store is lost while the agent is away: what it knew of the other cluster is on its own disk.
    let store = fleet.store(&ClusterName::new("east").unwrap());
    let aside = store.with_file_name("store-aside");
    fs::rename(&store, &aside).unwrap();
    fleet.start_agent(&victim).unwrap();
    fleet.wait_node_ready(&victim, &Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    let west = fleet.status(&victim).unwrap().clusters.into_iter().find(|cluster| cluster.name.as_str() == "west").unwrap();
    assert_eq!((west.nodes, west.workloads), (2, 2), "{west:?}");
    // The publisher on the other node heals what it finds away, and may be quicker.
    eventually("the store is back", || {
        let _ = fs::remove_dir_all(&store);
        fs::rename(&aside, &store).is_ok()
    });
    fetch_until(&fleet, "east/shop/web-0", "http://10.1.2.10:8080/", ProbeResult::is_ok);
    finish(fleet);
}

/// What the kernel has not got is named, with the way out.
fn asks_for_the_kernel_tunnel(config: &Path) {
    let text = fs::read_to_string(config).unwrap();
    assert!(text.contains("tunnel: user\n"), "{text}");
    let other = config.with_file_name("kernel.yaml");
    fs::write(&other, text.replace("tunnel: user\n", "tunnel: kernel\n")).unwrap();
    let output = Command::new(agent()).args(["run", "--check", "--config"]).arg(&other).output().unwrap();
    let error = mesh_wireguard::KernelTunnel::check().err().map(|error| error.to_string());
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.success(), error.is_none(), "{text}");
    assert!(error.is_none_or(|error| text.contains(&error) && text.contains("'tunnel: user'")), "{text}");
    fs::write(&other, fs::read_to_string(config).unwrap().replace("tunnel: user\n", "tunnel: kernal\n")).unwrap();
    let output = Command::new(agent()).args(["run", "--check", "--config"]).arg(&other).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("kernal") && text.contains("auto"), "{text}");
}

/// A broken edit never takes a policy out of force: the last good one holds, and the mistake is told.
#[test]
fn a_broken_manifest_leaves_the_last_good_one_in_force() {
    if !may_build_labs() {
        return;
    }
    let fleet = demo_fleet("broken");
    let west = node("west/node-1");
    let original = fleet.read_manifest("west", "db-in.yaml").unwrap();
    fleet.write_manifest("west", "db-in.yaml", &original.replace("podSelector:", "podSelectr: [")).unwrap();
    eventually("the mistake is told", || {
        fleet.status(&west).unwrap().health.problems.iter().any(|problem| problem.contains("db-in.yaml:"))
    });
    let report = fleet.probe(&workload("west/shop/report-0"), "http://10.2.1.10:5432/", Duration::from_millis(500)).unwrap();
    assert!(!report.is_ok(), "db-in still lets nobody but web in: {report:?}");
    fetch_until(&fleet, "east/shop/web-0", DB, ProbeResult::is_ok);
    fleet.write_manifest("west", "db-in.yaml", &original).unwrap();
    eventually("the mistake is gone", || fleet.status(&west).unwrap().health.problems.is_empty());
    finish(fleet);
}

/// The fleet's desired state is edited and signed again: the grant that was signed last counts, without any restart.
#[test]
fn a_grant_that_is_signed_again_takes_effect() {
    if !may_build_labs() {
        return;
    }
    let fleet = demo_fleet("regrant");
    fetch_until(&fleet, "east/shop/web-0", DB, ProbeResult::is_ok);
    let west = ClusterName::new("west").unwrap();
    let path = fleet.manifests(&west).join("../../fleet.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let at = text.find("  west:").unwrap();
    fs::write(&path, text[..at].to_owned() + &text[at..].replace("exports: [shop/*]", "exports: []")).unwrap();
    // A second later, as a person would be: grants are told apart by the second in which they were signed.
    let second = std::time::SystemTime::now();
    eventually("a second has passed", || second.elapsed().unwrap() >= Duration::from_millis(1100));
    let root = mesh_source::keyfiles::read_signing_key(&fleet.root_key()).unwrap();
    let key = |cluster: &ClusterName| mesh_source::keyfiles::read_signing_key(&fleet.cluster_key(cluster)).unwrap().public();
    let clusters = [ClusterName::new("east").unwrap(), west];
    let keys = clusters.iter().map(|cluster| (cluster.clone(), key(cluster))).collect();
    let stores = clusters.map(|cluster| StoreConfig::Directory(fleet.store(&cluster)));
    landbridge::fleet::sign_fleet(path.parent().unwrap(), &keys, &root, &stores).unwrap();
    eventually("west may not export any more", || {
        let probe = fleet.probe(&workload("east/shop/web-0"), DB, Duration::from_millis(500)).unwrap();
        probe.failure == Some(mesh_lab::probe::ProbeFailure::NameNotFound)
    });
    finish(fleet);
}
