//! The compiled policy: both ends of a connection looked up once, then a verdict for each side.

use std::net::IpAddr;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use mesh_core::settings::DomainAddresses;
use mesh_core::{
    CrossClusterDefault, Direction, FiveTuple, IdentityName, NodeId, PrefixMap, Protocol, Reason, RuleId, RuleName, Settings,
    State, StateConfig, Trust, Verdict, WorkloadId,
};

use crate::rows::Rows;

/// A workload of one [`PolicySet`]; it means nothing to another set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadHandle(pub u32);

/// A node of one [`PolicySet`]; it means nothing to another set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeHandle(pub u32);

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

/// A connection with both its ends looked up in one [`PolicySet`]; it means nothing to another set.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    tuple: FiveTuple,
    source: Known,
    destination: Known,
    /// The place of protocol and destination port in a row.
    key: u32,
}

impl Flow {
    /// Returns who opened it.
    pub fn source(&self) -> End {
        self.source.end
    }

    /// Returns to whom it was opened.
    pub fn destination(&self) -> End {
        self.destination.end
    }

    /// Returns its addresses and ports.
    pub fn tuple(&self) -> &FiveTuple {
        &self.tuple
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
/// Ends fall into classes that no rule tells apart, ports into intervals; a verdict is one look-up of (rule set of the subject,
/// class of the peer) and one search among the intervals that its rules name. Neither depends on the number of policies.
#[derive(Clone, Debug)]
pub struct PolicySet {
    pub(crate) settings: (Settings, CrossClusterDefault),
    pub(crate) workloads: Vec<WorkloadEntry>,
    /// By workload, as `workloads`: what the hot path needs, and no more.
    pub(crate) policed: Vec<Policed>,
    pub(crate) ends: Ends,
    pub(crate) rulesets: Vec<Ruleset>,
    /// The rows of the classes that do not have their rule set's usual one.
    pub(crate) cells: Cells,
    pub(crate) rows: Rows,
    pub(crate) rules: Vec<RuleName>,
    pub(crate) exported: HashSet<Exported, RandomState>,
    pub(crate) fingerprint: u64,
}

pub(crate) type Cells = HashMap<(u32, u32), u32, RandomState>;

#[derive(Clone, Debug, Hash)]
pub(crate) struct WorkloadEntry {
    pub(crate) id: WorkloadId,
    pub(crate) identity: IdentityName,
    pub(crate) node: Option<NodeId>,
}

/// What policing a workload needs.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Policed {
    pub(crate) cluster: u32,
    /// Its own node, where that has addresses.
    pub(crate) node: Option<u32>,
    /// Its rule sets, [ingress, egress].
    pub(crate) rulesets: [u32; 2],
}

/// The rules that apply to some subjects in one direction.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Ruleset {
    /// The row of every class without a cell.
    pub(crate) usual: u32,
}

/// Who is behind an address, and the class that rules see there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Known {
    pub(crate) end: End,
    pub(crate) class: u32,
}

/// Who is behind every address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    /// The addresses of workloads and nodes.
    pub(crate) known: HashMap<IpAddr, Known, RandomState>,
    /// Where an address that is not known is pending.
    pub(crate) pending: PrefixMap<()>,
    /// The classes of all other addresses; class 0 outside.
    pub(crate) regions: PrefixMap<u32>,
    pub(crate) nodes: Vec<NodeId>,
    /// Every address of every node: two nodes may claim one, and each is own node to its workloads.
    pub(crate) node_addresses: HashSet<(u32, IpAddr), RandomState>,
}

/// A backend's port that a cluster may reach because it is exported to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Exported {
    pub(crate) client: u32,
    pub(crate) address: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

impl PolicySet {
    /// Compiles the policies of `state` from scratch.
    pub fn compile(state: &State) -> PolicySet {
        crate::compile::compile(state, &[])
    }

    /// Looks up both ends of `tuple`, the connection after service translation.
    pub fn flow(&self, tuple: &FiveTuple) -> Flow {
        Flow {
            tuple: *tuple,
            source: self.ends.get(tuple.source),
            destination: self.ends.get(tuple.destination),
            key: crate::rows::key(tuple.protocol, tuple.destination_port),
        }
    }

