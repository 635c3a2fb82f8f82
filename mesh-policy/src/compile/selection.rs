//! Which rules apply to a subject on one side: subjects with the same ones share everything that is compiled from them.

use mesh_core::policy::{ClusterNetworkPolicy, PortMatch};
use mesh_core::{ClusterName, Direction};

use super::peers::Who;
use super::rulebook::{Entry, Rulebook, Span};
use crate::set::side;

/// The rules that apply to some subjects in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Selection {
    /// The deciding side's cluster, which names its rules.
    pub(super) cluster: u32,
    pub(super) admin: Vec<Span>,
    /// `None`: no NetworkPolicy selects the subject in this direction.
    pub(super) network: Option<Vec<Span>>,
    pub(super) baseline: Vec<Span>,
    pub(super) direction: Direction,
    /// The subject's table of named ports where one of the rules asks for it; 0, the empty table, otherwise.
    pub(super) ports: u32,
    /// One of the rules asks for named ports of the peer.
    pub(super) asks_peer_ports: bool,
}

impl Selection {
    /// Selects the rules for a subject of `cluster`, whose number is `number`, with the port table `ports`.
    pub(super) fn new(
        book: &Rulebook<'_>,
        (cluster, number): (&ClusterName, u32),
        who: &Who<'_>,
        direction: Direction,
        ports: u32,
    ) -> Selection {
        let side = side(direction);
        let tier = |entries: &[Entry<'_, ClusterNetworkPolicy>]| {
            let selects = |policy: &ClusterNetworkPolicy| {
                let subject = &policy.subject;
                policy.scope.covers(cluster)
                    && subject.namespaces.matches(who.namespace_labels)
                    && subject.pods.as_ref().is_none_or(|pods| pods.matches(who.labels))
            };
            let spans = entries.iter().filter(|entry| has_rules(entry.spans[side]) && selects(entry.policy));
            spans.filter_map(|entry| entry.spans[side]).collect::<Vec<_>>()
        };
        let network: Vec<Span> = book
            .network
            .get(who.namespace)
            .into_iter()
            .flatten()
            .filter(|entry| entry.policy.scope.covers(cluster) && entry.policy.subject.matches(who.labels))
            .filter_map(|entry| entry.spans[side])
            .collect();
        let network = if network.is_empty() { None } else { Some(network) };
        let mut selection = Selection {
            cluster: number,
            admin: tier(&book.admin),
            network,
            baseline: tier(&book.baseline),
            direction,
            ports: 0,
            asks_peer_ports: false,
        };
        if selection.asks_named_ports(book) {
            match direction {
                Direction::Ingress => selection.ports = ports,
                Direction::Egress => selection.asks_peer_ports = true,
            }
        }
        selection
    }

    /// Returns all rules, tier after tier.
    pub(super) fn spans(&self) -> impl Iterator<Item = Span> {
        self.admin.iter().chain(self.network.iter().flatten()).chain(&self.baseline).copied()
    }

    fn asks_named_ports(&self, book: &Rulebook<'_>) -> bool {
        let spans: Vec<Span> = self.spans().collect();
        book.rules_of(&spans).any(|(_, rule)| rule.ports.iter().any(|port| matches!(port, PortMatch::Named(..))))
    }
}

fn has_rules(span: Option<Span>) -> bool {
    span.is_some_and(|(first, end)| first < end)
}
