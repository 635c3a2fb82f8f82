//! What one policy set makes of an address: everything that its verdicts depend on, apart from whose the address is.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::{Ports, Table};
use crate::set::{ProfileEntry, Subject};
use crate::{End, Known, PolicySet};

/// What rules and defaults of one set see at an address. The numbers are that set's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Situation {
    /// A workload with an identity.
    Workload {
        class: u32,
        /// For ingress and egress.
        rulesets: [u32; 2],
        cluster: u32,
        /// What is exported there: a number in [`Situations::exports`].
        exports: u32,
    },
    Node {
        class: u32,
    },
    Outside {
        class: u32,
    },
    Pending,
}

impl Situation {
    pub(crate) fn is_workload(self) -> bool {
        matches!(self, Situation::Workload { .. })
    }

    /// Returns the class as a peer; pending ends have none.
    pub(crate) fn class(self) -> Option<u32> {
        match self {
            Situation::Workload { class, .. } | Situation::Node { class } | Situation::Outside { class } => Some(class),
            Situation::Pending => None,
        }
    }
}

/// The exported ports of an address, by the cluster that may import them; only clusters that may import some.
pub(crate) type Offer = Vec<(u32, Ports)>;

/// The situations of a set.
#[derive(Debug)]
pub(crate) struct Situations<'a> {
    pub(crate) set: &'a PolicySet,
    /// The distinct offers; number 0 is that of nothing.
    pub(crate) exports: Table<Offer>,
    by_backend: HashMap<(u32, IpAddr), u32>,
}

impl<'a> Situations<'a> {
    pub(crate) fn new(set: &'a PolicySet) -> Situations<'a> {
        let mut importers: HashMap<u32, Vec<u32>> = HashMap::new();
        for ((cluster, namespace), ()) in set.importable.iter() {
            importers.entry(*namespace).or_default().push(*cluster);
        }
        let mut offers: HashMap<(u32, IpAddr), HashMap<u32, Ports>> = HashMap::new();
        for (backend, namespaces) in set.exported.iter() {
            let port = Ports::one(backend.protocol, backend.port);
            let offer = offers.entry((backend.cluster, backend.address)).or_default();
            for client in namespaces.iter().flat_map(|namespace| importers.get(namespace).into_iter().flatten()) {
                let known = offer.entry(*client).or_default();
                *known = known.or(&port);
            }
        }
        let mut exports = Table::default();
        exports.number(Offer::new());
        let mut by_backend = HashMap::new();
        for (backend, offer) in offers {
            let mut offer: Offer = offer.into_iter().collect();
            offer.sort_unstable();
            by_backend.insert(backend, exports.number(offer));
        }
        Situations { set, exports, by_backend }
    }

    /// Returns the situation at `address`.
    pub(crate) fn at(&self, address: IpAddr) -> Situation {
        self.of(self.set.known(address), address)
    }

    /// Returns the situation at `address`, of which `known` is known.
    pub(crate) fn of(&self, known: Known, address: IpAddr) -> Situation {
        let ProfileEntry { class, subject, .. } = *self.set.entry(known.profile);
        let Subject { rulesets, cluster } = self.set.subject(subject);
        match known.end {
            End::Workload(_) => {
                let exports = self.by_backend.get(&(cluster, address)).copied().unwrap_or(0);
                Situation::Workload { class, rulesets, cluster, exports }
            }
            End::Node(_) => Situation::Node { class },
            End::Pending => Situation::Pending,
            End::External => Situation::Outside { class },
        }
    }
}
