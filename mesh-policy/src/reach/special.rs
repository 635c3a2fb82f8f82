//! The pairs of ends for which their classes alone do not decide: a workload and itself, a workload and its own node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hashbrown::HashMap;

use super::situation::Situations;
use super::{Ends, Flags, Owner};
use crate::PolicySet;

/// A pair of seats, by their numbers, with what is special of it in every set.
pub(crate) type Special<const N: usize> = (u32, u32, [Flags; N]);

/// Returns every ordered pair of seats of one family that is special in some set.
pub(crate) fn specials<const N: usize>(ends: &Ends<N>, sets: &[Situations<'_>; N]) -> Vec<Special<N>> {
    let nodes: [Nodes; N] = std::array::from_fn(|x| Nodes::new(ends, sets[x].set, x));
    let mut found = Vec::new();
    let mut begin = 0;
    while begin < ends.seats.len() {
        let owner = ends.seats[begin].owner;
        let of_owner = begin..begin + ends.seats[begin..].iter().take_while(|seat| seat.owner == owner).count();
        begin = of_owner.end;
        if !matches!(ends.owners[owner as usize], Owner::Workload(_)) {
            continue;
        }
        for seat in of_owner.clone() {
            // Itself, and both ways with its nodes.
            let mut pairs: BTreeSet<(usize, usize)> = of_owner.clone().map(|other| (seat, other)).collect();
            for (x, nodes) in nodes.iter().enumerate() {
                let own = nodes.own(sets[x].set, ends.seats[seat].addresses[x]);
                pairs.extend(own.iter().flat_map(|node| [(seat, *node as usize), (*node as usize, seat)]));
            }
            found.extend(pairs.into_iter().filter_map(|(from, to)| special(ends, sets, from, to)));
        }
    }
    found
}

fn special<const N: usize>(ends: &Ends<N>, sets: &[Situations<'_>; N], from: usize, to: usize) -> Option<Special<N>> {
    let (source, destination) = (&ends.seats[from], &ends.seats[to]);
    let flags = std::array::from_fn(|x| Flags::of(sets[x].set, source.addresses[x], destination.addresses[x]));
    let is_special = flags.iter().any(|flags| *flags != Flags::default());
    let is_one_family = source.addresses[0].is_ipv4() == destination.addresses[0].is_ipv4();
    let number = |seat: usize| u32::try_from(seat).expect("fewer seats than a u32 counts");
    (is_special && is_one_family).then(|| (number(from), number(to), flags))
}

/// The seats at the addresses of each node of a set.
struct Nodes(HashMap<u32, Vec<u32>>);

impl Nodes {
    fn new<const N: usize>(ends: &Ends<N>, set: &PolicySet, x: usize) -> Nodes {
        let at: HashMap<IpAddr, u32> = (0..).zip(&ends.seats).map(|(number, seat)| (seat.addresses[x], number)).collect();
        let mut nodes: HashMap<u32, Vec<u32>> = HashMap::new();
        for (node, address) in set.ends.node_addresses.iter() {
            nodes.entry(*node).or_default().extend(at.get(address));
        }
        Nodes(nodes)
    }

    /// Returns the seats of the node on which the workload at `address` runs.
    fn own(&self, set: &PolicySet, address: IpAddr) -> &[u32] {
        let node = set.workload_entry(set.known(address).end).and_then(|entry| entry.node);
        node.and_then(|node| self.0.get(&node)).map(Vec::as_slice).unwrap_or_default()
    }
}
