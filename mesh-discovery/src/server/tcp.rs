//! Clients on TCP (RFC 7766): many queries on one connection, replies as they get ready.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::batch::MAX_QUERY;
use super::{Client, Local, ServerLimits, Shared};
use crate::resolver::Handled;
use crate::wire::Transport;

/// The open connections of all addresses, by client.
#[derive(Clone)]
pub(super) struct Connections {
    limits: ServerLimits,
    open: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// One open connection, until it is dropped.
struct Seat {
    connections: Connections,
    client: IpAddr,
}

/// Where the reply to one query of a connection goes; the place among those under way is free when this is dropped.
pub(super) struct ReplySlot {
    replies: mpsc::Sender<(Vec<u8>, OwnedSemaphorePermit)>,
    permit: OwnedSemaphorePermit,
}

impl ReplySlot {
    /// Hands the reply over to be written.
    pub(super) fn send(self, reply: Vec<u8>) {
        // The channel has room for every permit, so it fails only when the connection is gone.
        let _ = self.replies.try_send((reply, self.permit));
    }
}

impl Connections {
    pub(super) fn new(limits: ServerLimits) -> Connections {
        Connections { limits, open: Arc::default() }
    }

    /// Takes one of the connections that `client` may have; `None` where there are too many.
    fn admit(&self, client: IpAddr) -> Option<Seat> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= self.limits.tcp_connections {
            return None;
        }
        let own = open.entry(client).or_default();
        if *own >= self.limits.tcp_connections_per_client {
            return None;
        }
        *own += 1;
        Some(Seat { connections: self.clone(), client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.client);
            }
        }
    }
}

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, local: Local, connections: Connections) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => match connections.admit(client.ip()) {
                    Some(seat) => {
                        shared.tcp_accepted.fetch_add(1, Ordering::Relaxed);
                        let (shared, local) = (shared.clone(), local.clone());
                        tasks.spawn(async move {
                            connection(stream, shared, local, seat.connections.limits).await;
                            drop(seat);
                        });
                    }
                    None => {
                        shared.tcp_refused.fetch_add(1, Ordering::Relaxed);
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "accepting a DNS connection failed");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, local: Local, limits: ServerLimits) {
    let (read, write) = stream.into_split();
    let (replies, waiting) = mpsc::channel(limits.tcp_pipelined.max(1));
    // The writer ends when the reader is gone and no forwarded query holds a sender any more. One that cannot write ends both.
    let reader = read_queries(read, &shared, local, replies, limits);
    let writer = write_replies(write, waiting, limits.tcp_message);
    let (mut reader, mut writer) = (std::pin::pin!(reader), std::pin::pin!(writer));
    let slow = tokio::select! {
        slow = &mut reader => slow | writer.await,
        slow = &mut writer => slow,
    };
    if slow {
        shared.tcp_slow.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads queries until there are no more; tells whether the client was too slow.
async fn read_queries(
    mut read: OwnedReadHalf,
    shared: &Arc<Shared>,
    mut local: Local,
    replies: mpsc::Sender<(Vec<u8>, OwnedSemaphorePermit)>,
    limits: ServerLimits,
) -> bool {
    let under_way = Arc::new(Semaphore::new(limits.tcp_pipelined.max(1)));
    let mut query = Vec::new();
    loop {
        let Ok(permit) = under_way.clone().acquire_owned().await else { return false };
        // Silence ends a connection as well; that is nothing to count.
        let Ok(Ok(high)) = timeout(limits.tcp_idle, read.read_u8()).await else { return false };
        let whole = async {
            let len = u16::from_be_bytes([high, read.read_u8().await?]).into();
            if len > MAX_QUERY {
                shared.oversized.fetch_add(1, Ordering::Relaxed);
                return Err(io::ErrorKind::InvalidData.into());
            }
            query.resize(len, 0);
            read.read_exact(&mut query).await
        };
        match timeout(limits.tcp_message, whole).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return false,
            Err(_) => return true,
        }
        local.refresh();
        let (slot, mut reply) = (ReplySlot { replies: replies.clone(), permit }, Vec::new());
        match local.responder.answer(&query, Transport::Tcp, &mut reply) {
            Handled::Answer => slot.send(reply),
            Handled::Drop => {}
            Handled::Forward => {
                let mut slot = Some(slot);
                let client = || Client::Tcp(slot.take().expect("nobody took it yet"));
                if let Some(ready) = shared.handle(&query, Transport::Tcp, client)
                    && let Some(slot) = slot
                {
                    slot.send(ready);
                }
            }
        }
    }
}

/// Writes replies until there can be no more; tells whether the client was too slow.
async fn write_replies(
    mut write: OwnedWriteHalf,
    mut waiting: mpsc::Receiver<(Vec<u8>, OwnedSemaphorePermit)>,
    limit: Duration,
) -> bool {
    while let Some((reply, _permit)) = waiting.recv().await {
        match timeout(limit, write_frame(&mut write, &reply)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return false,
            Err(_) => return true,
        }
    }
    false
}

/// Reads one message with its length in front (RFC 1035 §4.2.2).
pub(super) async fn read_frame(read: &mut (impl AsyncReadExt + Unpin), buffer: &mut Vec<u8>) -> io::Result<()> {
    let len = read.read_u16().await?;
    buffer.resize(len.into(), 0);
    read.read_exact(buffer).await?;
    Ok(())
}

/// Writes one message with its length in front, in one piece.
pub(super) async fn write_frame(write: &mut (impl AsyncWriteExt + Unpin), message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let frame = [&len.to_be_bytes(), message].concat();
    write.write_all(&frame).await
}
