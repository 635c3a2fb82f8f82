//! Clusters that lie with their own key, and strangers who sign for others: all of it lands in the stores.

use mesh_core::{
    Bytes, Labels, Lease, Namespace, Node, NodeId, NodeLink, Record, RecordKey, Resource, SecretKey, Version, WallTime,
    WireGuardKey, Workload, WorkloadId,
};
use std::time::Duration;

use super::fleet::{self, DAWN, address};
use super::store::Path;
use super::world::World;

/// How many ways to lie there are.
pub(super) const LIES: u32 = 12;

impl World<'_> {
    /// Has a cluster sign something that it should not, about itself or another cluster, and puts it into its store.
    pub(super) fn lie(&mut self, cluster: usize, how: u32, about: usize) {
        self.tainted.insert(cluster);
        let key = self.fleet.clusters[cluster].key.clone();
        let version = Version { incarnation: 1 + self.now / 1_000_000, counter: 1_000 + self.rng.below(1_000) };
        for (place, record) in self.lies(cluster, how, about, version).into_iter().enumerate() {
            self.plant(cluster, &record, &key, place);
        }
    }

    /// Has somebody whom no grant names sign for a cluster.
    pub(super) fn stranger(&mut self, cluster: usize, how: u32) {
        let key = SecretKey::from_bytes([66; 32]);
        let version = Version { incarnation: u64::MAX, counter: u64::MAX - 5 };
        for (place, record) in self.lies(cluster, how, cluster, version).into_iter().enumerate() {
            self.plant(cluster, &record, &key, place + 8);
        }
    }

    /// Puts an old record of a cluster into a store again.
    pub(super) fn replay(&mut self, cluster: usize, store: usize, which: usize) {
        let history = &self.stores[cluster].history;
        let Some((path, bytes)) = history.get(which % history.len().max(1)).cloned() else { return };
        self.put(store, &path, &bytes);
    }

    fn plant(&mut self, cluster: usize, record: &Record, key: &SecretKey, place: usize) {
        let signed: Result<Bytes, _> = record.sign(&fleet::root_key_public(), key);
        let Ok(bytes) = signed else { return };
        self.verified.signed(&bytes, [key]);
        // A twin needs a place of its own, or the store would forget the other one.
        let path = Path::new(Some(cluster), format!("{}+{place}", record.key));
        self.put(cluster, &path, &bytes);
    }

    fn lies(&mut self, c: usize, how: u32, about: usize, version: Version) -> Vec<Record> {
        let own = self.fleet.clusters[c].name.clone();
        let other = self.fleet.clusters[about].name.clone();
        let now = WallTime::from_unix_secs(DAWN) + Duration::from_nanos(self.now);
        let node = |name: &str| mesh_core::ObjectName::new(name).expect("a name");
        let record = |key: RecordKey, resources: Vec<Resource>| Record { cluster: own.clone(), version, key, resources };
        let shop: mesh_core::NamespaceName = "shop".parse().expect("a name");
        let slice = RecordKey::Slice(shop.clone(), node("n0"));
        let workload = |namespace: &str, address| {
            let id = WorkloadId { cluster: own.clone(), namespace: namespace.parse().expect("a name"), name: node("liar") };
            Resource::Workload(Workload {
                id,
                labels: [("app", "web")].into_iter().collect(),
                service_account: "default".into(),
                node: Some(node("n0")),
                host_network: false,
                addresses: vec![address],
                ports: Vec::new(),
            })
        };
        let id = NodeId { cluster: own.clone(), name: node("n0") };
        let thief = |prefix| {
            Resource::Node(Node { id: id.clone(), labels: Labels::default(), addresses: Vec::new(), prefixes: vec![prefix] })
        };
        let twin = |text: &str| {
            let labels = [("tier", text)].into_iter().collect();
            Resource::Namespace(Namespace { cluster: own.clone(), name: shop.clone(), labels })
        };
        let foreign = mesh_core::Prefix::host(address(about, 0, 10));
        match how % LIES {
            // Another cluster's address, under its own name; the namespace that nobody has; another node's address.
            0 => vec![record(slice, vec![workload("shop", address(about, 0, 10))])],
            1 => vec![record(
                RecordKey::Slice("secret".parse().expect("a name"), node("n0")),
                vec![workload("secret", address(c, 0, 99))],
            )],
            2 => vec![record(slice, vec![workload("shop", address(c, 200, 10))])],
            // Another cluster's prefix as its node's.
            3 => vec![record(RecordKey::Node(node("n0")), vec![thief(foreign)])],
            // A lease of tomorrow.
            4 => {
                let issued = now + Duration::from_secs(86_400);
                vec![record(
                    RecordKey::Lease,
                    vec![Resource::Lease(Lease { cluster: own.clone(), issued, ttl_seconds: u32::MAX, policies: None })],
                )]
            }
            // Two records of one version.
            5 => ["t1", "t2"].map(|text| record(RecordKey::Namespace(shop.clone()), vec![twin(text)])).into(),
            // A record about something else than its key says; about another cluster.
            6 => vec![record(RecordKey::Lease, vec![workload("shop", address(c, 0, 98))])],
            7 => vec![Record { cluster: other, version, key: slice, resources: Vec::new() }],
            // Tombstones of its own nodes and slices: true, as it says.
            8 => vec![record(slice, Vec::new()), record(RecordKey::Node(node("n0")), Vec::new())],
            // Another node's WireGuard key.
            9 => {
                let stolen = self.fleet.clusters[about].nodes[0];
                let key = self.fleet.nodes[stolen].key;
                let endpoints = vec![self.fleet.nodes[stolen].address];
                let link = NodeLink { id: id.clone(), key, next_key: None, endpoints, overlay: Vec::new() };
                let prefix = self.fleet.nodes[self.fleet.clusters[c].nodes[0]].prefix;
                vec![record(RecordKey::Node(node("n0")), vec![thief(prefix), Resource::NodeLink(link)])]
            }
            // A key of nobody for its own node; a workload of its own that is not there.
            10 => {
                let link = NodeLink {
                    id: id.clone(),
                    key: WireGuardKey([99; 32]),
                    next_key: None,
                    endpoints: Vec::new(),
                    overlay: Vec::new(),
                };
                vec![record(RecordKey::Node(node("n0")), vec![Resource::NodeLink(link)])]
            }
            _ => vec![record(slice, vec![workload("shop", address(c, 0, 97))])],
        }
    }
}
