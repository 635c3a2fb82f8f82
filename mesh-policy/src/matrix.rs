//! Who can reach whom: for every two groups of ends, the protocols and ports that both sides allow.
//!
//! A group is a namespace, or the workloads of which no rule tells one from the other; nodes are one, and every part of the
//! outside that rules tell apart is one. Nothing is sampled: a cell is put together from every pair of classes of ends, for
//! every protocol and port. Where the pairs of a cell differ, the cell says what all of them may and what only some may.
//!
//! ```
//! # use mesh_core::{Settings, State, StateConfig, Trust};
//! # use mesh_policy::{PolicySet, matrix};
//! # let config = StateConfig { fleet: "demo".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
//! # let state = State::new(config);
//! let matrix = matrix::matrix(&state, &PolicySet::compile(&state), matrix::By::Namespace);
//! assert_eq!(matrix.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["outside"]);
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use hashbrown::HashMap;
use mesh_core::{ClusterName, NamespaceName, State};
use serde::Serialize;

use crate::PolicySet;
use crate::reach::{Ends, Names, Owner, Party, Ports, Region, Situation, Situations};

mod cells;
mod page;

/// How workloads are grouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// By cluster and namespace.
    #[default]
    Namespace,
    /// By what rules and defaults see of them: workloads that no policy tells apart, which are some identities in some namespaces.
    Identity,
}

/// Who can reach whom.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Workloads, then nodes, then the outside.
    pub groups: Vec<Group>,
    /// A row for each source, a column for each destination, in the order of the groups.
    cells: Vec<Option<Cell>>,
    /// The groups of the addresses that somebody has.
    of_address: HashMap<IpAddr, usize>,
    /// First and last addresses, and whose they are.
    outside: Vec<(IpAddr, IpAddr, usize)>,
}

/// Ends that are shown as one.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// `east/shop`, `east/shop app=web`, `nodes`, `outside 192.0.2.0/24`.
    pub name: String,
    /// Who they are.
    pub members: Party,
}

/// What the pairs of two groups may. A workload and itself is no pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Cell {
    /// What every pair may.
    pub every: Ports,
    /// What some pair may, that included.
    pub some: Ports,
}

impl Cell {
    /// Tells whether all pairs may the same.
    pub fn is_uniform(&self) -> bool {
        self.every == self.some
    }
}

/// Computes who can reach whom; `set` is compiled from `state`.
pub fn matrix(state: &State, set: &PolicySet, by: By) -> Matrix {
    let sets = [Situations::new(set)];
    let ends = Ends::new([state], &sets);
    let names = Names::new(&ends.owners, &[state]);
    let grouping = Grouping::new(&ends, by);
    let mut matrix = Matrix {
        groups: Vec::new(),
        cells: cells::cells(&ends, &sets, &grouping),
        of_address: HashMap::new(),
        outside: Vec::new(),
    };
    let mut members = vec![(std::collections::BTreeSet::new(), Vec::<Region>::new()); grouping.count];
    for (seat, group) in ends.seats.iter().zip(&grouping.of_seats) {
        if let Some(group) = group {
            members[*group].0.insert(seat.owner);
            matrix.of_address.insert(seat.addresses[0], *group);
        }
    }
    for (region, group) in ends.regions.iter().zip(&grouping.of_regions) {
        if let Some(group) = group {
            members[*group].1.push(*region);
            matrix.outside.push((region.first, region.last, *group));
        }
    }
    let external = ends.external();
    for ((owners, regions), key) in members.iter().zip(&grouping.keys) {
        let members = names.party(owners, regions, &external);
        let name = match key {
            GroupKey::Namespace(cluster, namespace) => format!("{cluster}/{namespace}"),
            GroupKey::Nodes => "nodes".into(),
            GroupKey::Classes(_) | GroupKey::Outside(_) => members.names.join(" + "),
        };
        matrix.groups.push(Group { name, members });
    }
    matrix
}

impl Matrix {
    /// Returns the cell of two groups, by their places; `None` where there is no pair that a workload takes part in.
    pub fn cell(&self, source: usize, destination: usize) -> Option<&Cell> {
        self.cells.get(source * self.groups.len() + destination)?.as_ref()
    }

    /// Returns the place of the group that an address is in; `None` for an address whose identity is pending.
    pub fn group_of(&self, set: &PolicySet, address: IpAddr) -> Option<usize> {
        match set.known(address).end {
            crate::End::Pending => None,
            crate::End::External => {
                let mut regions = self.outside.iter();
                regions.find(|(first, last, _)| (*first..=*last).contains(&address)).map(|(.., group)| *group)
            }
            _ => self.of_address.get(&address).copied(),
        }
    }
}

/// What makes a group; in the order in which they are shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum GroupKey {
    Namespace(ClusterName, NamespaceName),
    Classes(Vec<u32>),
    Nodes,
    Outside(Situation),
}

/// The group of every seat and region: a number below `count`; none where an identity is pending.
struct Grouping {
    of_seats: Vec<Option<usize>>,
    of_regions: Vec<Option<usize>>,
    keys: Vec<GroupKey>,
    count: usize,
}

impl Grouping {
    fn new(ends: &Ends<1>, by: By) -> Grouping {
        let situation = |class: u32| ends.classes.get(class).situations[0];
        let seat_key = |owner: u32, class: u32| match (&ends.owners[owner as usize], situation(class)) {
            (_, Situation::Pending) => None,
            (Owner::Node(_), _) => Some(GroupKey::Nodes),
            (Owner::Workload(id), _) if by == By::Namespace => {
                Some(GroupKey::Namespace(id.cluster.clone(), id.namespace.clone()))
            }
            (Owner::Workload(_), _) => {
                let mut classes: Vec<u32> = ends.seats_of(owner).iter().map(|seat| seat.class).collect();
                classes.sort_unstable();
                classes.dedup();
                Some(GroupKey::Classes(classes))
            }
        };
        let region_key = |class: u32| match situation(class) {
            Situation::Pending => None,
            situation => Some(GroupKey::Outside(situation)),
        };
        let seats: Vec<_> = ends.seats.iter().map(|seat| seat_key(seat.owner, seat.class)).collect();
        let regions: Vec<_> = ends.regions.iter().map(|region| region_key(region.class)).collect();
        // Among groups of one kind: in the order of those who are in them.
        let mut first: BTreeMap<&GroupKey, usize> = BTreeMap::new();
        for (at, key) in seats.iter().chain(&regions).enumerate() {
            if let Some(key) = key {
                first.entry(key).or_insert(at);
            }
        }
        let kind = |key: &GroupKey| match key {
            GroupKey::Namespace(..) | GroupKey::Classes(_) => 0,
            GroupKey::Nodes => 1,
            GroupKey::Outside(_) => 2,
        };
        let mut ordered: Vec<(&GroupKey, usize)> = first.into_iter().collect();
        ordered.sort_by_key(|(key, first)| (kind(key), *first));
        let places: BTreeMap<&GroupKey, usize> = ordered.iter().enumerate().map(|(place, (key, _))| (*key, place)).collect();
        let place = |key: &Option<GroupKey>| key.as_ref().map(|key| places[key]);
        Grouping {
            of_seats: seats.iter().map(place).collect(),
            of_regions: regions.iter().map(place).collect(),
            count: ordered.len(),
            keys: ordered.into_iter().map(|(key, _)| key.clone()).collect(),
        }
    }
}
