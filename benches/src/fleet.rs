//! The fleet that benchmarks measure with: deterministic, and as uneven as real ones are.
//!
//! - **Clusters** 8, four in each of two regions. **Namespaces** 64, 16 teams in 4 environments, each in every cluster (namespace
//!   sameness), labelled `team` and `env`. Trust is open: grants are checked when facts are admitted, not when a connection is
//!   decided. Between clusters `exports` holds, the default of a fleet and the dearest one to decide: 256 services of prod
//!   namespaces are exported.
//! - **Identities** are rollouts: cluster, namespace, service account and labels `app` (16 in a namespace), `tier` (five, by
//!   app), `version` (20), `track` and `pod-template-hash`, which is one rollout's own. Namespaces, apps and versions are drawn
//!   by Zipf's law with exponent 1. **Workloads** of one rollout share its identity; every rollout has one, and the others are
//!   spread by Zipf's law with exponent 1/2 (of 1,000,000 workloads the largest of 100,000 rollouts has about 1,400). Each has
//!   one IPv4 address, a node (100 workloads to a node), the named port `http`, and those of half of the apps `metrics`.
//! - **Policies**: see [`policies`](Fleet::policies).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use mesh_core::{
    ClusterName, CrossClusterDefault, Event, NamedPort, Namespace, NamespaceName, Node, NodeId, Now, ObjectName, Protocol,
    Resource, Settings, SourceId, State, StateConfig, Trust, Workload, WorkloadId,
};

use crate::random::{Random, Ranks};

mod exports;
mod policies;

pub(crate) use self::policies::PORTS;

/// The clusters' names; the first half is one region, the second half another.
pub const CLUSTERS: [&str; 8] = ["eu-1", "eu-2", "eu-3", "eu-4", "us-1", "us-2", "us-3", "us-4"];
/// The number of teams, by popularity.
pub const TEAMS: u32 = 16;
/// The environments of a team, by popularity: one namespace for each.
pub const ENVIRONMENTS: [&str; 4] = ["prod", "staging", "test", "dev"];
/// The number of namespaces of each cluster.
pub const NAMESPACES: u32 = TEAMS * 4;
/// The number of apps of a namespace, by popularity.
pub const APPS: u32 = 16;
/// The tiers, one for each app.
pub const TIERS: [&str; 5] = ["web", "api", "cache", "db", "batch"];
/// The workloads of a node, on average.
const WORKLOADS_PER_NODE: u32 = 100;

/// How large a fleet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// The number of workloads: at least one for each identity, at most 2^21.
    pub workloads: u32,
    /// The number of identities.
    pub identities: u32,
    /// The number of policies.
    pub policies: u32,
    /// The number of rules of each policy, of both directions together.
    pub rules_per_policy: u32,
}

impl Size {
    /// Returns this size under `cargo bench`; a hundredth of it under `cargo test`, which only looks whether benchmarks run.
    pub fn to_measure(self) -> Size {
        let part = if crate::is_measured() { 1 } else { 100 };
        Size {
            workloads: self.workloads / part,
            identities: self.identities / part,
            policies: self.policies.div_ceil(part),
            rules_per_policy: self.rules_per_policy,
        }
    }
}

/// A fleet: everything in it follows from its size, and what a smaller fleet has is the same in a larger one.
#[derive(Clone, Debug)]
pub struct Fleet {
    size: Size,
    words: Words,
    rollouts: Vec<Rollout>,
    /// The rollout of each workload.
    of_workload: Vec<u32>,
}

/// What all pods of a rollout have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rollout {
    cluster: u32,
    namespace: u32,
    app: u32,
    version: u32,
    canary: bool,
}

/// Names and label texts, made once and shared.
#[derive(Clone, Debug)]
struct Words {
    clusters: Vec<ClusterName>,
    namespaces: Vec<NamespaceName>,
    apps: Vec<Arc<str>>,
    tiers: Vec<Arc<str>>,
    versions: Vec<Arc<str>>,
    /// `app`, `tier`, `version`, `track`, `pod-template-hash`.
    keys: [Arc<str>; 5],
    tracks: [Arc<str>; 2],
    ports: [Arc<str>; 2],
}

