//! Services leave a dead cluster within seconds, and come back without a lost request.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use common::streams::{self, round, serve};
use common::{build, eventually, finish, kill, may_build_labs, node};
use landbridge::api::ServiceTraffic;
use landbridge::lab::Cancel;
use landbridge::lab::fleet::Fleet;
use landbridge::lab::nodes::Underlay;
use mesh_lab::Netns;

/// A service that prefers its region, where west is and north is not, and one that goes anywhere.
const NEAR: &str = "100.80.0.9";
const ANY: &str = "100.80.0.10";
/// A client's patience with one connection: less than the kernel's first retransmission of a SYN, so that each is one try.
const TRY: Duration = Duration::from_millis(900);

/// One client, in east; backends on both nodes of west, and in north.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut fleet = String::from("name: traffic\nclusters:\n");
    let clusters = [("east", 1, 1, "eu"), ("west", 2, 2, "eu"), ("north", 3, 1, "us")];
    for (cluster, number, nodes, region) in clusters {
        fleet += &format!(
            "  {cluster}:\n    prefixes: [10.{number}.0.0/16]\n    service_prefixes: [100.80.{}.0/24]\n    \
             namespaces: [shop]\n    exports: [shop/*]\n    attributes: {{region: {region}}}\n",
            number - 1
        );
        let mut text = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
        for n in 1..=nodes {
            text += &format!(
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: node-{n}}}\nspec: {{podCIDRs: [10.{number}.{n}.0/24]}}\n\
                 status: {{addresses: [{{type: InternalIP, address: 172.31.{number}{n}.2}}]}}\n\
                 ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web-{n}, namespace: shop, labels: {{app: web}}}}\n\
                 spec: {{nodeName: node-{n}, containers: [{{name: web, ports: [{{containerPort: 8080}}]}}]}}\n\
                 status: {{podIPs: [{{ip: 10.{number}.{n}.10}}]}}\n"
            );
        }
        for (service, first, address) in [("near", "region", NEAR), ("any", "anywhere", ANY)] {
            if cluster == "east" {
                text += &format!(
                    "---\napiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceImport\n\
                     metadata: {{name: {service}, namespace: shop}}\nspec: {{type: ClusterSetIP, ips: [{address}]}}\n"
                );
                continue;
            }
            let endpoints = (1..=nodes).map(|n| format!("{{addresses: [10.{number}.{n}.10], nodeName: node-{n}}}"));
            text += &format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: shop, \
                 annotations: {{cluster-mesh.io/traffic-distribution: {first}}}}}\nspec: {{ports: [{{port: 80}}]}}\n\
                 ---\napiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\n\
                 metadata: {{name: {service}, namespace: shop}}\n\
                 ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nports: [{{port: 8080}}]\n\
                 metadata: {{name: {service}-1, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\n\
                 endpoints: [{}]\n",
                endpoints.collect::<Vec<_>>().join(", ")
            );
        }
        let place = directory.path().join("clusters").join(cluster);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("all.yaml"), text).unwrap();
    }
    std::fs::write(directory.path().join("fleet.yaml"), fleet).unwrap();
    directory
}

/// Opens a connection; returns it with the letter of the cluster that answered.
fn open(client: &Netns, address: &str) -> std::io::Result<(TcpStream, char)> {
    let mut stream = streams::open(client, SocketAddr::new(address.parse().unwrap(), 80), TRY)?;
    let mut name = [0];
    stream.read_exact(&mut name)?;
    Ok((stream, char::from(name[0])))
}

/// A connection that was there before, and must not notice anything.
struct Established {
    stream: TcpStream,
    longest: Duration,
    rounds: u32,
}

impl Established {
    fn check(&mut self) {
        let before = Instant::now();
        round(&mut self.stream).expect("an established connection to another cluster goes on");
        self.longest = self.longest.max(before.elapsed());
        self.rounds += 1;
    }
}

/// Drops everything between a node and the others, or lets it through again.
fn set_link(fleet: &Fleet, number: u8, up: bool) {
    let underlay = fleet.lab().underlay().unwrap();
    for direction in ["from", "to"] {
        let verb = if up { "del" } else { "add" };
        let arguments =
            ["-n", underlay.name(), "rule", verb, direction, &format!("172.31.2{number}.2"), "blackhole", "pref", "10"];
        let status = Command::new("ip").args(arguments).status().unwrap();
        assert!(status.success(), "ip {arguments:?}");
    }
}

