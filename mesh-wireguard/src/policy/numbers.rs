//! The numbers that stand for subjects and groups of peers in the kernel's maps.

use std::collections::HashMap;

use mesh_core::{ClusterName, Direction};

/// What decides how an end is treated where no tier of the policy does.
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
    pub(super) const ALL: [Kind; 4] = [Kind::Pending, Kind::Near, Kind::Far, Kind::OwnNode];

    /// Returns the number that stands for all groups of the kind.
    pub(super) fn number(self) -> u32 {
        1 + self as u32
    }
}

/// Peers that nothing tells apart. The class means something in the sets of one compiler only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum GroupKey {
    Pending,
    Near { class: u32 },
    Far { class: u32, cluster: ClusterName },
    OwnNode { class: u32 },
}

impl GroupKey {
    pub(super) fn kind(&self) -> Kind {
        match self {
            GroupKey::Pending => Kind::Pending,
            GroupKey::Near { .. } => Kind::Near,
            GroupKey::Far { .. } => Kind::Far,
            GroupKey::OwnNode { .. } => Kind::OwnNode,
        }
    }

    pub(super) fn class(&self) -> Option<u32> {
        match self {
            GroupKey::Pending => None,
            GroupKey::Near { class } | GroupKey::Far { class, .. } | GroupKey::OwnNode { class } => Some(*class),
        }
    }

    /// Returns the other cluster that the peers are of.
    pub(super) fn cluster(&self) -> Option<&ClusterName> {
        match self {
            GroupKey::Far { cluster, .. } => Some(cluster),
            _ => None,
        }
    }
}

/// Workloads of this node with the same verdicts in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SubjectKey {
    pub(super) ruleset: u32,
    pub(super) direction: Direction,
    /// Their node is this one, also by their own account.
    pub(super) on_own_node: bool,
}

/// The numbers given so far: a change of the policy keeps those of what stays, so that it costs what changed.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    groups: HashMap<GroupKey, Given>,
    subjects: HashMap<SubjectKey, Given>,
    last: u32,
    round: u64,
}

#[derive(Clone, Copy, Debug)]
struct Given {
    number: u32,
    /// The last round in which it was asked for.
    round: u64,
}

/// The numbers below stand for kinds.
const FIRST: u32 = 16;

impl Numbers {
    /// Begins another table.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// Ends a table: forgets what it does not have.
    pub(super) fn end(&mut self) {
        let round = self.round;
        self.groups.retain(|_, given| given.round == round);
        self.subjects.retain(|_, given| given.round == round);
    }

    pub(super) fn group(&mut self, key: &GroupKey) -> u32 {
        let Numbers { groups, last, round, .. } = self;
        give(groups.entry(key.clone()), last, *round)
    }

    pub(super) fn subject(&mut self, key: SubjectKey) -> u32 {
        let Numbers { subjects, last, round, .. } = self;
        give(subjects.entry(key), last, *round)
    }
}

fn give<K>(entry: std::collections::hash_map::Entry<'_, K, Given>, last: &mut u32, round: u64) -> u32 {
    let given = entry.or_insert_with(|| {
        *last = (*last).max(FIRST) + 1;
        Given { number: *last, round }
    });
    given.round = round;
    given.number
}
