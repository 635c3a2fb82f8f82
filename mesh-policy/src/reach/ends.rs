//! The ends of connections, each with its address in every set, and the classes of those that are in one situation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hashbrown::HashMap;
use mesh_core::{Key, NodeId, State, WorkloadId};

use super::Table;
use super::situation::{Situation, Situations};
use crate::{End, Known};

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    Workload(WorkloadId),
    Node(NodeId),
}

/// An owner's address, which may be another one in each set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat<const N: usize> {
    /// A number in [`Ends::owners`].
    pub(crate) owner: u32,
    pub(crate) addresses: [IpAddr; N],
    pub(crate) class: u32,
}

/// Addresses in a row that nobody claims in any set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
    pub(crate) class: u32,
}

/// Ends in the same situation in every set, of one address family: connections need both ends in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Class<const N: usize> {
    pub(crate) is_ipv4: bool,
    pub(crate) situations: [Situation; N],
}

impl<const N: usize> Class<N> {
    /// Tells whether a workload is there in some set.
    pub(crate) fn is_workload(&self) -> bool {
        self.situations.iter().any(|situation| situation.is_workload())
    }
}

/// Every end that is there in all sets.
#[derive(Clone, Debug)]
pub(crate) struct Ends<const N: usize> {
    /// In order.
    pub(crate) owners: Vec<Owner>,
    /// In the order of their owners.
    pub(crate) seats: Vec<Seat<N>>,
    /// In order, IPv4 first.
    pub(crate) regions: Vec<Region>,
    pub(crate) classes: Table<Class<N>>,
    /// Addresses, with their owners, that are there in that set and have no counterpart in another.
    pub(crate) alone: [Vec<(Owner, IpAddr)>; N],
    /// The classes of the seats. Where two ends are at the same addresses they are in the same situation.
    by_addresses: HashMap<[IpAddr; N], u32>,
}

