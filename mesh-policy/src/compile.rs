//! From the state to a [`PolicySet`]: peers to classes, ports to intervals, rules to rows of verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hashbrown::HashMap;
use mesh_core::{
    ClusterName, CrossClusterDefault, Direction, IdentityName, Labels, Located, NamedPort, NamespaceName, NodeId, Prefix, RuleId,
    RuleName, State, Workload, WorkloadId,
};

use self::classes::{Classes, Splitter};
use self::peers::{Regions, Selectors, Who};
use self::rows::Applying;
use self::rulebook::Rulebook;
use self::selection::Selection;
use crate::rows::RowsBuilder;
use crate::set::{Ends, Exported, Known, NodeHandle, Policed, PolicySet, Ruleset, WorkloadEntry, WorkloadHandle};
use crate::{End, exports};

mod classes;
mod peers;
mod rows;
mod rulebook;
mod selection;

/// Somebody's word for whose an address is, which overrides what the state says.
pub(crate) struct Claim {
    pub(crate) address: IpAddr,
    pub(crate) owner: Owner,
}

/// The owner of a [`Claim`].
pub(crate) enum Owner {
    Workload(WorkloadId),
    Node(NodeId),
    /// Somebody without an identity.
    Pending,
}

/// Compiles everything. Equal states give equal sets, whatever the order in which they came about.
pub(crate) fn compile(state: &State, claims: &[Claim]) -> PolicySet {
    let book = Rulebook::new(state);
    let mut compilation = Compilation {
        state,
        selectors: book.peers.selectors(),
        regions: book.peers.regions(state),
        book: &book,
        clusters: clusters(state),
        namespaces: HashMap::new(),
        identities: HashMap::new(),
        port_tables: Tables::new(),
        classes: Classes::new(),
        selections: HashMap::new(),
        rulesets: Vec::new(),
    };
    let mut policed = Vec::new();
    let mut workloads: Vec<WorkloadEntry> = compilation.workloads(&mut policed);
    let mut ends = compilation.ends();
    for claim in claims {
        compilation.claim(claim, &mut ends, (&mut workloads, &mut policed));
    }
    let exported = compilation.exported(&ends, &policed);
    let (rulesets, cells, rows, rules) = compilation.cells();
    PolicySet {
        settings: (state.config().settings.clone(), state.cross_cluster_default()),
        workloads,
        policed,
        ends,
        rulesets,
        cells,
        rows,
        rules,
        exported,
        fingerprint: 0,
    }
    .with_fingerprint()
}

/// Numbers the clusters that have workloads: no other cluster has a side that is policed.
fn clusters(state: &State) -> BTreeMap<&ClusterName, u32> {
    let names: BTreeSet<_> = state.facts().workloads.keys().map(|id| &id.cluster).collect();
    names.into_iter().zip(0..).collect()
}

/// What is known of an identity, found out once for all workloads that have it.
#[derive(Clone)]
struct OfIdentity {
    name: IdentityName,
    labels: Labels,
    peers: Vec<u32>,
}

struct Compilation<'b, 'a> {
    state: &'a State,
    book: &'b Rulebook<'a>,
    selectors: Selectors<'b, 'a>,
    regions: Regions,
    clusters: BTreeMap<&'a ClusterName, u32>,
    namespaces: HashMap<(&'a ClusterName, &'a NamespaceName), Labels>,
    identities: HashMap<(&'a ClusterName, &'a NamespaceName, &'a str, &'a Labels), OfIdentity>,
    port_tables: Tables,
    classes: Classes,
    selections: HashMap<(IdentityName, u32), [u32; 2]>,
    rulesets: Vec<Selection>,
}

/// The distinct tables of named ports; 0 is the empty one.
struct Tables {
    ids: HashMap<Vec<NamedPort>, u32>,
    list: Vec<Vec<NamedPort>>,
}

impl Tables {
    fn new() -> Tables {
        Tables { ids: HashMap::from_iter([(Vec::new(), 0)]), list: vec![Vec::new()] }
    }

