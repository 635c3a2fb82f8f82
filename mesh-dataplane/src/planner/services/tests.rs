use mesh_core::{Event, Freshness, Locality, Now, Resource, SourceId, Time};

use super::*;
use crate::test_fleet::{Fleet, node_id};

/// Two clusters, of which each has two nodes; `shop/web` is exported by both, with a backend on each node.
struct World {
    fleet: Fleet,
    services: Services,
    health: Health,
    planner: ServicePlanner,
    pending: Change,
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {ANNOTATIONS}}
spec: {clusterIP: 10.96.0.9, ports: [{port: 80}], SPEC}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: web, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: {name: web, namespace: shop}
spec: {type: ClusterSetIP, ips: [100.80.0.9]}
";

fn id() -> ServiceId {
    "shop/web".parse().expect("a service")
}

impl World {
    fn new(annotations: &str, spec: &str) -> World {
        let mut world = World {
            fleet: Fleet::new(),
            services: Services::new("east".parse().expect("a name")),
            health: Health::new(),
            planner: ServicePlanner::new(node_id("east/n1")),
            pending: Change::default(),
        };
        let service = SERVICE.replace("ANNOTATIONS", annotations).replace("SPEC", spec);
        for (cluster, zones) in [("east", ["a", "b"]), ("west", ["c", "d"])] {
            for (node, zone) in ["n1", "n2"].into_iter().zip(zones) {
                let labels = format!("topology.kubernetes.io/zone: {zone}, topology.kubernetes.io/region: eu");
                let manifest = format!("{{apiVersion: v1, kind: Node, metadata: {{name: {node}, labels: {{{labels}}}}}}}");
                world.apply(cluster, &manifest);
            }
            world.apply(cluster, &service);
            world.slice(cluster, "n1", "");
            world.slice(cluster, "n2", "");
        }
        world.update();
        world
    }

    fn slice(&mut self, cluster: &str, node: &str, conditions: &str) {
        let slice = format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{{port: 8080}}],
             metadata: {{name: web-{node}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}},
             endpoints: [{{addresses: [{}], nodeName: {node}, conditions: {{{conditions}}}}}]}}",
            address(cluster, node)
        );
        self.apply(cluster, &slice);
    }

    fn apply(&mut self, cluster: &str, text: &str) {
        let scope = mesh_core::policy::PolicyScope::Cluster(cluster.parse().expect("a name"));
        let parsed = mesh_core::manifest::parse(&mesh_core::manifest::ManifestSource { file: "test.yaml", scope }, text);
        assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
        for (resource, _) in parsed.resources {
            self.set(resource);
        }
    }

    fn set(&mut self, resource: Resource) {
        let change = self.fleet.state.apply(Event::Set(SourceId("test".into()), resource), Now::default());
        assert!(change.refusals.is_empty(), "{change:?}");
        self.pending.merge(change);
    }

    /// Brings the table up to date, and holds it to what a fresh planner makes of the same.
    fn update(&mut self) -> bool {
        let change = std::mem::take(&mut self.pending);
        let changed = self.services.update(&self.fleet.state, &change);
        let moved = self.health.take_moved();
        let view = View { state: &self.fleet.state, services: &self.services, health: &self.health };
        let before = self.planner.table().clone();
        let is_other = self.planner.update(&view, &change, &changed, &moved);
        assert_eq!(is_other, before != *self.planner.table());
        let mut fresh = ServicePlanner::new(node_id("east/n1"));
        fresh.update(&view, &Change::default(), &BTreeSet::new(), &Moved::default());
        assert_eq!(fresh.table(), self.planner.table(), "update = from scratch");
        assert_eq!((&fresh.by_node, &fresh.by_cluster), (&self.planner.by_node, &self.planner.by_cluster));
        is_other
    }

    /// Has the paths to west's nodes answer, or not, until that counts.
    fn paths(&mut self, is_up: bool, from: u64) {
        let paths =
            ["n1", "n2"].map(|node| (node_id(&format!("west/{node}")), address("west", node).parse().expect("an address")));
        self.health.set_paths(&paths.into(), at(from));
        for now in (from..from + 12_000).step_by(50) {
            while let Some(probe) = self.health.poll_probe(at(now)) {
                if is_up {
                    self.health.handle_reply(probe.address, probe.sequence, at(now));
                }
            }
        }
    }

    fn ready(&self, frontend: &str) -> Vec<String> {
        let frontend = Frontend { address: frontend.parse().expect("valid"), protocol: mesh_core::Protocol::Tcp, port: 80 };
        self.planner.table().0[&frontend].ready.iter().map(|(address, _)| address.to_string()).collect()
    }
}

fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

fn address(cluster: &str, node: &str) -> String {
    let net = if cluster == "east" { 1 } else { 2 };
    format!("10.{net}.0.{}", if node == "n1" { 11 } else { 12 })
}

