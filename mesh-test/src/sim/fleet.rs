//! The truth about the simulated fleet: what each cluster's own API says, and what the root has signed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use mesh_core::policy::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PolicyScope, PolicyTier,
    PortMatch, RuleAction, WorkloadMatch,
};
use mesh_core::{
    ClusterName, CrossClusterDefault, Endpoint, EndpointPort, EndpointSlice, ExportTraffic, Grant, Key, NamePattern, Namespace,
    NamespaceName, Node, NodeId, NodeLink, ObjectName, Prefix, Protocol, PublicKey, Requirement, Resource, SecretKey, Selector,
    Service, ServiceExport, ServiceId, ServiceKind, ServicePattern, ServicePort, SessionAffinity, Settings, Traffic, WallTime,
    WireGuardKey, Workload, WorkloadId,
};

use super::script::FleetSpec;

/// The wall clock when a simulation begins, in seconds: a morning in 2026.
pub const DAWN: u64 = 1_790_000_000;
/// The namespaces of every cluster; the third one is granted to nobody.
pub const NAMESPACES: [&str; 3] = ["shop", "bank", "secret"];
/// The labels that workloads may have.
pub const LABELS: [&str; 3] = ["web", "api", "db"];
/// The port of the exported service.
pub const PORTS: [u16; 3] = [80, 443, 5432];

/// The truth.
pub struct Fleet {
    /// The clusters.
    pub clusters: Vec<Cluster>,
    /// The nodes, in the order of their clusters.
    pub nodes: Vec<NodeSpec>,
    /// What holds between clusters.
    pub settings: Settings,
    /// The variant of the fleet policies in force.
    pub fleet_policy: u32,
    slots: usize,
}

/// One cluster.
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// The key that its newest grant names.
    pub key: SecretKey,
    /// The key that its newest grant names as the next one.
    pub next_key: Option<SecretKey>,
    /// Its newest grant.
    pub grant: Arc<Grant>,
    /// The first epoch that counts.
    pub revoked: u64,
    /// What its API says, in the order in which it came to be so.
    pub log: Vec<(Key, Option<Resource>)>,
    /// What its API says now.
    pub facts: BTreeMap<Key, Resource>,
    /// Its nodes, by number in the fleet.
    pub nodes: Vec<usize>,
    /// The workload in each slot: on which of its nodes, with which label and address.
    pub slots: Vec<Option<Placed>>,
}

/// Where a workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The node, by number in the cluster.
    pub node: usize,
    /// The label, by number.
    pub label: usize,
    /// Its address.
    pub address: IpAddr,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name.
    pub id: NodeId,
    /// Its cluster, by number.
    pub cluster: usize,
    /// Its WireGuard key.
    pub key: WireGuardKey,
    /// Where it is on the underlay.
    pub address: SocketAddr,
    /// It is behind a NAT.
    pub nat: bool,
    /// The prefix of its workloads.
    pub prefix: Prefix,
}

fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("the simulator makes good names")
}

/// Returns the key of a cluster in its `life`-th life. The first ones are made once: a key costs as much as a signature.
pub fn cluster_key(cluster: usize, life: u64) -> SecretKey {
    const CLUSTERS: usize = 4;
    const LIVES: u64 = 8;
    static FIRST: LazyLock<Vec<SecretKey>> =
        LazyLock::new(|| (1..=LIVES).flat_map(|life| (0..CLUSTERS).map(move |cluster| make_key(cluster, life))).collect());
    if cluster < CLUSTERS && (1..=LIVES).contains(&life) {
        return FIRST[(life as usize - 1) * CLUSTERS + cluster].clone();
    }
    make_key(cluster, life)
}

fn make_key(cluster: usize, life: u64) -> SecretKey {
    let mut seed = [7; 32];
    seed[0] = u8::try_from(cluster).expect("few clusters");
    seed[1..9].copy_from_slice(&life.to_le_bytes());
    SecretKey::from_bytes(seed)
}

/// Returns the root's key.
pub fn root_key() -> &'static SecretKey {
    static KEY: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_bytes([1; 32]));
    &KEY
}

/// Returns the root's public key.
pub fn root_key_public() -> PublicKey {
    root_key().public()
}