    fn intern(&mut self, mut ports: Vec<NamedPort>) -> u32 {
        ports.sort();
        ports.dedup();
        let next = u32::try_from(self.list.len()).expect("fewer tables than a u32 counts");
        *self.ids.entry(ports).or_insert_with_key(|ports| {
            self.list.push(ports.clone());
            next
        })
    }
}

impl<'a> Compilation<'_, 'a> {
    fn identity(&mut self, workload: &'a Workload) -> OfIdentity {
        let id = &workload.id;
        let key = (&id.cluster, &id.namespace, workload.service_account.as_ref(), &workload.labels);
        if let Some(known) = self.identities.get(&key) {
            return known.clone();
        }
        let labels = self.state.workload_labels(workload);
        let namespace_labels = self.namespace_labels(workload);
        let who = Who { namespace: &id.namespace, namespace_labels: &namespace_labels, labels: &labels };
        let peers = self.selectors.matching(&who);
        let identity = OfIdentity { name: self.state.identity(workload).name(), labels, peers };
        self.identities.insert(key, identity.clone());
        identity
    }

    fn namespace_labels(&mut self, workload: &'a Workload) -> Labels {
        let key = (&workload.id.cluster, &workload.id.namespace);
        self.namespaces.entry(key).or_insert_with(|| self.state.namespace_labels(key.0, key.1)).clone()
    }

    /// Returns the number of the workload's named ports, of those that some rule names.
    fn ports(&mut self, workload: &Workload) -> u32 {
        let named = workload.ports.iter().filter(|port| self.book.port_names.contains(&port.name));
        self.port_tables.intern(named.cloned().collect())
    }

    /// Lists the workloads, and what policing each of them needs: rule sets for each (identity, port table).
    fn workloads(&mut self, policed: &mut Vec<Policed>) -> Vec<WorkloadEntry> {
        let mut entries = Vec::new();
        let mut selections: HashMap<Selection, u32> = HashMap::new();
        let nodes = nodes(self.state);
        for workload in self.state.facts().workloads.values().filter(|workload| !workload.host_network) {
            let (identity, ports) = (self.identity(workload), self.ports(workload));
            let cluster = self.clusters[&workload.id.cluster];
            let rulesets = match self.selections.get(&(identity.name, ports)) {
                Some(known) => *known,
                None => {
                    let namespace_labels = self.namespace_labels(workload);
                    let namespace = &workload.id.namespace;
                    let who = Who { namespace, namespace_labels: &namespace_labels, labels: &identity.labels };
                    let new = [Direction::Ingress, Direction::Egress].map(|direction| {
                        let selection = Selection::new(self.book, (&workload.id.cluster, cluster), &who, direction, ports);
                        let next = u32::try_from(self.rulesets.len()).expect("fewer rule sets than a u32 counts");
                        *selections.entry(selection).or_insert_with_key(|selection| {
                            self.rulesets.push(selection.clone());
                            next
                        })
                    });
                    self.selections.insert((identity.name, ports), new);
                    new
                }
            };
            let node = workload.node.clone().map(|name| NodeId { cluster: workload.id.cluster.clone(), name });
            let number = node.as_ref().and_then(|node| nodes.binary_search(&node).ok()).and_then(|at| u32::try_from(at).ok());
            policed.push(Policed { cluster, node: number, rulesets });
            entries.push(WorkloadEntry { id: workload.id.clone(), identity: identity.name, node });
        }
        entries
    }

    fn class_of_workload(&mut self, workload: &'a Workload, address: IpAddr) -> u32 {
        let skips_workloads = !self.state.config().settings.ipblock_matches_pods;
        let (identity, ports) = (self.identity(workload), self.ports(workload));
        let by_address = self.regions.matching(address).iter().copied();
        let by_address = by_address.filter(|peer| !(skips_workloads && self.regions.is_block(*peer)));
        let mut peers: Vec<u32> = identity.peers.iter().copied().chain(by_address).collect();
        peers.sort_unstable();
        self.classes.intern((peers, ports))
    }

    fn class_of_address(&mut self, address: IpAddr) -> u32 {
        self.classes.intern((self.regions.matching(address).to_vec(), 0))
    }

    /// Makes a claim come true. A workload gets a second handle for it: the address is not one of its own, by which it would
    /// reach itself in all tiers (rule 10).
    fn claim(&mut self, claim: &Claim, ends: &mut Ends, (workloads, policed): (&mut Vec<WorkloadEntry>, &mut Vec<Policed>)) {
        let known = match &claim.owner {
            Owner::Workload(id) => {
                let Some(workload) = self.state.facts().workloads.get(id) else { return };
                let Some(at) = workloads.iter().position(|entry| entry.id == *id) else { return };
                let handle = u32::try_from(workloads.len()).expect("fewer workloads than a u32 counts");
                workloads.push(workloads[at].clone());
                policed.push(policed[at]);
                Known { end: End::Workload(WorkloadHandle(handle)), class: self.class_of_workload(workload, claim.address) }
            }
            Owner::Pending => Known { end: End::Pending, class: 0 },
            Owner::Node(node) => {
                let at = ends.nodes.iter().position(|known| known == node);
                let at = at.unwrap_or_else(|| {
                    ends.nodes.push(node.clone());
                    ends.nodes.len() - 1
                });
                let handle = u32::try_from(at).expect("fewer nodes than a u32 counts");
                ends.node_addresses.insert((handle, claim.address));
                Known { end: End::Node(NodeHandle(handle)), class: self.class_of_address(claim.address) }
            }
        };
        ends.known.insert(claim.address, known);
    }

    /// Looks up every address that is somebody's, and every region of the others: who is there, and of which class.
    fn ends(&mut self) -> Ends {
        let mut ends = Ends::default();
        let workloads = self.state.facts().workloads.values().filter(|workload| !workload.host_network);
        for (handle, workload) in (0..).zip(workloads) {
            for address in &workload.addresses {
                let is_there = matches!(self.state.locate(*address), Located::Workload(found) if found.id == workload.id);
                if is_there {
                    let class = self.class_of_workload(workload, *address);
                    ends.known.insert(*address, Known { end: End::Workload(WorkloadHandle(handle)), class });
                }
            }
        }
        let nodes = nodes(self.state);
        for (handle, node) in (0..).zip(&nodes) {
            for address in peers::node_addresses(self.state, node) {
                ends.node_addresses.insert((handle, address));
                if self.state.locate(address) == Located::Node(node) {
                    let class = self.class_of_address(address);
                    ends.known.insert(address, Known { end: End::Node(NodeHandle(handle)), class });
                }
            }
        }
        ends.nodes = nodes.into_iter().cloned().collect();
        ends.pending = self.state.pending_prefixes().map(|prefix| (prefix, ())).collect();
        let regions: Vec<(Prefix, Vec<u32>)> = self.regions.sorted().into_iter().map(|(p, peers)| (p, peers.clone())).collect();
        ends.regions = regions.into_iter().map(|(prefix, peers)| (prefix, self.classes.intern((peers, 0)))).collect();
        ends
    }

    /// Returns which backends each client's cluster may reach by the exports, where that is the default between clusters.
    fn exported(&self, ends: &Ends, policed: &[Policed]) -> hashbrown::HashSet<Exported, foldhash::fast::RandomState> {
        let mut exported = hashbrown::HashSet::default();
        if self.state.cross_cluster_default() != CrossClusterDefault::Exports {
            return exported;
        }
        let mut importers: HashMap<NamespaceName, Vec<u32>> = HashMap::new();
        for backend in exports::backend_ports(self.state) {
            let of_workload = match ends.known.get(&backend.address) {
                Some(Known { end: End::Workload(handle), .. }) => Some(policed[handle.0 as usize].cluster),
                _ => None,
            };
            if of_workload.is_none() || of_workload != self.clusters.get(&backend.cluster).copied() {
                continue;
            }
            let importers = importers.entry(backend.namespace).or_insert_with_key(|namespace| {
                let has = |cluster: &&ClusterName| self.state.namespace_exists(cluster, namespace);
                self.clusters.iter().filter(|(cluster, _)| has(cluster)).map(|(_, number)| *number).collect()
            });
            for client in importers {
                let (address, protocol, port) = (backend.address, backend.protocol, backend.port);
                exported.insert(Exported { client: *client, address, protocol, port });
            }
        }
        exported
    }

    /// Computes the verdicts: for each rule set a row for the peers that most classes are, and a cell for each other class.
    fn cells(&self) -> (Vec<Ruleset>, crate::set::Cells, crate::rows::Rows, Vec<RuleName>) {
        let clusters: Vec<&ClusterName> = self.clusters.keys().copied().collect();
        let mut splitter = Splitter::new(&self.classes, self.book.peers.len(), self.port_tables.list.len());
        let (mut rows, mut cells, mut rulesets) = (RowsBuilder::default(), crate::set::Cells::default(), Vec::new());
        let (mut ids, mut names): (HashMap<(u32, u32), RuleId>, _) = (HashMap::new(), Vec::new());
        for (number, selection) in (0u32..).zip(&self.rulesets) {
            let spans: Vec<_> = selection.spans().collect();
            let mut peers: Vec<u32> =
                self.book.rules_of(&spans).flat_map(|(_, rule)| rule.peers.iter().flatten()).copied().collect();
            peers.sort_unstable();
            peers.dedup();
            let groups = splitter.split(&peers, selection.asks_peer_ports);
            let mut id = |at: u32| {
                *ids.entry((selection.cluster, at)).or_insert_with(|| {
                    let rule = &self.book.rules[at as usize];
                    names.push(RuleName {
                        cluster: clusters[selection.cluster as usize].clone(),
                        scope: rule.scope.clone(),
                        namespace: rule.namespace.cloned(),
                        policy: rule.policy.clone(),
                        direction: rule.direction,
                        index: rule.index,
                    });
                    RuleId(u32::try_from(names.len() - 1).expect("fewer rules than a u32 counts"))
                })
            };
            let mut touched = 0;
            let mut count: BTreeMap<u32, usize> = BTreeMap::new();
            let mut of_group = Vec::with_capacity(groups.len());
            for group in &groups {
                let table = if selection.direction == Direction::Ingress { selection.ports } else { group.ports };
                let named = &self.port_tables.list[table as usize];
                let row =
                    rows.intern(Applying::new(self.book, selection, |peer| group.peers.contains(&peer), &mut id, named).row());
                touched += group.classes.len();
                *count.entry(row).or_default() += group.classes.len();
                of_group.push(row);
            }
            *count.entry(of_group[0]).or_default() += splitter.len() - touched;
            let usual =
                count.iter().max_by_key(|(row, count)| (**count, std::cmp::Reverse(**row))).map_or(of_group[0], |(row, _)| *row);
            if of_group[0] != usual {
                let mut rest: BTreeSet<u32> = (0..u32::try_from(splitter.len()).expect("fits")).collect();
                groups.iter().flat_map(|group| &group.classes).for_each(|class| {
                    rest.remove(class);
                });
                cells.extend(rest.into_iter().map(|class| ((number, class), of_group[0])));
            }
            for (group, row) in groups.iter().zip(&of_group).filter(|(_, row)| **row != usual) {
                cells.extend(group.classes.iter().map(|class| ((number, *class), *row)));
            }
            rulesets.push(Ruleset { usual });
        }
        (rulesets, cells, rows.finish(), names)
    }
}

/// Returns the nodes in order: those with a Node and those with keys alone.
fn nodes(state: &State) -> Vec<&NodeId> {
    let all: BTreeSet<&NodeId> = state.facts().nodes.keys().chain(state.facts().links.keys()).collect();
    all.into_iter().collect()
}
