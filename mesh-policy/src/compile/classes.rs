//! Classes of ends: addresses that no rule of any policy tells apart.

use hashbrown::{HashMap, HashSet};

/// What all ends of a class share: the peers that they are, ascending, and their table of named ports.
type Class = (Vec<u32>, u32);

/// Every class by a dense number; class 0 is nobody's peer and has no named ports.
#[derive(Debug)]
pub(super) struct Classes {
    ids: HashMap<Class, u32>,
    list: Vec<Class>,
}

impl Classes {
    pub(super) fn new() -> Classes {
        let mut classes = Classes { ids: HashMap::new(), list: Vec::new() };
        classes.intern((Vec::new(), 0));
        classes
    }

    pub(super) fn intern(&mut self, class: Class) -> u32 {
        let next = u32::try_from(self.list.len()).expect("fewer classes than a u32 counts");
        *self.ids.entry(class).or_insert_with_key(|class| {
            self.list.push(class.clone());
            next
        })
    }
}

/// A set of classes that one selection does not tell apart.
pub(super) struct Group {
    /// The peers of the selection that its classes are.
    pub(super) peers: HashSet<u32>,
    /// Their table of named ports; 0 where the selection does not ask.
    pub(super) ports: u32,
    /// The classes; those of the first group are all that are in no other.
    pub(super) classes: Vec<u32>,
}

/// The classes by what they have, and the scratch space to split them.
pub(super) struct Splitter {
    by_peer: Vec<Vec<u32>>,
    by_ports: Vec<Vec<u32>>,
    len: usize,
    /// Class to group; all zero between two splits.
    group_of: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Peer(u32),
    Ports(u32),
}

impl Splitter {
    pub(super) fn new(classes: &Classes, peers: usize, port_tables: usize) -> Splitter {
        let (mut by_peer, mut by_ports) = (vec![Vec::new(); peers], vec![Vec::new(); port_tables]);
        for (id, (is, ports)) in (0u32..).zip(&classes.list) {
            is.iter().for_each(|peer| by_peer[*peer as usize].push(id));
            if *ports != 0 {
                by_ports[*ports as usize].push(id);
            }
        }
        Splitter { by_peer, by_ports, len: classes.list.len(), group_of: vec![0; classes.list.len()] }
    }

    /// Returns the number of classes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Splits the classes by which of `peers` they are, and by their named ports if `by_ports`. It costs the classes that are
    /// one of the peers, not all there are.
    pub(super) fn split(&mut self, peers: &[u32], by_ports: bool) -> Vec<Group> {
        let root = Group { peers: HashSet::new(), ports: 0, classes: Vec::new() };
        let mut groups = vec![root];
        let mut refined: HashMap<(u32, Step), u32> = HashMap::new();
        let mut touched: Vec<u32> = Vec::new();
        let tables = if by_ports { self.by_ports.as_slice() } else { &[] };
        let tables = (0u32..).zip(tables).map(|(table, classes)| (Step::Ports(table), classes));
        let peers = peers.iter().map(|peer| (Step::Peer(*peer), &self.by_peer[*peer as usize]));
        for (step, classes) in tables.chain(peers) {
            for class in classes {
                let group = &mut self.group_of[*class as usize];
                if *group == 0 {
                    touched.push(*class);
                }
                *group = *refined.entry((*group, step)).or_insert_with(|| {
                    let parent = &groups[*group as usize];
                    let mut next = Group { peers: parent.peers.clone(), ports: parent.ports, classes: Vec::new() };
                    match step {
                        Step::Peer(peer) => {
                            next.peers.insert(peer);
                        }
                        Step::Ports(table) => next.ports = table,
                    }
                    groups.push(next);
                    u32::try_from(groups.len() - 1).expect("no more groups than classes")
                });
            }
        }
        for class in touched {
            let group = std::mem::take(&mut self.group_of[class as usize]);
            groups[group as usize].classes.push(class);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_puts_together_what_is_the_same_to_the_peers_asked_for() {
        let mut classes = Classes::new();
        for peers in [vec![1], vec![1, 2], vec![2], vec![3], vec![1, 3]] {
            classes.intern((peers, 0));
        }
        let mut splitter = Splitter::new(&classes, 4, 1);
        for _ in 0..2 {
            let mut seen: Vec<Vec<u32>> = splitter.split(&[1, 2], false).into_iter().map(|group| group.classes).collect();
            seen.retain(|classes| !classes.is_empty());
            seen.iter_mut().for_each(|classes| classes.sort_unstable());
            seen.sort();
            // Class 5 is peer 3 too, which nobody asks for; 0 and 4 are left to the first group.
            assert_eq!(seen, [vec![1, 5], vec![2], vec![3]]);
        }
    }
}