/// Returns the share that west has of the connections to the near service, as the client's node says, in percent.
fn share_of_west(fleet: &Fleet) -> f64 {
    let traffic: ServiceTraffic = fleet.ask(&node("east/node-1"), "/services/shop/near").unwrap();
    traffic.ports[0].backends.iter().filter(|backend| backend.cluster.as_str() == "west").map(|backend| backend.percent).sum()
}

#[test]
fn a_dead_cluster_is_left_in_three_seconds_and_taken_back_without_a_lost_request() {
    if !may_build_labs() {
        return;
    }
    let mut fleet = build("traffic", directory().path(), Underlay::V4);
    fleet.guard("up").unwrap();
    fleet.start_agents().unwrap();
    for (cluster, pods) in [("west", &["web-1", "web-2"][..]), ("north", &["web-1"])] {
        for pod in pods {
            serve(&fleet.lab().workload(cluster, "shop", pod).unwrap(), 8080, &cluster[..1]);
        }
    }
    fleet.wait_ready(&Cancel::default()).unwrap_or_else(|error| panic!("{error}"));
    let client = fleet.lab().workload("east", "shop", "web-1").unwrap();
    eventually("the near service is west's", || open(&client, NEAR).is_ok_and(|(_, who)| who == 'w'));
    assert!((0..20).all(|_| open(&client, NEAR).unwrap().1 == 'w'));
    let mut established = None;
    eventually("a connection to north", || {
        established = open(&client, ANY).ok().filter(|(_, who)| *who == 'n');
        established.is_some()
    });
    let mut established = Established { stream: established.unwrap().0, longest: Duration::ZERO, rounds: 0 };
    // Each path has answered: west is left because it died, not because it never was there.
    eventually("the paths answer", || {
        let traffic: ServiceTraffic = fleet.ask(&node("east/node-1"), "/services/shop/near").unwrap();
        traffic.ports[0].backends.iter().all(|backend| backend.reach == "the path answers")
    });

    // Every node of west dies: its agents, and what connects it.
    let killed = Instant::now();
    for number in [1, 2] {
        kill(&fleet, &node(&format!("west/node-{number}")));
        set_link(&fleet, number, false);
    }
    let (mut lost, mut last_lost, mut first_north) = (0, Duration::ZERO, None);
    while killed.elapsed() < Duration::from_secs(6) {
        let begun = killed.elapsed();
        match open(&client, NEAR) {
            Ok((_, 'n')) => _ = first_north.get_or_insert(begun),
            // By then the letter of who answered does not matter: nobody in west can.
            Ok((_, who)) => assert!(begun < Duration::from_millis(100), "{who} answered after {begun:?}"),
            Err(error) => {
                assert!(begun < Duration::from_secs(3), "a connection begun {begun:?} after the end failed: {error}");
                (lost, last_lost) = (lost + 1, begun);
            }
        }
        established.check();
    }
    let first_north = first_north.expect("north takes over");
    println!("killed: {lost} connections failed, the last begun after {last_lost:?}; north took over after {first_north:?}");
    println!("established: {} rounds, the longest {:?}", established.rounds, established.longest);
    assert_eq!(share_of_west(&fleet), 0.0);

    // West comes back; from now on no request is lost, and in the end west has them again.
    let healed = Instant::now();
    for number in [1, 2] {
        set_link(&fleet, number, true);
        fleet.start_agent(&node(&format!("west/node-{number}"))).unwrap();
    }
    let (mut requests, mut in_a_row) = (0, 0);
    while in_a_row < 20 {
        let (_, who) = open(&client, NEAR).unwrap_or_else(|error| panic!("lost after {:?}: {error}", healed.elapsed()));
        in_a_row = if who == 'w' { in_a_row + 1 } else { 0 };
        requests += 1;
        established.check();
        assert!(healed.elapsed() < common::PATIENCE, "west is not taken back");
    }
    println!("healed: west has the connections again after {:?}; {requests} requests, none lost", healed.elapsed());

    // Both of its links flap once a second. The hour of it that matters is told under virtual time, in mesh-dataplane.
    let (flapping, mut shifts, mut before) = (Instant::now(), 0, share_of_west(&fleet));
    while flapping.elapsed() < Duration::from_secs(10) {
        for up in [false, true] {
            let beat = Instant::now();
            [1, 2].into_iter().for_each(|number| set_link(&fleet, number, up));
            while beat.elapsed() < Duration::from_millis(500) {
                let now = share_of_west(&fleet);
                shifts += u32::from((now > 0.0) != (before > 0.0));
                before = now;
                established.check();
            }
        }
    }
    println!("flapping at 1 Hz for ten seconds: {shifts} shifts");
    assert!(shifts <= 2);
    finish(fleet);
}
