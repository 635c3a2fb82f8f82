//! What the control loop shows to the API: a value replaced as a whole, never a lock held over work.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use mesh_core::{ClusterName, Now, ServiceKind, Services, State, WireGuardKey};
use mesh_dataplane::HoldCounters;
use mesh_wireguard::{Ended, PeerStats, TunnelStats};

use super::control::Control;
use super::flows::FlowLog;
use super::metrics::Metrics;
use super::publish::PublisherRole;
use super::tunnel::Choice;
use crate::api::{Cluster, Health, Peer, Policies, Service, StateSummary, Status};
use crate::config::AgentConfig;

/// All answers of the API at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// `GET /status`.
    pub status: Status,
    /// `GET /peers`.
    pub peers: Vec<Peer>,
    /// `GET /state`.
    pub state: StateSummary,
    /// Packets forwarded and bytes, out and in.
    pub forwarded: Forwarded,
    /// Flow records that were lost because nobody took them in time.
    pub flows_lost: u64,
    /// Packets that waited for an identity.
    pub hold: HoldCounters,
}

/// What went through the tunnel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forwarded {
    /// Packets sent to peers.
    pub packets_out: u64,
    /// Their bytes, before encryption.
    pub bytes_out: u64,
    /// Packets delivered from peers.
    pub packets_in: u64,
    /// Their bytes, after decryption.
    pub bytes_in: u64,
}

impl View {
    /// What is shown before anything is known.
    pub fn empty(config: &AgentConfig, key: WireGuardKey, choice: &Choice) -> View {
        View {
            status: Status {
                node: config.node.clone(),
                fleet: config.fleet.name.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                uptime_seconds: 0,
                health: Health { ready: false, problems: vec!["starting".into()] },
                scope: config.scope.to_string(),
                tunnel: choice.name().into(),
                tunnel_reason: choice.reason.clone(),
                key,
                roles: Vec::new(),
                peers: (0, 0),
                clusters: Vec::new(),
                policies: None,
                drops: BTreeMap::new(),
                holds: BTreeMap::new(),
                pulls: BTreeMap::new(),
                refusals: BTreeMap::new(),
            },
            peers: Vec::new(),
            state: StateSummary::default(),
            forwarded: Forwarded::default(),
            flows_lost: 0,
            hold: HoldCounters::default(),
        }
    }
}

/// What the control loop and the API have in common.
#[derive(Debug)]
pub struct Shared {
    view: RwLock<Arc<View>>,
    /// The node's flow records.
    pub flows: FlowLog,
    /// The metrics.
    pub metrics: Metrics,
}

impl Shared {
    /// Begins with `view`.
    pub fn new(view: View) -> Shared {
        Shared { view: RwLock::new(Arc::new(view)), flows: FlowLog::new(), metrics: Metrics::new() }
    }

    /// Returns the view of now.
    pub fn view(&self) -> Arc<View> {
        self.view.read().expect("no holder of this lock panics").clone()
    }

    /// Replaces the view.
    pub fn set_view(&self, view: View) {
        *self.view.write().expect("no holder of this lock panics") = Arc::new(view);
    }
}

/// Derives the view from what the control loop knows.
pub(super) fn derive(control: &mut Control) -> Result<View, Ended> {
    let now = control.clock.now();
    let stats = control.tunnel.stats()?;
    let control = &*control;
    let peers = peers(control, &stats, now);
    let recent = peers.iter().filter(|peer| peer.handshake_age_seconds.is_some_and(|age| age < 180)).count();
    let forwarder = &stats.forwarder;
    let mut drops: BTreeMap<String, u64> = forwarder
        .drops
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.as_str().to_owned(), count))
        .collect();
    let (refused, io) = (stats.engine.refused, stats.io);
    let below = [
        ("wireguard-malformed", refused.malformed),
        ("wireguard-unauthentic", refused.unauthentic),
        ("wireguard-replayed", refused.replayed),
        ("wireguard-no-session", refused.no_session + stats.engine.no_session),
        ("wireguard-under-load", refused.under_load),
        ("wireguard-expired", refused.expired),
        ("no-endpoint", stats.engine.no_endpoint),
        ("congested", stats.engine.congested),
        ("udp-send-error", io.send_errors),
        ("udp-truncated", io.truncated),
        ("tun-error", io.tun_errors),
    ];
    drops.extend(below.iter().filter(|(_, count)| *count > 0).map(|(reason, count)| ((*reason).to_owned(), *count)));
    let publishes = control.publisher.as_ref().map(PublisherRole::is_publishing);
    let roles = [
        ("publisher", publishes == Some(true)),
        ("standby", publishes == Some(false)),
        ("mirror", control.config.mirror.is_some()),
    ];
    Ok(View {
        status: Status {
            node: control.config.node.clone(),
            fleet: control.config.fleet.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_seconds: now.time.as_nanos() / 1_000_000_000,
            health: health(control),
            scope: control.config.scope.to_string(),
            tunnel: control.choice.name().into(),
            tunnel_reason: control.choice.reason.clone(),
            key: control.announcement.key(),
            roles: roles.iter().filter(|(_, has)| *has).map(|(role, _)| (*role).to_owned()).collect(),
            peers: (peers.len(), recent),
            clusters: control.overview.clusters(&control.state, now),
            policies: policies(&control.state),
            drops,
            holds: seen(holds(&forwarder.hold)),
            pulls: seen(control.pull.counters().iter()),
            refusals: control.state.refusal_counts().iter().map(|(reason, count)| (reason.as_str().into(), *count)).collect(),
        },
        state: StateSummary { source_problems: control.source_problems(), ..control.overview.summary.clone() },
        forwarded: Forwarded {
            packets_out: forwarder.sent.packets,
            bytes_out: forwarder.sent.bytes,
            packets_in: forwarder.delivered.packets,
            bytes_in: forwarder.delivered.bytes,
        },
        flows_lost: forwarder.records_lost + stats.io.records_lost,
        hold: forwarder.hold,
        peers,
    })
}

