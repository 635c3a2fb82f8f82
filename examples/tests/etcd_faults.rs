//! Agents over real etcds of three members that are killed, paused and stopped: traffic goes on, and every change arrives after.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use common::manifests::pod;
use common::operator::{cluster, desired, name_keys, try_fleet};
use common::streams::{Traffic, netns, open, round, serve};
use common::{build_with, eventually, finish, is_installed, may_build_labs, node, options, shipped_fleet, workload, workloads};
use landbridge::config::{AgentConfig, InterestConfig, StoreConfig};
use landbridge::lab::Cancel;
use landbridge::lab::fleet::{Fleet, FleetOptions};
use landbridge::lab::stores::LabStore;

const MEMBERS: u16 = 3;
const CLUSTERS: [&str; 2] = ["east", "west"];
/// An opening that was not answered after this long was dropped.
const OPENING: Duration = Duration::from_millis(500);

/// Stronger than the fleet's policy that keeps guests out.
const WELCOME: &str = "\
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: guests-welcome}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}
  ingress: [{name: guests, action: Accept, from: [{namespaces: {matchLabels: {tenant: guest}}}]}]
";

/// Returns the member of a cluster's etcd that leads.
fn leader(fleet: &Fleet, of: &str) -> u16 {
    let first = node(&format!("{of}/node-1"));
    let config = AgentConfig::load(&fleet.socket(&first).with_file_name("agent.yaml")).unwrap();
    let StoreConfig::Etcd(etcd) = config.store else { panic!("no etcd: {}", config.store) };
    let leads = |endpoint: &String| {
        let mut ctl = fleet.command_on(&first, Path::new("etcdctl")).unwrap();
        ctl.env("ETCDCTL_API", "3").args(["--endpoints", endpoint, "--command-timeout", "2s"]);
        for (option, file) in [("--cacert", &etcd.ca), ("--cert", &etcd.certificate), ("--key", &etcd.key)] {
            ctl.arg(option).arg(file.as_ref().unwrap());
        }
        let output = ctl.args(["endpoint", "status", "-w", "json"]).output().unwrap();
        let status: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
        status.is_some_and(|status| status[0]["Status"]["leader"] == status[0]["Status"]["header"]["member_id"])
    };
    let mut found = None;
    eventually("a member leads", || {
        found = etcd.endpoints.iter().position(leads);
        found.is_some()
    });
    u16::try_from(found.unwrap()).unwrap()
}

/// Lets time pass in which traffic must go on: so long a fault lasts, and a minute with MESH_LONG=1.
fn outage(traffic: &Traffic, seconds: u64) {
    let lasts = Duration::from_secs(if std::env::var("MESH_LONG").is_ok() { 60 } else { seconds });
    let began = Instant::now();
    while began.elapsed() < lasts {
        traffic.goes_on();
    }
}

/// Everything that travels by the stores: a policy of the fleet, and a workload of each cluster.
struct Changes {
    made: u8,
    serial: u64,
}

impl Changes {
    /// Changes something, and waits until every node acts by it.
    fn arrive(&mut self, fleet: &Fleet, after: &str) {
        self.made += 1;
        let policy = desired(fleet).join("fleet/guests-welcome.yaml");
        let welcome = self.made % 2 == 1;
        if welcome {
            fs::write(policy, WELCOME).unwrap();
        } else {
            fs::remove_file(policy).unwrap();
        }
        for (number, name) in [(1, "east"), (2, "west")] {
            let more = pod("guest", "more", &format!("10.{number}.2.{}", 100 + self.made), 8080);
            fleet.write_manifest(name, &format!("more-{}.yaml", self.made), &more).unwrap();
        }
        // As an operator would: again, while etcd has no leader.
        let mut said = String::new();
        eventually("the root's records are in the stores", || {
            let (succeeded, text) = try_fleet(fleet, "grant", &[]);
            said = text;
            succeeded
        });
        let (began, mut serial) = (Instant::now(), 0);
        for each in fleet.nodes() {
            eventually("the policies are in force", || {
                serial = fleet.status(&each).unwrap().policies.map_or(0, |policies| policies.serial);
                serial > self.serial
            });
            for (name, before) in [("east", 3), ("west", 2)] {
                eventually("the workload is known", || workloads(fleet, &each, name) == before + usize::from(self.made));
            }
        }
        println!("{after}: on every node {:?} after the grant", began.elapsed());
        let outsider = netns(fleet, &workload("east/guest/outsider-0"));
        let db = SocketAddr::new(fleet.addresses(&workload("west/shop/db-0"))[0], 5432);
        eventually("the verdict is that of the policy", || {
            open(&outsider, db, OPENING).and_then(|mut stream| round(&mut stream)).is_ok() == welcome
        });
        self.serial = serial;
    }
}

