//! Clients on TCP (RFC 7766): many queries on one connection, replies as they get ready.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Client, Shared};
use crate::wire::Transport;

/// How many replies of one connection may wait to be written before no more of its queries are read.
const REPLY_BACKLOG: usize = 64;

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, connections: Arc<Semaphore>, idle: Duration) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match connections.clone().try_acquire_owned() {
                    Ok(permit) => {
                        shared.tcp_accepted.fetch_add(1, Ordering::Relaxed);
                        let shared = shared.clone();
                        tasks.spawn(async move {
                            connection(stream, shared, idle).await;
                            drop(permit);
                        });
                    }
                    Err(_) => {
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

async fn connection(stream: TcpStream, shared: Arc<Shared>, idle: Duration) {
    let (read, write) = stream.into_split();
    let (replies, waiting) = mpsc::channel(REPLY_BACKLOG);
    // The writer ends when the reader is gone and no forwarded query holds a sender any more.
    tokio::join!(read_queries(read, shared, replies, idle), write_replies(write, waiting, idle));
}

async fn read_queries(mut read: OwnedReadHalf, shared: Arc<Shared>, replies: mpsc::Sender<Vec<u8>>, idle: Duration) {
    let mut buffer = Vec::new();
    while let Ok(Ok(())) = timeout(idle, read_frame(&mut read, &mut buffer)).await {
        if let Some(reply) = shared.handle(&buffer, Transport::Tcp, Client::Tcp(replies.clone()))
            && replies.send(reply).await.is_err()
        {
            return;
        }
    }
}

async fn write_replies(mut write: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>, idle: Duration) {
    while let Some(reply) = waiting.recv().await {
        match timeout(idle, write_frame(&mut write, &reply)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
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
