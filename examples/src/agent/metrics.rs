//! The agent's metrics, as OpenMetrics text.

use std::sync::Arc;

use mesh_core::{FlowEvent, FlowRecord};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::view::View;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    direction: String,
    verdict: &'static str,
    tier: String,
    reason: String,
    rule: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    peer: String,
}

/// Counters that live as long as the agent; the rest is read from the [`View`] when somebody asks.
#[derive(Debug, Default)]
pub struct Metrics {
    verdicts: Family<VerdictLabels, Counter>,
    reconciles: Counter,
    reconcile_errors: Counter,
}

impl Metrics {
    /// Makes all counters zero.
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// Counts the verdict of a flow record.
    pub fn count_flow(&self, record: &FlowRecord) {
        if record.event == FlowEvent::Closed {
            return;
        }
        let labels = VerdictLabels {
            direction: record.direction.to_string(),
            verdict: if record.allowed { "allow" } else { "deny" },
            tier: record.tier.to_string(),
            reason: record.reason.clone(),
            rule: record.rule.clone().unwrap_or_default(),
        };
        self.verdicts.get_or_create(&labels).inc();
    }

    /// Counts a run of the reconciler.
    pub fn count_reconcile(&self, errors: usize) {
        self.reconciles.inc();
        self.reconcile_errors.inc_by(errors as u64);
    }

    /// Writes everything as OpenMetrics text.
    pub fn encode(&self, view: &Arc<View>) -> String {
        let mut registry = Registry::with_prefix("landbridge");
        registry.register("flows", "Flows by verdict and by the rule that decided", self.verdicts.clone());
        registry.register("reconciles", "Runs of the reconciler", self.reconciles.clone());
        registry.register("reconcile_errors", "Steps of the reconciler that failed", self.reconcile_errors.clone());
        let ready: Gauge = Gauge::default();
        ready.set(i64::from(view.status.health.ready));
        registry.register("ready", "1 when the plan is programmed and nothing is wrong", ready);
        let drops = by_reason(view.status.drops.iter());
        registry.register("dropped_packets", "Packets dropped, by reason", drops);
        let holds = by_outcome(view.status.holds.iter());
        registry.register("held_packets", "Packets that came before their identity, by what became of them", holds);
        let waiting: Gauge = Gauge::default();
        waiting.set(i64::try_from(view.hold.waiting).unwrap_or(i64::MAX));
        registry.register("waiting_packets", "Packets that wait for an identity now", waiting);
        let pulls = by_outcome(view.status.pulls.iter());
        registry.register("pulls", "Identities asked of other nodes, and told to them, by what came of it", pulls);
        let refusals = by_reason(view.status.refusals.iter());
        registry.register("refusals", "Facts and records refused, by reason", refusals);
        for (name, help, value) in [
            ("tunnel_packets_sent", "Packets sent to peers", view.forwarded.packets_out),
            ("tunnel_packets_received", "Packets delivered from peers", view.forwarded.packets_in),
            ("flow_records_lost", "Flow records lost before anybody took them", view.flows_lost),
        ] {
            let counter: Counter = Counter::default();
            counter.inc_by(value);
            registry.register(name, help, counter);
        }
        for (name, help, value) in [
            ("tunnel_sent", "Bytes sent to peers, before encryption", view.forwarded.bytes_out),
            ("tunnel_received", "Bytes delivered from peers, after decryption", view.forwarded.bytes_in),
        ] {
            let counter: Counter = Counter::default();
            counter.inc_by(value);
            registry.register_with_unit(name, help, Unit::Bytes, counter);
        }
        let handshakes: Family<PeerLabel, Gauge> = Family::default();
        for peer in &view.peers {
            if let Some(age) = peer.handshake_age_seconds {
                let age = i64::try_from(age).unwrap_or(i64::MAX);
                handshakes.get_or_create(&PeerLabel { peer: peer.node.to_string() }).set(age);
            }
        }
        registry.register_with_unit(
            "peer_handshake_age",
            "Time since the latest handshake with a peer",
            Unit::Seconds,
            handshakes,
        );
        if let Some(policies) = view.status.policies {
            for (name, help, value) in [
                ("fleet_policies_serial", "Serial of the fleet policies that this node knows", policies.serial),
                ("fleet_policies_clusters", "Clusters with a grant in force", policies.clusters as u64),
                (
                    "fleet_policies_active_clusters",
                    "Of these, those that have them in force on all nodes",
                    policies.active as u64,
                ),
            ] {
                let gauge: Gauge = Gauge::default();
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
                registry.register(name, help, gauge);
            }
        }
        let mut out = String::new();
        text::encode(&mut out, &registry).expect("writing to a string does not fail");
        out
    }
}

fn by_outcome<'a>(counts: impl Iterator<Item = (&'a String, &'a u64)>) -> Family<OutcomeLabel, Counter> {
    let family: Family<OutcomeLabel, Counter> = Family::default();
    for (outcome, count) in counts {
        family.get_or_create(&OutcomeLabel { outcome: outcome.clone() }).inc_by(*count);
    }
    family
}

fn by_reason<'a>(counts: impl Iterator<Item = (&'a String, &'a u64)>) -> Family<ReasonLabel, Counter> {
    let family: Family<ReasonLabel, Counter> = Family::default();
    for (reason, count) in counts {
        family.get_or_create(&ReasonLabel { reason: reason.clone() }).inc_by(*count);
    }
    family
}