impl Fleet {
    /// Makes the fleet of `spec`.
    pub fn new(spec: &FleetSpec) -> Fleet {
        let default = [CrossClusterDefault::Exports, CrossClusterDefault::Allow, CrossClusterDefault::Deny];
        let settings =
            Settings { cross_cluster_default: Some(default[spec.default as usize % default.len()]), ..Settings::default() };
        let slots = (spec.workloads * 2).clamp(1, 40);
        let mut fleet = Fleet { clusters: Vec::new(), nodes: Vec::new(), settings, fleet_policy: 0, slots };
        for (c, count) in spec.nodes.iter().enumerate() {
            let key = cluster_key(c, 1);
            let cluster: ClusterName = name(&format!("c{c}"));
            let grant = Arc::new(grant(c, &cluster, &key, 1));
            let mut own = Cluster {
                name: cluster.clone(),
                key,
                next_key: None,
                grant,
                revoked: 0,
                log: Vec::new(),
                facts: BTreeMap::new(),
                nodes: Vec::new(),
                slots: vec![None; slots],
            };
            for n in 0..*count {
                let index = fleet.nodes.len();
                let id = NodeId { cluster: cluster.clone(), name: name(&format!("n{n}")) };
                let prefix = Prefix::new(address(c, n, 0), 24).expect("a prefix");
                let mut key = [9; 32];
                key[0] = u8::try_from(index).expect("few nodes");
                let node = NodeSpec {
                    id: id.clone(),
                    cluster: c,
                    key: WireGuardKey(key),
                    address: SocketAddr::from(([192, 0, 2, u8::try_from(index + 1).expect("few nodes")], 51820)),
                    nat: spec.nat >> index & 1 == 1,
                    prefix,
                };
                own.set(Resource::Node(Node {
                    id: id.clone(),
                    labels: [("node", id.name.as_str())].into_iter().collect(),
                    addresses: vec![node.address.ip()],
                    prefixes: vec![prefix],
                }));
                let endpoints = if node.nat { Vec::new() } else { vec![node.address] };
                let overlay = vec![address(c, n, 1)];
                own.set(Resource::NodeLink(NodeLink { id, key: node.key, next_key: None, endpoints, overlay }));
                own.nodes.push(index);
                fleet.nodes.push(node);
            }
            for namespace in &NAMESPACES[..2] {
                own.set(own.namespace(namespace, 0));
            }
            own.set(own.service());
            fleet.clusters.push(own);
            for slot in 0..spec.workloads.min(slots) {
                fleet.place(c, slot, slot % count, slot % LABELS.len(), None);
            }
        }
        fleet
    }

    /// Returns the number of slots of a cluster.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Puts a workload on a node, at its usual address there or at `at`.
    pub fn place(&mut self, c: usize, slot: usize, node: usize, label: usize, at: Option<IpAddr>) {
        let host = 10 + u8::try_from(slot).expect("few slots");
        let address = at.unwrap_or_else(|| address(c, node, host));
        // Who had the address before is gone first.
        let cluster = &mut self.clusters[c];
        let before = cluster.slots.iter().position(|placed| placed.is_some_and(|placed| placed.address == address));
        if let Some(other) = before.filter(|other| *other != slot) {
            cluster.remove(other);
        }
        cluster.slots[slot] = Some(Placed { node, label, address });
        cluster.set(cluster.workload(slot, node, label, address));
        cluster.set(cluster.endpoints());
    }

    /// Returns every workload: its cluster, its slot, and where it is.
    pub fn workloads(&self) -> Vec<(usize, usize, Placed)> {
        let of = |(c, cluster): (usize, &Cluster)| {
            cluster.slots.iter().enumerate().filter_map(move |(s, placed)| Some((c, s, (*placed)?))).collect::<Vec<_>>()
        };
        self.clusters.iter().enumerate().flat_map(of).collect()
    }

    /// Returns the node, by number in the fleet, that a workload is on.
    pub fn node_of(&self, cluster: usize, placed: &Placed) -> usize {
        self.clusters[cluster].nodes[placed.node]
    }

    /// Returns the node whose prefix holds `address`.
    pub fn owner(&self, address: IpAddr) -> Option<usize> {
        self.nodes.iter().position(|node| node.prefix.contains(address))
    }
}

