//! Ends in few words: whole namespaces and clusters, a label that all of them have and nobody else of their namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_core::labels::SERVICE_ACCOUNT_LABEL;
use mesh_core::{ClusterName, Labels, NamespaceName, NodeId, Prefix, State, WorkloadId};
use serde::Serialize;

use super::{Owner, Region};

/// Some ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Party {
    /// All of them in few words: `east/shop app=web`, `every node`, `outside 192.0.2.0/24`.
    pub names: Vec<String>,
    /// The workloads.
    pub workloads: Vec<WorkloadId>,
    /// The nodes.
    pub nodes: Vec<NodeId>,
    /// Addresses that no workload or node has: prefixes, or the first and the last one.
    pub outside: Vec<String>,
}

impl Party {
    /// Writes the names, and how many pods they are.
    pub(crate) fn text(&self) -> String {
        let names = self.names.join(", ");
        match self.workloads.len() {
            0 => names,
            1 => format!("{names} (1 pod)"),
            pods => format!("{names} ({pods} pods)"),
        }
    }
}

/// More values of a label than these are no short name.
const MAX_VALUES: usize = 4;
/// More pods than these are counted.
const MAX_PODS: usize = 3;
/// The labels by which pods are best known, in this order.
const BEST_KNOWN: [&str; 3] = ["app", "app.kubernetes.io/name", "k8s-app"];

/// The names of all owners.
#[derive(Debug)]
pub(crate) struct Names<'a> {
    owners: &'a [Owner],
    /// Of workloads: their own labels and the service account.
    labels: Vec<Labels>,
    namespaces: BTreeMap<(&'a ClusterName, &'a NamespaceName), Vec<u32>>,
    nodes: BTreeMap<&'a ClusterName, Vec<u32>>,
}

