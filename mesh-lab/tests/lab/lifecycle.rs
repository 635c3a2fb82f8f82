//! Labs come and go, whole; by their owner, by another process, after a crash.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mesh_lab::serve::HttpServer;
use mesh_lab::{DownReport, Lab, LabOptions, NetnsError, OpenError, TopologyError, UpError, WorkloadError, labs, probe};

use crate::helper;
use crate::support::{PATIENCE, assert_nothing_left, namespaces, privileged, topology, unique, up, v4, v6, wait_until, workload};

#[test]
fn down_leaves_nothing_behind() {
    if !privileged() {
        return;
    }
    let lab = up("down", 2, 2);
    let name = lab.name();
    assert_eq!(namespaces(&name).len(), 7);
    assert!(labs().unwrap().contains(&name));
    let agent = lab.spawn(&lab.node("c1", "n1").unwrap(), helper::command("wait", &[]), "agent").unwrap();
    let pod = lab.workload("c2", "shop", "w1").unwrap();
    let serving = lab.spawn(&pod, helper::command("serve", &["80", "x"]), "server").unwrap();
    assert_eq!(lab.running().unwrap().len(), 2);
    let report = lab.down().unwrap();
    assert_eq!((report.processes.len(), report.namespaces.len(), report.strangers.len()), (2, 7, 0));
    assert!(!agent.record().id.is_alive() && !serving.record().id.is_alive());
    assert!(!agent.is_running() && !serving.is_running(), "reaped");
    assert_nothing_left(&name, lab.run_dir());
    assert_eq!(lab.down().unwrap(), DownReport::default(), "twice is once");
    assert!(matches!(Lab::find(&name), Err(OpenError::NotFound(_))));
}

#[test]
fn dropping_the_owner_takes_the_lab_down() {
    if !privileged() {
        return;
    }
    let lab = up("drop", 1, 1);
    let (name, run_dir) = (lab.name(), lab.run_dir().to_owned());
    drop(Lab::open(&run_dir).unwrap());
    assert_eq!(namespaces(&name).len(), 3, "a visitor owns nothing");
    drop(lab);
    assert_nothing_left(&name, &run_dir);
}

#[test]
fn a_lab_in_use_is_not_replaced() {
    if !privileged() {
        return;
    }
    let lab = up("in-use", 1, 1);
    let again = Lab::up(&topology(lab.name(), 1, 1), LabOptions::default());
    assert!(matches!(again, Err(UpError::InUse { pid, .. }) if pid == std::process::id()), "{again:?}");
    // A name that merely begins alike is another lab.
    let neighbour = Lab::up(&topology(format!("{}-2", lab.name()), 1, 0), LabOptions::default()).unwrap();
    let report = lab.down().unwrap();
    assert_eq!(report.namespaces.len(), 3);
    assert_eq!(namespaces(&neighbour.name()).len(), 2);
}

#[test]
fn up_cleans_what_a_killed_process_left_behind() {
    if !privileged() {
        return;
    }
    let name = unique("crash");
    let mut owner = helper::command("own", &[&name, "drop"]).spawn().unwrap();
    wait_until("the lab of the other process is up", || Lab::find(&name).is_ok_and(|lab| lab.run_dir().join("ready").exists()));
    let orphaned = Lab::find(&name).unwrap();
    let agent = orphaned.running().unwrap().remove(0);
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the agent dies with its lab's owner", || !agent.id.is_alive());
    assert_eq!(namespaces(&name).len(), 3, "the kernel removes no names");

    let lab = Lab::up(&topology(name.clone(), 2, 1), LabOptions::default()).unwrap();
    let server = lab.workload("c2", "shop", "w0").unwrap();
    let _http = server.run(|| HttpServer::start(80, "new")).unwrap().unwrap();
    let client = lab.workload("c1", "shop", "w0").unwrap();
    let result = client.run(|| probe::fetch(&format!("http://{}/", v4(2, 0)), PATIENCE)).unwrap();
    assert_eq!(result.field("server").as_deref(), Some("new"), "{result:?}");
    lab.down().unwrap();
    assert_nothing_left(&name, lab.run_dir());
}

#[test]
fn a_kept_lab_outlives_its_owner_until_another_process_takes_it_down() {
    if !privileged() {
        return;
    }
    let name = unique("keep");
    let status = helper::command("own", &[&name, "keep"]).status().unwrap();
    assert!(status.success());
    let lab = Lab::find(&name).unwrap();
    let agent = lab.running().unwrap().remove(0);
    assert!(agent.id.is_alive());
    let again = Lab::up(&topology(name.clone(), 1, 1), LabOptions::default());
    assert!(matches!(again, Err(UpError::Kept { .. })), "{again:?}");
    assert!(helper::command("clean", &[&name]).status().unwrap().success());
    assert!(!agent.id.is_alive());
    assert_nothing_left(&name, lab.run_dir());
}

#[test]
fn namespaces_are_found_by_their_mark_when_the_records_are_lost() {
    if !privileged() {
        return;
    }
    let name = unique("lost");
    let dir = std::env::temp_dir().join(&name);
    let options = LabOptions { run_dir: Some(dir.clone()), keep: true };
    let lab = Lab::up(&topology(name.clone(), 1, 1), options).unwrap();
    assert_eq!(Lab::find(&name).unwrap().run_dir(), lab.run_dir(), "the mark leads to the records");
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(Lab::clean(&name).unwrap().namespaces.len(), 3);
    assert_eq!(namespaces(&name), [""; 0]);
    let _ = std::fs::remove_file(format!("/etc/netns/{name}-c1-shop-w0"));
}

