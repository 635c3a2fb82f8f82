//! A scenario as a signed fleet: every cluster publishes what it has, and decides by what the others have signed.
//!
//! ```text
//!   facts of east ─> State of east ─> Publisher ─┬─ records ─> State of west ─> verdicts about what ends in west
//!   facts of west ─> State of west ─> Publisher ─┴─ records ─> State of east ─> verdicts about what ends in east
//!   grants, fleet policies ─> root's records ────> both
//! ```
//!
//! The offline checkers see every cluster's manifests at once; an agent sees its own cluster's, and of the others what travels.
//! That both decide alike is what "the same in every cluster" means.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{
    ClusterName, CrossClusterDefault, Event, Grant, Key, Labels, NamePattern, Node, NodeId, Now, Prefix, Publisher, Resource,
    RootRecord, SecretKey, SourceId, State, StateConfig, Time, Trust, WallTime,
};

use crate::scenario::Scenario;

/// The states of one agent in each cluster.
#[derive(Debug)]
pub struct SignedFleet {
    states: BTreeMap<ClusterName, State>,
    /// Whose an address is.
    owners: BTreeMap<IpAddr, ClusterName>,
}

impl SignedFleet {
    /// Publishes the facts of a scenario until everybody has everything; `None` where an address is of two clusters, which no
    /// fleet grants.
    ///
    /// # Panics
    /// Where something is not believed that the root has granted.
    pub fn new(scenario: &Scenario) -> Option<SignedFleet> {
        let (mut config, mut facts) = scenario.facts();
        place(&mut facts);
        if scenario.fleet.is_none() {
            // What holds where nobody grants anything: everybody may talk, and what is no workload's is nobody's.
            config.settings.cross_cluster_default.get_or_insert(CrossClusterDefault::Allow);
            facts.iter_mut().for_each(forget_prefixes);
        }
        let names: BTreeSet<ClusterName> = facts.iter().filter_map(|fact| fact.key().cluster().cloned()).collect();
        let mut owners = BTreeMap::new();
        for (address, cluster) in facts.iter().flat_map(addresses) {
            if *owners.entry(address).or_insert_with(|| cluster.clone()) != *cluster {
                return None;
            }
        }
        let root = SecretKey::from_bytes([255; 32]);
        let keys: BTreeMap<&ClusterName, SecretKey> =
            (1..).map(|n| SecretKey::from_bytes([n; 32])).zip(&names).map(|(key, name)| (name, key)).collect();
        let mut said: Vec<RootRecord> = names
            .iter()
            .filter_map(|name| {
                let granted = facts.iter().find_map(|fact| match fact {
                    Resource::Grant(grant) if grant.cluster == *name => Some((**grant).clone()),
                    _ => None,
                });
                let grant = granted.or_else(|| scenario.fleet.is_none().then(|| generous(name, &facts)))?;
                Some(RootRecord::Grant(Arc::new(Grant { key: Some(keys[name].public()), epoch: 1, ..grant })))
            })
            .collect();
        let policies = scenario.files().into_iter().filter(|(path, _)| path.starts_with("fleet/"));
        said.push(RootRecord::Policies { serial: 1, manifests: policies.collect() });

        let source = SourceId("manifests".into());
        let mut states: BTreeMap<ClusterName, State> = BTreeMap::new();
        let mut records = Vec::new();
        for name in &names {
            let trust = Trust::Signed { root: root.public(), cluster: name.clone() };
            let mut state = State::new(StateConfig { trust, ..config.clone() });
            for record in &said {
                let _ = state.apply(Event::Record(record.sign(&root).expect("a scenario is short")), now());
            }
            for fact in facts.iter().filter(|fact| fact.key().cluster() == Some(name) && !matches!(fact, Resource::Grant(_))) {
                let _ = state.apply(Event::Set(source.clone(), fact.clone()), now());
            }
            let _ = state.apply(Event::Synced(source.clone()), now());
            let mut publisher = Publisher::new(name.clone(), keys[name].clone(), root.public(), 1);
            records.extend(publisher.update(&state, now()).into_iter().map(|(_, bytes)| bytes));
            states.insert(name.clone(), state);
        }
        for state in states.values_mut() {
            for record in &records {
                let _ = state.apply(Event::Record(record.clone()), now());
            }
        }
        Some(SignedFleet { states, owners })
    }

    /// Returns what an agent of the cluster knows that `address` is in; of any cluster where it is in none.
    pub fn state_at(&self, address: IpAddr) -> &State {
        let owner = self.owners.get(&address).and_then(|cluster| self.states.get(cluster));
        owner.or_else(|| self.states.values().next()).expect("a scenario has a cluster")
    }

    /// Returns the clusters.
    pub fn states(&self) -> impl Iterator<Item = (&ClusterName, &State)> {
        self.states.iter()
    }
}

fn now() -> Now {
    Now { time: Time::from_nanos(1), wall: WallTime::from_unix_secs(1_800_000_000) }
}

/// Puts every workload on a node that is there: what travels is on one. Who is on none gets one of its own.
fn place(facts: &mut Vec<Resource>) {
    let known: BTreeSet<Key> = facts.iter().map(Resource::key).collect();
    let mut missing = BTreeMap::new();
    for fact in facts.iter_mut() {
        let Resource::Workload(workload) = fact else { continue };
        let own = || format!("of-{}-{}", workload.id.namespace, workload.id.name).parse().expect("two names are one");
        let name = workload.node.get_or_insert_with(own).clone();
        let id = NodeId { cluster: workload.id.cluster.clone(), name };
        let node = Node { id: id.clone(), labels: Labels::default(), addresses: Vec::new(), prefixes: Vec::new() };
        missing.insert(Key::Node(id), Resource::Node(node));
    }
    facts.extend(missing.into_iter().filter(|(key, _)| !known.contains(key)).map(|(_, node)| node));
}

fn forget_prefixes(fact: &mut Resource) {
    if let Resource::Node(node) = fact {
        node.prefixes.clear();
    }
}

/// Returns the addresses that a fact says are in its cluster.
fn addresses(fact: &Resource) -> Vec<(IpAddr, &ClusterName)> {
    match fact {
        Resource::Workload(workload) => workload.addresses.iter().map(|address| (*address, &workload.id.cluster)).collect(),
        Resource::Node(node) => node.addresses.iter().map(|address| (*address, &node.id.cluster)).collect(),
        _ => Vec::new(),
    }
}

/// Returns a grant of everything that a cluster's facts name: where no `fleet.yaml` says otherwise, everybody speaks for all.
fn generous(name: &ClusterName, facts: &[Resource]) -> Grant {
    let of_cluster = facts.iter().filter(|fact| fact.key().cluster() == Some(name));
    let prefixes: BTreeSet<Prefix> = of_cluster
        .flat_map(|fact| match fact {
            Resource::Workload(workload) if !workload.host_network => {
                workload.addresses.iter().copied().map(Prefix::host).collect()
            }
            _ => Vec::new(),
        })
        .collect();
    Grant {
        cluster: name.clone(),
        key: None,
        next_key: None,
        prefixes: prefixes.into_iter().collect(),
        service_prefixes: Vec::new(),
        namespaces: vec![NamePattern("*".into())],
        exports: vec!["*".parse().expect("a pattern")],
        attributes: BTreeMap::new(),
        not_before: WallTime::from_unix_nanos(0),
        not_after: WallTime::from_unix_nanos(u64::MAX),
        epoch: 1,
    }
}