#[test]
fn traffic_goes_on_and_changes_arrive_whatever_befalls_the_etcds() {
    if !may_build_labs() || !is_installed("etcd", "etcd-server") || !is_installed("etcdctl", "etcd-client") {
        return;
    }
    // To count workloads, every node follows all of them.
    let interest = InterestConfig::Wide;
    let options = FleetOptions { store: LabStore::Etcd, etcd_members: MEMBERS, interest, ..options("etcd-faults") };
    let mut fleet = build_with(shipped_fleet().path(), options);
    name_keys(&fleet, &CLUSTERS);
    fleet.guard("up").unwrap();
    fleet.start_stores().unwrap();
    fleet.start_agents().unwrap();
    fleet.wait_ready(&Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    serve(&netns(&fleet, &workload("west/shop/db-0")), 5432, "");
    let traffic = Traffic::start(&fleet, "east/shop/web-0", "west/shop/db-0", 5432);
    let mut changes = Changes { made: 0, serial: 0 };
    changes.arrive(&fleet, "nothing is wrong");

    let leaders = CLUSTERS.map(|name| (cluster(name), leader(&fleet, name)));
    for (name, member) in &leaders {
        fleet.etcd(name, *member).unwrap().kill().unwrap();
    }
    changes.arrive(&fleet, "the leaders are killed");
    traffic.goes_on();
    for (name, member) in &leaders {
        fleet.start_etcd(name, *member).unwrap();
    }

    let leaders = CLUSTERS.map(|name| (cluster(name), leader(&fleet, name)));
    for (name, member) in &leaders {
        fleet.etcd(name, *member).unwrap().signal(libc::SIGSTOP).unwrap();
    }
    changes.arrive(&fleet, "the leaders are paused");
    outage(&traffic, 2);
    for (name, member) in &leaders {
        fleet.etcd(name, *member).unwrap().signal(libc::SIGCONT).unwrap();
    }
    changes.arrive(&fleet, "the paused members go on");

    for (name, member) in CLUSTERS.iter().flat_map(|name| (0..MEMBERS).map(|member| (cluster(name), member))) {
        fleet.etcd(&name, member).unwrap().kill().unwrap();
    }
    // Longer than a claim lives without its etcd: the publishers lose theirs, and win new ones.
    outage(&traffic, 8);
    let (succeeded, text) = try_fleet(&fleet, "grant", &[]);
    assert!(!succeeded && text.contains("not in every store"), "{text}");
    for (name, member) in CLUSTERS.iter().flat_map(|name| (0..MEMBERS).map(|member| (cluster(name), member))) {
        fleet.start_etcd(&name, member).unwrap();
    }
    changes.arrive(&fleet, "all members were away");
    for name in CLUSTERS {
        let status = fleet.status(&node(&format!("{name}/node-1"))).unwrap();
        assert!(status.roles.contains(&"publisher".to_owned()), "{status:?}");
    }
    println!("{:?}", traffic.finish());
    finish(fleet);
}
