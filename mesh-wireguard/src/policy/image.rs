//! A policy set as an nftables table: a pure function of the set, of what is local, and of the numbers given so far.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{CrossClusterDefault, Direction, PrefixMap};
use mesh_dataplane::Local;
use mesh_policy::{End, Known, PolicySet, ProfileHandle, WorkloadHandle};

use super::chains::{self, Side};
use super::numbers::{Group, Kind, Numbers};
use super::rows::{Outcome, Rows, Subject};
use super::sides::{Groups, Inputs, Own, Ruled, Sides, covering};
use crate::nft::table::Table;
use crate::nft::{Element, Field, SetKind, Value, Verdict, address_bytes, ranges};

/// Returns the table for `policy` on a node: what decides, and what leads there. `before` are the sides of the last one.
pub(super) fn table(
    (policy, local): (&PolicySet, &Local),
    device: &str,
    numbers: &mut Numbers,
    before: Option<Arc<Sides>>,
) -> (Arc<Sides>, Table) {
    let mut image = Image {
        policy,
        local,
        is_local: local.prefixes.iter().map(|prefix| (*prefix, ())).collect(),
        own_node: policy.node_addresses(&local.node).collect(),
        table: Table::default(),
        profiles: HashMap::new(),
        peers: BTreeMap::new(),
        workloads: BTreeMap::new(),
        rows: Rows::default(),
    };
    let (known, own) = image.addresses();
    let (outside, own_outside) = image.outside();
    let inputs = image.inputs(own, own_outside);
    let sides = match before.filter(|before| before.hold(&inputs)) {
        Some(before) => before,
        None => Arc::new(Sides::new(policy, inputs, numbers)),
    };
    for side in Side::BOTH {
        image.peers(side, sides.groups(side), &known, &outside);
    }
    image.exports();
    let Image { mut table, rows, .. } = image;
    rows.write(&mut table);
    let mut of_family = |ipv4| {
        let elements = ranges(local.prefixes.iter().copied(), ipv4);
        table.fixed_set(&named("local", ipv4), ranges_of(ipv4, Value::Nothing), elements)
    };
    let (v4, v6) = (of_family(true), of_family(false));
    chains::write(&mut table, device, local.scope, &[(true, &v4), (false, &v6)]);
    (sides, table)
}

/// Returns a name for a family.
pub(super) fn named(name: &str, ipv4: bool) -> String {
    format!("{name}{}", if ipv4 { 4 } else { 6 })
}

struct Image<'a> {
    policy: &'a PolicySet,
    local: &'a Local,
    is_local: PrefixMap<()>,
    /// The addresses of the node itself.
    own_node: BTreeSet<IpAddr>,
    table: Table,
    /// What the ends of a profile are as peers, apart from the own node's addresses.
    profiles: HashMap<ProfileHandle, Group>,
    /// The groups that some address is in, by their class.
    peers: BTreeMap<u32, BTreeSet<Group>>,
    /// The workloads that live here: for each side the subjects that they are, with a profile and the addresses.
    workloads: BTreeMap<Subject, (ProfileHandle, BTreeSet<IpAddr>)>,
    rows: Rows,
}

