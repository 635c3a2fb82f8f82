//! Small fleets, told in few words.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::policy::*;
use mesh_core::*;
use mesh_policy::{PolicySet, naive};

/// A state and the words to fill and to ask it.
pub(crate) struct Fleet {
    pub(crate) state: State,
}

fn source() -> SourceId {
    SourceId("test".into())
}

pub(crate) fn now() -> Now {
    Now { time: Time::default(), wall: WallTime::default() }
}

pub(crate) fn labels(text: &str) -> Labels {
    text.split_terminator(',').map(|pair| pair.split_once('=').expect("key=value")).collect()
}

/// Reads `key=value` requirements, `!key` for DoesNotExist, `key!=value` for NotIn; empty for everything.
pub(crate) fn selector(text: &str) -> Selector {
    let requirement = |part: &str| match (part.strip_prefix('!'), part.split_once("!="), part.split_once('=')) {
        (Some(key), ..) => Requirement::DoesNotExist(key.into()),
        (_, Some((key, value)), _) => Requirement::NotIn(key.into(), vec![value.into()]),
        (_, _, Some((key, value))) => Requirement::In(key.into(), vec![value.into()]),
        _ => Requirement::Exists(part.into()),
    };
    Selector { requirements: text.split_terminator(',').map(requirement).collect() }
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Fleet {
    /// Makes a fleet of plain directories without grants.
    pub(crate) fn open() -> Fleet {
        Fleet::with(Trust::Open, Settings::default())
    }

    pub(crate) fn with(trust: Trust, settings: Settings) -> Fleet {
        let domains = [("api.example.com", "192.0.2.7"), ("a.b.example.com", "192.0.2.8"), ("example.com", "192.0.2.9")];
        let domains = domains.into_iter().map(|(name, address)| (Arc::from(name), vec![ip(address)])).collect();
        Fleet { state: State::new(StateConfig { fleet: "test".into(), trust, settings, domains }) }
    }

    pub(crate) fn set(&mut self, resource: Resource) -> Change {
        self.state.apply(Event::Set(source(), resource), now())
    }

    pub(crate) fn unset(&mut self, key: Key) -> Change {
        self.state.apply(Event::Unset(source(), key), now())
    }

    pub(crate) fn namespace(&mut self, cluster: &str, name: &str, text: &str) -> &mut Fleet {
        let (cluster, name) = (cluster.parse().expect("name"), name.parse().expect("name"));
        let _ = self.set(Resource::Namespace(Namespace { cluster, name, labels: labels(text) }));
        self
    }

    pub(crate) fn node(&mut self, id: &str, addresses: &str, text: &str) -> &mut Fleet {
        let addresses = addresses.split_terminator(',').map(ip).collect();
        let id = id.parse().expect("name");
        let _ = self.set(Resource::Node(Node { id, labels: labels(text), addresses, prefixes: Vec::new() }));
        self
    }

    /// Adds a pod on node `n1`; `ports` are `name:port/protocol`.
    pub(crate) fn pod(&mut self, id: &str, addresses: &str, text: &str, ports: &str) -> &mut Fleet {
        let _ = self.set(Resource::Workload(workload(id, addresses, text, ports)));
        self
    }

    pub(crate) fn network_policy(&mut self, policy: NetworkPolicy) -> &mut Fleet {
        let _ = self.set(Resource::NetworkPolicy(Arc::new(policy)));
        self
    }

    pub(crate) fn cluster_policy(&mut self, policy: ClusterNetworkPolicy) -> &mut Fleet {
        let _ = self.set(Resource::ClusterNetworkPolicy(Arc::new(policy)));
        self
    }

    /// Grants a cluster its prefix, the namespace `shop` and exports of it.
    pub(crate) fn grant(&mut self, cluster: &str, prefixes: &str, attributes: &str) -> &mut Fleet {
        let _ = self.set(Resource::Grant(Arc::new(Grant {
            cluster: cluster.parse().expect("name"),
            key: None,
            next_key: None,
            prefixes: prefixes.split_terminator(',').map(prefix).collect(),
            service_prefixes: Vec::new(),
            namespaces: vec![NamePattern("shop".into())],
            exports: vec!["shop/*".parse().expect("pattern")],
            attributes: labels(attributes).iter().map(|(key, value)| (key.into(), value.into())).collect(),
            not_before: WallTime::default(),
            not_after: WallTime::default(),
            epoch: 0,
        })));
        self
    }

    /// Asks for a side of `10.1.0.1 > 10.2.0.1:80/TCP` and answers `Verdict`'s own text; both evaluators must agree.
    pub(crate) fn ask(&self, text: &str, direction: Direction) -> String {
        let tuple = tuple(text);
        let expected = naive::decide(&self.state, &tuple, direction);
        let set = PolicySet::compile(&self.state);
        assert_eq!(set.named(set.decide(&set.flow(&tuple), direction)), expected, "{text} {direction}");
        expected.to_string()
    }

    pub(crate) fn ingress(&self, text: &str) -> String {
        self.ask(text, Direction::Ingress)
    }

    pub(crate) fn egress(&self, text: &str) -> String {
        self.ask(text, Direction::Egress)
    }
}

pub(crate) fn workload(id: &str, addresses: &str, text: &str, ports: &str) -> Workload {
    let named = |text: &str| {
        let (name, rest) = text.split_once(':').expect("name:port/protocol");
        let (port, protocol) = rest.split_once('/').expect("port/protocol");
        let protocol = Protocol::parse(protocol).expect("a protocol");
        NamedPort { name: name.into(), protocol, port: port.parse().expect("a port") }
    };
    Workload {
        id: id.parse().expect("cluster/namespace/pod"),
        labels: labels(text),
        service_account: "default".into(),
        node: Some("n1".parse().expect("name")),
        host_network: false,
        addresses: addresses.split_terminator(',').map(ip).collect(),
        ports: ports.split_terminator(',').map(named).collect(),
    }
}

/// Reads `10.1.0.1 > 10.2.0.1 80/TCP` (any port: 0).
pub(crate) fn tuple(text: &str) -> FiveTuple {
    let (source, rest) = text.split_once(" > ").expect("source > destination");
    let (destination, rest) = rest.split_once(' ').expect("destination port/protocol");
    let (port, protocol) = rest.split_once('/').expect("port/protocol");
    FiveTuple {
        source: ip(source),
        destination: ip(destination),
        protocol: Protocol::parse(protocol).expect("a protocol"),
        source_port: 40000,
        destination_port: port.parse().expect("a port"),
    }
}

pub(crate) fn own(cluster: &str) -> PolicyScope {
    PolicyScope::Cluster(cluster.parse().expect("name"))
}

/// Makes a NetworkPolicy of `shop` without rules in either direction.
pub(crate) fn network_policy(scope: PolicyScope, name: &str, subject: &str) -> NetworkPolicy {
    NetworkPolicy {
        scope,
        namespace: "shop".parse().expect("name"),
        name: name.parse().expect("name"),
        subject: selector(subject),
        ingress: None,
        egress: None,
    }
}

/// Makes a ClusterNetworkPolicy without rules for every workload.
pub(crate) fn cluster_policy(scope: PolicyScope, name: &str, tier: PolicyTier, priority: i32) -> ClusterNetworkPolicy {
    let subject = WorkloadMatch { namespaces: Selector::ALL, pods: None };
    let name = name.parse().expect("name");
    ClusterNetworkPolicy { scope, name, tier, priority, subject, ingress: Vec::new(), egress: Vec::new() }
}

pub(crate) fn rule(action: RuleAction, peer: ClusterPeer, protocols: Vec<PortMatch>) -> ClusterRule {
    ClusterRule { action, peers: vec![peer], protocols, unknown: false }
}

/// Every workload of every cluster.
pub(crate) fn everyone() -> ClusterPeer {
    ClusterPeer::Workloads(WorkloadMatch { namespaces: Selector::ALL, pods: None })
}

pub(crate) fn pods(selector_text: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer::Workloads { namespaces: None, pods: Some(selector(selector_text)) }
}

pub(crate) fn block(cidr: &str, except: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer::IpBlock { cidr: prefix(cidr), except: except.split_terminator(',').map(prefix).collect() }
}

pub(crate) fn tcp(port: u16) -> PortMatch {
    PortMatch::Range(Protocol::Tcp, port, port)
}