const IMPORT: &str = "100.80.0.9";
const LOCAL: &str = "10.96.0.9";
const EAST: [&str; 2] = ["10.1.0.11", "10.1.0.12"];
const WEST: [&str; 2] = ["10.2.0.11", "10.2.0.12"];
const ALL: [&str; 4] = ["10.1.0.11", "10.1.0.12", "10.2.0.11", "10.2.0.12"];

#[test]
fn the_setting_says_which_backends_come_first() {
    let cases: [(&str, &str, &[&str]); 8] = [
        ("", "", &ALL),
        ("cluster-mesh.io/traffic-distribution: anywhere", "trafficDistribution: PreferClose", &ALL),
        ("cluster-mesh.io/traffic-distribution: region", "", &ALL),
        ("cluster-mesh.io/traffic-distribution: cluster", "", &EAST),
        ("", "trafficDistribution: PreferClose", &EAST[..1]),
        ("", "trafficDistribution: PreferSameZone", &EAST[..1]),
        ("", "trafficDistribution: PreferSameNode", &EAST[..1]),
        ("", "internalTrafficPolicy: Local", &EAST[..1]),
    ];
    for (annotations, spec, expected) in cases {
        let world = World::new(annotations, spec);
        assert_eq!(world.ready(IMPORT), expected, "{annotations} {spec}");
        let own: Vec<_> = expected.iter().filter(|address| EAST.contains(address)).collect();
        assert_eq!(world.ready(LOCAL), own.into_iter().copied().collect::<Vec<_>>(), "{annotations} {spec}");
    }
}

#[test]
fn groups_take_over_from_each_other_as_backends_fail_and_come_back() {
    let mut world = World::new("", "trafficDistribution: PreferSameNode");
    assert_eq!(world.ready(IMPORT), EAST[..1]);
    world.slice("east", "n1", "ready: false");
    assert!(world.update());
    assert_eq!(world.ready(IMPORT), EAST[1..], "the same cluster is next");
    world.slice("east", "n2", "ready: false, serving: true, terminating: true");
    assert!(world.update());
    assert_eq!(world.ready(IMPORT), WEST, "then the same region");
    let described =
        world.planner.describe(&View { state: &world.fleet.state, services: &world.services, health: &world.health }, &id());
    let import = &described[1];
    assert_eq!(
        import.groups.iter().map(|g| (g.locality, g.healthy, g.total, g.share > 0)).collect::<Vec<_>>(),
        [(Locality::Node, 0, 1, false), (Locality::Region, 2, 2, true)]
    );
    assert_eq!(import.backends.iter().map(|b| b.slots).sum::<usize>(), import.slots);
    world.slice("east", "n1", "");
    assert!(world.update());
    assert_eq!(world.ready(IMPORT), EAST[..1]);
    assert!(!world.update(), "nothing changed");
}

#[test]
fn a_dead_path_demotes_and_a_dead_control_plane_does_not() {
    let mut world = World::new("", "");
    let west = "west".parse().expect("a name");
    world.health.set_freshness(&west, Freshness::Stale);
    world.update();
    assert_eq!(world.ready(IMPORT), ALL);
    world.paths(true, 0);
    world.health.set_freshness(&west, Freshness::Expired);
    world.update();
    assert_eq!(world.ready(IMPORT), ALL, "the paths answer");
    world.health.set_freshness(&west, Freshness::Live);
    world.paths(false, 12_000);
    assert!(world.update());
    assert_eq!(world.ready(IMPORT), EAST);
    for node in ["n1", "n2"] {
        world.slice("east", node, "ready: false");
    }
    world.update();
    assert_eq!(world.ready(IMPORT), WEST, "better than nothing");
    assert_eq!(world.ready(LOCAL), Vec::<String>::new(), "the own service has none");
    for node in ["n1", "n2"] {
        world.slice("east", node, "");
    }
    world.paths(true, 24_000);
    world.update();
    assert_eq!(world.ready(IMPORT), ALL);
}

#[test]
fn an_expired_lease_demotes_where_no_path_has_a_say() {
    let mut world = World::new("", "");
    world.health.set_freshness(&"west".parse().expect("a name"), Freshness::Expired);
    assert!(world.update());
    assert_eq!(world.ready(IMPORT), EAST);
}

#[test]
fn one_backend_that_refuses_is_left_out() {
    let mut world = World::new("", "");
    for _ in 0..crate::health::REFUSALS {
        world.health.handle_opening((WEST[1].parse().expect("an address"), 8080), true, at(0));
    }
    assert!(world.update());
    assert_eq!(world.ready(IMPORT), ALL[..3]);
}

#[test]
fn moving_a_node_to_another_zone_moves_its_backends() {
    let mut world = World::new("", "trafficDistribution: PreferClose");
    assert_eq!(world.ready(IMPORT), EAST[..1]);
    let label = "topology.kubernetes.io/zone: a";
    world.apply("east", &format!("{{apiVersion: v1, kind: Node, metadata: {{name: n2, labels: {{{label}}}}}}}"));
    assert!(world.update());
    assert_eq!(world.ready(IMPORT), EAST);
}