impl Image<'_> {
    /// Looks at who is behind which address: returns of each the group that it is in as a peer, and what those are that live here
    /// and are no subjects. Writes which addresses are one workload's.
    fn addresses(&mut self) -> (Vec<(IpAddr, Group)>, Own) {
        let (mut known, mut own) = (Vec::new(), Own::new());
        let mut same: BTreeMap<WorkloadHandle, Vec<IpAddr>> = BTreeMap::new();
        for (address, who) in self.policy.addresses() {
            known.push((address, self.group(address, &who)));
            if self.is_local.lookup(address).is_none() {
                continue;
            }
            match who.end {
                End::Workload(handle) => {
                    same.entry(handle).or_default().push(address);
                    // Of another cluster: its policies are not asked here.
                    if !self.add_workload(address, &who) {
                        own.push((address, Outcome::Pending));
                    }
                }
                End::Pending => own.push((address, Outcome::Pending)),
                End::Node(_) | End::External => own.push((address, Outcome::NotPoliced)),
            }
        }
        for ipv4 in [true, false] {
            let pairs = same.values().flat_map(|all| all.iter().flat_map(move |a| all.iter().map(move |b| (*a, *b))));
            let pairs = pairs.filter(|(a, b)| a.is_ipv4() == ipv4 && b.is_ipv4() == ipv4);
            let pairs: Vec<_> = pairs.map(|(a, b)| Element::key([address_bytes(a), address_bytes(b)].concat())).collect();
            let key: &'static [Field] = if ipv4 { &[Field::Ipv4, Field::Ipv4] } else { &[Field::Ipv6, Field::Ipv6] };
            self.table.set(&named("self", ipv4), plain(key, Value::Nothing), pairs);
        }
        own.sort_unstable_by_key(|(address, _)| *address);
        (known, own)
    }

    /// Looks at the addresses that nobody has, in ranges by their starts: returns of each the group that it is in as a peer, and
    /// what it is as an own end.
    fn outside(&mut self) -> (Vec<(IpAddr, Group)>, Own) {
        let starts = self.policy.outside();
        let outcome = |known: &Known| if known.end == End::Pending { Outcome::Pending } else { Outcome::NotPoliced };
        let own = starts.iter().map(|(start, known)| (*start, outcome(known))).collect();
        (starts.iter().map(|(start, known)| (*start, self.group(*start, known))).collect(), own)
    }

    /// Returns what the sides follow from.
    fn inputs(&mut self, own: Own, own_outside: Own) -> Inputs {
        let workloads = std::mem::take(&mut self.workloads);
        let subject = |(subject, (profile, addresses)): (Subject, (ProfileHandle, BTreeSet<IpAddr>))| {
            let rulings = self.policy.rulings(profile, subject.direction);
            (subject, Ruled { profile, rulings, addresses })
        };
        let (settings, between) = self.policy.settings();
        Inputs {
            subjects: workloads.into_iter().map(subject).collect(),
            peers: std::mem::take(&mut self.peers),
            own,
            own_outside,
            settings: (settings.clone(), between),
        }
    }

    /// Writes where each peer leads.
    fn peers(&mut self, side: Side, groups: &Groups, known: &[(IpAddr, Group)], outside: &[(IpAddr, Group)]) {
        let pending = self.rows.of(side, Outcome::Pending);
        let name = |of: &str| [true, false].map(|ipv4| Arc::<str>::from(format!("{}-{of}", side.peers(ipv4))));
        let groups: HashMap<&Group, [Arc<str>; 2]> = groups.iter().map(|(group, number)| (group, name(number))).collect();
        let kinds = Kind::KNOWN.map(|kind| name(kind.as_str()));
        let chain = |group: &Group, ipv4: bool| match (group, groups.get(group)) {
            (Group::Pending, _) => pending.clone(),
            (_, Some(names)) => names[usize::from(!ipv4)].clone(),
            (_, None) => {
                let kind = Kind::KNOWN.iter().position(|kind| *kind == group.kind()).expect("it is known");
                kinds[kind][usize::from(!ipv4)].clone()
            }
        };
        for ipv4 in [true, false] {
            let of_family = known.iter().filter(|(address, _)| address.is_ipv4() == ipv4);
            let element =
                |(address, group): &(IpAddr, Group)| Element::verdict(address_bytes(*address), Verdict::Goto(chain(group, ipv4)));
            self.table.set(&side.peers(ipv4), verdicts_of(ipv4), of_family.map(element));
            let outside = outside.iter().filter(|(start, _)| start.is_ipv4() == ipv4);
            let outside: Vec<_> = outside.map(|(start, group)| (*start, chain(group, ipv4))).collect();
            let name = named(side.outside(), ipv4);
            let outside = self.table.fixed_set(&name, ranges_of(ipv4, Value::Verdict), covering(&outside));
            chains::side(&mut self.table, side, ipv4, &outside);
        }
    }

    /// Writes which ports are exported: of others to here, and of here to others.
    fn exports(&mut self) {
        if self.policy.settings().1 != CrossClusterDefault::Exports {
            return;
        }
        let here = &self.local.node.cluster;
        let (mut to_here, mut from_here) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let mut importers = BTreeSet::new();
        for export in self.policy.exports() {
            let behind = self.policy.known(export.address);
            let End::Workload(_) = behind.end else { continue };
            if self.policy.profile(behind.profile).cluster != Some(export.cluster) {
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
                let clients = export.importers.iter().filter(|cluster| **cluster != here);
                let names: Vec<&str> = clients.map(|cluster| cluster.as_str()).collect();
                let chain = chains::importers_name(&names);
                importers.insert((chain.clone(), export.importers));
                from_here[family].push(Element::verdict(key, Verdict::Goto(named(&chain, family == 0).into())));
            }
        }
        for (family, (to_here, from_here)) in to_here.into_iter().zip(from_here).enumerate() {
            let ipv4 = family == 0;
            let key: &'static [Field] = match ipv4 {
                true => &[Field::Ipv4, Field::Protocol, Field::Port],
                false => &[Field::Ipv6, Field::Protocol, Field::Port],
            };
            self.table.set(&named("imported", ipv4), plain(key, Value::Nothing), to_here);
            self.table.set(&named("exported", ipv4), plain(key, Value::Verdict), from_here);
        }
        for (chain, clusters) in importers {
            for ipv4 in [true, false] {
                let name = named(&chain, ipv4);
                let of_cluster = |(address, who): &(IpAddr, Known)| {
                    let cluster = self.policy.profile(who.profile).cluster;
                    address.is_ipv4() == ipv4
                        && matches!(who.end, End::Workload(_))
                        && cluster.is_some_and(|c| clusters.contains(c))
                };
                let clients = self.policy.addresses().filter(of_cluster);
                let clients: Vec<_> = clients.map(|(address, _)| Element::key(address_bytes(address))).collect();
                self.table.set(&name, plain(address_field(ipv4), Value::Nothing), clients);
                chains::importers(&mut self.table, &mut self.rows, &name, ipv4);
            }
        }
        chains::exports(&mut self.table, &mut self.rows);
    }

    /// Returns the group that an address is in as a peer.
    fn group(&mut self, address: IpAddr, known: &Known) -> Group {
        let group = match known.end {
            End::Pending => return Group::Pending,
            End::Node(_) if self.own_node.contains(&address) => {
                Group::OwnNode { class: self.policy.profile(known.profile).class }
            }
            _ => match self.profiles.get(&known.profile) {
                Some(group) => return group.clone(),
                None => {
                    let group = self.peer(known);
                    self.profiles.insert(known.profile, group.clone());
                    group
                }
            },
        };
        if let Some(class) = group.class() {
            self.peers.entry(class).or_default().insert(group.clone());
        }
        group
    }

    fn peer(&self, known: &Known) -> Group {
        let profile = self.policy.profile(known.profile);
        match profile.cluster {
            Some(cluster) if *cluster != self.local.node.cluster => Group::Far { class: profile.class, cluster: cluster.clone() },
            _ => Group::Near { class: profile.class },
        }
    }

    /// Notes a workload that lives here; tells whether it is one of the cluster that lives here.
    fn add_workload(&mut self, address: IpAddr, known: &Known) -> bool {
        let profile = self.policy.profile(known.profile);
        let Some(workload) = self.policy.workload(known.end) else { return false };
        if profile.cluster != Some(&self.local.node.cluster) {
            return false;
        }
        let on_own_node = workload.node == Some(&self.local.node);
        for (ruleset, direction) in profile.rulesets.into_iter().zip([Direction::Ingress, Direction::Egress]) {
            let subject = Subject { ruleset, direction, on_own_node };
            self.workloads.entry(subject).or_insert_with(|| (known.profile, BTreeSet::new())).1.insert(address);
        }
        true
    }
}

fn plain(key: &'static [Field], value: Value) -> SetKind {
    SetKind { key, value, ranges: false, fixed: false }
}

fn address_field(ipv4: bool) -> &'static [Field] {
    if ipv4 { &[Field::Ipv4] } else { &[Field::Ipv6] }
}

pub(super) fn verdicts_of(ipv4: bool) -> SetKind {
    plain(address_field(ipv4), Value::Verdict)
}

pub(super) fn ranges_of(ipv4: bool, value: Value) -> SetKind {
    SetKind { key: address_field(ipv4), value, ranges: true, fixed: false }
}