    /// Decides one side of `flow`, which must be of this set. Never allocates.
    pub fn decide(&self, flow: &Flow, direction: Direction) -> Verdict<RuleId> {
        if flow.source.end == End::Pending || flow.destination.end == End::Pending {
            return Verdict::Deny(Reason::IdentityPending);
        }
        let (own, peer, peer_address) = match direction {
            Direction::Ingress => (flow.destination, flow.source, flow.tuple.source),
            Direction::Egress => (flow.source, flow.destination, flow.tuple.destination),
        };
        let End::Workload(subject) = own.end else { return Verdict::Allow(Reason::NotPoliced) };
        if own.end == peer.end {
            return Verdict::Allow(Reason::OwnAddress);
        }
        let subject = &self.policed[subject.0 as usize];
        let ruleset = subject.rulesets[side(direction)];
        let cell = self.cells.get(&(ruleset, peer.class));
        let row = cell.copied().unwrap_or_else(|| self.rulesets[ruleset as usize].usual);
        match self.rows.verdict(row, flow.key) {
            Verdict::Deny(Reason::Isolated) if self.is_own_node_allowed(subject, &peer, peer_address, direction) => {
                Verdict::Allow(Reason::OwnNode)
            }
            Verdict::Allow(Reason::Default) => self.no_tier(subject, &peer, flow, direction),
            verdict => verdict,
        }
    }

    fn is_own_node_allowed(&self, subject: &Policed, peer: &Known, address: IpAddr, direction: Direction) -> bool {
        let settings = &self.settings.0;
        let allowed = match direction {
            Direction::Ingress => settings.own_node_ingress_allowed,
            Direction::Egress => settings.own_node_egress_allowed,
        };
        let Some(node) = subject.node else { return false };
        allowed && matches!(peer.end, End::Node(_)) && self.ends.node_addresses.contains(&(node, address))
    }

    /// Where no tier decides, the fleet's default holds between workloads of different clusters.
    fn no_tier(&self, subject: &Policed, peer: &Known, flow: &Flow, direction: Direction) -> Verdict<RuleId> {
        let End::Workload(peer) = peer.end else { return Verdict::Allow(Reason::Default) };
        let peer = &self.policed[peer.0 as usize];
        if peer.cluster == subject.cluster {
            return Verdict::Allow(Reason::Default);
        }
        let client = match direction {
            Direction::Ingress => peer.cluster,
            Direction::Egress => subject.cluster,
        };
        let allowed = match self.settings.1 {
            CrossClusterDefault::Allow => true,
            CrossClusterDefault::Deny => false,
            CrossClusterDefault::Exports => self.exported.contains(&Exported {
                client,
                address: flow.tuple.destination,
                protocol: flow.tuple.protocol,
                port: flow.tuple.destination_port,
            }),
        };
        if allowed { Verdict::Allow(Reason::FleetDefault) } else { Verdict::Deny(Reason::NotExported) }
    }

    /// Replaces a rule's number by its name; `verdict` must be of this set.
    pub fn named(&self, verdict: Verdict<RuleId>) -> Verdict<RuleName> {
        verdict.map(|rule| self.rules[rule.0 as usize].clone())
    }

    /// Returns what is known of `address`.
    pub fn end(&self, address: IpAddr) -> End {
        self.ends.get(address).end
    }

    /// Returns what is known of a workload end; `end` must be of this set.
    pub fn workload(&self, end: End) -> Option<WorkloadInfo<'_>> {
        let End::Workload(handle) = end else { return None };
        let entry = self.workloads.get(handle.0 as usize)?;
        Some(WorkloadInfo { id: &entry.id, identity: entry.identity, node: entry.node.as_ref() })
    }

    /// Returns the node of a node end; `end` must be of this set.
    pub fn node(&self, end: End) -> Option<&NodeId> {
        let End::Node(handle) = end else { return None };
        self.ends.nodes.get(handle.0 as usize)
    }

    /// Returns a hash of the content: equal sets have equal fingerprints, in every process of this version.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl Ends {
    fn get(&self, address: IpAddr) -> Known {
        if let Some(known) = self.known.get(&address) {
            return *known;
        }
        if !self.pending.is_empty() && self.pending.lookup(address).is_some() {
            return Known { end: End::Pending, class: 0 };
        }
        Known { end: End::External, class: self.regions.lookup(address).map_or(0, |(_, class)| *class) }
    }
}

/// Returns the index of a direction in `[ingress, egress]`.
pub(crate) fn side(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

impl Default for PolicySet {
    /// Makes the set of an empty state, in which nothing is policed.
    fn default() -> PolicySet {
        PolicySet::compile(&State::new(StateConfig {
            fleet: "".into(),
            trust: Trust::Open,
            settings: Settings::default(),
            domains: DomainAddresses::default(),
        }))
    }
}
