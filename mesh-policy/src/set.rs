//! The compiled policy: both ends of a connection looked up once, then a verdict for each side.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use mesh_core::{
    ClusterName, CrossClusterDefault, Direction, FiveTuple, IdentityName, NodeId, Protocol, Reason, RuleId, RuleName, Settings,
    State, Verdict, WorkloadId,
};

use self::ruleset::Ruleset;
use crate::Compiler;
use crate::store::{Pages, Ranges, Shards};

pub(crate) mod ruleset;
mod view;

pub use self::view::{Interval, Profile, Protocols};

/// A workload of one [`PolicySet`]; it means nothing to another set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadHandle(pub u32);

/// A node of one [`PolicySet`]; it means nothing to another set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeHandle(pub u32);

/// A profile of one [`PolicySet`]: what rules see of an end, apart from whose it is. It means nothing to another set.
///
/// Workloads with the same identity and named ports share a profile where they are in the same networks of rules; so do nodes,
/// and so do all outside addresses of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileHandle(pub u32);

/// What a set knows of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// A workload with an identity.
    Workload(WorkloadHandle),
    /// A node's own address (also a host-network pod's).
    Node(NodeHandle),
    /// Inside a fleet prefix, identity not known (yet) or not granted.
    Pending,
    /// Outside the fleet.
    External,
}

/// Who is behind an address, and what rules see there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Known {
    /// Who is there.
    pub end: End,
    /// What rules see.
    pub profile: ProfileHandle,
    /// Some cluster exports a port of the address.
    pub is_backend: bool,
}

/// A connection with both its ends looked up in one [`PolicySet`]; it means nothing to another set.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    tuple: FiveTuple,
    source: Seat,
    destination: Seat,
    /// The place of protocol and destination port among the steps of a row.
    key: u32,
}

impl Flow {
    /// Returns who opened it.
    pub fn source(&self) -> End {
        self.source.known().end
    }

    /// Returns to whom it was opened.
    pub fn destination(&self) -> End {
        self.destination.known().end
    }

    /// Returns its addresses and ports.
    pub fn tuple(&self) -> &FiveTuple {
        &self.tuple
    }
}

/// An end of a flow, with what every decision asks of it beside.
#[derive(Clone, Copy, Debug)]
struct Seat {
    /// Kind and handle, as [`Packed`] has them.
    end: u32,
    profile: ProfileHandle,
    is_workload: bool,
    is_pending: bool,
    is_backend: bool,
}

impl Seat {
    #[inline]
    fn new(known: Known) -> Seat {
        Seat {
            // Without the backend's bit: a workload is the same at all of its addresses.
            end: Packed::new(Known { is_backend: false, ..known }).end,
            profile: known.profile,
            is_workload: matches!(known.end, End::Workload(_)),
            is_pending: known.end == End::Pending,
            is_backend: known.is_backend,
        }
    }

    #[inline]
    fn known(self) -> Known {
        Known { is_backend: self.is_backend, ..Packed { end: self.end, profile: self.profile.0 }.known() }
    }
}

/// What a set knows of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkloadInfo<'a> {
    /// The workload.
    pub id: &'a WorkloadId,
    /// The name of its identity.
    pub identity: IdentityName,
    /// The node it runs on, once scheduled.
    pub node: Option<&'a NodeId>,
}

/// All policies of the fleet that can matter here, compiled: immutable, shared behind an `Arc`.
///
/// Ends fall into classes that no rule tells apart, ports into intervals. A verdict is the subject's rule set, there the row of
/// the peer's class, and in it one search among the intervals that the rules name: the number of policies does not matter.
/// A set and the one compiled after it share everything that did not change.
#[derive(Clone)]
pub struct PolicySet {
    pub(crate) settings: (Settings, CrossClusterDefault),
    pub(crate) ends: Ends,
    pub(crate) profiles: Pages<ProfileEntry>,
    pub(crate) subjects: Pages<Subject>,
    /// By profile and direction: each used by many profiles.
    pub(crate) rulesets: Pages<Ruleset>,
    pub(crate) workloads: Pages<Option<Arc<WorkloadEntry>>>,
    pub(crate) identities: Pages<Option<IdentityName>>,
    pub(crate) clusters: Pages<Option<ClusterName>>,
    /// The namespaces of the services behind which a backend's port is exported.
    pub(crate) exported: Shards<Backend, Arc<[u32]>>,
    /// The namespaces, by the numbers of `exported`, that exist in each cluster: their services can be imported there.
    pub(crate) importable: Shards<(u32, u32), ()>,
    pub(crate) fingerprint: u64,
}

