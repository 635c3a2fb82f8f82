//! The order of starting and stopping.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::policy::PolicyScope;
use mesh_core::{Change, Event, NodeLink, Services, SourceId, State, StateConfig, Time, Trust};
use mesh_dataplane::{Planner, Reconciler};
use mesh_discovery::{BindError, Server, ZoneConfig, ZoneConfigError};
use mesh_policy::Compiler;
use mesh_source::statefile::{self, Loaded, StateFileError};
use mesh_source::{AnnounceError, InboxDirectory, ManifestDirectory, Mirror, MirrorFrom, Source, StoreSource, keyfiles};
use mesh_wireguard::{Ended, Guard, KernelStartError, KernelTunnel, NetlinkError, NodeKey, StartError, TABLE};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::announce::Announcement;
use super::control::{Control, INBOX, MANIFESTS, STORE, snapshot_path};
use super::http::Question;
use super::interest::InterestRole;
use super::names::NamesRole;
use super::publish::PublisherRole;
use super::pull::serve::Askers;
use super::pull::{Asked, PullCounters, PullRole, PullServer};
use super::traffic::TrafficRole;
use super::tunnel::NodeTunnel;
use super::view::{Overview, Shared, View};
use super::{Clock, http};
use crate::config::{AgentConfig, StoreConfig, StoreConfigError, TunnelSetting};

