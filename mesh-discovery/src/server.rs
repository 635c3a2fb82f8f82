//! The DNS server: sockets around a [`Resolver`]. The only place in this crate that touches the world, with `server/`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell: it has the clock and the sockets")]

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_core::Time;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::resolver::{Counters, Reply, Resolver, ResolverConfig};
use crate::wire::Transport;
use crate::zone::Zone;

mod tcp;
mod upstream;

/// How often another port is tried where any port will do and TCP's is taken on UDP.
const PORT_ATTEMPTS: usize = 16;

/// Limits of the server, in time and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// How long a TCP connection may be silent.
    pub tcp_idle: Duration,
    /// How many TCP connections may be open; further ones are closed at once.
    pub tcp_connections: usize,
}

impl Default for ServerLimits {
    /// Returns 10 seconds and 256 connections.
    fn default() -> ServerLimits {
        ServerLimits { tcp_idle: Duration::from_secs(10), tcp_connections: 256 }
    }
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address cannot be bound.
    #[error("cannot listen for DNS on {address} ({transport}): {source}; {advice}")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// What the system said.
        source: io::Error,
        /// What can be done about it.
        advice: &'static str,
    },
    /// The server would ask itself.
    #[error("the upstream {address} is one of the server's own addresses: name the server that answers for other names")]
    OwnUpstream {
        /// The address that is both.
        address: SocketAddr,
    },
}

/// What the server counted since it was bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCounters {
    /// What its resolver counted.
    pub resolver: Counters,
    /// TCP connections that were accepted.
    pub tcp_accepted: u64,
    /// TCP connections that were closed at once, because there were as many as may be.
    pub tcp_refused: u64,
}

/// A DNS server on its sockets.
pub struct Server {
    sockets: Vec<(UdpSocket, TcpListener, SocketAddr)>,
    limits: ServerLimits,
    zone: watch::Receiver<Arc<Zone>>,
    shared: Arc<Shared>,
}

/// Reads the counters of a server, also while it runs.
#[derive(Clone)]
pub struct ServerStats(Arc<Shared>);

/// Where the reply to a client goes.
enum Client {
    Udp(Arc<UdpSocket>, SocketAddr),
    Tcp(mpsc::Sender<Vec<u8>>),
}

struct Shared {
    resolver: Mutex<Resolver<Client>>,
    /// There is something to send to an upstream.
    work: Notify,
    started: Instant,
    tcp_accepted: AtomicU64,
    tcp_refused: AtomicU64,
}

impl Server {
    /// Binds UDP and TCP on every address of `listen`; with port 0 both get one free port. Replies come from the address that
    /// was asked, so list the addresses that clients use rather than `0.0.0.0`.
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
            sockets.push(bind_both(*address).await?);
        }
        if let Some((_, _, address)) = sockets.iter().find(|(_, _, address)| config.upstreams.contains(address)) {
            return Err(BindError::OwnUpstream { address: *address });
        }
        let resolver = Resolver::new(config, zone.borrow().clone(), Box::new(random_id));
        let shared = Shared {
            resolver: Mutex::new(resolver),
            work: Notify::new(),
            started: Instant::now(),
            tcp_accepted: AtomicU64::new(0),
            tcp_refused: AtomicU64::new(0),
        };
        Ok(Server { sockets, limits, zone, shared: Arc::new(shared) })
    }

    /// Returns the bound addresses, in the order in which they were given.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|(_, _, address)| *address).collect()
    }

    /// Returns a reader of the counters.
    pub fn stats(&self) -> ServerStats {
        ServerStats(self.shared.clone())
    }

    /// Answers until `shutdown` is done; then every socket is closed. Whenever the zone's channel has a new zone, answers
    /// come from that one.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        // Dropping the set ends the tasks.
        let mut tasks = JoinSet::new();
        let connections = Arc::new(tokio::sync::Semaphore::new(self.limits.tcp_connections));
        for (udp, tcp, _) in self.sockets {
            tasks.spawn(serve_udp(Arc::new(udp), self.shared.clone()));
            tasks.spawn(tcp::serve(tcp, self.shared.clone(), connections.clone(), self.limits.tcp_idle));
        }
        tasks.spawn(upstream::drive(self.shared.clone()));
        tasks.spawn(follow_zone(self.zone, self.shared));
        shutdown.await;
    }
}

impl ServerStats {
    /// Returns the counters of now.
    pub fn read(&self) -> ServerCounters {
        ServerCounters {
            resolver: self.0.resolver().counters().clone(),
            tcp_accepted: self.0.tcp_accepted.load(Ordering::Relaxed),
            tcp_refused: self.0.tcp_refused.load(Ordering::Relaxed),
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

    /// Hands a packet to the resolver; returns the reply that is ready.
    fn handle(&self, packet: &[u8], transport: Transport, client: Client) -> Option<Vec<u8>> {
        let reply = self.resolver().handle_message(packet, transport, client, self.now());
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

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, from)) => {
                if let Some(reply) = shared.handle(&buffer[..len], Transport::Udp, Client::Udp(socket.clone(), from)) {
                    send_udp(&socket, &reply, from).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "receiving a DNS query failed");
                // An error that stays must not take the processor.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn send_udp(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(reply, to).await {
        tracing::debug!(%error, %to, "sending a DNS reply failed");
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

async fn bind_both(address: SocketAddr) -> Result<(UdpSocket, TcpListener, SocketAddr), BindError> {
    let mut attempt = 0;
    loop {
        let tcp = TcpListener::bind(address).await.map_err(|source| failed(address, "TCP", source))?;
        let bound = tcp.local_addr().map_err(|source| failed(address, "TCP", source))?;
        attempt += 1;
        match UdpSocket::bind(bound).await {
            Ok(udp) => return Ok((udp, tcp, bound)),
            Err(source) if address.port() == 0 && attempt < PORT_ATTEMPTS => {
                tracing::debug!(%source, %bound, "the port is free on TCP only, trying another one");
            }
            Err(source) => return Err(failed(bound, "UDP", source)),
        }
    }
}

fn failed(address: SocketAddr, transport: &'static str, source: io::Error) -> BindError {
    let advice = match source.kind() {
        io::ErrorKind::AddrInUse => "another DNS server has it: stop that one, or listen on another address or port",
        io::ErrorKind::AddrNotAvailable => "no interface has this address: add it to one, or listen on another address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE, or listen on another port",
        _ => "choose another address to listen on",
    };
    BindError::Socket { address, transport, source, advice }
}

fn random_id() -> u16 {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    u16::from_ne_bytes(bytes)
}