impl<const N: usize> Ends<N> {
    pub(crate) fn new(states: [&State; N], sets: &[Situations<'_>; N]) -> Ends<N> {
        let addresses: [_; N] = std::array::from_fn(|x| addresses(states[x], &sets[x]));
        let all: BTreeSet<&Owner> = addresses.iter().flat_map(BTreeMap::keys).collect();
        let mut ends = Ends {
            owners: Vec::new(),
            seats: Vec::new(),
            regions: Vec::new(),
            classes: Table::default(),
            alone: std::array::from_fn(|_| Vec::new()),
            by_addresses: HashMap::new(),
        };
        for owner in all {
            let lists: [&[IpAddr]; N] = std::array::from_fn(|x| addresses[x].get(owner).map(Vec::as_slice).unwrap_or_default());
            let (joined, alone) = join(lists);
            for (list, more) in ends.alone.iter_mut().zip(alone) {
                list.extend(more.into_iter().map(|address| (owner.clone(), address)));
            }
            if joined.is_empty() {
                continue;
            }
            let number = u32::try_from(ends.owners.len()).expect("fewer ends than a u32 counts");
            ends.owners.push(owner.clone());
            for addresses in joined {
                let situations = std::array::from_fn(|x| sets[x].at(addresses[x]));
                let class = ends.classes.number(Class { is_ipv4: addresses[0].is_ipv4(), situations });
                ends.by_addresses.insert(addresses, class);
                ends.seats.push(Seat { owner: number, addresses, class });
            }
        }
        ends.add_regions(sets);
        ends
    }

    /// Returns the number of ends of each class.
    pub(crate) fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.classes.len()];
        let classes = self.seats.iter().map(|seat| seat.class).chain(self.regions.iter().map(|region| region.class));
        classes.for_each(|class| counts[class as usize] += 1);
        counts
    }

    /// Returns the regions in which an address is external in some set, and not pending in all of them.
    pub(crate) fn external(&self) -> Vec<Region> {
        let is_external = |region: &&Region| {
            let situations = &self.classes.get(region.class).situations;
            situations.iter().any(|situation| *situation != Situation::Pending)
        };
        self.regions.iter().filter(is_external).copied().collect()
    }

    /// Returns the seats of an owner.
    pub(crate) fn seats_of(&self, owner: u32) -> &[Seat<N>] {
        let first = self.seats.partition_point(|seat| seat.owner < owner);
        let end = self.seats.partition_point(|seat| seat.owner <= owner);
        &self.seats[first..end]
    }

    /// Joins the outside regions of all sets, those in which some address is nobody's.
    fn add_regions(&mut self, sets: &[Situations<'_>; N]) {
        let mut claimed: Vec<IpAddr> = sets.iter().flat_map(|x| x.set.addresses().map(|(address, _)| address)).collect();
        claimed.sort_unstable();
        claimed.dedup();
        let outside: [Vec<(IpAddr, Known)>; N] = std::array::from_fn(|x| sets[x].set.outside());
        let starts: BTreeSet<IpAddr> = outside.iter().flatten().map(|(start, _)| *start).collect();
        let starts: Vec<IpAddr> = starts.into_iter().collect();
        for (at, first) in starts.iter().enumerate() {
            let next = starts.get(at + 1).filter(|next| next.is_ipv4() == first.is_ipv4());
            let last = last_before(next.copied(), first.is_ipv4());
            let among = claimed.partition_point(|address| address <= &last) - claimed.partition_point(|address| address < first);
            // As many are claimed as there are: nobody is left.
            if among as u128 > bits(last) - bits(*first) {
                continue;
            }
            let situations = std::array::from_fn(|x| {
                let after = outside[x].partition_point(|(start, _)| start <= first);
                sets[x].of(outside[x][after - 1].1, *first)
            });
            let class = self.classes.number(Class { is_ipv4: first.is_ipv4(), situations });
            match self.regions.last_mut() {
                Some(before) if before.class == class && bits(before.last) + 1 == bits(*first) => before.last = last,
                _ => self.regions.push(Region { first: *first, last, class }),
            }
        }
    }

    /// Returns the class of the end that has these addresses in the sets; `None` where they are not one end's.
    pub(crate) fn class_at(&self, addresses: [IpAddr; N], sets: &[Situations<'_>; N]) -> Option<u32> {
        if let Some(class) = self.by_addresses.get(&addresses) {
            return Some(*class);
        }
        let is_outside = |x: usize| {
            let end = sets[x].set.known(addresses[x]).end;
            matches!(end, End::External) || end == End::Pending && sets[x].set.ends.claimed(addresses[x]).is_none()
        };
        if addresses.iter().any(|address| *address != addresses[0]) || !(0..N).all(is_outside) {
            return None;
        }
        let region = self.regions.iter().find(|region| (region.first..=region.last).contains(&addresses[0]));
        region.map(|region| region.class)
    }
}

/// Returns every owner's addresses, in order: those that are its own by the policy set, and those that a refused workload claims.
fn addresses(state: &State, situations: &Situations<'_>) -> BTreeMap<Owner, Vec<IpAddr>> {
    let set = situations.set;
    let mut owners: BTreeMap<Owner, Vec<IpAddr>> = BTreeMap::new();
    for (address, known) in set.addresses() {
        let owner = match known.end {
            End::Workload(_) => set.workload(known.end).map(|info| Owner::Workload(info.id.clone())),
            End::Node(_) => set.node(known.end).cloned().map(Owner::Node),
            End::Pending | End::External => None,
        };
        if let Some(owner) = owner {
            owners.entry(owner).or_default().push(address);
        }
    }
    for (key, _) in state.refused() {
        let Key::Workload(id) = key else { continue };
        let claimed = state.refused_workload(id).into_iter().flat_map(|workload| &workload.addresses);
        let pending: Vec<IpAddr> = claimed.copied().filter(|address| set.known(*address).end == End::Pending).collect();
        if !pending.is_empty() {
            owners.entry(Owner::Workload(id.clone())).or_default().extend(pending);
        }
    }
    for list in owners.values_mut() {
        list.sort_unstable();
        list.dedup();
    }
    owners
}

/// Joins an owner's addresses: those that all lists have, then the others of each family in their order. Returns what is left.
fn join<const N: usize>(lists: [&[IpAddr]; N]) -> (Vec<[IpAddr; N]>, [Vec<IpAddr>; N]) {
    let common: Vec<IpAddr> =
        lists[0].iter().copied().filter(|address| lists.iter().all(|list| list.binary_search(address).is_ok())).collect();
    let mut joined: Vec<[IpAddr; N]> = common.iter().map(|address| [*address; N]).collect();
    let mut alone: [Vec<IpAddr>; N] = std::array::from_fn(|_| Vec::new());
    for is_ipv4 in [true, false] {
        let rest: [Vec<IpAddr>; N] = std::array::from_fn(|x| {
            let of_family = lists[x].iter().filter(|address| address.is_ipv4() == is_ipv4);
            of_family.copied().filter(|address| common.binary_search(address).is_err()).collect()
        });
        let pairs = rest.iter().map(Vec::len).min().unwrap_or(0);
        joined.extend((0..pairs).map(|at| std::array::from_fn(|x| rest[x][at])));
        for (list, rest) in alone.iter_mut().zip(rest) {
            list.extend(&rest[pairs..]);
        }
    }
    (joined, alone)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Returns the address before `next`, or the family's last.
fn last_before(next: Option<IpAddr>, is_ipv4: bool) -> IpAddr {
    match next {
        Some(IpAddr::V4(next)) => IpAddr::V4((next.to_bits() - 1).into()),
        Some(IpAddr::V6(next)) => IpAddr::V6((next.to_bits() - 1).into()),
        None if is_ipv4 => IpAddr::V4(u32::MAX.into()),
        None => IpAddr::V6(u128::MAX.into()),
    }
}