impl Words {
    fn new() -> Words {
        let numbered = |name: &str, count: u32| (0..count).map(|number| format!("{name}-{number}").into()).collect();
        Words {
            clusters: CLUSTERS.iter().map(|name| name.parse().expect("valid")).collect(),
            namespaces: (0..NAMESPACES).map(|number| namespace_name(number).parse().expect("valid")).collect(),
            apps: numbered("app", APPS),
            tiers: TIERS.iter().map(|tier| (*tier).into()).collect(),
            versions: numbered("v", 20),
            keys: ["app", "tier", "version", "track", "pod-template-hash"].map(Into::into),
            tracks: ["stable", "canary"].map(Into::into),
            ports: ["http", "metrics"].map(Into::into),
        }
    }
}

fn namespace_name(number: u32) -> String {
    format!("{}-{}", team(number), environment(number))
}

fn team(namespace: u32) -> String {
    format!("team-{}", namespace / 4)
}

fn environment(namespace: u32) -> &'static str {
    ENVIRONMENTS[namespace as usize % ENVIRONMENTS.len()]
}

fn tier(app: u32) -> &'static str {
    TIERS[app as usize % TIERS.len()]
}

impl Fleet {
    /// Makes the fleet of `size`.
    pub fn new(size: Size) -> Fleet {
        assert!(size.identities <= size.workloads && size.workloads <= 1 << 21, "every identity has a workload: {size:?}");
        let (namespaces, apps, versions) = (Ranks::zipf(NAMESPACES), Ranks::zipf(APPS), Ranks::zipf(20));
        let rollout = |number| {
            let random = &mut Random::of("rollout", number);
            Rollout {
                cluster: random.below(CLUSTERS.len() as u32),
                namespace: namespaces.draw(random),
                app: apps.draw(random),
                version: versions.draw(random),
                canary: random.percent(10),
            }
        };
        let (shares, mut random) = (Ranks::gentle(size.identities.max(1)), Random::of("shares", 0));
        let others = (size.identities..size.workloads).map(|_| shares.draw(&mut random));
        Fleet {
            size,
            words: Words::new(),
            rollouts: (0..u64::from(size.identities)).map(rollout).collect(),
            of_workload: (0..size.identities).chain(others).collect(),
        }
    }

