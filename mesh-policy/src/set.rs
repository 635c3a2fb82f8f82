//! The compiled policy: both ends of a connection looked up once, then a verdict for each side.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use mesh_core::{
    ClusterName, CrossClusterDefault, Direction, IdentityName, NodeId, Protocol, RuleId, RuleName, Settings, State, Verdict,
    WorkloadId,
};

use self::ruleset::Ruleset;
use crate::Compiler;
use crate::store::{Pages, Ranges, Shards};

mod decide;
pub(crate) mod rows;
pub(crate) mod ruleset;
mod view;

pub use self::decide::Flow;
pub use self::view::{Exported, Interval, Profile, Protocols, Row, Rulings};

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
    pub(crate) rulesets: Pages<Ruleset, RULESETS>,
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
    /// The subject's rule sets, which are here to be found at once.
    pub(crate) rulesets: [u32; 2],
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

/// The rule sets of a page: they are large, and a change of one copies its page.
pub(crate) const RULESETS: usize = 64;

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
    fn profile(self) -> ProfileHandle {
        ProfileHandle(self.profile)
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

    #[inline]
    pub(crate) fn entry(&self, handle: ProfileHandle) -> &ProfileEntry {
        self.profiles.get(handle.0).expect("a flow's profile is in its set")
    }

    #[inline]
    pub(crate) fn subject(&self, number: u32) -> Subject {
        self.subjects.get(number).copied().unwrap_or_default()
    }

    /// Replaces a rule's number by its name; `verdict` must be of this set.
    pub fn named(&self, verdict: Verdict<RuleId>) -> Verdict<RuleName> {
        verdict.map(|id| self.rule_name(id))
    }

    pub(crate) fn rule_name(&self, id: RuleId) -> RuleName {
        let subject = self.subject(id.subject);
        self.name_in(subject.rulesets[(id.rule & 1) as usize], id.rule >> 1, subject.cluster)
    }

    /// Returns the name of a rule of a rule set, as a cluster decides by it.
    pub(crate) fn name_in(&self, ruleset: u32, rule: u32, cluster: u32) -> RuleName {
        let cluster = self.clusters.get(cluster).and_then(Option::as_ref).expect("a verdict's cluster is in its set");
        self.rulesets.get(ruleset).expect("a verdict's rule set is in its set").name(rule, cluster)
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
