//! The DNS server: sockets around a [`Resolver`]. The only place in this crate that touches the world, with `server/`.
//!
//! ```text
//!   UDP ──> workers (threads, a socket each) ──┐ each with a Responder: names of the zone are answered at once
//!   TCP ──> a task for each connection ────────┤
//!   API ──> ServerHandle::query ───────────────┴──> Resolver behind a lock: cache, upstreams <──> a task that drives it
//! ```
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell: it has the clock and the sockets")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use mesh_core::Time;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;

use crate::resolver::{Counters, Reply, Resolver, ResolverConfig, Responder};
use crate::wire::Transport;
use crate::zone::Zone;

mod batch;
mod bind;
mod handle;
mod limits;
mod tcp;
mod udp;
mod upstream;

pub use self::bind::BindError;
use self::bind::Bound;
pub use self::handle::{QueryError, ServerHandle};
pub use self::limits::ServerLimits;

/// What the server counted since it was bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCounters {
    /// What its resolver counted.
    pub resolver: Counters,
    /// TCP connections that were accepted.
    pub tcp_accepted: u64,
    /// TCP connections that were closed at once, because there were as many as may be.
    pub tcp_refused: u64,
    /// TCP connections that were closed because the client took too long to send a query or to take a reply.
    pub tcp_slow: u64,
    /// Queries that were longer than a query may be.
    pub oversized: u64,
    /// Replies that could not be sent over UDP.
    pub udp_unsent: u64,
    /// Times that a UDP worker had to begin anew, because of an error in it.
    pub udp_panics: u64,
}

/// A DNS server on its sockets.
pub struct Server {
    sockets: Vec<Bound>,
    limits: ServerLimits,
    zone: watch::Receiver<Arc<Zone>>,
    shared: Arc<Shared>,
}

/// Reads the counters of a server, also while it runs.
#[derive(Clone)]
pub struct ServerStats(Arc<Shared>);

/// Where the reply to a client goes.
enum Client {
    /// Weak: a port is free as soon as the server's workers are gone.
    Udp(Weak<std::net::UdpSocket>, Box<batch::Peer>),
    Tcp(tcp::ReplySlot),
    Api(oneshot::Sender<Vec<u8>>),
}

/// What a worker answers from, and where it learns of a new zone.
#[derive(Clone)]
struct Local {
    responder: Responder,
    zone: watch::Receiver<Arc<Zone>>,
}

impl Local {
    /// Takes the newest zone. It costs a look at a number as long as there is none.
    fn refresh(&mut self) {
        if !matches!(self.zone.has_changed(), Ok(false)) {
            let newest = self.zone.borrow_and_update().clone();
            if !Arc::ptr_eq(&newest, self.responder.zone()) {
                self.responder.set_zone(newest);
            }
        }
    }
}

struct Shared {
    resolver: Mutex<Resolver<Client>>,
    /// There is something to send to an upstream.
    work: Notify,
    started: Instant,
    tcp_accepted: AtomicU64,
    tcp_refused: AtomicU64,
    tcp_slow: AtomicU64,
    oversized: AtomicU64,
    udp_unsent: AtomicU64,
    udp_panics: AtomicU64,
}

impl Server {
    /// Binds UDP and TCP on every address of `listen`; with port 0 both get one free port. Replies come from the address that
    /// was asked, also where `0.0.0.0` or `[::]` is listened on.
    pub async fn bind(
        listen: &[SocketAddr],
        upstreams: Vec<SocketAddr>,
        zone: watch::Receiver<Arc<Zone>>,
    ) -> Result<Server, BindError> {
        Server::bind_with(listen, ResolverConfig { upstreams, ..ResolverConfig::default() }, ServerLimits::default(), zone).await
    }

