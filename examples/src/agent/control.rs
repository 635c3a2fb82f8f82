//! The one owner of the state and of all that is derived from it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Change, Event, Key, NodeId, Prefix, Services, SourceId, State, Time};
use mesh_dataplane::{Planner, Reconciler, Tunnel};
use mesh_policy::Compiler;
use mesh_source::{Diagnostics, statefile};
use mesh_wireguard::Ended;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::Clock;
use super::announce::Announcement;
use super::interest::InterestRole;
use super::names::NamesRole;
use super::publish::PublisherRole;
use super::pull::PullRole;
use super::pull::serve::Askers;
use super::pull::wire::Said;
use super::traffic::TrafficRole;
use super::tunnel::{Choice, NodeTunnel};
use super::view::{self, Overview, Shared};
use crate::config::AgentConfig;

/// How old what the API shows may be.
const SHOW: Duration = Duration::from_millis(200);
/// The sources that every agent has.
pub const MANIFESTS: &str = "manifests";
/// Announcements of the own cluster's nodes.
pub const INBOX: &str = "inbox";
/// Signed records.
pub const STORE: &str = "store";

/// Everything that follows from events.
pub struct Control {
    pub(super) config: AgentConfig,
    pub(super) clock: Clock,
    pub(super) state: State,
    pub(super) tunnel: NodeTunnel,
    pub(super) choice: Choice,
    pub(super) shared: Arc<Shared>,
    pub(super) names: NamesRole,
    pub(super) interest: InterestRole,
    pub(super) publisher: Option<PublisherRole>,
    /// What is wrong with each source, as it says itself.
    pub(super) diagnostics: Vec<(&'static str, watch::Receiver<Diagnostics>)>,
    pub(super) compiler: Compiler,
    pub(super) planner: Planner,
    /// The services that the cluster sees.
    pub(super) services: Services,
    /// Which backends take their connections.
    pub(super) traffic: TrafficRole,
    /// Asks other nodes for the records that packets wait for.
    pub(super) pull: PullRole,
    /// Who may ask this node for records.
    pub(super) askers: watch::Sender<Askers>,
    pub(super) reconciler: Reconciler,
    /// What events changed since the last time that everything was derived.
    pub(super) pending: Change,
    /// Something was said that the publisher has not looked at. A `Synced` changes no fact, and is what it waits for.
    pub(super) unpublished: bool,
    /// The last known state of the fleet was read from the disk.
    pub(super) restored: bool,
    /// A plan was programmed since the start.
    pub(super) programmed: bool,
    /// Tells the DNS server that its zone is the whole one: before, a name that exists would be denied.
    pub(super) ready: watch::Sender<bool>,
    pub(super) reconcile_errors: Vec<String>,
    pub(super) snapshot_due: bool,
    /// What the node says of itself.
    pub(super) announcement: Announcement,
    pub(super) overview: Overview,
    /// The state has changed since the overview was derived.
    pub(super) overview_due: bool,
    /// When the API was last shown something new.
    pub(super) shown: Time,
    /// The routes of the latest plan.
    pub(super) routes: Arc<BTreeMap<Prefix, NodeId>>,
}

impl Control {
    /// Takes an event; nothing is derived yet.
    pub fn handle_event(&mut self, event: Event) {
        self.unpublished = true;
        if matches!(&event, Event::Synced(source) if *source.0 == *STORE) {
            self.interest.synced();
        }
        let is_record = matches!(event, Event::Record(_) | Event::Opened(_));
        let change = self.state.apply(event, self.clock.now());
        self.take(change, is_record);
    }

    fn take(&mut self, change: Change, is_record: bool) {
        for refusal in &change.refusals {
            // Before everything is read, a fact may simply precede its grant.
            if self.programmed { warn!(%refusal, "refused") } else { debug!(%refusal, "refused, for now") }
        }
        self.snapshot_due |= is_record && !change.dirty.is_empty();
        self.names.note(&change);
        if let Some(publisher) = &mut self.publisher {
            publisher.note(&change);
        }
        self.interest.note(&change);
        self.overview_due |= !change.is_empty();
        self.pending.merge(change);
    }

    /// Tells the DNS server what names mean now, before anything else is derived.
    pub fn publish_names(&mut self) {
        if self.may_program() {
            self.overview_due |= self.names.publish(&self.state, &mut self.services);
        }
    }

    /// Derives everything from the state of now, and programs it.
    ///
    /// # Errors
    /// Returns an error where the tunnel has ended: only a new process has a new one.
    pub fn converge(&mut self) -> Result<(), Ended> {
        let now = self.clock.now();
        if self.state.poll_timeout().is_some_and(|due| due <= now.time) {
            let change = self.state.handle_timeout(now);
            self.unpublished |= !change.is_empty();
            self.take(change, true);
        }
        let forgotten = self.interest.turn(&mut self.state, now.time);
        self.take(forgotten, true);
        self.publish_names();
        if self.may_program() {
            self.program();
        }
        let unpublished = std::mem::take(&mut self.unpublished);
        if let Some(publisher) = self.publisher.as_mut().filter(|publisher| unpublished || publisher.is_due(now)) {
            publisher.publish(&self.state, now);
        }
        if now.time.since(self.shown) >= SHOW {
            self.shown = now.time;
            if std::mem::take(&mut self.overview_due) {
                self.overview = Overview::derive(&self.state, &self.services);
            }
            let view = view::derive(self)?;
            self.shared.set_view(view);
        }
        Ok(())
    }