/// What policing the ends of a profile needs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProfileEntry {
    /// As peers: their class.
    pub(crate) class: u32,
    /// As subjects: what they are, 0 for those that are no workloads.
    pub(crate) subject: u32,
}

/// What workloads with the same rules in the same cluster share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    /// Their rule sets, [ingress, egress].
    pub(crate) rulesets: [u32; 2],
    pub(crate) cluster: u32,
}

#[derive(Debug)]
pub(crate) struct WorkloadEntry {
    pub(crate) id: WorkloadId,
    pub(crate) identity: u32,
    pub(crate) ports: u32,
    pub(crate) node: Option<u32>,
    pub(crate) addresses: Addresses,
}

/// A workload's addresses: mostly one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    One([IpAddr; 1]),
    Many(Box<[IpAddr]>),
}

impl Addresses {
    pub(crate) fn new(addresses: &[IpAddr]) -> Addresses {
        match addresses {
            [one] => Addresses::One([*one]),
            many => Addresses::Many(many.into()),
        }
    }

    pub(crate) fn list(&self) -> &[IpAddr] {
        match self {
            Addresses::One(one) => one,
            Addresses::Many(many) => many,
        }
    }
}

/// Who is behind every address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    v4: Shards<u32, Packed>,
    v6: Shards<u128, Packed>,
    /// Where an address that is not known is pending.
    pub(crate) pending: Arc<Ranges<()>>,
    /// The profiles of all other addresses.
    pub(crate) regions: Arc<Ranges<ProfileHandle>>,
    pub(crate) nodes: Pages<Option<NodeId>>,
    /// Every address of every node: two nodes may claim one, and each is own node to its workloads.
    pub(crate) node_addresses: Arc<HashSet<(u32, IpAddr), RandomState>>,
}

/// A [`Known`] in eight bytes.
#[derive(Clone, Copy, Debug)]
struct Packed {
    /// A bit for a backend, two bits of kind, then the handle.
    end: u32,
    profile: u32,
}

const HANDLE_BITS: u32 = 29;

impl Packed {
    fn new(known: Known) -> Packed {
        let (kind, handle) = match known.end {
            End::Workload(WorkloadHandle(handle)) => (0, handle),
            End::Node(NodeHandle(handle)) => (1, handle),
            End::Pending => (2, 0),
            End::External => (3, 0),
        };
        assert!(handle < 1 << HANDLE_BITS, "fewer workloads than 29 bits count");
        let kind = u32::from(known.is_backend) << 2 | kind;
        Packed { end: kind << HANDLE_BITS | handle, profile: known.profile.0 }
    }

    #[inline]
    fn known(self) -> Known {
        let handle = self.end & ((1 << HANDLE_BITS) - 1);
        let kind = self.end >> HANDLE_BITS;
        let end = match kind & 3 {
            0 => End::Workload(WorkloadHandle(handle)),
            1 => End::Node(NodeHandle(handle)),
            2 => End::Pending,
            _ => End::External,
        };
        Known { end, profile: ProfileHandle(self.profile), is_backend: kind & 4 != 0 }
    }
}

/// A port at an address that a cluster exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Backend {
    /// The exporting cluster, which must be that of the workload behind the address.
    pub(crate) cluster: u32,
    pub(crate) address: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

impl PolicySet {
    /// Compiles the policies of `state` from scratch.
    pub fn compile(state: &State) -> PolicySet {
        let mut compiler = Compiler::new();
        compiler.update(state, &mesh_core::Change::default());
        compiler.into_current()
    }

    /// Looks up both ends of `tuple`, the connection after service translation.
    pub fn flow(&self, tuple: &FiveTuple) -> Flow {
        self.flow_between(tuple, self.ends.get(tuple.source), self.ends.get(tuple.destination))
    }

    /// Makes the flow of `tuple` between two ends that the caller knows.
    pub(crate) fn flow_between(&self, tuple: &FiveTuple, source: Known, destination: Known) -> Flow {
        let (source, destination) = (Seat::new(source), Seat::new(destination));
        Flow { tuple: *tuple, source, destination, key: ruleset::key(tuple.protocol, tuple.destination_port) }
    }

