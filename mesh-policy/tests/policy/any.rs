//! Random facts over a small alphabet, so that they meet: the same keys come again with other contents.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::policy::*;
use mesh_core::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::Union;

use crate::fleet::{ip, labels, prefix};

const CLUSTERS: [&str; 3] = ["east", "west", "north"];

fn cluster() -> impl Strategy<Value = ClusterName> {
    select(&CLUSTERS[..]).prop_map(|name| name.parse().expect("valid"))
}

fn namespace() -> impl Strategy<Value = NamespaceName> {
    select(&["shop", "shop", "shop", "shop", "bank", "bank", "ops"][..]).prop_map(|name| name.parse().expect("valid"))
}

fn object(names: &'static [&'static str]) -> impl Strategy<Value = ObjectName> {
    select(names).prop_map(|name| name.parse().expect("valid"))
}

fn some_labels() -> impl Strategy<Value = Labels> {
    select(&["", "app=web", "app=db", "app=web,tier=a", "app=db,tier=b", "tier=a"][..]).prop_map(labels)
}

// Addresses, protocols and the like are drawn from lists, in which a word that is there three times is three times as likely: an arm
// of a `prop_oneof!` costs a random generator of its own, and these are drawn hundreds of times a case.
fn times<T: Clone>(items: impl IntoIterator<Item = T>, times: usize) -> impl Iterator<Item = T> {
    items.into_iter().flat_map(move |item| std::iter::repeat_n(item, times))
}

fn addresses_v4() -> Vec<IpAddr> {
    let pods = (1..=3).flat_map(|cluster| (1..=6).map(move |host| ip(&format!("10.{cluster}.0.{host}"))));
    let nodes = (1..=2).flat_map(|cluster| (1..=2).map(move |host| ip(&format!("172.16.{cluster}.{host}"))));
    let outside = ["192.0.2.7", "192.0.2.8", "192.0.2.9", "198.51.100.1"].map(ip);
    times(pods, 2).chain(times(nodes, 3)).chain(times(outside, 3)).collect()
}

fn addresses_v6() -> Vec<IpAddr> {
    let pods = (1..=3).flat_map(|cluster| (1..=3).map(move |host| ip(&format!("fd00:{cluster}::{host}"))));
    times(pods, 5).chain(times([ip("2001:db8::1")], 9)).collect()
}

/// Every address of the small world: pods and overlays in the clusters' prefixes, nodes, and the outside; one in five is IPv6.
pub(crate) fn address() -> impl Strategy<Value = IpAddr> {
    let (v4, v6) = (addresses_v4(), addresses_v6());
    let (in_v4, in_v6) = (4 * v6.len(), v4.len());
    select(times(v4, in_v4).chain(times(v6, in_v6)).collect::<Vec<_>>())
}

/// Addresses of two ends of one family.
pub(crate) fn ends() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let (v4, v6) = (addresses_v4(), addresses_v6());
    let all = v4.len() * v6.len();
    (0..5u8, 0..all, 0..all).prop_map(move |(family, source, destination)| {
        let family = if family < 4 { &v4 } else { &v6 };
        (family[source % family.len()], family[destination % family.len()])
    })
}

pub(crate) fn protocol() -> impl Strategy<Value = Protocol> {
    let likely = times([Protocol::Tcp], 6).chain(times([Protocol::Udp], 3));
    select(likely.chain([Protocol::Sctp, Protocol::Other(1), Protocol::Other(47)]).collect::<Vec<_>>())
}

pub(crate) fn port() -> impl Strategy<Value = u16> {
    select(&[0u16, 53, 79, 80, 81, 8080, 65535][..])
}

pub(crate) fn tuple() -> impl Strategy<Value = FiveTuple> {
    (ends(), protocol(), port()).prop_map(|((source, destination), protocol, destination_port)| FiveTuple {
        source,
        destination,
        protocol,
        source_port: 40000,
        destination_port,
    })
}