    /// Binds like [`Server::bind`], with everything that can be set.
    pub async fn bind_with(
        listen: &[SocketAddr],
        config: ResolverConfig,
        limits: ServerLimits,
        zone: watch::Receiver<Arc<Zone>>,
    ) -> Result<Server, BindError> {
        let mut sockets = Vec::new();
        for address in listen {
            sockets.push(bind::bind_both(*address, limits.udp_workers).await?);
        }
        if let Some(own) = sockets.iter().find(|bound| config.upstreams.contains(&bound.address)) {
            return Err(BindError::OwnUpstream { address: own.address });
        }
        let resolver = Resolver::new(config, zone.borrow().clone(), entropy());
        let shared = Shared {
            resolver: Mutex::new(resolver),
            work: Notify::new(),
            started: Instant::now(),
            tcp_accepted: AtomicU64::new(0),
            tcp_refused: AtomicU64::new(0),
            tcp_slow: AtomicU64::new(0),
            oversized: AtomicU64::new(0),
            udp_unsent: AtomicU64::new(0),
            udp_panics: AtomicU64::new(0),
        };
        Ok(Server { sockets, limits, zone, shared: Arc::new(shared) })
    }

    /// Returns the bound addresses, in the order in which they were given.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|bound| bound.address).collect()
    }

    /// Returns a reader of the counters.
    pub fn stats(&self) -> ServerStats {
        ServerStats(self.shared.clone())
    }

    /// Returns a handle that asks this server without a socket.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(self.shared.clone(), self.zone.clone())
    }

    /// Answers until `shutdown` is done; then every socket is closed. Whenever the zone's channel has a new zone, answers
    /// come from that one.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        // Dropping the set and the workers ends them.
        let mut tasks = JoinSet::new();
        let responder = self.shared.resolver().responder();
        let local = Local { responder, zone: self.zone.clone() };
        let connections = tcp::Connections::new(self.limits);
        let mut udp = Vec::new();
        for bound in self.sockets {
            tasks.spawn(tcp::serve(bound.tcp, self.shared.clone(), local.clone(), connections.clone()));
            udp.extend(bound.udp);
        }
        tasks.spawn(upstream::drive(self.shared.clone()));
        tasks.spawn(follow_zone(self.zone, self.shared.clone()));
        let workers = udp::Workers::start(udp, &self.shared, &local);
        if let Err(error) = &workers {
            tracing::error!(%error, "starting the threads that answer DNS over UDP failed");
        }
        shutdown.await;
    }
}

impl ServerStats {
    /// Returns the counters of now.
    pub fn read(&self) -> ServerCounters {
        ServerCounters {
            resolver: self.0.resolver().counters(),
            tcp_accepted: self.0.tcp_accepted.load(Ordering::Relaxed),
            tcp_refused: self.0.tcp_refused.load(Ordering::Relaxed),
            tcp_slow: self.0.tcp_slow.load(Ordering::Relaxed),
            oversized: self.0.oversized.load(Ordering::Relaxed),
            udp_unsent: self.0.udp_unsent.load(Ordering::Relaxed),
            udp_panics: self.0.udp_panics.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    fn resolver(&self) -> MutexGuard<'_, Resolver<Client>> {
        // A resolver stays usable whatever happened to another task that held it.
        self.resolver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        Time::default() + self.started.elapsed()
    }

    /// Hands a packet to the resolver; returns the reply that is ready. Otherwise `client` gets it later.
    fn handle(&self, packet: &[u8], transport: Transport, client: impl FnOnce() -> Client) -> Option<Vec<u8>> {
        let reply = self.resolver().handle_message_of(packet, transport, client, self.now());
        match reply {
            Reply::Answer(bytes) => Some(bytes),
            Reply::Forward => {
                self.work.notify_one();
                None
            }
            Reply::Drop => None,
        }
    }
}

async fn follow_zone(mut zone: watch::Receiver<Arc<Zone>>, shared: Arc<Shared>) {
    // The zone may have changed since the resolver was made.
    loop {
        let current = zone.borrow_and_update().clone();
        shared.resolver().set_zone(current);
        if zone.changed().await.is_err() {
            return;
        }
    }
}

/// Returns the system's random numbers, many at a time.
fn entropy() -> crate::resolver::Entropy {
    let (mut pool, mut used) = ([0; 256], 256);
    Box::new(move || {
        if used == pool.len() {
            getrandom::fill(&mut pool).expect("the system has random numbers");
            used = 0;
        }
        used += 2;
        u16::from_ne_bytes([pool[used - 2], pool[used - 1]])
    })
}
