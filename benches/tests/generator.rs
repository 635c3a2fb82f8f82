//! The generator gives what the benchmarks say that they measure with.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use mesh_benches::fleet::{Fleet, Size};
use mesh_benches::{external, manifests, queries};
use mesh_core::manifest::Checked;
use mesh_core::policy::{ClusterNetworkPolicy, ClusterPeer, NetworkPolicy, NetworkPolicyPeer};
use mesh_core::{ClusterName, Direction, IdentityName, Labels, NamespaceName, Prefix, PrefixMap, Selector, State, Workload};

/// The fleet of `decide/100000`.
const LARGE: Size = Size { workloads: 100_000, identities: 100_000, policies: 1000, rules_per_policy: 100 };

/// A peer as a rule means it: (the namespace that the policy adds, the selectors, the block and its exceptions).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Peer<'a> {
    Own(&'a NamespaceName, Option<&'a Selector>),
    Any(&'a Selector, Option<&'a Selector>),
    Block(Vec<Prefix>, Vec<Prefix>),
}

fn network_peers(policy: &NetworkPolicy, direction: Direction) -> impl Iterator<Item = Peer<'_>> {
    let rules = if direction == Direction::Ingress { &policy.ingress } else { &policy.egress };
    rules.iter().flatten().flat_map(|rule| &rule.peers).filter_map(|peer| match peer {
        NetworkPolicyPeer::Workloads { namespaces: None, pods } => Some(Peer::Own(&policy.namespace, pods.as_ref())),
        NetworkPolicyPeer::Workloads { namespaces: Some(namespaces), pods } => Some(Peer::Any(namespaces, pods.as_ref())),
        NetworkPolicyPeer::IpBlock { cidr, except } => Some(Peer::Block(vec![*cidr], except.clone())),
        NetworkPolicyPeer::Nothing => None,
    })
}

fn cluster_peers(policy: &ClusterNetworkPolicy, direction: Direction) -> impl Iterator<Item = Peer<'_>> {
    let rules = if direction == Direction::Ingress { &policy.ingress } else { &policy.egress };
    rules.iter().flat_map(|rule| &rule.peers).filter_map(|peer| match peer {
        ClusterPeer::Workloads(who) => Some(Peer::Any(&who.namespaces, who.pods.as_ref())),
        ClusterPeer::Networks(networks) => Some(Peer::Block(networks.clone(), Vec::new())),
        ClusterPeer::Nodes(_) | ClusterPeer::DomainNames(_) => None,
    })
}

/// A workload as selectors see it.
struct Seen<'a> {
    workload: &'a Workload,
    labels: Labels,
    namespace: &'a Labels,
}

impl Peer<'_> {
    /// Tells whether a workload of a namespace with these labels may be this peer.
    fn may_be_in(&self, namespace: &Labels) -> bool {
        !matches!(self, Peer::Any(namespaces, _) if !namespaces.matches(namespace))
    }
}

impl Seen<'_> {
    /// Tells whether this is `peer`, which may be in its namespace.
    fn is(&self, peer: &Peer<'_>) -> bool {
        match peer {
            Peer::Own(_, pods) | Peer::Any(_, pods) => pods.is_none_or(|pods| pods.matches(&self.labels)),
            Peer::Block(networks, except) => self.workload.addresses.iter().any(|address| {
                networks.iter().any(|prefix| prefix.contains(*address)) && !except.iter().any(|prefix| prefix.contains(*address))
            }),
        }
    }
}

/// Counts, for one direction: the distinct sets of peers that workloads satisfy, and of policies that select them.
fn classes(state: &State, seen: &[Seen<'_>], direction: Direction) -> (usize, usize) {
    let facts = state.facts();
    let network = facts.network_policies.values().flat_map(|policy| network_peers(policy, direction));
    let cluster = facts.cluster_policies.values().flat_map(|policy| cluster_peers(policy, direction));
    let peers: Vec<Peer<'_>> = network.chain(cluster).collect::<BTreeSet<_>>().into_iter().collect();
    let mut of_namespace: HashMap<(&ClusterName, &NamespaceName), Vec<usize>> = HashMap::new();
    let mut subjects: BTreeMap<&NamespaceName, Vec<&NetworkPolicy>> = BTreeMap::new();
    for policy in facts.network_policies.values() {
        let has = if direction == Direction::Ingress { policy.ingress.is_some() } else { policy.egress.is_some() };
        if has {
            subjects.entry(&policy.namespace).or_default().push(policy);
        }
    }
    let tiers = || {
        facts.cluster_policies.values().filter(|policy| match direction {
            Direction::Ingress => !policy.ingress.is_empty(),
            Direction::Egress => !policy.egress.is_empty(),
        })
    };
    let (mut peer_sets, mut rule_sets) = (HashSet::new(), HashSet::new());
    for workload in seen {
        let namespace = &workload.workload.id.namespace;
        let cluster = &workload.workload.id.cluster;
        let candidates = of_namespace.entry((cluster, namespace)).or_insert_with(|| {
            let may = |peer: &Peer<'_>| match peer {
                Peer::Own(own, _) => *own == namespace,
                peer => peer.may_be_in(workload.namespace),
            };
            (0..peers.len()).filter(|at| may(&peers[*at])).collect()
        });
        peer_sets.insert(candidates.iter().copied().filter(|at| workload.is(&peers[*at])).collect::<Vec<_>>());
        let network = subjects.get(namespace).into_iter().flatten();
        let network = network.filter(|policy| policy.scope.covers(cluster) && policy.subject.matches(&workload.labels));
        let tiers = tiers().filter(|policy| {
            let pods = policy.subject.pods.as_ref();
            policy.scope.covers(cluster)
                && policy.subject.namespaces.matches(workload.namespace)
                && pods.is_none_or(|pods| pods.matches(&workload.labels))
        });
        rule_sets.insert(network.map(|policy| &policy.name).chain(tiers.map(|policy| &policy.name)).collect::<Vec<_>>());
    }
    (peer_sets.len(), rule_sets.len())
}