    /// Returns the fleet's size.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Returns the address of a workload.
    pub fn address(&self, workload: u32) -> IpAddr {
        // 10.0.0.0/8 is eight blocks of 2^21 addresses, one for each cluster.
        let cluster = self.rollout(workload).cluster;
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | cluster << 21 | workload))
    }

    /// Returns the workload that has `address`.
    pub fn workload_at(&self, address: IpAddr) -> Option<u32> {
        let IpAddr::V4(v4) = address else { return None };
        let number = v4.to_bits() & ((1 << 21) - 1);
        (number < self.size.workloads && self.address(number) == address).then_some(number)
    }

    /// Returns a workload.
    pub fn workload(&self, number: u32) -> Workload {
        self.pod(number, self.of_workload[number as usize])
    }

    /// Returns a workload as it would be if it were of another rollout of its namespace: the first one of another app, which
    /// other rules select.
    pub fn relabelled(&self, number: u32) -> Option<Workload> {
        let own = self.rollout(number);
        let other = self
            .rollouts
            .iter()
            .position(|other| (other.cluster, other.namespace) == (own.cluster, own.namespace) && other.app != own.app)?;
        Some(self.pod(number, u32::try_from(other).expect("as many rollouts as a u32 counts")))
    }

    /// Returns a workload as it would be if its rollout were a new one, that no workload has been of yet.
    pub fn rolled_out(&self, number: u32, fresh: usize) -> Workload {
        let mut workload = self.workload(number);
        let hash = format!("fresh-{fresh}");
        workload.labels = workload.labels.with([("pod-template-hash", hash.as_str())]);
        workload
    }

    /// Tells whether two workloads are of one namespace name.
    pub(crate) fn are_neighbours(&self, one: u32, other: u32) -> bool {
        self.rollout(one).namespace == self.rollout(other).namespace
    }

    fn rollout(&self, workload: u32) -> Rollout {
        self.rollouts[self.of_workload[workload as usize] as usize]
    }

    fn pod(&self, number: u32, rollout: u32) -> Workload {
        let (Rollout { cluster, namespace, app, version, canary }, words) = (self.rollouts[rollout as usize], &self.words);
        let own: Arc<str> = format!("{:010x}", u64::from(rollout).wrapping_mul(0x9e37_79b9) % (1 << 40)).into();
        let values = [
            words.apps[app as usize].clone(),
            words.tiers[app as usize % TIERS.len()].clone(),
            words.versions[version as usize].clone(),
            words.tracks[usize::from(canary)].clone(),
            own.clone(),
        ];
        let port = |name: usize, port| NamedPort { name: words.ports[name].clone(), protocol: Protocol::Tcp, port };
        let http = port(0, [8080, 8000, 3000][app as usize % 3]);
        let metrics = app.is_multiple_of(2).then(|| port(1, 9090));
        Workload {
            id: WorkloadId {
                cluster: words.clusters[cluster as usize].clone(),
                namespace: words.namespaces[namespace as usize].clone(),
                name: ObjectName::new(&format!("app-{app}-{own}-{number}")).expect("valid"),
            },
            // Not shared between the workloads of a rollout: a source makes a map for each.
            labels: words.keys.iter().cloned().zip(values).collect(),
            service_account: words.apps[app as usize].clone(),
            node: Some(node_name(number / self.workloads_per_node())),
            host_network: false,
            addresses: vec![self.address(number)],
            ports: [Some(http), metrics].into_iter().flatten().collect(),
        }
    }

    /// Nodes are filled in the order of the workloads' numbers, which are spread over all clusters.
    fn workloads_per_node(&self) -> u32 {
        WORKLOADS_PER_NODE * CLUSTERS.len() as u32
    }

    fn nodes(&self) -> impl Iterator<Item = Resource> {
        let per_cluster = self.size.workloads.div_ceil(self.workloads_per_node());
        (0..).zip(&self.words.clusters).flat_map(move |(cluster, name)| {
            (0..per_cluster).map(move |number| {
                let address = Ipv4Addr::from_bits(0xac10_0000 | cluster << 16 | number);
                let labels = [("kubernetes.io/os", "linux"), ("pool", ["general", "memory"][number as usize % 2])];
                Resource::Node(Node {
                    id: NodeId { cluster: name.clone(), name: node_name(number) },
                    labels: labels.into_iter().collect(),
                    addresses: vec![address.into()],
                    prefixes: Vec::new(),
                })
            })
        })
    }

    /// Returns a namespace of a cluster with the team that it belongs to: its own, unless moved to another.
    pub fn namespace(&self, cluster: u32, number: u32, owner: Option<&str>) -> Namespace {
        let team = owner.map_or_else(|| team(number), Into::into);
        Namespace {
            cluster: self.words.clusters[cluster as usize].clone(),
            name: self.words.namespaces[number as usize].clone(),
            labels: [("team", team.as_str()), ("env", environment(number))].into_iter().collect(),
        }
    }

    /// Returns everything that the fleet is made of.
    pub fn resources(&self) -> impl Iterator<Item = Resource> {
        let clusters = 0..CLUSTERS.len() as u32;
        let namespaces = clusters.flat_map(|cluster| (0..NAMESPACES).map(move |number| (cluster, number)));
        let namespaces = namespaces.map(|(cluster, number)| Resource::Namespace(self.namespace(cluster, number, None)));
        let workloads = (0..self.size.workloads).map(|number| Resource::Workload(self.workload(number)));
        namespaces.chain(self.nodes()).chain(workloads).chain(self.exports()).chain(self.policies())
    }

    /// Returns the state that knows the fleet.
    pub fn state(&self) -> State {
        let settings = Settings { cross_cluster_default: Some(CrossClusterDefault::Exports), ..Settings::default() };
        let config = StateConfig { fleet: "bench".into(), trust: Trust::Open, settings, domains: Default::default() };
        let mut state = State::new(config);
        for resource in self.resources() {
            let _ = set(&mut state, resource);
        }
        state
    }
}

fn node_name(number: u32) -> ObjectName {
    ObjectName::new(&format!("node-{number}")).expect("valid")
}

/// Tells `state` that `resource` is so; returns what is different now.
pub fn set(state: &mut State, resource: Resource) -> mesh_core::Change {
    state.apply(Event::Set(SourceId("bench".into()), resource), Now::default())
}

/// Tells `state` that there is no `resource` any more; returns what is different now.
pub fn unset(state: &mut State, resource: &Resource) -> mesh_core::Change {
    state.apply(Event::Unset(SourceId("bench".into()), resource.key()), Now::default())
}
