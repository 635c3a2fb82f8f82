//! The classes, intervals and verdicts of a set, for whoever programs or compares them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_core::{ClusterName, CrossClusterDefault, Direction, NodeId, Protocol, Reason, RuleId, Settings, Verdict};

use super::rows::{KEYS, OTHERS, Outcome, PROTOCOLS, Place, protocol_and_port};
use super::ruleset::Ruleset;
use super::{Known, PolicySet, ProfileEntry, ProfileHandle, Subject, side};

/// What rules see of an end, in numbers that mean something in one set only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile<'a> {
    /// The cluster of the workloads that have it; `None` where no workload does.
    pub cluster: Option<&'a ClusterName>,
    /// As a peer: ends of one class are the same to every rule.
    pub class: u32,
    /// As a subject, for ingress and egress: workloads with one rule set have the same rules, and the same verdicts for a class.
    pub rulesets: [u32; 2],
}

/// What a rule set decides for the peers of some classes; it means nothing to another rule set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row([Place; PROTOCOLS]);

/// The rules of a subject in one direction, to be compared over sets: equal ones have the same rows, by the same handles and classes.
#[derive(Clone, Debug)]
pub struct Rulings(Ruleset);

impl PartialEq for Rulings {
    fn eq(&self, other: &Rulings) -> bool {
        self.0.shares_all(&other.0)
    }
}

/// A port that a cluster exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported<'a> {
    /// The exporting cluster. The export counts where the address is one of its workloads'.
    pub cluster: &'a ClusterName,
    /// The backend's address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The backend's port.
    pub port: u16,
    /// The clusters that may import it.
    pub importers: BTreeSet<&'a ClusterName>,
}

/// Protocols and ports with one verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The protocols.
    pub protocols: Protocols,
    /// The first and the last port; both 0 for protocols without ports.
    pub ports: (u16, u16),
    /// What the tiers say: [`Reason::Default`] where none decides, and between clusters the fleet's default then holds;
    /// [`Reason::Isolated`] where the own node may be let in all the same.
    pub verdict: Verdict<RuleId>,
}

/// The protocols of an [`Interval`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocols {
    /// A protocol with ports.
    One(Protocol),
    /// Protocols without ports, by their numbers, both included; those with ports among them are not meant.
    Others(u8, u8),
}

impl PolicySet {
    /// Returns who is behind `address`, and what rules see there.
    pub fn known(&self, address: IpAddr) -> Known {
        self.ends.get(address)
    }

