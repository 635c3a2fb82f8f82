//! The limits of a server.

use std::num::NonZeroUsize;
use std::time::Duration;

/// How many workers there are for UDP at most unless more are asked for: each answers some 200,000 queries a second, more than
/// a node's workloads ask, and the processors are theirs.
const MAX_DEFAULT_WORKERS: usize = 4;

/// Limits of the server, in time and number. Messages from clients may have 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// How many threads answer on each UDP address, each with a socket of its own among which the kernel divides the clients.
    pub udp_workers: NonZeroUsize,
    /// How long a TCP connection may be silent between two queries.
    pub tcp_idle: Duration,
    /// How long a client may take to send a query that it has begun, and to take a reply.
    pub tcp_message: Duration,
    /// How many TCP connections may be open; further ones are closed at once.
    pub tcp_connections: usize,
    /// How many of them may be one client's.
    pub tcp_connections_per_client: usize,
    /// How many queries of one TCP connection may wait for their replies; no more are read until one is written.
    pub tcp_pipelined: usize,
}

impl Default for ServerLimits {
    /// Returns a UDP worker for each processor, at most 4; 10 seconds of silence, 2 for a message; 256 connections, 32 for one
    /// client, each with 64 queries under way.
    fn default() -> ServerLimits {
        let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        ServerLimits {
            udp_workers: processors.min(NonZeroUsize::new(MAX_DEFAULT_WORKERS).unwrap_or(processors)),
            tcp_idle: Duration::from_secs(10),
            tcp_message: Duration::from_secs(2),
            tcp_connections: 256,
            tcp_connections_per_client: 32,
            tcp_pipelined: 64,
        }
    }
}