fn some_prefix() -> impl Strategy<Value = Prefix> {
    let known = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.2.0.0/30",
        "172.16.0.0/12",
        "192.0.2.0/24",
        "192.0.2.8/31",
        "::/0",
        "fd00:1::/32",
    ];
    let hosts = addresses_v4().into_iter().chain(addresses_v6()).map(Prefix::host);
    // About three times in four a known one.
    select(times(known.map(prefix), 38).chain(hosts).collect::<Vec<_>>())
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let key =
        select(&["app", "tier", "env", "cluster-mesh.io/cluster", "cluster-mesh.io/region", "kubernetes.io/metadata.name"][..]);
    let value = select(&["web", "db", "a", "b", "east", "west", "eu", "shop"][..]);
    (key, vec(value, 1..3), 0..4u8).prop_map(|(key, values, kind)| {
        let (key, values): (Arc<str>, Vec<Arc<str>>) = (key.into(), values.into_iter().map(Into::into).collect());
        match kind {
            0 => Requirement::In(key, values),
            1 => Requirement::NotIn(key, values),
            2 => Requirement::Exists(key),
            _ => Requirement::DoesNotExist(key),
        }
    })
}

fn some_selector() -> impl Strategy<Value = Selector> {
    let useful = select(&["app=web", "app=db", "tier=a", "cluster-mesh.io/cluster=east", "kubernetes.io/metadata.name=shop"][..]);
    prop_oneof![
        2 => Just(Selector::ALL),
        3 => useful.prop_map(crate::fleet::selector),
        2 => vec(requirement(), 1..3).prop_map(|requirements| Selector { requirements }),
    ]
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    let name = || select(&["http", "dns", "none"][..]).prop_map(Arc::from);
    prop_oneof![
        1 => protocol().prop_map(PortMatch::Protocol),
        3 => (protocol(), port(), port()).prop_map(|(protocol, a, b)| PortMatch::Range(protocol, a.min(b), a.max(b))),
        2 => (protocol(), port()).prop_map(|(protocol, port)| PortMatch::Range(protocol, port, port)),
        2 => (option::of(protocol()), name()).prop_map(|(protocol, name)| PortMatch::Named(protocol, name)),
    ]
}

fn scope() -> impl Strategy<Value = PolicyScope> {
    prop_oneof![3 => cluster().prop_map(PolicyScope::Cluster), 1 => Just(PolicyScope::Fleet)]
}

fn network_rules() -> impl Strategy<Value = Option<Vec<NetworkPolicyRule>>> {
    let workloads = (option::of(some_selector()), some_selector())
        .prop_map(|(namespaces, pods)| NetworkPolicyPeer::Workloads { namespaces, pods: Some(pods) });
    let namespaces =
        some_selector().prop_map(|namespaces| NetworkPolicyPeer::Workloads { namespaces: Some(namespaces), pods: None });
    let blocks = (some_prefix(), vec(some_prefix(), 0..3)).prop_map(|(cidr, except)| NetworkPolicyPeer::IpBlock { cidr, except });
    let peer = prop_oneof![4 => workloads, 2 => namespaces, 3 => blocks, 1 => Just(NetworkPolicyPeer::Nothing)];
    let rule = (vec(peer, 0..3), vec(port_match(), 0..3)).prop_map(|(peers, ports)| NetworkPolicyRule { peers, ports });
    option::weighted(0.7, vec(rule, 0..3))
}

fn network_policy() -> impl Strategy<Value = Resource> {
    (scope(), namespace(), object(&["a", "b"]), some_selector(), network_rules(), network_rules()).prop_map(
        |(scope, namespace, name, subject, ingress, egress)| {
            Resource::NetworkPolicy(Arc::new(NetworkPolicy { scope, namespace, name, subject, ingress, egress }))
        },
    )
}

fn who() -> impl Strategy<Value = WorkloadMatch> {
    (some_selector(), option::of(some_selector())).prop_map(|(namespaces, pods)| WorkloadMatch { namespaces, pods })
}

fn cluster_rules() -> impl Strategy<Value = Vec<ClusterRule>> {
    let domain = select(&["api.example.com", "*.example.com", "other.example.org"][..])
        .prop_map(|name| ClusterPeer::DomainNames(vec![name.into()]));
    let networks = vec(some_prefix(), 1..3).prop_map(ClusterPeer::Networks);
    let peer = prop_oneof![
        4 => who().prop_map(ClusterPeer::Workloads),
        2 => networks,
        1 => some_selector().prop_map(ClusterPeer::Nodes),
        1 => domain,
    ];
    let action = select(&[RuleAction::Accept, RuleAction::Deny, RuleAction::Pass][..]);
    let rule = (action, vec(peer, 0..3), vec(port_match(), 0..3), prop::bool::weighted(0.05))
        .prop_map(|(action, peers, protocols, unknown)| ClusterRule { action, peers, protocols, unknown });
    vec(rule, 0..3)
}

