//! The classes, intervals and verdicts of a set, for whoever programs or compares them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_core::{ClusterName, Direction, Protocol, Reason, RuleId, Verdict};

use super::rows::{KEYS, OTHERS, Outcome, protocol_and_port};
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
        let (subject, peer, own) = (self.entry(subject).subject, self.entry(peer), side(direction));
        let number = self.subject(subject).rulesets[own];
        let row = self.rulesets.get(number).into_iter().flat_map(|ruleset| ruleset.steps(peer.class));
        let mut steps: Vec<(u32, Outcome)> = row.map(|step| (step.start, step.outcome.outcome())).collect();
        if steps.is_empty() {
            steps.push((0, Outcome::Undecided));
        }
        let mut intervals = Vec::new();
        for (at, (start, outcome)) in steps.iter().enumerate() {
            let end = steps.get(at + 1).map_or(KEYS, |(start, _)| *start);
            let verdict = verdict(*outcome, |rule| RuleId { subject, rule: rule << 1 | own as u32 });
            split(*start, end, &mut |protocols, ports| intervals.push(Interval { protocols, ports, verdict }));
        }
        intervals
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