#[test]
fn the_large_fleet_has_100_000_rules_and_more_than_500_classes_a_side() {
    let state = Fleet::new(LARGE).state();
    let facts = state.facts();
    let network = facts
        .network_policies
        .values()
        .map(|policy| policy.ingress.as_ref().map_or(0, Vec::len) + policy.egress.as_ref().map_or(0, Vec::len));
    let cluster = facts.cluster_policies.values().map(|policy| policy.ingress.len() + policy.egress.len());
    assert_eq!(network.chain(cluster).sum::<usize>(), 100_000);
    assert_eq!(facts.network_policies.len() + facts.cluster_policies.len(), 1000);

    let namespaces: HashMap<_, _> = facts.namespaces.keys().map(|key| (key, state.namespace_labels(&key.0, &key.1))).collect();
    let seen: Vec<Seen<'_>> = facts
        .workloads
        .values()
        .map(|workload| Seen {
            workload,
            labels: state.workload_labels(workload),
            namespace: &namespaces[&(workload.id.cluster.clone(), workload.id.namespace.clone())],
        })
        .collect();
    for direction in [Direction::Ingress, Direction::Egress] {
        let (peers, rule_sets) = classes(&state, &seen, direction);
        println!("{direction:?}: {peers} peer classes, {rule_sets} subject rule sets");
        assert!(peers >= 500 && rule_sets >= 500, "{direction:?}: {peers} peer classes, {rule_sets} subject rule sets");
    }
}

#[test]
fn a_rollouts_pods_share_one_identity() {
    let size = Size { workloads: 20_000, identities: 2000, policies: 0, rules_per_policy: 0 };
    let state = Fleet::new(size).state();
    let mut pods: HashMap<IdentityName, u32> = HashMap::new();
    for workload in state.facts().workloads.values() {
        *pods.entry(state.identity(workload).name()).or_default() += 1;
    }
    assert_eq!((state.facts().workloads.len(), pods.len()), (20_000, 2000));
    let largest = pods.values().max().copied().unwrap_or_default();
    assert!((100..1000).contains(&largest), "the largest rollout has {largest} pods");
}

#[test]
fn fewer_policies_are_the_first_of_more_and_the_queries_are_the_same() {
    let of = |policies, rules_per_policy| Fleet::new(Size { workloads: 1000, identities: 1000, policies, rules_per_policy });
    let (few, many) = (of(10, 100), of(100, 100));
    assert!(few.policies().eq(many.policies().take(10)));
    assert_eq!(queries::connections(&few, 1000), queries::connections(&many, 1000));
    let distinct: HashSet<_> = queries::connections(&few, 65_536).into_iter().collect();
    assert_eq!(distinct.len(), 65_536);
}

#[test]
fn addresses_are_one_workloads_each() {
    let state = Fleet::new(Size { workloads: 5000, identities: 700, policies: 0, rules_per_policy: 0 }).state();
    let addresses: HashSet<_> = state.facts().workloads.values().flat_map(|workload| &workload.addresses).collect();
    assert_eq!(addresses.len(), 5000);
}

#[test]
fn external_addresses_are_mostly_inside_a_prefix() {
    let prefixes = external::prefixes(20_000);
    assert_eq!(prefixes.iter().collect::<HashSet<_>>().len(), 20_000);
    let lengths: BTreeSet<_> = prefixes.iter().map(|prefix| (prefix.is_ipv4(), prefix.len())).collect();
    assert!(lengths.len() > 50, "{lengths:?}");
    let map: PrefixMap<()> = prefixes.iter().map(|prefix| (*prefix, ())).collect();
    let addresses = external::addresses(&prefixes, 10_000);
    let inside = addresses.iter().filter(|address| map.lookup(**address).is_some()).count();
    assert!((7500..10_000).contains(&inside), "{inside} of 10000");
    assert_eq!(external::policies(&prefixes).count(), 20);
}

#[test]
fn the_directory_says_what_the_state_knows() {
    let fleet = Fleet::new(Size { workloads: 2000, identities: 500, policies: 120, rules_per_policy: 10 });
    let files = manifests::directory(&fleet);
    let checked = Checked::load(files.iter().map(|(path, text)| (path.as_str(), text.as_str()))).expect("no mistake in it");
    assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
    let (read, made) = (checked.state.facts(), fleet.state());
    let made = made.facts();
    assert_eq!(read.namespaces, made.namespaces);
    assert_eq!(read.nodes, made.nodes);
    assert_eq!(read.workloads, made.workloads);
    assert_eq!(read.slices, made.slices);
    assert_eq!(read.network_policies.len() + read.cluster_policies.len(), 120);
    // A selector's requirements have no order: `matchLabels` come before `matchExpressions`.
    assert_eq!(read.network_policies.keys().collect::<Vec<_>>(), made.network_policies.keys().collect::<Vec<_>>());
    assert_eq!(read.cluster_policies, made.cluster_policies);
    for (key, policy) in &read.network_policies {
        assert_eq!(policy, &made.network_policies[key]);
    }
    let lines = manifests::questions(&fleet, 500, 10);
    let answers = lines.lines().map(mesh_policy::check::Query::parse).filter(Result::is_ok).count();
    assert_eq!(answers, 500);
}