fn cluster_policy() -> impl Strategy<Value = Resource> {
    let tier = select(&[PolicyTier::Admin, PolicyTier::Baseline][..]);
    (scope(), object(&["a", "b"]), tier, 0..3i32, who(), cluster_rules(), cluster_rules()).prop_map(
        |(scope, name, tier, priority, subject, ingress, egress)| {
            Resource::ClusterNetworkPolicy(Arc::new(ClusterNetworkPolicy {
                scope,
                name,
                tier,
                priority,
                subject,
                ingress,
                egress,
            }))
        },
    )
}

fn workload() -> impl Strategy<Value = Resource> {
    let named = (select(&["http", "dns"][..]), protocol(), port()).prop_map(|(name, protocol, port)| NamedPort {
        name: name.into(),
        protocol,
        port,
    });
    let name = object(&["web-0", "web-1", "db-0", "job"]);
    let id = (cluster(), namespace(), name).prop_map(|(cluster, namespace, name)| WorkloadId { cluster, namespace, name });
    let node = option::of(object(&["n1", "n2"]));
    (
        id,
        some_labels(),
        select(&["default", "robot"][..]),
        node,
        prop::bool::weighted(0.1),
        vec(address(), 0..3),
        vec(named, 0..3),
    )
        .prop_map(|(id, labels, service_account, node, host_network, addresses, ports)| {
            Resource::Workload(Workload {
                id,
                labels,
                service_account: service_account.into(),
                node,
                host_network,
                addresses,
                ports,
            })
        })
}

fn grant() -> impl Strategy<Value = Resource> {
    let namespaces = select(&["*", "shop", "b*"][..]).prop_map(|pattern| vec![NamePattern(pattern.into())]);
    (cluster(), vec(some_prefix(), 0..3), namespaces, select(&["", "region=eu", "region=us"][..])).prop_map(
        |(cluster, mut prefixes, namespaces, attributes)| {
            // Mostly one's own prefix, or nothing would ever be admitted.
            let own = CLUSTERS.iter().position(|name| *name == cluster.as_str()).expect("one of them") + 1;
            prefixes.truncate(1);
            prefixes.extend([prefix(&format!("10.{own}.0.0/16")), prefix(&format!("fd00:{own}::/32"))]);
            Resource::Grant(Arc::new(Grant {
                cluster,
                key: None,
                next_key: None,
                prefixes,
                service_prefixes: Vec::new(),
                namespaces,
                exports: vec!["*".parse().expect("valid")],
                attributes: labels(attributes).iter().map(|(key, value)| (key.into(), value.into())).collect(),
                not_before: WallTime::default(),
                not_after: WallTime::default(),
                epoch: 0,
            }))
        },
    )
}

fn service_id() -> impl Strategy<Value = ServiceId> {
    (namespace(), object(&["db"])).prop_map(|(namespace, name)| ServiceId { namespace, name })
}

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let ports = (option::of(port()), protocol()).prop_map(|(port, protocol)| EndpointPort { name: None, protocol, port });
    let endpoint = (vec(address(), 1..3), any::<bool>(), vec(ports, 1..3)).prop_map(|(addresses, ready, ports)| Endpoint {
        addresses,
        ready,
        terminating: false,
        hostname: None,
        node: None,
        ports,
    });
    vec(endpoint, 0..4)
}

fn service_ports() -> impl Strategy<Value = Vec<ServicePort>> {
    vec((protocol(), port()).prop_map(|(protocol, port)| ServicePort { name: None, protocol, port, app_protocol: None }), 1..3)
}

