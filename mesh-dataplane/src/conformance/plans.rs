//! Small plans, made of a seed: equal seeds give equal plans.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use mesh_core::policy::{NetworkPolicy, PolicyScope};
use mesh_core::{
    ClusterName, Event, Labels, NamespaceName, NodeId, Now, ObjectName, Prefix, Protocol, Resource, Selector, SessionAffinity,
    Settings, SourceId, State, StateConfig, Trust, WireGuardKey, Workload, WorkloadId,
};
use mesh_policy::{Compiler, PolicySet};

use crate::plan::{Backends, Frontend, Local, Peer, PeerKeys, Plan, Scope, ServiceTable};

/// Nodes and prefixes are few, so that plans share some and differ in others.
const NODES: u8 = 4;
const PREFIXES: u8 = 6;

/// Makes plans by the numbers of a seed.
#[derive(Clone, Debug)]
pub struct Plans {
    numbers: u64,
    policies: Vec<Arc<PolicySet>>,
}

impl Plans {
    /// Begins with `seed`.
    pub fn new(seed: u64) -> Plans {
        Plans { numbers: seed, policies: (0..3).map(policy).collect() }
    }

    /// Makes a plan with every peer and prefix.
    pub fn full(&mut self) -> Plan {
        let peers: BTreeMap<NodeId, Peer> = (0..NODES).map(|index| (node(index), peer(index, 0))).collect();
        let routes = (0..PREFIXES).flat_map(|index| prefixes(index).map(|prefix| (prefix, node(index % NODES)))).collect();
        self.plan(peers, routes)
    }

    /// Makes any plan, an empty one included.
    pub fn any(&mut self) -> Plan {
        let mut peers = BTreeMap::new();
        for index in 0..NODES {
            if self.below(3) > 0 {
                let epoch = self.below(3) as u8;
                peers.insert(node(index), peer(index, epoch));
            }
        }
        let mut routes = BTreeMap::new();
        for prefix in (0..PREFIXES).flat_map(prefixes) {
            let owner = peers.keys().nth(self.below(u64::from(NODES) + 1) as usize);
            routes.extend(owner.map(|owner| (prefix, owner.clone())));
        }
        self.plan(peers, routes)
    }

    /// Returns `plan` with other keys for its peers.
    pub fn renewed_keys(&self, plan: &Plan) -> Plan {
        let renewed = |peer: &Peer| Peer {
            keys: PeerKeys { current: WireGuardKey(peer.keys.current.0.map(|byte| byte ^ 0x55)), next: None },
            endpoints: peer.endpoints.clone(),
        };
        let peers = plan.peers.iter().map(|(node, peer)| (node.clone(), renewed(peer)));
        Plan { peers: Arc::new(peers.collect()), ..plan.clone() }
    }

    fn plan(&mut self, peers: BTreeMap<NodeId, Peer>, routes: BTreeMap<Prefix, NodeId>) -> Plan {
        let which = self.below(3) as usize;
        let policy = self.policies[which].clone();
        let local_index = 100 + self.below(2) as u8;
        let overlay: Vec<IpAddr> = prefixes(local_index).map(|prefix| after(prefix.address(), 1)).into();
        let guarded: BTreeSet<Prefix> = (0..4).filter(|_| self.below(2) == 0).flat_map(|index| prefixes(200 + index)).collect();
        Plan {
            policy,
            services: Arc::new(self.services()),
            peers: Arc::new(peers),
            routes: Arc::new(routes),
            local: Local { node: node(100), prefixes: prefixes(local_index).into(), overlay, scope: Scope::Node },
            guarded: Arc::new(guarded),
        }
    }

    fn services(&mut self) -> ServiceTable {
        let mut table = BTreeMap::new();
        for last in 1..4 {
            let address = if last % 2 == 0 { v6(230, last) } else { IpAddr::V4(Ipv4Addr::new(10, 64, 230, last)) };
            let ready = (0..self.below(3) as u8).map(|n| {
                let backend = prefixes(n)[usize::from(address.is_ipv6())].address();
                (after(backend, 10), 8080)
            });
            let ready: Vec<_> = ready.collect();
            let affinity = match self.below(2) {
                0 => SessionAffinity::None,
                _ => SessionAffinity::ClientIp { timeout_seconds: 600 },
            };
            if self.below(3) > 0 {
                let protocol = if last == 3 { Protocol::Udp } else { Protocol::Tcp };
                table.insert(Frontend { address, protocol, port: 80 }, Backends::alike(affinity, &ready));
            }
        }
        ServiceTable(table)
    }

    /// The next number below `limit` (SplitMix64).
    fn below(&mut self, limit: u64) -> u64 {
        self.numbers = self.numbers.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.numbers;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % limit
    }
}

fn node(index: u8) -> NodeId {
    let cluster = if index < 100 { "west" } else { "east" };
    format!("{cluster}/node-{index}").parse().expect("a node's name")
}

fn peer(index: u8, epoch: u8) -> Peer {
    let key = |epoch| WireGuardKey([[1 + index; 16], [1 + epoch; 16]].concat().try_into().expect("16 and 16 are 32"));
    let endpoint = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 51_821 + u16::from(index));
    Peer {
        keys: PeerKeys { current: key(epoch), next: (epoch == 1).then(|| key(2)) },
        endpoints: if index == 0 { Vec::new() } else { vec![endpoint] },
    }
}

fn prefixes(index: u8) -> [Prefix; 2] {
    let v4 = IpAddr::V4(Ipv4Addr::new(10, 64, index, 0));
    [Prefix::new(v4, 24), Prefix::new(v6(index, 0), 64)].map(|prefix| prefix.expect("the length fits the family"))
}

fn v6(index: u8, last: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x64, 0, index.into(), 0, 0, 0, last.into()))
}

fn after(address: IpAddr, by: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from(u32::from(address) + u32::from(by))),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) + u128::from(by))),
    }
}

/// A policy that differs from number to number: that many workloads, all isolated.
fn policy(number: u8) -> Arc<PolicySet> {
    let (cluster, namespace) = (ClusterName::new("west").expect("a name"), NamespaceName::new("shop").expect("a name"));
    let config =
        StateConfig { fleet: "conformance".into(), trust: Trust::Open, settings: Settings::default(), domains: BTreeMap::new() };
    let mut state = State::new(config);
    let isolate = NetworkPolicy {
        scope: PolicyScope::Cluster(cluster.clone()),
        namespace: namespace.clone(),
        name: ObjectName::new("isolate").expect("a name"),
        subject: Selector::ALL,
        ingress: Some(Vec::new()),
        egress: None,
    };
    let workloads = (0..number).map(|index| {
        Resource::Workload(Workload {
            id: WorkloadId {
                cluster: cluster.clone(),
                namespace: namespace.clone(),
                name: ObjectName::new(&format!("web-{index}")).expect("a name"),
            },
            labels: Labels::default(),
            service_account: "default".into(),
            node: None,
            host_network: false,
            addresses: vec![after(prefixes(index)[0].address(), 10)],
            ports: Vec::new(),
        })
    });
    let mut compiler = Compiler::new();
    for resource in workloads.chain([Resource::NetworkPolicy(Arc::new(isolate))]) {
        let change = state.apply(Event::Set(SourceId("plans".into()), resource), Now::default());
        compiler.update(&state, &change);
    }
    compiler.current().clone()
}