    /// Nothing is programmed before every source has told what it has, or its last known state was read from the disk.
    fn may_program(&self) -> bool {
        let synced = |name: &str| self.state.is_synced(&SourceId(name.into()));
        let told = || synced(STORE) && self.interest.is_settled(self.clock.now().time);
        self.programmed || (synced(MANIFESTS) && synced(INBOX) && (self.restored || told()))
    }

    /// Returns what is wrong with the sources now.
    pub(super) fn source_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, diagnostics) in &self.diagnostics {
            let diagnostics = diagnostics.borrow();
            problems.extend(diagnostics.errors.iter().map(|error| format!("{name}: {error}")));
            problems.extend(diagnostics.problems.iter().map(|problem| format!("{name}: {problem}")));
            if diagnostics.mismatches > 0 {
                problems.push(format!(
                    "{name}: {} announcement(s) for another node than their file's are refused",
                    diagnostics.mismatches
                ));
            }
        }
        problems
    }

    /// Ends in order: what is known is on the disk.
    pub fn finish(&mut self) {
        self.drain_flows();
        self.save();
    }

    /// Returns what has to be read before anything is programmed.
    pub(super) fn waiting_for(&self) -> Vec<String> {
        if self.programmed {
            return Vec::new();
        }
        let missing = [MANIFESTS, INBOX, STORE].into_iter().filter(|name| !self.state.is_synced(&SourceId((*name).into())));
        missing.map(|name| format!("source {name} has not been read yet")).collect()
    }

    fn program(&mut self) {
        let change = std::mem::take(&mut self.pending);
        let now = self.clock.now();
        let due = self.reconciler.poll_timeout().is_some_and(|due| due <= now.time);
        let moved = self.traffic.turn(&mut self.tunnel, now);
        if change.dirty.is_empty() && self.programmed && !due && !moved {
            return;
        }
        let changed = self.names.take_changed();
        let policy = self.compiler.update(&self.state, &change).clone();
        let table = self.traffic.update(&self.state, &self.services, (&change, &changed), now);
        let plan = self.planner.update(&self.state, &change, &policy, table);
        let result = self.reconciler.run(&plan, &mut self.tunnel, now.time);
        let errors = result.err().unwrap_or_default();
        self.shared.metrics.count_reconcile(errors.len());
        self.reconcile_errors = errors.iter().map(ToString::to_string).collect();
        for error in &self.reconcile_errors {
            warn!(%error, "a step of the plan failed, and will be tried again");
        }
        if errors.is_empty() {
            self.announcement.set_policies(self.state.policies_serial());
        }
        self.traffic.follow(&self.state, &plan, now);
        self.admit_askers(&change);
        self.routes = plan.routes;
        if !self.programmed && self.reconcile_errors.is_empty() {
            info!(peers = plan.peers.len(), routes = self.routes.len(), "programmed for the first time");
            self.programmed = true;
            self.ready.send_replace(true);
        }
    }

    /// Asks for the identities that packets wait for.
    pub fn pull(&mut self) {
        self.pull.turn(&mut self.tunnel, &self.state);
    }

    /// Returns the signed records of this cluster that say who is behind `address`.
    pub fn signed_at(&self, address: IpAddr) -> Said {
        let is_own = self.state.workload_at(address).is_some_and(|id| id.cluster == self.config.node.cluster);
        let slice = self.state.signed_slice_of(address).filter(|_| is_own).cloned();
        Said { namespace: self.state.signed_namespace_of(address).filter(|_| slice.is_some()).cloned(), slice }
    }

    /// Lets the nodes that are known now ask for records.
    fn admit_askers(&mut self, change: &Change) {
        if !self.programmed || change.dirty.iter().any(|key| matches!(key, Key::NodeLink(_))) {
            let overlay = self.state.facts().links.values().flat_map(|link| link.overlay.iter().copied());
            self.askers.send_replace(Arc::new(overlay.collect()));
        }
    }

    /// Hands on the flow records that the tunnel has.
    pub fn drain_flows(&mut self) {
        while let Some(record) = self.tunnel.poll_flow() {
            self.shared.metrics.count_flow(&record);
            self.shared.flows.push(record);
        }
    }

    /// Tells the own cluster's inbox what is new about this node, and now and then that it is alive.
    pub fn announce(&mut self) {
        self.announcement.repeat(&self.config.inbox, self.clock.now());
        if let Some(publisher) = &mut self.publisher {
            publisher.hear();
        }
    }

    /// Keeps the last known state on the disk, where it changed.
    pub fn save(&mut self) {
        if !std::mem::take(&mut self.snapshot_due) {
            return;
        }
        let path = snapshot_path(&self.config);
        if let Err(error) = statefile::save_atomic(&path, &self.state.snapshot()) {
            warn!(path = %path.display(), %error, "the last known state was not saved, and will be tried again");
            self.snapshot_due = true;
        }
    }
}

/// Returns where the last known state of the fleet is kept.
pub fn snapshot_path(config: &AgentConfig) -> PathBuf {
    config.state_dir.join("last-known-state")
}
