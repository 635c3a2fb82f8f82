//! A policy set as an nftables table: a pure function of the set, of what is local, and of the numbers given so far.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use mesh_core::{CrossClusterDefault, Direction, PrefixMap};
use mesh_dataplane::Local;
use mesh_policy::{End, Known, PolicySet, ProfileHandle, WorkloadHandle};

use super::chains::{self, Side};
use super::numbers::{Group, Kind, Numbers};
use super::rows::{Outcome, Rows, Subject};
use crate::nft::table::{Set, Table};
use crate::nft::{Element, Field, SetKind, Value, Verdict, address_bytes, ranges};

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
        peers: BTreeMap::new(),
        workloads: BTreeMap::new(),
        rows: Rows::default(),
    };
    let known = image.addresses();
    let outside = image.outside();
    for side in Side::BOTH {
        let led = image.side(side);
        image.peers(side, &led, &known, &outside);
    }
    image.exports();
    let Image { mut table, rows, .. } = image;
    rows.write(&mut table);
    for ipv4 in [true, false] {
        let elements = ranges(local.prefixes.iter().copied(), ipv4);
        table.sets.insert(named("local", ipv4), Set::new(ranges_of(ipv4, Value::Nothing), elements));
    }
    chains::write(&mut table, device, local.scope);
    table
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
    numbers: &'a mut Numbers,
    table: Table,
    /// What the ends of a profile are as peers, apart from the own node's addresses.
    profiles: HashMap<ProfileHandle, Group>,
    /// The groups that some address is in, by their class.
    peers: BTreeMap<u32, BTreeSet<Group>>,
    /// The workloads that live here: for each side the subjects that they are, with a profile and the addresses.
    workloads: BTreeMap<Subject, (ProfileHandle, BTreeSet<IpAddr>)>,
    rows: Rows,
}

/// Groups with rows of their own for some subject, by their chains.
type Led = BTreeMap<Group, String>;