/// Returns what became of packets that waited for an identity, by name.
pub(super) fn holds(hold: &HoldCounters) -> impl Iterator<Item = (&'static str, u64)> {
    let counts = [
        ("held", hold.held),
        ("released", hold.released),
        ("denied", hold.denied),
        ("expired", hold.expired),
        ("no-room", hold.no_room),
    ];
    counts.into_iter()
}

fn seen(counts: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<String, u64> {
    counts.filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect()
}

fn policies(state: &State) -> Option<Policies> {
    let serial = state.policies_serial()?;
    let (active, clusters) = state.policies_active();
    Some(Policies { serial, active, clusters })
}

fn health(control: &Control) -> Health {
    let mut problems = control.waiting_for();
    problems.extend(control.source_problems());
    problems.extend(control.reconcile_errors.iter().map(|error| format!("not programmed: {error}")));
    // A broken manifest leaves the last good one in force: a problem to tell, not a reason to be taken out of service.
    Health { ready: control.programmed && control.reconcile_errors.is_empty(), problems }
}

fn peers(control: &Control, stats: &TunnelStats, now: Now) -> Vec<Peer> {
    let peer = |peer: &PeerStats| Peer {
        prefixes: control.routes.iter().filter(|(_, node)| **node == peer.node).map(|(prefix, _)| *prefix).collect(),
        node: peer.node.clone(),
        key: peer.key,
        endpoint: peer.endpoint,
        handshake_age_seconds: peer.last_handshake.map(|at| now.wall.since(at).as_secs()),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
    };
    stats.peers.iter().map(peer).collect()
}

/// What takes a walk over the whole state, derived only when the state has changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Overview {
    clusters: Vec<Cluster>,
    summary: StateSummary,
}

impl Overview {
    pub(super) fn derive(state: &State, services: &Services) -> Overview {
        Overview { clusters: clusters(state, services.cluster()), summary: summary(state, services) }
    }

    fn clusters(&self, state: &State, now: Now) -> Vec<Cluster> {
        let mut clusters = self.clusters.clone();
        for cluster in clusters.iter_mut().filter(|cluster| cluster.freshness.is_empty()) {
            cluster.freshness = format!("{:?}", state.freshness(&cluster.name, now.wall)).to_lowercase();
        }
        for cluster in &mut clusters {
            cluster.policies = state.facts().leases.get(&cluster.name).and_then(|lease| lease.policies);
        }
        clusters
    }
}

fn clusters(state: &State, own: &ClusterName) -> Vec<Cluster> {
    let facts = state.facts();
    let (nodes, workloads) =
        (count(facts.nodes.keys().map(|id| &id.cluster)), count(facts.workloads.keys().map(|id| &id.cluster)));
    let of_manifests =
        facts.service_exports.keys().filter(|key| facts.services.get(*key).is_some_and(|service| exports(service.kind)));
    let signed = facts.exports.iter().filter(|(key, export)| !facts.service_exports.contains_key(*key) && exports(export.kind));
    let exported = count(of_manifests.chain(signed.map(|(key, _)| key)).map(|key| &key.0));
    let cluster = |name: &ClusterName, grant: &mesh_core::Grant| Cluster {
        freshness: if name == own { "own".into() } else { String::new() },
        prefixes: grant.prefixes.clone(),
        attributes: grant.attributes.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        nodes: nodes.get(name).copied().unwrap_or_default(),
        workloads: workloads.get(name).copied().unwrap_or_default(),
        exports: exported.get(name).copied().unwrap_or_default(),
        policies: None,
        name: name.clone(),
    };
    facts.grants.iter().map(|(name, grant)| cluster(name, grant)).collect()
}

fn count<'a>(clusters: impl Iterator<Item = &'a ClusterName>) -> BTreeMap<&'a ClusterName, usize> {
    let mut counts = BTreeMap::new();
    clusters.for_each(|cluster| *counts.entry(cluster).or_default() += 1);
    counts
}

/// Tells whether a service of this kind can be exported.
fn exports(kind: ServiceKind) -> bool {
    kind != ServiceKind::ExternalName
}

fn summary(state: &State, services: &Services) -> StateSummary {
    let facts = state.facts();
    let counts = [
        ("grants", facts.grants.len()),
        ("namespaces", facts.namespaces.len()),
        ("nodes", facts.nodes.len()),
        ("workloads", facts.workloads.len()),
        ("services", facts.services.len()),
        ("endpointSlices", facts.slices.len()),
        ("networkPolicies", facts.network_policies.len()),
        ("clusterNetworkPolicies", facts.cluster_policies.len()),
    ];
    let service = |service: &mesh_core::ImportedService| Service {
        id: service.id.to_string(),
        addresses: service.addresses.clone(),
        ready: service.backends.iter().filter(|backend| backend.ready).count(),
        clusters: service.exporters.iter().map(|exporter| exporter.cluster.clone()).collect(),
    };
    StateSummary {
        facts: counts.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
        refused: state.refused().map(|(_, refusal)| refusal.to_string()).collect(),
        source_problems: Vec::new(),
        services: services.imported().values().map(|imported| service(imported)).collect(),
    }
}