    /// Returns every address that a workload or a node has, or that is pending by itself, in no particular order.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, Known)> {
        self.ends.iter()
    }

    /// Returns the first address of every outside region that some rule tells from the rest, and its profile. Addresses in no
    /// region have [`ProfileHandle::NOWHERE`].
    pub fn regions(&self) -> impl Iterator<Item = (IpAddr, ProfileHandle)> {
        self.ends.regions.iter().map(|(address, profile)| (address, *profile))
    }

    /// Returns the address space as ranges that follow each other, IPv4 first, each by its first address, and what is known of the
    /// addresses in it that [`addresses`](PolicySet::addresses) does not have.
    pub fn outside(&self) -> Vec<(IpAddr, Known)> {
        let families: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let mut starts: Vec<IpAddr> = families.into_iter().collect();
        starts.extend(self.ends.pending.starts().chain(self.ends.regions.starts()));
        starts.sort_unstable();
        starts.dedup();
        starts.into_iter().map(|start| (start, self.ends.unclaimed(start))).collect()
    }

    /// Returns what a profile is; `handle` must be of this set.
    pub fn profile(&self, handle: ProfileHandle) -> Profile<'_> {
        let ProfileEntry { class, subject, .. } = *self.entry(handle);
        let Subject { rulesets, cluster } = self.subject(subject);
        let cluster = if subject == 0 { None } else { self.clusters.get(cluster).and_then(Option::as_ref) };
        Profile { cluster, class, rulesets }
    }

    /// Returns the verdicts of workloads of the profile `subject` for peers of the profile `peer`, on the side of `direction`:
    /// intervals that follow each other and leave nothing out. Both must be of this set.
    pub fn intervals(&self, subject: ProfileHandle, peer: ProfileHandle, direction: Direction) -> Vec<Interval> {
        let row = self.ruleset(subject, direction).map(|ruleset| Row(ruleset.places(self.entry(peer).class)));
        self.intervals_of(subject, row.unwrap_or_default(), direction)
    }

    /// Returns the rows of the rule set of workloads of the profile `subject`: the usual one, and by their classes, ascending, the
    /// peers that have another one. `subject` must be of this set.
    pub fn rows(&self, subject: ProfileHandle, direction: Direction) -> (Row, Vec<(u32, Row)>) {
        let Some(ruleset) = self.ruleset(subject, direction) else { return Default::default() };
        let usual = Row(ruleset.usual_places());
        let others = ruleset.unusual_classes().into_iter().map(|class| (class, Row(ruleset.places(class))));
        (usual, others.filter(|(_, row)| *row != usual).collect())
    }

    /// Returns what [`rows`](PolicySet::rows) and [`intervals_of`](PolicySet::intervals_of) answer from, to see whether they still
    /// say the same.
    pub fn rulings(&self, subject: ProfileHandle, direction: Direction) -> Rulings {
        Rulings(self.ruleset(subject, direction).cloned().unwrap_or_default())
    }

    /// Returns the verdicts of a row of the rule set of `subject`, as [`intervals`](PolicySet::intervals) does.
    pub fn intervals_of(&self, subject: ProfileHandle, row: Row, direction: Direction) -> Vec<Interval> {
        let (number, own) = (self.entry(subject).subject, side(direction));
        let steps = self.ruleset(subject, direction).into_iter().flat_map(|ruleset| ruleset.steps(&row.0));
        let mut steps: Vec<(u32, Outcome)> = steps.map(|step| (step.start, step.outcome.outcome())).collect();
        if steps.is_empty() {
            steps.push((0, Outcome::Undecided));
        }
        let mut intervals = Vec::new();
        for (at, (start, outcome)) in steps.iter().enumerate() {
            let end = steps.get(at + 1).map_or(KEYS, |(start, _)| *start);
            let verdict = verdict(*outcome, |rule| RuleId { subject: number, rule: rule << 1 | own as u32 });
            split(*start, end, &mut |protocols, ports| intervals.push(Interval { protocols, ports, verdict }));
        }
        intervals
    }

    /// Returns the settings, and what holds between clusters where no tier decides.
    pub fn settings(&self) -> (&Settings, CrossClusterDefault) {
        (&self.settings.0, self.settings.1)
    }

    /// Returns every address of a node, those that another node claims as well included.
    pub fn node_addresses(&self, node: &NodeId) -> impl Iterator<Item = IpAddr> {
        let number = (0..).zip(self.ends.nodes.iter()).find(|(_, known)| known.as_ref() == Some(node)).map(|(number, _)| number);
        let of_node = self.ends.node_addresses.iter().filter(move |(of, _)| Some(*of) == number);
        of_node.map(|(_, address)| *address)
    }

    /// Returns every exported port at an address of the exporting cluster, with the clusters that may import it, in no particular
    /// order.
    pub fn exports(&self) -> impl Iterator<Item = Exported<'_>> {
        let mut importers: BTreeMap<u32, BTreeSet<&ClusterName>> = BTreeMap::new();
        for ((cluster, namespace), ()) in self.importable.iter() {
            let cluster = self.clusters.get(*cluster).and_then(Option::as_ref);
            importers.entry(*namespace).or_default().extend(cluster);
        }
        self.exported.iter().filter_map(move |(backend, namespaces)| {
            let cluster = self.clusters.get(backend.cluster)?.as_ref()?;
            let importers = namespaces.iter().filter_map(|namespace| importers.get(namespace)).flatten().copied().collect();
            Some(Exported { cluster, address: backend.address, protocol: backend.protocol, port: backend.port, importers })
        })
    }

    fn ruleset(&self, subject: ProfileHandle, direction: Direction) -> Option<&Ruleset> {
        self.rulesets.get(self.subject(self.entry(subject).subject).rulesets[side(direction)])
    }
}

impl ProfileHandle {
    /// The profile of addresses that no rule tells from others, and of what is pending.
    pub const NOWHERE: ProfileHandle = ProfileHandle(0);
}

fn verdict(outcome: Outcome, id: impl Fn(u32) -> RuleId) -> Verdict<RuleId> {
    match outcome {
        Outcome::Undecided => Verdict::Allow(Reason::Default),
        Outcome::Isolated => Verdict::Deny(Reason::Isolated),
        Outcome::AdminAllow(rule) => Verdict::Allow(Reason::Admin(id(rule))),
        Outcome::AdminDeny(rule) => Verdict::Deny(Reason::Admin(id(rule))),
        Outcome::NetworkAllow(rule) => Verdict::Allow(Reason::NetworkPolicy(id(rule))),
        Outcome::BaselineAllow(rule) => Verdict::Allow(Reason::Baseline(id(rule))),
        Outcome::BaselineDeny(rule) => Verdict::Deny(Reason::Baseline(id(rule))),
    }
}

/// Splits places between protocols: those with ports one by one, the others together.
fn split(start: u32, end: u32, emit: &mut impl FnMut(Protocols, (u16, u16))) {
    const PORTS: u32 = 1 << 16;
    let mut at = start;
    while at < end && at < OTHERS {
        let until = end.min((at / PORTS + 1) * PORTS);
        let ((protocol, first), (_, last)) = (protocol_and_port(at), protocol_and_port(until - 1));
        emit(Protocols::One(protocol), (first, last));
        at = until;
    }
    if at < end {
        let number = |at: u32| u8::try_from(at - OTHERS).unwrap_or(u8::MAX);
        emit(Protocols::Others(number(at), number(end - 1)), (0, 0));
    }
}