impl Image<'_> {
    /// Looks at who is behind which address; returns of each the group that it is in as a peer. Writes what lives here and is no
    /// subject, and which addresses are one workload's.
    fn addresses(&mut self) -> Vec<(IpAddr, Group)> {
        let mut known = Vec::new();
        let mut own = [Vec::new(), Vec::new()];
        let mut same: BTreeMap<WorkloadHandle, Vec<IpAddr>> = BTreeMap::new();
        for (address, who) in self.policy.addresses() {
            known.push((address, self.group(address, &who)));
            if self.is_local.lookup(address).is_none() {
                continue;
            }
            let outcome = match who.end {
                End::Workload(handle) => {
                    same.entry(handle).or_default().push(address);
                    if self.add_workload(address, &who) {
                        continue;
                    }
                    // Of another cluster, whose policies are not asked here.
                    Outcome::Pending
                }
                End::Pending => Outcome::Pending,
                End::Node(_) | End::External => Outcome::NotPoliced,
            };
            let to = Verdict::Goto(self.rows.of(outcome));
            own[usize::from(address.is_ipv6())].push(Element::verdict(address_bytes(address), to));
        }
        for (family, own) in own.into_iter().enumerate() {
            self.insert(&named("own", family == 0), verdicts_of(family == 0), own);
        }
        for ipv4 in [true, false] {
            let pairs = same.values().flat_map(|all| all.iter().flat_map(move |a| all.iter().map(move |b| (*a, *b))));
            let pairs = pairs.filter(|(a, b)| a.is_ipv4() == ipv4 && b.is_ipv4() == ipv4);
            let pairs = pairs.map(|(a, b)| Element::key([address_bytes(a), address_bytes(b)].concat())).collect();
            let key: &'static [Field] = if ipv4 { &[Field::Ipv4, Field::Ipv4] } else { &[Field::Ipv6, Field::Ipv6] };
            self.insert(&named("self", ipv4), plain(key, Value::Nothing), pairs);
        }
        known
    }

    /// Looks at the addresses that nobody has: returns the starts of their ranges, and the group that each is in as a peer. Writes
    /// what is so of those that live here.
    fn outside(&mut self) -> Vec<(IpAddr, Group)> {
        let starts = self.policy.outside();
        let mut own: Vec<(IpAddr, String)> = Vec::new();
        for (start, known) in &starts {
            let outcome = if known.end == End::Pending { Outcome::Pending } else { Outcome::NotPoliced };
            own.push((*start, self.rows.of(outcome)));
        }
        self.insert_ranges("own-outside", &own);
        starts.iter().map(|(start, known)| (*start, self.group(*start, known))).collect()
    }

    /// Writes one side of connections: for each group of peers and each kind where every subject is decided. Returns the groups
    /// that have rows of their own.
    fn side(&mut self, side: Side) -> Led {
        let mut usual: BTreeMap<(Kind, bool), Vec<Element>> = BTreeMap::new();
        let mut own: BTreeMap<(Group, bool), Vec<Element>> = BTreeMap::new();
        let subjects = self.workloads.iter().filter(|(subject, _)| subject.direction == side.direction());
        for (subject, (profile, addresses)) in subjects {
            let (row, others) = self.policy.rows(*profile, subject.direction);
            let mut decided = |row, kind| Verdict::Goto(self.rows.of_row(self.policy, (*profile, subject), row, kind));
            for kind in Kind::KNOWN {
                let to = decided(row, kind);
                for address in addresses {
                    let element = Element::verdict(address_bytes(*address), to.clone());
                    usual.entry((kind, address.is_ipv4())).or_default().push(element);
                }
            }
            for (class, row) in others {
                for group in self.peers.get(&class).into_iter().flatten() {
                    let to = decided(row, group.kind());
                    for address in addresses {
                        let element = Element::verdict(address_bytes(*address), to.clone());
                        own.entry((group.clone(), address.is_ipv4())).or_default().push(element);
                    }
                }
            }
        }
        for kind in Kind::KNOWN {
            for ipv4 in [true, false] {
                let name = format!("{}-{}", side.peers(ipv4), kind.as_str());
                let elements = usual.remove(&(kind, ipv4)).unwrap_or_default();
                self.insert(&name, verdicts_of(ipv4), elements);
                chains::kind(&mut self.table, &name, side, ipv4);
            }
        }
        let mut led = Led::new();
        for ((group, ipv4), elements) in own {
            let suffix = led.entry(group.clone()).or_insert_with(|| self.numbers.of(&group).to_string()).clone();
            let name = format!("{}-{suffix}", side.peers(ipv4));
            self.insert(&name, verdicts_of(ipv4), elements);
            chains::group(&mut self.table, &name, (side, ipv4), group.kind());
        }
        // A group may have subjects of one family only.
        for (group, suffix) in &led {
            for ipv4 in [true, false] {
                let name = format!("{}-{suffix}", side.peers(ipv4));
                if !self.table.chains.contains_key(&name) {
                    chains::no_group(&mut self.table, &name, (side, ipv4), group.kind());
                }
            }
        }
        led
    }

    /// Writes where each peer leads.
    fn peers(&mut self, side: Side, led: &Led, known: &[(IpAddr, Group)], outside: &[(IpAddr, Group)]) {
        let pending = self.rows.of(Outcome::Pending);
        let chain = |group: &Group, ipv4: bool| match led.get(group) {
            _ if *group == Group::Pending => pending.clone(),
            Some(suffix) => format!("{}-{suffix}", side.peers(ipv4)),
            None => format!("{}-{}", side.peers(ipv4), group.kind().as_str()),
        };
        for ipv4 in [true, false] {
            let of_family = known.iter().filter(|(address, _)| address.is_ipv4() == ipv4);
            let element =
                |(address, group): &(IpAddr, Group)| Element::verdict(address_bytes(*address), Verdict::Goto(chain(group, ipv4)));
            let elements = of_family.map(element).collect();
            self.insert(&side.peers(ipv4), verdicts_of(ipv4), elements);
        }
        let outside: Vec<_> = outside.iter().map(|(start, group)| (*start, chain(group, start.is_ipv4()))).collect();
        self.insert_ranges(side.outside(), &outside);
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
                from_here[family].push(Element::verdict(key, Verdict::Goto(named(&chain, family == 0))));
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
                let clients = clients.map(|(address, _)| Element::key(address_bytes(address))).collect();
                self.insert(&name, plain(address_field(ipv4), Value::Nothing), clients);
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

    /// Writes ranges that follow each other and leave nothing out, by their starts, each with the chain that it leads to.
    fn insert_ranges(&mut self, name: &str, starts: &[(IpAddr, String)]) {
        for ipv4 in [true, false] {
            let of_family = starts.iter().filter(|(start, _)| start.is_ipv4() == ipv4);
            let mut elements = Vec::new();
            for (start, chain) in of_family {
                if !elements.is_empty() {
                    elements.push(Element::end(address_bytes(*start)));
                }
                elements.push(Element::verdict(address_bytes(*start), Verdict::Goto(chain.clone())));
            }
            self.insert(&named(name, ipv4), ranges_of(ipv4, Value::Verdict), elements);
        }
    }

    fn insert(&mut self, name: &str, kind: SetKind, elements: Vec<Element>) {
        self.table.sets.insert(name.to_owned(), Set::new(kind, elements));
    }
}

fn plain(key: &'static [Field], value: Value) -> SetKind {
    SetKind { key, value, ranges: false, fixed: false }
}

fn address_field(ipv4: bool) -> &'static [Field] {
    if ipv4 { &[Field::Ipv4] } else { &[Field::Ipv6] }
}

fn verdicts_of(ipv4: bool) -> SetKind {
    plain(address_field(ipv4), Value::Verdict)
}

fn ranges_of(ipv4: bool, value: Value) -> SetKind {
    SetKind { key: address_field(ipv4), value, ranges: true, fixed: false }
}