/// A fact that exports depend on.
fn exporting() -> impl Strategy<Value = Resource> {
    let export = (cluster(), service_id(), service_ports(), endpoints()).prop_map(|(cluster, id, ports, endpoints)| {
        let (kind, affinity) = (ServiceKind::ClusterIp, SessionAffinity::None);
        Resource::Export(Export {
            cluster,
            id,
            created: None,
            kind,
            ports,
            affinity,
            traffic: Traffic::default(),
            publish_not_ready: false,
            endpoints,
        })
    });
    let service = (cluster(), service_id(), service_ports()).prop_map(|(cluster, id, ports)| {
        let (kind, affinity) = (ServiceKind::ClusterIp, SessionAffinity::None);
        let addresses = Vec::new();
        Resource::Service(Service {
            cluster,
            id,
            kind,
            addresses,
            ports,
            affinity,
            traffic: Traffic::default(),
            publish_not_ready: false,
            external_name: None,
        })
    });
    let slice =
        (cluster(), service_id(), object(&["db-1", "db-2"]), endpoints()).prop_map(|(cluster, service, name, endpoints)| {
            Resource::EndpointSlice(EndpointSlice { cluster, name, service, endpoints })
        });
    let consent = (cluster(), service_id()).prop_map(|(cluster, id)| {
        Resource::ServiceExport(ServiceExport { cluster, id, created: None, traffic: Default::default() })
    });
    prop_oneof![3 => export, 1 => service, 1 => slice, 1 => consent]
}

/// Any fact that policy depends on, and a lease, which it does not depend on.
pub(crate) fn resource() -> impl Strategy<Value = Resource> {
    let ns = (cluster(), namespace(), select(&["", "env=prod", "tier=a"][..]))
        .prop_map(|(cluster, name, text)| Resource::Namespace(Namespace { cluster, name, labels: labels(text) }));
    let node_id = || (cluster(), object(&["n1", "n2"])).prop_map(|(cluster, name)| NodeId { cluster, name });
    let node = (node_id(), some_labels(), vec(address(), 0..3))
        .prop_map(|(id, labels, addresses)| Resource::Node(Node { id, labels, addresses, prefixes: Vec::new() }));
    let link = (node_id(), vec(address(), 0..2)).prop_map(|(id, overlay)| {
        Resource::NodeLink(NodeLink { id, key: WireGuardKey([0; 32]), next_key: None, endpoints: Vec::new(), overlay })
    });
    let lease = |cluster| Resource::Lease(Lease { cluster, issued: WallTime::default(), ttl_seconds: 1, policies: None });
    let lease = cluster().prop_map(lease);
    Union::new_weighted(vec![
        (10, workload().boxed()),
        (5, network_policy().boxed()),
        (4, cluster_policy().boxed()),
        (3, grant().boxed()),
        (4, exporting().boxed()),
        (2, ns.boxed()),
        (2, node.boxed()),
        (1, link.boxed()),
        (1, lease.boxed()),
    ])
}

/// A step of a history: a fact is so, or one of those there were is no more.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Set(Resource),
    Unset(Index),
    /// A domain name has other addresses.
    Learn(&'static str, Vec<IpAddr>),
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let name = select(&["api.example.com", "new.example.com", "other.example.org"][..]);
    let learn = (name, vec(address(), 0..3)).prop_map(|(name, addresses)| Step::Learn(name, addresses));
    prop_oneof![12 => resource().prop_map(Step::Set), 4 => any::<Index>().prop_map(Step::Unset), 1 => learn]
}

pub(crate) fn settings() -> impl Strategy<Value = Settings> {
    let default = prop_oneof![
        2 => Just(None),
        2 => Just(Some(CrossClusterDefault::Exports)),
        1 => Just(Some(CrossClusterDefault::Deny)),
        1 => Just(Some(CrossClusterDefault::Allow)),
    ];
    (prop::bool::weighted(0.8), any::<bool>(), any::<bool>(), default).prop_map(
        |(ipblock_matches_pods, own_node_ingress_allowed, own_node_egress_allowed, cross_cluster_default)| Settings {
            ipblock_matches_pods,
            own_node_ingress_allowed,
            own_node_egress_allowed,
            cross_cluster_default,
        },
    )
}

pub(crate) fn trust() -> impl Strategy<Value = Trust> {
    prop_oneof![Just(Trust::Open), Just(Trust::Declared)]
}
