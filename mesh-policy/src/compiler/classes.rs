//! Classes of ends, which no rule of any policy tells apart, and the profiles that workloads, nodes and networks have.

use crate::store::Interner;

/// What all ends of a class share: the peers that they are, ascending, and their table of named ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Class {
    pub(super) peers: Box<[u32]>,
    pub(super) ports: u32,
}

/// Every class by its number; 0 is nobody's peer and has no named ports.
#[derive(Debug)]
pub(super) struct Classes {
    classes: Interner<Class>,
    by_peer: Vec<Vec<u32>>,
    with_ports: Vec<u32>,
    fresh: Vec<u32>,
}

impl Classes {
    pub(super) fn new() -> Classes {
        let mut classes =
            Classes { classes: Interner::default(), by_peer: Vec::new(), with_ports: Vec::new(), fresh: Vec::new() };
        let (nobody, _) = classes.intern(Class { peers: Box::default(), ports: 0 });
        classes.retain(nobody);
        classes
    }

    /// Returns the number of a class, and whether it is new.
    pub(super) fn intern(&mut self, class: Class) -> (u32, bool) {
        let (number, new) = self.classes.intern(class);
        if new {
            let Class { peers, ports } = self.classes.get(number);
            for peer in peers {
                let peer = *peer as usize;
                if self.by_peer.len() <= peer {
                    self.by_peer.resize_with(peer + 1, Vec::new);
                }
                self.by_peer[peer].push(number);
            }
            if *ports != 0 {
                self.with_ports.push(number);
            }
            self.fresh.push(number);
        }
        (number, new)
    }

    /// Returns the number of a class, if it has one.
    pub(super) fn find(&self, class: &Class) -> Option<u32> {
        self.classes.find(class)
    }

    pub(super) fn get(&self, number: u32) -> &Class {
        self.classes.get(number)
    }

    pub(super) fn retain(&mut self, number: u32) {
        self.classes.retain(number);
    }

    pub(super) fn release(&mut self, number: u32) {
        self.classes.release(number);
    }

    /// Returns the classes that are `peer`.
    pub(super) fn of_peer(&self, peer: u32) -> &[u32] {
        self.by_peer.get(peer as usize).map_or(&[], Vec::as_slice)
    }

    /// Returns the classes that have named ports.
    pub(super) fn with_ports(&self) -> &[u32] {
        &self.with_ports
    }

    /// Returns a number that is larger than every class's.
    pub(super) fn bound(&self) -> u32 {
        self.classes.bound()
    }

    /// Returns the classes that are new since the last call.
    pub(super) fn take_fresh(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.fresh)
    }

    /// Forgets the classes that nobody has; returns them.
    pub(super) fn collect(&mut self) -> Vec<(u32, Class)> {
        let gone = self.classes.collect(0);
        for (number, Class { peers, ports }) in &gone {
            for peer in peers {
                let list = &mut self.by_peer[*peer as usize];
                if let Some(at) = list.iter().position(|known| known == number) {
                    list.swap_remove(at);
                }
            }
            if *ports != 0 {
                self.with_ports.retain(|known| known != number);
            }
        }
        gone
    }
}
