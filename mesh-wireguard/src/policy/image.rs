//! A policy set as an nftables table: a pure function of the set, of what is local, and of the numbers given so far.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use mesh_core::{CrossClusterDefault, Direction, PrefixMap};
use mesh_dataplane::Local;
use mesh_policy::{End, Known, PolicySet, ProfileHandle, WorkloadHandle};

use super::chains;
use super::numbers::{GroupKey, Kind, Numbers, SubjectKey};
use super::rows::{Outcome, Rows};
use crate::nft::table::{Set, Table};
use crate::nft::{Element, Field, SetKind, Value, Verdict, address_bytes, ranges};

const NUMBER: &[Field] = &[Field::Number];

/// Returns the table for `policy` on a node.
pub(super) fn table(policy: &PolicySet, local: &Local, device: &str, numbers: &mut Numbers) -> Table {
    let mut image = Image {
        policy,
        local,
        is_local: local.prefixes.iter().map(|prefix| (*prefix, ())).collect(),
        own_node: policy.node_addresses(&local.node).collect(),
        numbers,
        table: Table::default(),
        profiles: HashMap::new(),
        groups: BTreeMap::new(),
        subjects: BTreeMap::new(),
        by_class: HashMap::new(),
        rows: Rows::default(),
    };
    image.addresses();
    image.outside();
    image.cells();
    image.exports();
    let Image { mut table, rows, .. } = image;
    rows.write(&mut table);
    for ipv4 in [true, false] {
        let set = ranges(local.prefixes.iter().copied(), ipv4);
        table.sets.insert(named("local", ipv4), Set::new(ranges_of(ipv4, Value::Nothing), set));
    }
    chains::write(&mut table, device, local.scope);
    table
}

/// Returns a set's name for a family.
pub(super) fn named(name: &str, ipv4: bool) -> String {
    format!("{name}{}", if ipv4 { 4 } else { 6 })
}

struct Image<'a> {
    policy: &'a PolicySet,
    local: &'a Local,
    is_local: PrefixMap<()>,
    /// The addresses of the node itself.
    own_node: BTreeSet<IpAddr>,
    numbers: &'a mut Numbers,
    table: Table,
    /// What the ends of a profile are as peers, apart from the own node's addresses.
    profiles: HashMap<ProfileHandle, GroupKey>,
    /// The groups that some address is in.
    groups: BTreeMap<GroupKey, u32>,
    /// The subjects that live here, each with a profile that has its rules.
    subjects: BTreeMap<SubjectKey, (u32, ProfileHandle)>,
    by_class: HashMap<u32, Vec<(Kind, u32)>>,
    rows: Rows,
}