impl Cluster {
    /// Makes a fact so.
    pub fn set(&mut self, resource: Resource) {
        let key = resource.key();
        if self.facts.get(&key) == Some(&resource) {
            return;
        }
        self.facts.insert(key.clone(), resource.clone());
        self.log.push((key, Some(resource)));
    }

    /// Ends a fact.
    pub fn unset(&mut self, key: Key) {
        if self.facts.remove(&key).is_some() {
            self.log.push((key, None));
        }
    }

    /// Ends the workload in a slot.
    pub fn remove(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.unset(Key::Workload(self.workload_id(slot)));
        self.set(self.endpoints());
    }

    /// Returns the name of the workload in a slot.
    pub fn workload_id(&self, slot: usize) -> WorkloadId {
        WorkloadId { cluster: self.name.clone(), namespace: name(NAMESPACES[slot % 2]), name: name(&format!("w{slot}")) }
    }

    /// Returns a workload.
    pub fn workload(&self, slot: usize, node: usize, label: usize, address: IpAddr) -> Resource {
        Resource::Workload(Workload {
            id: self.workload_id(slot),
            labels: [("app", LABELS[label % LABELS.len()])].into_iter().collect(),
            service_account: "default".into(),
            node: Some(name(&format!("n{node}"))),
            host_network: false,
            addresses: vec![address],
            ports: Vec::new(),
        })
    }

    /// Returns a namespace with a label.
    pub fn namespace(&self, namespace: &str, value: u32) -> Resource {
        let labels = [("tier", format!("t{}", value % 3))].into_iter().collect();
        Resource::Namespace(Namespace { cluster: self.name.clone(), name: name(namespace), labels })
    }

    /// Returns the name of the service that every cluster has.
    pub fn service_id() -> ServiceId {
        ServiceId { namespace: name("shop"), name: name("api") }
    }

    fn service(&self) -> Resource {
        let port = ServicePort { name: None, protocol: Protocol::Udp, port: PORTS[1], app_protocol: None };
        Resource::Service(Service {
            cluster: self.name.clone(),
            id: Cluster::service_id(),
            kind: ServiceKind::ClusterIp,
            addresses: Vec::new(),
            ports: vec![port],
            affinity: SessionAffinity::None,
            traffic: Traffic::default(),
            publish_not_ready: false,
            external_name: None,
        })
    }

    /// Returns the endpoints of the service: the workloads of `shop` that are labelled so.
    fn endpoints(&self) -> Resource {
        let ports = vec![EndpointPort { name: None, protocol: Protocol::Udp, port: Some(PORTS[1]) }];
        let backends =
            self.slots.iter().enumerate().filter_map(|(slot, placed)| placed.filter(|p| slot % 2 == 0 && p.label == 1));
        let endpoint = |placed: Placed| Endpoint {
            addresses: vec![placed.address],
            ready: true,
            terminating: false,
            hostname: None,
            node: None,
            ports: ports.clone(),
        };
        Resource::EndpointSlice(EndpointSlice {
            cluster: self.name.clone(),
            name: name("api-1"),
            service: Cluster::service_id(),
            endpoints: backends.map(endpoint).collect(),
        })
    }

    /// Exports the service, or not.
    pub fn export(&mut self, on: bool) {
        let export = ServiceExport {
            cluster: self.name.clone(),
            id: Cluster::service_id(),
            created: Some(WallTime::from_unix_secs(DAWN)),
            traffic: ExportTraffic::default(),
        };
        let export = Resource::ServiceExport(export);
        if on { self.set(export) } else { self.unset(export.key()) }
    }

    /// Sets the NetworkPolicy of a namespace and the ClusterNetworkPolicy of the cluster by number.
    pub fn policy(&mut self, namespace: usize, variant: u32) {
        let scope = PolicyScope::Cluster(self.name.clone());
        let namespace: NamespaceName = name(NAMESPACES[namespace % 2]);
        let policy: ObjectName = name("p");
        let key = Key::NetworkPolicy(scope.clone(), namespace.clone(), policy.clone());
        let (ingress, egress) = match variant % 7 {
            0 => return self.unset(key),
            1 => (Some(Vec::new()), None),
            2 => (Some(vec![rule(peer(Some(Selector::ALL), Some(app(0))), None)]), None),
            3 => (Some(vec![rule(peer(None, Some(app(1))), Some(PORTS[0]))]), None),
            4 => (None, Some(vec![rule(peer(Some(tier(1)), None), None)])),
            5 => (Some(vec![rule(peer(Some(tier(2)), Some(app(2))), Some(PORTS[2]))]), Some(vec![NetworkPolicyRule::default()])),
            _ => (Some(vec![NetworkPolicyRule::default()]), None),
        };
        let subject = if variant.is_multiple_of(2) { Selector::ALL } else { app(variant as usize) };
        let policy = NetworkPolicy { scope, namespace, name: policy, subject, ingress, egress };
        self.set(Resource::NetworkPolicy(Arc::new(policy)));
    }
}

