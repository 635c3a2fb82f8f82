//! Listening: TCP and UDP on one port, and why that fails.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// How often another port is tried where any port will do and TCP's is taken on UDP.
const PORT_ATTEMPTS: usize = 16;
/// What may wait in a UDP socket, in bytes as the kernel counts them: some thousand queries, a burst of a few milliseconds.
const RECEIVE_BUFFER: usize = 2 << 20;
/// How long a worker waits at most before it looks whether it shall end, should the news not wake it.
const WAKE: Duration = Duration::from_secs(1);

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

/// The sockets of one address.
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    pub(super) tcp: TcpListener,
    /// One for each worker.
    pub(super) udp: Vec<UdpSocket>,
}

/// Binds `workers` UDP sockets and one for TCP. TCP comes first: it is what another server on the address would have, while
/// UDP sockets may share it.
pub(super) async fn bind_both(address: SocketAddr, workers: NonZeroUsize) -> Result<Bound, BindError> {
    let mut attempt = 0;
    loop {
        let tcp = TcpListener::bind(address).await.map_err(|source| failed(address, "TCP", source))?;
        let bound = tcp.local_addr().map_err(|source| failed(address, "TCP", source))?;
        attempt += 1;
        let udp: io::Result<Vec<_>> = (0..workers.get()).map(|_| bind_udp(bound)).collect();
        match udp {
            Ok(udp) => return Ok(Bound { address: bound, tcp, udp }),
            Err(source) if address.port() == 0 && attempt < PORT_ATTEMPTS => {
                tracing::debug!(%source, %bound, "the port is free on TCP only, trying another one");
            }
            Err(source) => return Err(failed(bound, "UDP", source)),
        }
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    // More than an ordinary process may have; what the system gives is what it is.
    if socket.set_recv_buffer_size(RECEIVE_BUFFER).is_err() {
        tracing::debug!("the receive buffer of a DNS socket stays as it is");
    }
    socket.set_read_timeout(Some(WAKE))?;
    // A reply comes from the address that was asked. A socket of one address has no other.
    if address.ip().is_unspecified() {
        packet_information(&socket, address.is_ipv6())?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Asks the kernel to tell where each datagram was sent to.
#[allow(unsafe_code, reason = "socket2 has no such option")]
fn packet_information(socket: &Socket, ipv6: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let (level, option) = if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
    let on: libc::c_int = 1;
    // SAFETY: the value is an int that lives until the call returns, and its length is given.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
