//! A fleet of three nodes for tests: `web` and `cart` on `east/n1`, `db` on `west/n1`, nobody on `west/n2`.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::policy::{NetworkPolicy, NetworkPolicyRule, PolicyScope};
use mesh_core::{
    CrossClusterDefault, Event, Grant, Key, Labels, NamePattern, Node, NodeId, NodeLink, Now, Prefix, Requirement, Resource,
    Selector, ServicePattern, Settings, SourceId, State, StateConfig, Trust, WallTime, WireGuardKey, Workload,
};
use mesh_policy::{Compiler, PolicySet};

use crate::plan::{Plan, Scope};
use crate::planner::Planner;

pub(crate) const WEB: &str = "10.1.0.5";
pub(crate) const CART: &str = "10.1.0.6";
pub(crate) const DB: &str = "10.2.0.9";
pub(crate) const WEB6: &str = "fd00:1::5";
pub(crate) const DB6: &str = "fd00:2::9";
/// In the prefix of `east/n1`, and no workload's.
pub(crate) const UNKNOWN: &str = "10.2.0.77";

pub(crate) struct Fleet {
    pub(crate) state: State,
    compiler: Compiler,
}

impl Fleet {
    pub(crate) fn new() -> Fleet {
        let settings = Settings { cross_cluster_default: Some(CrossClusterDefault::Allow), ..Settings::default() };
        let config = StateConfig { fleet: "test".into(), trust: Trust::Declared, settings, domains: BTreeMap::new() };
        let mut fleet = Fleet { state: State::new(config), compiler: Compiler::new() };
        fleet.set(grant("east", &["10.1.0.0/16", "fd00:1::/48"]));
        fleet.set(grant("west", &["10.2.0.0/15", "fd00:2::/48"]));
        fleet.node("east/n1", 1, &["10.1.0.0/24", "fd00:1::/64"]);
        fleet.node("west/n1", 2, &["10.2.0.0/24", "fd00:2::/64"]);
        fleet.node("west/n2", 3, &["10.3.0.0/24"]);
        fleet.workload("east/shop/web", "n1", &[WEB, WEB6]);
        fleet.workload("east/shop/cart", "n1", &[CART]);
        fleet.workload("west/shop/db", "n1", &[DB, DB6]);
        fleet
    }

    pub(crate) fn set(&mut self, resource: Resource) {
        let change = self.state.apply(Event::Set(SourceId("test".into()), resource), Now::default());
        assert!(change.refusals.is_empty(), "{change:?}");
        self.compiler.update(&self.state, &change);
    }

    pub(crate) fn unset(&mut self, key: Key) {
        let change = self.state.apply(Event::Unset(SourceId("test".into()), key), Now::default());
        self.compiler.update(&self.state, &change);
    }

    pub(crate) fn node(&mut self, id: &str, number: u8, prefixes: &[&str]) {
        let id = node_id(id);
        let prefixes: Vec<Prefix> = prefixes.iter().map(|text| prefix(text)).collect();
        let overlay = prefixes.iter().map(|p| p.address()).collect();
        self.set(Resource::Node(Node { id: id.clone(), labels: Labels::default(), addresses: Vec::new(), prefixes }));
        let endpoints = vec![([192, 0, 2, number], 51820).into()];
        self.set(Resource::NodeLink(NodeLink { id, key: WireGuardKey([number; 32]), next_key: None, endpoints, overlay }));
    }

    pub(crate) fn workload(&mut self, id: &str, node: &str, addresses: &[&str]) {
        let id: mesh_core::WorkloadId = id.parse().expect("a workload");
        self.set(Resource::Workload(Workload {
            labels: [("app", id.name.as_str())].into_iter().collect(),
            id,
            service_account: "default".into(),
            node: Some(node.parse().expect("a name")),
            host_network: false,
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            ports: Vec::new(),
        }));
    }

    /// Isolates an app of `east/shop`: `Some(true)` lets everything through, `Some(false)` nothing, `None` does not isolate.
    pub(crate) fn isolate(&mut self, app: &str, ingress: Option<bool>, egress: Option<bool>) {
        let rules = |open: bool| if open { vec![NetworkPolicyRule::default()] } else { Vec::new() };
        self.set(Resource::NetworkPolicy(Arc::new(NetworkPolicy {
            scope: PolicyScope::Cluster("east".parse().expect("a name")),
            namespace: "shop".parse().expect("a name"),
            name: app.parse().expect("a name"),
            subject: Selector { requirements: vec![Requirement::In("app".into(), vec![app.into()])] },
            ingress: ingress.map(rules),
            egress: egress.map(rules),
        })));
    }

    pub(crate) fn policy(&self) -> &Arc<PolicySet> {
        self.compiler.current()
    }

    pub(crate) fn plan(&self, node: &str, scope: Scope) -> Plan {
        Planner::new(node_id(node), scope).plan(&self.state, self.policy())
    }
}

pub(crate) fn node_id(text: &str) -> NodeId {
    text.parse().expect("a node")
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn grant(cluster: &str, prefixes: &[&str]) -> Resource {
    Resource::Grant(Arc::new(Grant {
        cluster: cluster.parse().expect("a name"),
        key: None,
        next_key: None,
        prefixes: prefixes.iter().map(|text| prefix(text)).collect(),
        service_prefixes: Vec::new(),
        namespaces: vec![NamePattern("*".into())],
        exports: vec!["*".parse::<ServicePattern>().expect("a pattern")],
        attributes: BTreeMap::new(),
        not_before: WallTime::from_unix_secs(0),
        not_after: WallTime::from_unix_secs(u32::MAX.into()),
        epoch: 0,
    }))
}