/// Returns the fleet policies of a variant, as the manifests that the root signs.
pub fn fleet_policies(variant: u32) -> Vec<(String, String)> {
    let (action, app) = match variant % 3 {
        0 => return Vec::new(),
        1 => ("Deny", LABELS[2]),
        _ => ("Accept", LABELS[0]),
    };
    let text = format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: gate}}\nspec:\n  tier: Admin\n  \
         priority: 10\n  subject: {{namespaces: {{}}}}\n  ingress:\n    - name: one\n      action: {action}\n      from: [{{pods: \
         {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: {app}}}}}}}}}]\n"
    );
    vec![("gate.yaml".into(), text)]
}

/// Returns the same as a fact.
pub fn fleet_policy(variant: u32) -> Option<Resource> {
    let (action, label) = match variant % 3 {
        0 => return None,
        1 => (RuleAction::Deny, 2),
        _ => (RuleAction::Accept, 0),
    };
    let peer = ClusterPeer::Workloads(WorkloadMatch { namespaces: Selector::ALL, pods: Some(app(label)) });
    Some(Resource::ClusterNetworkPolicy(Arc::new(ClusterNetworkPolicy {
        scope: PolicyScope::Fleet,
        name: name("gate"),
        tier: PolicyTier::Admin,
        priority: 10,
        subject: WorkloadMatch { namespaces: Selector::ALL, pods: None },
        ingress: vec![ClusterRule { action, peers: vec![peer], protocols: Vec::new(), unknown: false }],
        egress: Vec::new(),
    })))
}

/// Returns a cluster's grant of an epoch.
pub fn grant(c: usize, cluster: &ClusterName, key: &SecretKey, epoch: u64) -> Grant {
    let prefix = |second: u8| Prefix::new(IpAddr::from(Ipv4Addr::new(second, c as u8 + 1, 0, 0)), 16).expect("a prefix");
    Grant {
        cluster: cluster.clone(),
        key: Some(key.public()),
        next_key: None,
        prefixes: vec![prefix(10)],
        service_prefixes: vec![prefix(100)],
        namespaces: NAMESPACES[..2].iter().map(|namespace| NamePattern((*namespace).into())).collect(),
        exports: vec!["shop/*".parse::<ServicePattern>().expect("a pattern")],
        attributes: BTreeMap::new(),
        not_before: WallTime::from_unix_secs(DAWN - 3600),
        not_after: WallTime::from_unix_secs(DAWN + 365 * 86_400),
        epoch,
    }
}

/// Returns an address of a node of a cluster.
pub fn address(cluster: usize, node: usize, host: u8) -> IpAddr {
    let byte = |value: usize| u8::try_from(value).expect("a small fleet");
    IpAddr::from(Ipv4Addr::new(10, byte(cluster + 1), byte(node), host))
}

fn app(label: usize) -> Selector {
    Selector { requirements: vec![Requirement::In("app".into(), vec![LABELS[label % LABELS.len()].into()])] }
}

fn tier(value: u32) -> Selector {
    Selector { requirements: vec![Requirement::In("tier".into(), vec![format!("t{value}").into()])] }
}

fn peer(namespaces: Option<Selector>, pods: Option<Selector>) -> NetworkPolicyPeer {
    NetworkPolicyPeer::Workloads { namespaces, pods }
}

fn rule(peer: NetworkPolicyPeer, port: Option<u16>) -> NetworkPolicyRule {
    let ports = port.map(|port| PortMatch::Range(Protocol::Udp, port, port)).into_iter().collect();
    NetworkPolicyRule { peers: vec![peer], ports }
}