impl Image<'_> {
    /// Writes who is behind which address: of all of them as peers, of those that live here as subjects.
    fn addresses(&mut self) {
        let mut peers = [Vec::new(), Vec::new()];
        let mut subjects = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        let mut own: BTreeMap<WorkloadHandle, Vec<IpAddr>> = BTreeMap::new();
        for (address, known) in self.policy.addresses() {
            let family = usize::from(address.is_ipv6());
            let key = address_bytes(address);
            let group = self.group(address, &known);
            peers[family].push(Element::data(key.clone(), number(group)));
            let End::Workload(handle) = known.end else { continue };
            if self.is_local.lookup(address).is_none() {
                continue;
            }
            own.entry(handle).or_default().push(address);
            for direction in [Direction::Ingress, Direction::Egress] {
                if let Some(subject) = self.subject(&known, direction) {
                    subjects[side(direction)][family].push(Element::data(key.clone(), number(subject)));
                }
            }
        }
        for (family, peers) in peers.into_iter().enumerate() {
            self.insert(&named("peers", family == 0), map_of(family == 0), peers);
        }
        for (name, families) in ["ingress", "egress"].into_iter().zip(subjects) {
            for (family, elements) in families.into_iter().enumerate() {
                self.insert(&named(name, family == 0), map_of(family == 0), elements);
            }
        }
        for ipv4 in [true, false] {
            let of_family = |addresses: &Vec<IpAddr>| -> Vec<Vec<u8>> {
                addresses.iter().filter(|address| address.is_ipv4() == ipv4).map(|address| address_bytes(*address)).collect()
            };
            let pairs = own.values().map(of_family).flat_map(|all| {
                let others = all.clone();
                all.into_iter().flat_map(move |a| others.clone().into_iter().map(move |b| Element::key([&a[..], &b].concat())))
            });
            let pairs: Vec<Element> = pairs.collect();
            let key: &'static [Field] = if ipv4 { &[Field::Ipv4, Field::Ipv4] } else { &[Field::Ipv6, Field::Ipv6] };
            self.insert(&named("self", ipv4), plain(key, Value::Nothing), pairs);
        }
    }

    /// Writes what is known of the addresses that nobody has.
    fn outside(&mut self) {
        let mut elements = [Vec::new(), Vec::new()];
        let starts = self.policy.outside();
        for (at, (start, known)) in starts.iter().enumerate() {
            let ipv4 = start.is_ipv4();
            let to = &mut elements[usize::from(!ipv4)];
            if at > 0 && starts[at - 1].0.is_ipv4() == ipv4 {
                to.push(Element::end(address_bytes(*start)));
            }
            let group = self.group(*start, known);
            to.push(Element::data(address_bytes(*start), number(group)));
        }
        for (family, elements) in elements.into_iter().enumerate() {
            let ipv4 = family == 0;
            self.insert(&named("outside", ipv4), ranges_of(ipv4, Value::Fields(NUMBER)), elements);
        }
    }

    /// Writes where each subject and group of peers is decided.
    fn cells(&mut self) {
        let kinds: Vec<Element> =
            self.groups.iter().map(|(key, group)| Element::data(number(*group), number(key.kind().number()))).collect();
        self.insert("kinds", plain(NUMBER, Value::Fields(NUMBER)), kinds);
        let mut cells = Vec::new();
        let cell =
            |subject: u32, peer: u32, row: String| Element::verdict([number(subject), number(peer)].concat(), Verdict::Goto(row));
        // Own ends that are no workloads: pending, or not policed.
        for kind in Kind::ALL {
            let outcome = if kind == Kind::Pending { Outcome::Pending } else { Outcome::NotPoliced };
            for (own, outcome) in [(Kind::Pending, Outcome::Pending), (Kind::Near, outcome), (Kind::OwnNode, outcome)] {
                cells.push(cell(own.number(), kind.number(), self.rows.of(outcome)));
            }
        }
        for (key, (subject, profile)) in &self.subjects {
            let (usual, others) = self.policy.rows(*profile, key.direction);
            for kind in Kind::ALL {
                let row = self.rows.of_row(self.policy, (*profile, key), usual, kind);
                cells.push(cell(*subject, kind.number(), row));
            }
            for (class, row) in others {
                for (kind, group) in self.by_class.get(&class).into_iter().flatten() {
                    let row = self.rows.of_row(self.policy, (*profile, key), row, *kind);
                    cells.push(cell(*subject, *group, row));
                }
            }
        }
        self.insert("cells", plain(&[Field::Number, Field::Number], Value::Verdict), cells);
    }

    /// Writes which ports are exported: of others to here, and of here to others.
    fn exports(&mut self) {
        if self.policy.settings().1 != CrossClusterDefault::Exports {
            return;
        }
        let here = &self.local.node.cluster;
        let (mut to_here, mut from_here) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let mut importers: BTreeMap<BTreeSet<u32>, String> = BTreeMap::new();
        for export in self.policy.exports() {
            let of_exporter = self.policy.known(export.address);
            let End::Workload(_) = of_exporter.end else { continue };
            if self.policy.profile(of_exporter.profile).cluster != Some(export.cluster) {
                continue;
            }
            let family = usize::from(export.address.is_ipv6());
            let [high, low] = export.port.to_be_bytes();
            let key = [&address_bytes(export.address)[..], &[export.protocol.number(), 0, 0, 0], &[high, low, 0, 0]].concat();
            if export.cluster != here {
                if export.importers.contains(here) {
                    to_here[family].push(Element::key(key));
                }
            } else if self.is_local.lookup(export.address).is_some() {
                let groups =
                    self.groups.iter().filter(|(key, _)| key.cluster().is_some_and(|from| export.importers.contains(from)));
                let groups: BTreeSet<u32> = groups.map(|(_, group)| *group).collect();
                let next = importers.len();
                let chain = importers.entry(groups).or_insert_with(|| format!("importers-{next}"));
                from_here[family].push(Element::verdict(key, Verdict::Goto(chain.clone())));
            }
        }
        for (family, (to_here, from_here)) in to_here.into_iter().zip(from_here).enumerate() {
            let ipv4 = family == 0;
            let key: &'static [Field] = match ipv4 {
                true => &[Field::Ipv4, Field::Protocol, Field::Port],
                false => &[Field::Ipv6, Field::Protocol, Field::Port],
            };
            self.insert(&named("imported", ipv4), plain(key, Value::Nothing), to_here);
            self.insert(&named("exported", ipv4), plain(key, Value::Verdict), from_here);
        }
        for (groups, chain) in importers {
            let elements = groups.into_iter().map(|group| Element::key(number(group))).collect();
            self.insert(&chain, plain(NUMBER, Value::Nothing), elements);
            chains::importers(&mut self.table, &mut self.rows, &chain);
        }
        chains::exports(&mut self.table, &mut self.rows);
    }

    /// Returns the number of the group that an address is in as a peer.
    fn group(&mut self, address: IpAddr, known: &Known) -> u32 {
        let key = match known.end {
            End::Pending => GroupKey::Pending,
            End::Node(_) if self.own_node.contains(&address) => {
                GroupKey::OwnNode { class: self.policy.profile(known.profile).class }
            }
            _ => match self.profiles.get(&known.profile) {
                Some(key) => key.clone(),
                None => {
                    let key = self.peer(known);
                    self.profiles.insert(known.profile, key.clone());
                    key
                }
            },
        };
        if let Some(group) = self.groups.get(&key) {
            return *group;
        }
        let group = self.numbers.group(&key);
        if let Some(class) = key.class() {
            self.by_class.entry(class).or_default().push((key.kind(), group));
        }
        self.groups.insert(key, group);
        group
    }

    fn peer(&self, known: &Known) -> GroupKey {
        let profile = self.policy.profile(known.profile);
        match profile.cluster {
            Some(cluster) if *cluster != self.local.node.cluster => {
                GroupKey::Far { class: profile.class, cluster: cluster.clone() }
            }
            _ => GroupKey::Near { class: profile.class },
        }
    }

    /// Returns the number of a workload that lives here as a subject; none of one whose cluster does not live here.
    fn subject(&mut self, known: &Known, direction: Direction) -> Option<u32> {
        let profile = self.policy.profile(known.profile);
        let workload = self.policy.workload(known.end)?;
        if profile.cluster != Some(&self.local.node.cluster) {
            return None;
        }
        let on_own_node = workload.node == Some(&self.local.node);
        let key = SubjectKey { ruleset: profile.rulesets[side(direction)], direction, on_own_node };
        let numbers = &mut self.numbers;
        Some(self.subjects.entry(key).or_insert_with(|| (numbers.subject(key), known.profile)).0)
    }

    fn insert(&mut self, name: &str, kind: SetKind, elements: Vec<Element>) {
        self.table.sets.insert(name.to_owned(), Set::new(kind, elements));
    }
}

/// Returns the index of a direction in `[ingress, egress]`.
pub(super) fn side(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

pub(super) fn number(number: u32) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}

fn plain(key: &'static [Field], value: Value) -> SetKind {
    SetKind { key, value, ranges: false, fixed: false }
}

fn address_field(ipv4: bool) -> &'static [Field] {
    if ipv4 { &[Field::Ipv4] } else { &[Field::Ipv6] }
}

fn map_of(ipv4: bool) -> SetKind {
    plain(address_field(ipv4), Value::Fields(NUMBER))
}

fn ranges_of(ipv4: bool, value: Value) -> SetKind {
    SetKind { key: address_field(ipv4), value, ranges: true, fixed: false }
}
