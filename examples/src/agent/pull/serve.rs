//! Answers other nodes: who is behind an address of this cluster, as the publisher signed it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_core::Time;
use mesh_core::rate::{Bucket, Rate};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::wire::{self, Said};
use super::{PORT, PullCounters, count};
use crate::agent::Clock;

/// How long one question may take, its answer included: nobody waits for it longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions under way, in all and of one node.
const MAX_CONNECTIONS: usize = 64;
const MAX_OF_NODE: usize = 8;
/// Questions of one node: a slice names all workloads of a namespace here, so honest nodes need few.
const OF_NODE: Rate = Rate { per_second: 32, burst: 64 };

/// A question for the state: who is behind an address, and where to put the answer.
pub type Asked = (IpAddr, oneshot::Sender<Said>);

/// Who may ask: the overlay addresses of the other nodes.
pub type Askers = Arc<BTreeSet<IpAddr>>;

/// Answers questions on this node's overlay addresses.
#[derive(Clone, Debug)]
pub struct PullServer {
    /// To the owner of the state.
    pub state: mpsc::Sender<Asked>,
    /// Who may ask.
    pub askers: watch::Receiver<Askers>,
    /// What came of it.
    pub counters: Arc<PullCounters>,
    /// The process's clocks.
    pub clock: Clock,
}

/// The connections under way, and how much each node has asked lately.
#[derive(Debug, Default)]
struct Load {
    nodes: BTreeMap<IpAddr, (usize, Bucket)>,
    connections: usize,
}

impl PullServer {
    /// Listens on `address`, which need not be there yet: it is the tunnel's.
    ///
    /// # Errors
    /// Returns the kernel's: the port is taken, or the family is not there.
    pub fn bind(address: IpAddr) -> io::Result<TcpListener> {
        let address = SocketAddr::new(address, PORT);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(MAX_CONNECTIONS as i32)?;
        TcpListener::from_std(socket.into())
    }

    /// Answers on all of `overlay`, until the process ends. Where it cannot listen, packets of this node's workloads wait for
    /// their records elsewhere.
    pub fn spawn(&self, overlay: &[IpAddr]) {
        let load = Arc::new(Mutex::new(Load::default()));
        for address in overlay {
            match PullServer::bind(*address) {
                Ok(listener) => _ = tokio::spawn(self.clone().serve(listener, load.clone())),
                Err(error) => warn!(%address, port = PORT, %error, "other nodes cannot ask here for identities"),
            }
        }
    }

    async fn serve(self, listener: TcpListener, load: Arc<Mutex<Load>>) {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok((stream, from)) => (stream, from.ip().to_canonical()),
                Err(error) => {
                    // Out of descriptors, or a connection that ended before it was taken.
                    debug!(%error, "a question was not taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let may_ask = self.askers.borrow().contains(&from);
            if !may_ask || !begin(&load, from, self.clock.now().time) {
                count(&self.counters.turned_away);
                continue;
            }
            let (server, load) = (self.clone(), load.clone());
            tokio::spawn(async move {
                match timeout(PATIENCE, server.answer(stream)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%from, %error, "a question was not answered"),
                    Err(_) => debug!(%from, "a question took too long"),
                }
                end(&load, from);
            });
        }
    }

    async fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        let address = wire::read_question(&mut stream).await?;
        let (reply, answer) = oneshot::channel();
        self.state.send((address, reply)).await.map_err(io::Error::other)?;
        let said = answer.await.map_err(io::Error::other)?;
        count(if said.slice.is_some() { &self.counters.served } else { &self.counters.served_unknown });
        wire::write_answer(&mut stream, &said).await
    }
}

/// Takes a connection of `from` in; tells whether there is room for it.
fn begin(load: &Mutex<Load>, from: IpAddr, now: Time) -> bool {
    let mut load = load.lock().expect("no holder of this lock panics");
    if load.connections >= MAX_CONNECTIONS {
        return false;
    }
    load.nodes.retain(|node, (open, bucket)| *node == from || *open > 0 || !bucket.is_full(OF_NODE, now));
    let (open, bucket) = load.nodes.entry(from).or_default();
    let fits = *open < MAX_OF_NODE && bucket.has(OF_NODE, now);
    if fits {
        *open += 1;
        bucket.take();
        load.connections += 1;
    }
    fits
}

fn end(load: &Mutex<Load>, from: IpAddr) {
    let mut load = load.lock().expect("no holder of this lock panics");
    load.connections -= 1;
    if let Some((open, _)) = load.nodes.get_mut(&from) {
        *open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_takes_its_share_of_the_connections_and_of_the_time() {
        let (load, now) = (Mutex::new(Load::default()), Time::ZERO);
        let [greedy, other] = ["10.2.0.1", "10.3.0.1"].map(|text| text.parse().expect("an address"));
        assert_eq!((0..100).filter(|_| begin(&load, greedy, now)).count(), MAX_OF_NODE);
        assert!(begin(&load, other, now));
        (0..MAX_OF_NODE).for_each(|_| end(&load, greedy));
        let quick = |load: &Mutex<Load>, now| {
            let taken = begin(load, greedy, now);
            if taken {
                end(load, greedy);
            }
            taken
        };
        assert_eq!((0..1000).filter(|_| quick(&load, now)).count(), OF_NODE.burst as usize - MAX_OF_NODE);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| quick(&load, later)).count(), OF_NODE.per_second as usize);
        for n in 0..200u8 {
            begin(&load, IpAddr::from([10, 9, 0, n]), later);
        }
        assert_eq!(load.lock().expect("nobody panicked").connections, MAX_CONNECTIONS);
    }
}
