//! The part of a table that decides: for each group of peers where each own end is decided, and the rows of those.
//!
//! It stays as it is while neither the rules of what lives here nor the groups that they tell apart change: so that a workload
//! elsewhere comes and goes by its own elements.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{CrossClusterDefault, Settings};
use mesh_policy::{PolicySet, ProfileHandle, Rulings};

use super::chains::{self, Side};
use super::image::{named, ranges_of, verdicts_of};
use super::numbers::{Group, Kind, Numbers};
use super::rows::{Outcome, Rows, Subject};
use crate::nft::table::Table;
use crate::nft::{Element, Value, Verdict, address_bytes};

/// The groups that some subject tells from others, with the ends of their chains' names.
pub(super) type Groups = BTreeMap<Group, String>;

/// What own ends that are no subjects are, or ranges of them.
pub(super) type Own = Vec<(IpAddr, Outcome)>;

/// What the sides follow from.
#[derive(Clone, Debug)]
pub(super) struct Inputs {
    pub(super) subjects: BTreeMap<Subject, Ruled>,
    /// The groups that some address is in, by their class.
    pub(super) peers: BTreeMap<u32, BTreeSet<Group>>,
    pub(super) own: Own,
    pub(super) own_outside: Own,
    pub(super) settings: (Settings, CrossClusterDefault),
}

/// Where a subject lives, and a profile of one set that has its rules.
#[derive(Clone, Debug)]
pub(super) struct Ruled {
    pub(super) profile: ProfileHandle,
    pub(super) rulings: Rulings,
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl PartialEq for Ruled {
    fn eq(&self, other: &Ruled) -> bool {
        self.rulings == other.rulings && self.addresses == other.addresses
    }
}

/// Both sides of connections.
#[derive(Debug)]
pub(super) struct Sides {
    inputs: Inputs,
    /// The classes that some subject tells from others.
    classes: BTreeSet<u32>,
    groups: [Groups; 2],
    pub(super) table: Table,
}

impl Sides {
    /// Writes both sides.
    pub(super) fn new(policy: &PolicySet, inputs: Inputs, numbers: &mut Numbers) -> Sides {
        let mut sides = Sides { inputs, classes: BTreeSet::new(), groups: Default::default(), table: Table::default() };
        let mut rows = Rows::default();
        numbers.begin();
        for (at, side) in Side::BOTH.into_iter().enumerate() {
            sides.groups[at] = sides.write(policy, side, &mut rows, numbers);
        }
        numbers.end();
        rows.write(&mut sides.table);
        sides
    }

    /// Tells whether these sides are what follows from other inputs too.
    pub(super) fn hold(&self, inputs: &Inputs) -> bool {
        let known = &self.inputs;
        let same = |class: &u32| known.peers.get(class) == inputs.peers.get(class);
        known.settings == inputs.settings
            && known.subjects == inputs.subjects
            && (&known.own, &known.own_outside) == (&inputs.own, &inputs.own_outside)
            && self.classes.iter().all(same)
    }

    pub(super) fn groups(&self, side: Side) -> &Groups {
        &self.groups[usize::from(side == Side::BOTH[1])]
    }

    /// Writes one side; returns the groups that some own end tells from others.
    fn write(&mut self, policy: &PolicySet, side: Side, rows: &mut Rows, numbers: &mut Numbers) -> Groups {
        let mut usual: BTreeMap<(Kind, bool), Vec<Element>> = BTreeMap::new();
        let mut unusual: BTreeMap<&Group, [Vec<Element>; 2]> = BTreeMap::new();
        let subjects = self.inputs.subjects.iter().filter(|(subject, _)| subject.direction == side.direction());
        for (subject, Ruled { profile, addresses, .. }) in subjects {
            let (row, others) = policy.rows(*profile, subject.direction);
            let mut decided = |row, kind| Verdict::Goto(rows.of_row(policy, (*profile, subject), row, kind));
            for kind in Kind::KNOWN {
                let to = decided(row, kind);
                for address in addresses {
                    let element = Element::verdict(address_bytes(*address), to.clone());
                    usual.entry((kind, address.is_ipv4())).or_default().push(element);
                }
            }
            for (class, row) in others {
                self.classes.insert(class);
                for group in self.inputs.peers.get(&class).into_iter().flatten() {
                    let to = decided(row, group.kind());
                    let of_group = unusual.entry(group).or_default();
                    for address in addresses {
                        let element = Element::verdict(address_bytes(*address), to.clone());
                        of_group[usize::from(address.is_ipv6())].push(element);
                    }
                }
            }
        }
        for ipv4 in [true, false] {
            let mut decided = |own: &Own| -> Vec<(IpAddr, Arc<str>)> {
                let of_family = own.iter().filter(|(address, _)| address.is_ipv4() == ipv4);
                of_family.map(|(address, outcome)| (*address, rows.of(side, *outcome))).collect()
            };
            let (own, own_outside) = (decided(&self.inputs.own), decided(&self.inputs.own_outside));
            let own = own.into_iter().map(|(address, to)| Element::verdict(address_bytes(address), Verdict::Goto(to)));
            let name = |of: &str| named(&format!("{}-{of}", side.as_str()), ipv4);
            let own = self.table.fixed_set(&name("own"), verdicts_of(ipv4), own);
            let own_outside = self.table.fixed_set(&name("own-outside"), ranges_of(ipv4, Value::Verdict), covering(&own_outside));
            for kind in Kind::KNOWN {
                let name = format!("{}-{}", side.peers(ipv4), kind.as_str());
                let elements = usual.remove(&(kind, ipv4)).unwrap_or_default();
                let map = self.table.fixed_set(&name, verdicts_of(ipv4), elements);
                chains::kind(&mut self.table, &name, (side, ipv4), [&map, &own, &own_outside]);
            }
        }
        let mut groups = Groups::new();
        for (group, elements) in unusual {
            let number = numbers.of(group).to_string();
            for (ipv4, elements) in [true, false].into_iter().zip(elements) {
                let name = format!("{}-{number}", side.peers(ipv4));
                let kind = format!("{}-{}", side.peers(ipv4), group.kind().as_str());
                let map = (!elements.is_empty()).then(|| self.table.fixed_set(&name, verdicts_of(ipv4), elements));
                chains::group(&mut self.table, &name, (side, ipv4), map.as_deref(), &kind);
            }
            groups.insert(group.clone(), number);
        }
        groups
    }
}

/// Returns ranges that follow each other and leave nothing out, by their starts, each with the chain that it leads to.
pub(super) fn covering(starts: &[(IpAddr, Arc<str>)]) -> Vec<Element> {
    let mut elements = Vec::new();
    for (start, chain) in starts {
        if !elements.is_empty() {
            elements.push(Element::end(address_bytes(*start)));
        }
        elements.push(Element::verdict(address_bytes(*start), Verdict::Goto(chain.clone())));
    }
    elements
}