    /// Decides one side of `flow`, which must be of this set. Never allocates.
    #[inline]
    pub fn decide(&self, flow: &Flow, direction: Direction) -> Verdict<RuleId> {
        let (own, peer) = match direction {
            Direction::Ingress => (&flow.destination, &flow.source),
            Direction::Egress => (&flow.source, &flow.destination),
        };
        if !own.is_workload | own.is_pending | peer.is_pending | (own.end == peer.end) {
            return PolicySet::decide_without_rules(own, peer);
        }
        let subject = self.subject(self.entry(own.profile).subject);
        let ProfileEntry { class, subject: peer_subject } = self.entry(peer.profile);
        let number = subject.rulesets[side(direction)];
        let ruleset = self.rulesets.get(number).expect("a profile's rule set is in its set");
        let packed = ruleset.outcome(class, flow.key);
        if let Some(verdict) = packed.by_rule(|rule| RuleId { cluster: subject.cluster, ruleset: number, rule }) {
            return verdict;
        }
        if packed == ruleset::Packed::ISOLATED {
            let is_allowed = self.is_own_node_allowed(own, peer, (flow, direction));
            return if is_allowed { Verdict::Allow(Reason::OwnNode) } else { Verdict::Deny(Reason::Isolated) };
        }
        if peer.is_workload {
            return self.no_tier(flow, direction, (subject.cluster, self.subject(peer_subject).cluster));
        }
        Verdict::Allow(Reason::Default)
    }

    /// Decides what rules have no say in.
    #[cold]
    fn decide_without_rules(own: &Seat, peer: &Seat) -> Verdict<RuleId> {
        if own.is_pending || peer.is_pending {
            return Verdict::Deny(Reason::IdentityPending);
        }
        if !own.is_workload { Verdict::Allow(Reason::NotPoliced) } else { Verdict::Allow(Reason::OwnAddress) }
    }

    #[inline]
    pub(crate) fn entry(&self, handle: ProfileHandle) -> ProfileEntry {
        *self.profiles.get(handle.0).expect("a flow's profile is in its set")
    }

    #[inline]
    pub(crate) fn subject(&self, number: u32) -> Subject {
        self.subjects.get(number).copied().unwrap_or_default()
    }

    /// Rule 10: the workload's own node, by any of the node's addresses.
    #[inline(never)]
    fn is_own_node_allowed(&self, own: &Seat, peer: &Seat, (flow, direction): (&Flow, Direction)) -> bool {
        let settings = &self.settings.0;
        let (allowed, address) = match direction {
            Direction::Ingress => (settings.own_node_ingress_allowed, flow.tuple.source),
            Direction::Egress => (settings.own_node_egress_allowed, flow.tuple.destination),
        };
        if peer.is_workload || !allowed || !matches!(peer.known().end, End::Node(_)) {
            return false;
        }
        let node = self.workload_entry(own.known().end).and_then(|entry| entry.node);
        node.is_some_and(|node| self.ends.node_addresses.contains(&(node, address)))
    }

    /// Where no tier decides, the fleet's default holds between workloads of different clusters: those of the subject and the peer.
    #[inline]
    fn no_tier(&self, flow: &Flow, direction: Direction, (own, peer): (u32, u32)) -> Verdict<RuleId> {
        if own == peer {
            return Verdict::Allow(Reason::Default);
        }
        let (client, server) = match direction {
            Direction::Ingress => (peer, own),
            Direction::Egress => (own, peer),
        };
        let allowed = match self.settings.1 {
            CrossClusterDefault::Allow => true,
            CrossClusterDefault::Deny => false,
            CrossClusterDefault::Exports => flow.destination.is_backend && self.is_exported(flow, client, server),
        };
        if allowed { Verdict::Allow(Reason::FleetDefault) } else { Verdict::Deny(Reason::NotExported) }
    }

    fn is_exported(&self, flow: &Flow, client: u32, server: u32) -> bool {
        let FiveTuple { destination: address, protocol, destination_port: port, .. } = flow.tuple;
        let namespaces = self.exported.get(&Backend { cluster: server, address, protocol, port });
        namespaces
            .is_some_and(|namespaces| namespaces.iter().any(|namespace| self.importable.get(&(client, *namespace)).is_some()))
    }

    /// Replaces a rule's number by its name; `verdict` must be of this set.
    pub fn named(&self, verdict: Verdict<RuleId>) -> Verdict<RuleName> {
        verdict.map(|id| self.rule_name(id))
    }

