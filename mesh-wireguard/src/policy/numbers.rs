//! Groups of peers, and the numbers that stand for them in the names of chains and maps.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use mesh_core::ClusterName;

/// What decides how a peer is treated where no tier of the policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Its identity is not known (yet).
    Pending,
    /// A workload of the own cluster, another node, or outside the fleet.
    Near,
    /// A workload of another cluster.
    Far,
    /// The node itself.
    OwnNode,
}

impl Kind {
    /// The kinds of peers whose identity is known, or that have none.
    pub(super) const KNOWN: [Kind; 3] = [Kind::Near, Kind::Far, Kind::OwnNode];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Pending => "pending",
            Kind::Near => "near",
            Kind::Far => "far",
            Kind::OwnNode => "own-node",
        }
    }
}

/// Peers that no rule tells apart. The class means something in the sets of one compiler only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Group {
    Pending,
    Near { class: u32 },
    Far { class: u32, cluster: ClusterName },
    OwnNode { class: u32 },
}

impl Group {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Group::Pending => Kind::Pending,
            Group::Near { .. } => Kind::Near,
            Group::Far { .. } => Kind::Far,
            Group::OwnNode { .. } => Kind::OwnNode,
        }
    }

    pub(super) fn class(&self) -> Option<u32> {
        match self {
            Group::Pending => None,
            Group::Near { class } | Group::Far { class, .. } | Group::OwnNode { class } => Some(*class),
        }
    }
}

/// The numbers given so far: a change of the policy keeps those of what stays, so that it costs what changed.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    given: HashMap<Group, Given>,
    last: u32,
    round: u64,
}

#[derive(Clone, Copy, Debug)]
struct Given {
    number: u32,
    /// The last round in which it was asked for.
    round: u64,
}

impl Numbers {
    /// Begins another table.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// Ends a table: forgets what it does not have.
    pub(super) fn end(&mut self) {
        let round = self.round;
        self.given.retain(|_, given| given.round == round);
    }

    /// Returns the number of a group.
    pub(super) fn of(&mut self, group: &Group) -> u32 {
        let given = match self.given.entry(group.clone()) {
            Entry::Occupied(given) => given.into_mut(),
            Entry::Vacant(place) => {
                self.last += 1;
                place.insert(Given { number: self.last, round: self.round })
            }
        };
        given.round = self.round;
        given.number
    }
}
