//! The way to the upstreams and back: a socket for every attempt, so that an answer has to guess a port as well as an id.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::tcp::{read_frame, write_frame};
use super::{Client, Shared};
use crate::resolver::Transmit;
use crate::wire::Transport;

/// How long an answer over UDP may be: more than the 1232 bytes that upstreams are told, for those that do not listen.
const MAX_RESPONSE: usize = 4096;

/// Sends what the resolver has for the upstreams, lets its timeouts pass, and gives its replies to the clients.
pub(super) async fn drive(shared: Arc<Shared>) {
    let mut attempts = JoinSet::new();
    loop {
        let (transmits, replies, next) = {
            let mut resolver = shared.resolver();
            resolver.handle_timeout(shared.now());
            let transmits: Vec<_> = std::iter::from_fn(|| resolver.poll_transmit()).collect();
            let replies: Vec<_> = std::iter::from_fn(|| resolver.poll_reply()).collect();
            (transmits, replies, resolver.poll_timeout())
        };
        for transmit in transmits {
            attempts.spawn(attempt(transmit, shared.clone()));
        }
        for (client, reply) in replies {
            match client {
                Client::Udp(socket, peer) => {
                    let sent = socket.upgrade().map(|socket| peer.send(&socket, &reply));
                    shared.udp_unsent.fetch_add(u64::from(!matches!(sent, Some(Ok(())))), Ordering::Relaxed);
                }
                Client::Tcp(slot) => slot.send(reply),
                // Who does not wait any more has no use for it.
                Client::Api(asker) => drop(asker.send(reply)),
            }
        }
        let wait = next.map_or(Duration::from_secs(3600), |next| next.since(shared.now()));
        tokio::select! {
            () = shared.work.notified() => {}
            () = tokio::time::sleep(wait) => {}
            Some(_) = attempts.join_next(), if !attempts.is_empty() => {}
        }
    }
}

async fn attempt(transmit: Transmit, shared: Arc<Shared>) {
    let left = transmit.deadline.since(shared.now());
    let exchange = async {
        match transmit.transport {
            Transport::Udp => over_udp(&transmit, &shared).await,
            Transport::Tcp => over_tcp(&transmit, &shared).await,
        }
    };
    if let Ok(Err(error)) = timeout(left, exchange).await {
        tracing::debug!(%error, upstream = %transmit.upstream, "asking an upstream failed");
        shared.resolver().handle_failure(transmit.id, shared.now());
        shared.work.notify_one();
    }
}

/// Sends the query and takes every packet until the attempt's time is over: a wrong answer may come before the right one.
async fn over_udp(transmit: &Transmit, shared: &Shared) -> io::Result<()> {
    let any: SocketAddr = match transmit.upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // Connected: the kernel drops what others send, and reports a closed port.
    socket.connect(transmit.upstream).await?;
    socket.send(&transmit.packet).await?;
    let mut buffer = vec![0; MAX_RESPONSE];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if deliver(transmit, shared, &buffer[..len]) {
            return Ok(());
        }
    }
}

async fn over_tcp(transmit: &Transmit, shared: &Shared) -> io::Result<()> {
    let mut stream = TcpStream::connect(transmit.upstream).await?;
    write_frame(&mut stream, &transmit.packet).await?;
    let mut buffer = Vec::new();
    loop {
        read_frame(&mut stream, &mut buffer).await?;
        if deliver(transmit, shared, &buffer) {
            return Ok(());
        }
    }
}

/// Hands a packet in; tells whether it was the answer.
fn deliver(transmit: &Transmit, shared: &Shared, packet: &[u8]) -> bool {
    let accepted = shared.resolver().handle_response(transmit.id, transmit.upstream, packet, shared.now());
    if accepted {
        shared.work.notify_one();
    }
    accepted
}