/// How long events are gathered before everything is derived from them: one edit of many files is one change.
const GATHER: Duration = Duration::from_millis(5);
/// How often timers, flow records and the view are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often a changed last known state is written to the disk.
const SAVE: Duration = Duration::from_secs(2);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is the part of its name, with its source")]
pub enum AgentError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Key(#[from] keyfiles::KeyFileError),
    #[error(transparent)]
    Store(#[from] StoreConfigError),
    #[error(transparent)]
    State(#[from] StateFileError),
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    #[error("the guard: {0}\n  the agent needs CAP_NET_ADMIN: run it as root, or give it that capability")]
    Guard(#[from] NetlinkError),
    #[error(transparent)]
    Tunnel(#[from] StartError),
    #[error("{0}\n  'tunnel: user' in the configuration works without, 'tunnel: auto' takes what is there")]
    Kernel(#[from] KernelStartError),
    #[error(transparent)]
    Dns(#[from] BindError),
    #[error("dns: {0}")]
    Zone(#[from] ZoneConfigError),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    TunnelEnded(#[from] Ended),
    #[error("socket {}: {source}", path.display())]
    Api { path: PathBuf, source: io::Error },
}

/// Returns the guard that a configuration describes.
pub fn guard(config: &AgentConfig) -> Guard {
    Guard {
        table: TABLE,
        device: config.wireguard.device.clone(),
        prefixes: config.fleet.prefixes.iter().copied().collect::<BTreeSet<_>>(),
        local: config.fleet.node_prefixes.iter().copied().collect(),
        except: config.guard_exceptions().into_iter().collect(),
    }
}

/// Checks what the configuration names, without starting anything. A running agent waits for a directory that is not there.
pub fn check(config: &AgentConfig) -> Result<(), AgentError> {
    ZoneConfig::new(&config.dns.cluster_zone, &config.dns.clusterset_zone)?;
    let store = match &config.store {
        StoreConfig::Directory(path) => Some(path),
        StoreConfig::Etcd(_) => None,
    };
    for directory in [&config.manifests, &config.inbox].into_iter().chain(store) {
        std::fs::read_dir(directory).map_err(|source| AgentError::File { path: directory.clone(), source })?;
    }
    // An etcd is not asked, but its certificates are read.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| AgentError::File { path: "tokio runtime".into(), source })?;
    let _inside = runtime.enter();
    config.store.open("store")?;
    for from in config.mirror.iter().flat_map(|mirror| &mirror.from) {
        from.store.open(&format!("mirror.from.{}.store", from.cluster))?;
    }
    if let Some(publisher) = &config.publisher {
        keyfiles::read_signing_key(&publisher.key)?;
    }
    if config.tunnel == TunnelSetting::Kernel {
        KernelTunnel::check()?;
    }
    Ok(())
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: AgentConfig) -> Result<(), AgentError> {
    let clock = Clock::start();
    // First of all: from here on nothing for the fleet leaves unencrypted, whatever happens below.
    on_thread(|| guard(&config).up())?;
    std::fs::create_dir_all(&config.state_dir).map_err(|source| AgentError::File { path: config.state_dir.clone(), source })?;
    let key = NodeKey::from_bytes(*keyfiles::node_key(&config.state_dir.join("wireguard.key"))?);
    let link = NodeLink {
        id: config.node.clone(),
        key: key.public(),
        next_key: None,
        endpoints: config.wireguard.endpoints.clone(),
        overlay: config.wireguard.overlay.clone(),
    };
    let mut state = State::new(StateConfig {
        fleet: config.fleet.name.as_str().into(),
        trust: Trust::Signed { root: config.fleet.root, cluster: config.node.cluster.clone() },
        settings: config.params.clone(),
        domains: config.fqdns.clone(),
    });
    let restored = restore(&config, &mut state, clock)?;
    let (events, mut incoming) = mpsc::channel(1024);
    let own = PolicyScope::Cluster(config.node.cluster.clone());
    let manifests = ManifestDirectory::new(SourceId(MANIFESTS.into()), &config.manifests, own);
    let inbox = InboxDirectory::new(SourceId(INBOX.into()), &config.inbox, config.node.cluster.clone());
    let records = config.store.open("store")?;
    let (interest, wanted) = InterestRole::start(&config);
    let store = StoreSource::new(SourceId(STORE.into()), &*records, wanted);
    let mut diagnostics = vec![(MANIFESTS, manifests.diagnostics()), (INBOX, inbox.diagnostics()), (STORE, store.diagnostics())];
    let announced = inbox.announced();
    feed(manifests, events.clone());
    feed(inbox, events.clone());
    feed(store, events.clone());
    mesh_source::announce(&config.inbox, &link, None, clock.now().wall)?;
    if let Some(mirror) = &config.mirror {
        let from = mirror.from.iter().map(|from| {
            let store = from.store.open(&format!("mirror.from.{}.store", from.cluster))?;
            Ok(MirrorFrom { cluster: from.cluster.clone(), store })
        });
        let from = from.collect::<Result<Vec<_>, StoreConfigError>>()?;
        let mirror = Mirror::new(from, &records);
        diagnostics.extend(mirror.diagnostics().into_values().map(|diagnostics| ("mirror", diagnostics)));
        tokio::spawn(mirror.run());
    }
    let publisher = match &config.publisher {
        Some(publisher) => Some(PublisherRole::start(&config, &publisher.key, records, announced)?),
        None => None,
    };
    diagnostics.extend(publisher.iter().map(|publisher| ("publisher", publisher.diagnostics())));
    let (tunnel, choice) = NodeTunnel::start(&config, key)?;
    let zone_config = ZoneConfig::new(&config.dns.cluster_zone, &config.dns.clusterset_zone)?;
    let (names, zones) = NamesRole::start(&zone_config);
    let (stop, stopped) = watch::channel(false);
    let (ready, is_ready) = watch::channel(false);
    let dns = match config.dns.listen.as_slice() {
        [] => None,
        listen => Some(Server::bind(listen, config.dns.upstreams.clone(), zones).await?),
    };
    let listener = http::bind(&config.socket).map_err(|source| AgentError::Api { path: config.socket.clone(), source })?;
    let (questions, asked) = mpsc::channel(16);
    let traffic = TrafficRole::start(config.node.clone());
    let services = Services::new(config.node.cluster.clone());
    let planner = Planner::new(config.node.clone(), config.scope.into());
    let pulls = Arc::new(PullCounters::default());
    let (askers, may_ask) = watch::channel(Askers::default());
    let (state_asked, pulled) = mpsc::channel(64);
    let server = PullServer { state: state_asked, askers: may_ask, counters: pulls.clone(), clock };
    server.spawn(&config.wireguard.overlay);
    let pull = PullRole::new(events, pulls);
    let mut control = Control {
        clock,
        state,
        tunnel,
        shared: Arc::new(Shared::new(View::empty(&config, link.key, &choice))),
        choice,
        names,
        interest,
        publisher,
        diagnostics,
        compiler: Compiler::new(),
        planner,
        services,
        traffic,
        pull,
        askers,
        reconciler: Reconciler::new(),
        pending: Change::default(),
        unpublished: false,
        restored,
        programmed: false,
        ready,
        reconcile_errors: Vec::new(),
        snapshot_due: false,
        announcement: Announcement::made(link, clock.now().time),
        routes: Arc::default(),
        overview: Overview::default(),
        overview_due: false,
        shown: Time::ZERO,
        config,
    };
    let asked_names = dns.as_ref().map(Server::handle);
    let dns_task = dns.map(|dns| tokio::spawn(serve_dns(dns, is_ready, stopped.clone())));
    let api_task = tokio::spawn(http::serve(listener, control.shared.clone(), questions, asked_names, until(stopped)));
    info!(node = %control.config.node, key = %control.announcement.key(), "started");
    let outcome = drive(&mut control, &mut incoming, (asked, pulled)).await;
    info!("stopping: the guard stays up, `mesh-agent guard down` removes it");
    control.finish();
    stop.send_replace(true);
    if let Some(task) = dns_task {
        let _ = task.await;
    }
    api_task.abort();
    let _ = std::fs::remove_file(&control.config.socket);
    outcome
}

async fn drive(
    control: &mut Control,
    incoming: &mut mpsc::Receiver<Event>,
    (mut asked, mut pulled): (mpsc::Receiver<Question>, mpsc::Receiver<Asked>),
) -> Result<(), AgentError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    let mut tick = tokio::time::interval(TICK);
    let mut save = tokio::time::interval(SAVE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    save.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = incoming.recv() => {
                let Some(event) = event else { return Ok(()) };
                control.handle_event(event);
                gather(control, incoming).await;
                tokio::task::block_in_place(|| control.converge())?;
            }
            _ = tick.tick() => {
                control.drain_flows();
                control.pull();
                tokio::task::block_in_place(|| control.converge())?;
            }
            Some((id, reply)) = asked.recv() => {
                // Who does not wait for the answer any more does not get one.
                let _ = reply.send(control.traffic.describe(&control.state, &control.services, &id));
            }
            Some((address, reply)) = pulled.recv() => {
                let _ = reply.send(control.signed_at(address));
            }
            _ = save.tick() => tokio::task::block_in_place(|| {
                control.save();
                control.announce();
            }),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Takes the events that come in quick succession. Names are told at once, and again after every few milliseconds of them.
async fn gather(control: &mut Control, incoming: &mut mpsc::Receiver<Event>) {
    tokio::task::block_in_place(|| control.publish_names());
    let mut named = tokio::time::Instant::now();
    let end = named + 4 * GATHER;
    while let Ok(Some(event)) = tokio::time::timeout_at(end.min(tokio::time::Instant::now() + GATHER), incoming.recv()).await {
        control.handle_event(event);
        if named.elapsed() >= GATHER {
            tokio::task::block_in_place(|| control.publish_names());
            named = tokio::time::Instant::now();
        }
    }
}

/// Feeds a source's events to the control loop, for as long as there is one.
fn feed(mut source: impl Source + 'static, events: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        loop {
            match source.next().await {
                Ok(event) => {
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    warn!(%error, "a source cannot be read, and will be tried again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
}

/// Answers once the first plan is programmed; questions that come before wait in the sockets.
async fn serve_dns(dns: Server, ready: watch::Receiver<bool>, stopped: watch::Receiver<bool>) {
    tokio::select! {
        () = until(ready) => dns.run(until(stopped)).await,
        () = until(stopped.clone()) => {}
    }
}

async fn until(mut flag: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the agent.
    let _ = flag.wait_for(|flag| *flag).await;
}

/// Netlink calls that block run beside the runtime.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().expect("the work does not panic"))
}

/// Reads the last known state of the fleet; a file that cannot be used is set aside.
fn restore(config: &AgentConfig, state: &mut State, clock: Clock) -> Result<bool, AgentError> {
    let path = snapshot_path(config);
    let Loaded::State(bytes) = statefile::load(&path)? else { return Ok(false) };
    match state.restore(&bytes, clock.now()) {
        Ok(change) => {
            info!(facts = change.dirty.len(), "the last known state was read");
            Ok(true)
        }
        Err(error) => {
            let aside = statefile::set_aside(&path)?;
            warn!(aside = %aside.display(), %error, "the last known state cannot be used");
            Ok(false)
        }
    }
}