    pub(crate) fn rule_name(&self, id: RuleId) -> RuleName {
        let cluster = self.clusters.get(id.cluster).and_then(Option::as_ref).expect("a verdict's cluster is in its set");
        let ruleset = self.rulesets.get(id.ruleset).expect("a verdict's rule set is in its set");
        ruleset.name(id.rule, cluster)
    }

    /// Returns what is known of `address`.
    pub fn end(&self, address: IpAddr) -> End {
        self.ends.get(address).end
    }

    /// Returns what is known of a workload end; `end` must be of this set.
    pub fn workload(&self, end: End) -> Option<WorkloadInfo<'_>> {
        let entry = self.workload_entry(end)?;
        let identity = (*self.identities.get(entry.identity)?)?;
        Some(WorkloadInfo { id: &entry.id, identity, node: entry.node.and_then(|node| self.node(End::Node(NodeHandle(node)))) })
    }

    pub(crate) fn workload_entry(&self, end: End) -> Option<&Arc<WorkloadEntry>> {
        let End::Workload(handle) = end else { return None };
        self.workloads.get(handle.0)?.as_ref()
    }

    /// Returns the node of a node end; `end` must be of this set.
    pub fn node(&self, end: End) -> Option<&NodeId> {
        let End::Node(handle) = end else { return None };
        self.ends.nodes.get(handle.0)?.as_ref()
    }

    /// Returns a hash of what the set was compiled from: equal facts give equal fingerprints, in every process of this version
    /// and whatever the order in which they came.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl Ends {
    /// Returns who is behind `address`.
    #[inline]
    pub(crate) fn get(&self, address: IpAddr) -> Known {
        if let Some(known) = self.claimed(address) {
            return known;
        }
        self.unclaimed(address)
    }

    /// Returns what is known of an address that nobody claims.
    #[inline]
    pub(crate) fn unclaimed(&self, address: IpAddr) -> Known {
        if self.pending.lookup(address).is_some() {
            return Known { end: End::Pending, profile: ProfileHandle::NOWHERE, is_backend: false };
        }
        let profile = self.regions.lookup(address).copied().unwrap_or(ProfileHandle(0));
        Known { end: End::External, profile, is_backend: false }
    }

    /// Returns whose address it is, of those that somebody claims.
    #[inline]
    pub(crate) fn claimed(&self, address: IpAddr) -> Option<Known> {
        let packed = match address {
            IpAddr::V4(address) => self.v4.get(&address.to_bits()),
            IpAddr::V6(address) => self.v6.get(&address.to_bits()),
        };
        packed.map(|packed| packed.known())
    }

    /// Sets whose address it is; returns whose it was.
    pub(crate) fn set(&mut self, address: IpAddr, known: Option<Known>) -> Option<Known> {
        let before = match (address, known.map(Packed::new)) {
            (IpAddr::V4(address), Some(packed)) => self.v4.insert(address.to_bits(), packed),
            (IpAddr::V4(address), None) => self.v4.remove(&address.to_bits()),
            (IpAddr::V6(address), Some(packed)) => self.v6.insert(address.to_bits(), packed),
            (IpAddr::V6(address), None) => self.v6.remove(&address.to_bits()),
        };
        before.map(Packed::known)
    }

    /// Returns every address that somebody claims, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, Known)> {
        let v4 = self.v4.iter().map(|(address, packed)| (IpAddr::V4((*address).into()), packed.known()));
        v4.chain(self.v6.iter().map(|(address, packed)| (IpAddr::V6((*address).into()), packed.known())))
    }
}

/// Returns the index of a direction in `[ingress, egress]`.
#[inline]
pub(crate) fn side(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

impl Default for PolicySet {
    /// Makes the set of an empty state, in which nothing is policed.
    fn default() -> PolicySet {
        let mut profiles = Pages::default();
        profiles.set(0, ProfileEntry::default());
        PolicySet {
            settings: (Settings::default(), CrossClusterDefault::Allow),
            ends: Ends::default(),
            profiles,
            subjects: Pages::default(),
            rulesets: Pages::default(),
            workloads: Pages::default(),
            identities: Pages::default(),
            clusters: Pages::default(),
            exported: Shards::default(),
            importable: Shards::default(),
            fingerprint: 0,
        }
    }
}

impl fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySet").field("fingerprint", &format_args!("{:016x}", self.fingerprint)).finish_non_exhaustive()
    }
}