#[test]
fn setting_up_that_fails_halfway_leaves_nothing_and_spares_the_other_lab() {
    if !privileged() {
        return;
    }
    // `NAME` + `a-b` + `n1` and `NAME-a` + `b` + `n1` are one name of a namespace.
    let mut first = topology(unique("half"), 1, 0);
    first.nodes[0].cluster = "a-b".to_owned();
    let mut second = topology(unique("half-a"), 2, 0);
    second.nodes[1].cluster = "b".to_owned();
    let standing = Lab::up(&first, LabOptions::default()).unwrap();
    let refused = Lab::up(&second, LabOptions::default());
    assert!(matches!(&refused, Err(UpError::Network { source: NetnsError::Exists(_), .. })), "{refused:?}");
    assert_eq!(namespaces(&second.name), [format!("{}-b-n1", second.name)], "that is the other lab's");
    assert_eq!(standing.down().unwrap().namespaces.len(), 2);
}

#[test]
fn a_directory_with_other_things_in_it_is_refused_and_untouched() {
    if !privileged() {
        return;
    }
    let name = unique("foreign");
    let dir = std::env::temp_dir().join(&name);
    std::fs::create_dir_all(dir.join("processes")).unwrap();
    let options = LabOptions { run_dir: Some(dir.clone()), keep: false };
    let refused = Lab::up(&topology(name, 1, 1), options);
    assert!(matches!(refused, Err(UpError::RunDir { .. })), "{refused:?}");
    assert!(dir.join("processes").exists());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_workload_moves_from_one_cluster_to_another() {
    if !privileged() {
        return;
    }
    let lab = up("move", 2, 1);
    let name = lab.name();
    let server = lab.workload("c2", "shop", "w0").unwrap();
    let _http = server.run(|| HttpServer::start(80, "server")).unwrap().unwrap();
    let reaches = |cluster: &str| {
        let client = lab.workload(cluster, "shop", "w9").unwrap();
        let urls = [format!("http://{}/", v4(2, 0)), format!("http://[{}]/", v6(2, 0))];
        urls.map(|url| client.run(|| probe::fetch(&url, PATIENCE)).unwrap().field("client").unwrap())
    };
    lab.add_workload(&workload(1, 9)).unwrap();
    assert!(reaches("c1")[0].starts_with("10.1.0.14:"));
    let inside = lab.workload("c1", "shop", "w9").unwrap();
    let process = lab.spawn(&inside, helper::command("wait", &[]), "inside").unwrap();
    drop(inside);

    let twice = lab.add_workload(&workload(1, 9));
    assert!(matches!(twice, Err(WorkloadError::Topology { source: TopologyError::AddressTwice { .. }, .. })), "{twice:?}");
    let removed = lab.remove_workload("c1", "shop", "w9").unwrap();
    assert_eq!(removed, workload(1, 9));
    assert!(!process.is_running(), "what ran in it has ended");
    assert!(lab.workload("c1", "shop", "w9").is_err());
    assert!(matches!(lab.remove_workload("c1", "shop", "w9"), Err(WorkloadError::Unknown(_))));

    lab.add_workload(&workload(2, 9)).unwrap();
    assert!(reaches("c2")[1].starts_with("[fd00:2::e]:"));
    assert_eq!(Lab::open(lab.run_dir()).unwrap().topology(), lab.topology(), "the records follow");
    lab.down().unwrap();
    assert_nothing_left(&name, lab.run_dir());
}

#[test]
fn nodes_without_prefixes_have_a_route_per_workload() {
    if !privileged() {
        return;
    }
    let mut topology = topology(unique("hosts"), 2, 1);
    topology.nodes[1].pod_cidrs.clear();
    // Only IPv6 on the underlay: IPv4 goes by an IPv6 next hop.
    topology.nodes[1].underlay.retain(IpAddr::is_ipv6);
    let lab = Lab::up(&topology, LabOptions::default()).unwrap();
    lab.add_workload(&workload(2, 1)).unwrap();
    for pod in ["w0", "w1"] {
        let server = lab.workload("c2", "shop", pod).unwrap();
        let _http = server.run(|| HttpServer::start(80, pod)).unwrap().unwrap();
        let index = usize::from(pod == "w1");
        let client = lab.workload("c1", "shop", "w0").unwrap();
        for url in [format!("http://{}/", v4(2, index)), format!("http://[{}]/", v6(2, index))] {
            let result = client.run(|| probe::fetch(&url, PATIENCE)).unwrap();
            assert_eq!(result.field("server").as_deref(), Some(pod), "{result:?}");
        }
    }
    lab.remove_workload("c2", "shop", "w1").unwrap();
}

#[test]
fn four_nodes_and_eight_workloads_are_up_soon() {
    if !privileged() {
        return;
    }
    let start = Instant::now();
    let lab = up("speed", 4, 2);
    let up = start.elapsed();
    lab.down().unwrap();
    eprintln!("4 nodes, 8 workloads: up in {up:?}, down in {:?}", start.elapsed() - up);
    // Generous: the machine may be busy. Measured on a quiet one it is far below a second.
    assert!(up < Duration::from_secs(30));
}
