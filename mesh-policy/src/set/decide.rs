//! The verdict on one side of a connection.

use mesh_core::{CrossClusterDefault, Direction, FiveTuple, Reason, RuleId, Verdict};

use super::rows::{self, NoTier};
use super::{Backend, End, Known, Packed, PolicySet, ProfileEntry, side};

/// A connection with both its ends looked up in one [`PolicySet`]; it means nothing to another set.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    tuple: FiveTuple,
    /// The destination and the source: the own end of each side of a connection, as [`side`] numbers them.
    ends: [Packed; 2],
    /// The place of protocol and destination port in a row.
    key: u32,
    flags: u8,
}

impl Flow {
    /// The destination is a workload; the next bit: the source is.
    const WORKLOAD: u8 = 1;
    /// The destination is a node; the next bit: the source is.
    const NODE: u8 = 1 << 2;
    /// Rules have no say: an end is pending, or both are the same.
    const WITHOUT_RULES: u8 = 1 << 4;
    /// Both ends are workloads, of different clusters.
    const BETWEEN_CLUSTERS: u8 = 1 << 5;
    /// So they are, and some cluster exports a port of the destination.
    const TO_BACKEND: u8 = 1 << 6;

    /// Returns who opened it.
    pub fn source(&self) -> End {
        self.ends[side(Direction::Egress)].known().end
    }

    /// Returns to whom it was opened.
    pub fn destination(&self) -> End {
        self.ends[side(Direction::Ingress)].known().end
    }

    /// Returns its addresses and ports.
    pub fn tuple(&self) -> &FiveTuple {
        &self.tuple
    }

    #[inline]
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl PolicySet {
    /// Looks up both ends of `tuple`, the connection after service translation.
    pub fn flow(&self, tuple: &FiveTuple) -> Flow {
        self.flow_between(tuple, self.ends.get(tuple.source), self.ends.get(tuple.destination))
    }

    /// Makes the flow of `tuple` between two ends that the caller knows.
    pub(crate) fn flow_between(&self, tuple: &FiveTuple, source: Known, destination: Known) -> Flow {
        let mut flags = 0;
        for (at, known) in [destination, source].into_iter().enumerate() {
            flags |= match known.end {
                End::Workload(_) => Flow::WORKLOAD << at,
                End::Node(_) => Flow::NODE << at,
                End::Pending => Flow::WITHOUT_RULES,
                End::External => 0,
            };
        }
        if source.end == destination.end {
            flags |= Flow::WITHOUT_RULES;
        }
        let cluster = |known: Known| self.subject(self.entry(known.profile).subject).cluster;
        let are_workloads = matches!((source.end, destination.end), (End::Workload(_), End::Workload(_)));
        if are_workloads && cluster(source) != cluster(destination) {
            flags |= Flow::BETWEEN_CLUSTERS | if destination.is_backend { Flow::TO_BACKEND } else { 0 };
        }
        let ends = [destination, source].map(Packed::new);
        Flow { tuple: *tuple, ends, key: rows::key(tuple.protocol, tuple.destination_port), flags }
    }

    /// Decides one side of `flow`, which must be of this set. Never allocates.
    ///
    /// What differs from flow to flow is computed and not branched on: nobody could predict those branches.
    #[inline]
    pub fn decide(&self, flow: &Flow, direction: Direction) -> Verdict<RuleId> {
        let own = side(direction);
        if flow.has(Flow::WITHOUT_RULES) | !flow.has(Flow::WORKLOAD << own) {
            return PolicySet::decide_without_rules(flow, own);
        }
        let ProfileEntry { subject, rulesets, .. } = self.entry(flow.ends[own].profile());
        let class = self.entry(flow.ends[own ^ 1].profile()).class;
        let (subject, ruleset) = (*subject, rulesets[own]);
        let packed = self.rulesets.get(ruleset).expect("a profile's rule set is in its set").outcome(class, flow.key);
        let is_rare = (packed == rows::Packed::UNDECIDED) & flow.has(Flow::TO_BACKEND)
            | (packed == rows::Packed::ISOLATED) & flow.has(Flow::NODE << (own ^ 1));
        if is_rare {
            return self.decide_rarely(flow, direction, packed);
        }
        let default = if flow.has(Flow::BETWEEN_CLUSTERS) { self.between_clusters() } else { NoTier::Allowed };
        packed.verdict(RuleId { subject, rule: packed.rule() << 1 | own as u32 }, default)
    }

    /// Decides what rules have no say in.
    #[cold]
    fn decide_without_rules(flow: &Flow, own: usize) -> Verdict<RuleId> {
        let [own, peer] = [own, own ^ 1].map(|at| flow.ends[at].known().end);
        match (own, peer) {
            (End::Pending, _) | (_, End::Pending) => Verdict::Deny(Reason::IdentityPending),
            (End::Workload(_), _) => Verdict::Allow(Reason::OwnAddress),
            _ => Verdict::Allow(Reason::NotPoliced),
        }
    }

    /// Decides where no tier does and the destination is a backend, or where the peer of an isolated workload is a node.
    #[cold]
    fn decide_rarely(&self, flow: &Flow, direction: Direction, packed: rows::Packed) -> Verdict<RuleId> {
        if packed == rows::Packed::ISOLATED {
            let is_allowed = self.is_own_node_allowed(flow, direction);
            return if is_allowed { Verdict::Allow(Reason::OwnNode) } else { Verdict::Deny(Reason::Isolated) };
        }
        let allowed = self.between_clusters() == NoTier::FleetDefault
            || self.settings.1 == CrossClusterDefault::Exports && self.is_exported(flow);
        if allowed { Verdict::Allow(Reason::FleetDefault) } else { Verdict::Deny(Reason::NotExported) }
    }

    /// Returns what the fleet's default says between workloads of different clusters, apart from exports.
    #[inline]
    fn between_clusters(&self) -> NoTier {
        if self.settings.1 == CrossClusterDefault::Allow { NoTier::FleetDefault } else { NoTier::NotExported }
    }

    /// Rule 10: the workload's own node, by any of the node's addresses. The peer is a node.
    fn is_own_node_allowed(&self, flow: &Flow, direction: Direction) -> bool {
        let settings = &self.settings.0;
        let (allowed, own, address) = match direction {
            Direction::Ingress => (settings.own_node_ingress_allowed, flow.destination(), flow.tuple.source),
            Direction::Egress => (settings.own_node_egress_allowed, flow.source(), flow.tuple.destination),
        };
        let node = self.workload_entry(own).and_then(|entry| entry.node);
        allowed && node.is_some_and(|node| self.ends.node_addresses.contains(&(node, address)))
    }

    /// Tells whether the destination's cluster exports its port to the source's.
    fn is_exported(&self, flow: &Flow) -> bool {
        let [server, client] = flow.ends.map(|end| self.subject(self.entry(end.profile()).subject).cluster);
        let FiveTuple { destination: address, protocol, destination_port: port, .. } = flow.tuple;
        let namespaces = self.exported.get(&Backend { cluster: server, address, protocol, port });
        namespaces
            .is_some_and(|namespaces| namespaces.iter().any(|namespace| self.importable.get(&(client, *namespace)).is_some()))
    }
}