impl<'a> Names<'a> {
    /// Reads the labels of `owners` from the last of `states` that has them.
    pub(crate) fn new(owners: &'a [Owner], states: &[&State]) -> Names<'a> {
        let mut names =
            Names { owners, labels: vec![Labels::default(); owners.len()], namespaces: BTreeMap::new(), nodes: BTreeMap::new() };
        for (number, owner) in (0..).zip(owners) {
            match owner {
                Owner::Node(id) => names.nodes.entry(&id.cluster).or_default().push(number),
                Owner::Workload(id) => {
                    names.namespaces.entry((&id.cluster, &id.namespace)).or_default().push(number);
                    let known = states
                        .iter()
                        .rev()
                        .find_map(|state| state.facts().workloads.get(id).or_else(|| state.refused_workload(id)));
                    if let Some(workload) = known {
                        let account = (SERVICE_ACCOUNT_LABEL, workload.service_account.clone());
                        names.labels[number as usize] = workload.labels.with([account]);
                    }
                }
            }
        }
        names
    }

    /// Names some owners and regions.
    pub(crate) fn party(&self, owners: &BTreeSet<u32>, regions: &[Region], all_regions: &[Region]) -> Party {
        let mut party = Party::default();
        for number in owners {
            match &self.owners[*number as usize] {
                Owner::Workload(id) => party.workloads.push(id.clone()),
                Owner::Node(id) => party.nodes.push(id.clone()),
            }
        }
        party.outside = regions.iter().map(region).collect();
        party.names = self.workloads(owners);
        party.names.extend(self.nodes(owners));
        party.names.extend(outside(regions, all_regions));
        party
    }

    fn workloads(&self, owners: &BTreeSet<u32>) -> Vec<String> {
        let is_whole = |members: &[u32]| members.iter().all(|member| owners.contains(member));
        if self.namespaces.len() > 1 && self.namespaces.values().all(|members| is_whole(members)) {
            return vec!["every pod".into()];
        }
        let mut names = Vec::new();
        let mut clusters: BTreeMap<&ClusterName, Vec<(&NamespaceName, &[u32])>> = BTreeMap::new();
        for ((cluster, namespace), members) in &self.namespaces {
            clusters.entry(cluster).or_default().push((namespace, members));
        }
        for (cluster, namespaces) in clusters {
            if namespaces.len() > 1 && namespaces.iter().all(|(_, members)| is_whole(members)) {
                names.push(format!("cluster {cluster}"));
                continue;
            }
            for (namespace, members) in namespaces {
                if is_whole(members) {
                    names.push(format!("{cluster}/{namespace}"));
                } else {
                    let (inside, others): (Vec<u32>, Vec<u32>) = members.iter().partition(|member| owners.contains(*member));
                    names.extend(self.part(&format!("{cluster}/{namespace}"), &inside, &others));
                }
            }
        }
        names
    }

    /// Names some of a namespace, and not the others.
    fn part(&self, namespace: &str, inside: &[u32], others: &[u32]) -> Vec<String> {
        let Some(first) = inside.first() else { return Vec::new() };
        let labels = |number: &u32| &self.labels[*number as usize];
        let mut best: Option<(usize, usize, &str, BTreeSet<&str>)> = None;
        for (key, _) in labels(first).iter() {
            let values: Option<BTreeSet<&str>> = inside.iter().map(|member| labels(member).get(key)).collect();
            let Some(values) = values else { continue };
            let is_theirs = !others.iter().any(|other| labels(other).get(key).is_some_and(|value| values.contains(value)));
            if values.len() <= MAX_VALUES && is_theirs {
                let known = BEST_KNOWN.iter().position(|best| *best == key).unwrap_or(BEST_KNOWN.len());
                let candidate = (values.len(), known, key, values);
                best = Some(best.take().filter(|best| *best <= candidate).unwrap_or(candidate));
            }
        }
        let name = |number: &u32| match &self.owners[*number as usize] {
            Owner::Workload(id) => id.name.to_string(),
            Owner::Node(id) => id.name.to_string(),
        };
        match best {
            Some((1, _, key, values)) => {
                let key = if key == SERVICE_ACCOUNT_LABEL { "service-account" } else { key };
                values.iter().map(|value| format!("{namespace} {key}={value}")).collect()
            }
            Some((_, _, key, values)) if inside.len() > MAX_PODS => {
                let key = if key == SERVICE_ACCOUNT_LABEL { "service-account" } else { key };
                vec![format!("{namespace} {key} in ({})", values.into_iter().collect::<Vec<_>>().join(","))]
            }
            _ if inside.len() <= MAX_PODS => inside.iter().map(|member| format!("{namespace}/{}", name(member))).collect(),
            _ => vec![format!("{namespace}/{} and {} more", name(first), inside.len() - 1)],
        }
    }

    fn nodes(&self, owners: &BTreeSet<u32>) -> Vec<String> {
        let is_whole = |members: &[u32]| members.iter().all(|member| owners.contains(member));
        if !self.nodes.is_empty() && self.nodes.values().all(|members| is_whole(members)) {
            return vec!["every node".into()];
        }
        let mut names = Vec::new();
        for (cluster, members) in &self.nodes {
            let inside: Vec<&u32> = members.iter().filter(|member| owners.contains(*member)).collect();
            let name = |number: &u32| match &self.owners[*number as usize] {
                Owner::Node(id) => id.to_string(),
                Owner::Workload(id) => id.to_string(),
            };
            match inside.as_slice() {
                [] => {}
                _ if inside.len() == members.len() => names.push(format!("every node of {cluster}")),
                few if few.len() <= MAX_PODS => names.extend(few.iter().map(|number| format!("node {}", name(number)))),
                [first, ..] => names.push(format!("node {} and {} more", name(first), inside.len() - 1)),
            }
        }
        names
    }
}

/// Names outside regions: what holds a family's first address is the rest of the world, which nobody names.
fn outside(regions: &[Region], all: &[Region]) -> Option<String> {
    let is_rest = |region: &Region| region.first.is_unspecified();
    if regions.is_empty() {
        return None;
    }
    let rest: BTreeSet<u32> = all.iter().filter(|region| is_rest(region)).map(|region| region.class).collect();
    let named: Vec<String> = regions.iter().filter(|region| !rest.contains(&region.class)).map(region).collect();
    let has_rest = named.len() < regions.len();
    let here: BTreeSet<IpAddr> = regions.iter().map(|region| region.first).collect();
    let families: BTreeSet<bool> = here.iter().map(IpAddr::is_ipv4).collect();
    let mut of_families = all.iter().filter(|region| families.contains(&region.first.is_ipv4()));
    let is_all = has_rest && of_families.all(|region| here.contains(&region.first));
    let named = match named.as_slice() {
        _ if is_all => return Some("outside".into()),
        [] => return Some("outside elsewhere".into()),
        [named @ .., _] if named.len() >= 6 => format!("{} and {} more", named[..4].join(", "), named.len() - 3),
        named => named.join(", "),
    };
    Some(if has_rest { format!("outside {named}, elsewhere") } else { format!("outside {named}") })
}

/// Writes a region as a prefix where it is one.
fn region(region: &Region) -> String {
    let most = if region.first.is_ipv4() { 32 } else { 128 };
    let prefix = (0..=most).filter_map(|len| Prefix::new(region.first, len));
    let exact = prefix.into_iter().find(|prefix| prefix.address() == region.first && prefix.last_address() == region.last);
    match exact {
        Some(prefix) if prefix.len() == most => region.first.to_string(),
        Some(prefix) => prefix.to_string(),
        None => format!("{}-{}", region.first, region.last),
    }
}
