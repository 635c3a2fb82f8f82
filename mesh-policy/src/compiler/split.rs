//! Splits the classes by what one rule set tells apart.

use super::classes::Classes;
use super::rulesets::Draft;

/// Groups of classes that have the same row: which of a rule set's peers they are, and which named ports they have.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<Group>);

#[derive(Clone, Copy, Debug)]
struct Group {
    /// The group that it was split off.
    parent: u32,
    by: By,
}

#[derive(Clone, Copy, Debug)]
enum By {
    /// Nothing: the classes that no rule names.
    Rest,
    /// The rules of one peer, from one place among a rule set's rules by peer to another.
    Peer(u32, u32),
    /// The table of named ports.
    Ports(u32),
}

/// The result of a split.
pub(super) struct Split {
    pub(super) groups: Groups,
    /// The classes that are not in the first group, each with its group.
    pub(super) classes: Vec<(u32, u32)>,
}

/// Scratch space, used again.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// By class; all zero between two splits.
    group_of: Vec<u32>,
    /// By group: in which turn a group was split off it, and which.
    split_off: Vec<(u32, u32)>,
}

impl Splitter {
    /// Splits the classes by the peers of `draft`, and by their named ports if it asks for them. It costs the classes that are
    /// one of the peers, not all there are.
    pub(super) fn split(&mut self, draft: &Draft, classes: &Classes) -> Split {
        self.group_of.resize(classes.bound() as usize, 0);
        self.split_off.clear();
        self.split_off.push((0, 0));
        let (mut groups, mut touched, mut turn) = (vec![Group { parent: 0, by: By::Rest }], Vec::new(), 0);
        let mut step = |class: u32, turn: u32, by: By| {
            let group = &mut self.group_of[class as usize];
            if *group == 0 {
                touched.push(class);
            }
            let (at, other) = self.split_off[*group as usize];
            *group = if at == turn {
                other
            } else {
                let new = count(groups.len());
                groups.push(Group { parent: *group, by });
                self.split_off[*group as usize] = (turn, new);
                self.split_off.push((0, 0));
                new
            };
        };
        if draft.asks_peer_ports {
            let mut with_ports: Vec<(u32, u32)> =
                classes.with_ports().iter().map(|class| (classes.get(*class).ports, *class)).collect();
            with_ports.sort_unstable();
            for run in with_ports.chunk_by(|a, b| a.0 == b.0) {
                turn += 1;
                run.iter().for_each(|(ports, class)| step(*class, turn, By::Ports(*ports)));
            }
        }
        let mut first = 0;
        for run in draft.by_peer.chunk_by(|a, b| a.0 == b.0) {
            let end = first + count(run.len());
            turn += 1;
            classes.of_peer(run[0].0).iter().for_each(|class| step(*class, turn, By::Peer(first, end)));
            first = end;
        }
        let take = |class: u32| (class, std::mem::take(&mut self.group_of[class as usize]));
        Split { classes: touched.into_iter().map(take).collect(), groups: Groups(groups) }
    }
}

impl Groups {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Sets `rules` to the rules that name the classes of `group`, in order; returns their table of named ports where the rule
    /// set asks for it.
    pub(super) fn rules(&self, group: u32, draft: &Draft, rules: &mut Vec<u32>) -> Option<u32> {
        rules.clear();
        let mut ports = draft.asks_peer_ports.then_some(0);
        let mut at = group;
        loop {
            let Group { parent, by } = self.0[at as usize];
            match by {
                By::Rest => break,
                By::Peer(first, end) => rules.extend(draft.by_peer[first as usize..end as usize].iter().map(|(_, rule)| *rule)),
                By::Ports(table) => ports = Some(table),
            }
            at = parent;
        }
        rules.sort_unstable();
        rules.dedup();
        ports
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("fewer groups than a u32 counts")
}
