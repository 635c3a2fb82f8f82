//! Asks other nodes for the records that packets wait for.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Bytes, Event, Located, NodeId, Opened, RecordKey, Resource, State, Statement, Trust, record};
use mesh_dataplane::{Tunnel, Want};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use super::{PORT, PullCounters, count, wire};

/// How long a question may take: packets wait for twice as long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions under way, in all and to one node. What finds no room is told again by the tunnel.
const MAX_QUESTIONS: usize = 64;
const MAX_TO_NODE: usize = 4;

/// Asks for what the tunnel wants, and hands the answers to the state as events.
#[derive(Debug)]
pub struct PullRole {
    events: mpsc::Sender<Event>,
    counters: Arc<PullCounters>,
    under_way: BTreeMap<IpAddr, NodeId>,
    tasks: JoinSet<IpAddr>,
}

/// What a node answered.
#[derive(Debug)]
enum Answer {
    /// The slice, and its namespace where the node knows it.
    Slice(Arc<Opened>, Option<Arc<Opened>>),
    Unknown,
    /// Not what was asked for.
    Refused(String),
}

impl PullRole {
    /// Makes a role that has not asked yet.
    pub fn new(events: mpsc::Sender<Event>, counters: Arc<PullCounters>) -> PullRole {
        PullRole { events, counters, under_way: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Returns what came of questions, asked and answered.
    pub fn counters(&self) -> &PullCounters {
        &self.counters
    }

    /// Puts the questions that the tunnel has. A node without an overlay address cannot be asked: its packets wait for the
    /// record to come by itself. The own cluster's nodes are not asked: its workloads are told of by its plain source alone.
    pub fn turn(&mut self, tunnel: &mut dyn Tunnel, state: &State) {
        while let Some(done) = self.tasks.try_join_next() {
            match done {
                Ok(address) => _ = self.under_way.remove(&address),
                // A question that panicked has no name; those under way are told again in any case.
                Err(_) => self.under_way.clear(),
            }
        }
        while let Some(want) = tunnel.poll_want() {
            let to_node = self.under_way.values().filter(|node| **node == want.node).count();
            let is_own = matches!(&state.config().trust, Trust::Signed { cluster, .. } if *cluster == want.node.cluster);
            let is_known = !matches!(state.locate(want.address), Located::Pending);
            if is_own || is_known || self.under_way.contains_key(&want.address) || to_node >= MAX_TO_NODE {
                continue;
            }
            if self.under_way.len() >= MAX_QUESTIONS {
                continue;
            }
            let overlay = state.facts().links.get(&want.node).map(|link| link.overlay.as_slice()).unwrap_or_default();
            let Some(overlay) = overlay.first().copied() else { continue };
            self.under_way.insert(want.address, want.node.clone());
            count(&self.counters.asked);
            self.tasks.spawn(put(want, SocketAddr::new(overlay, PORT), self.events.clone(), self.counters.clone()));
        }
    }
}

/// Puts one question; returns what it was about.
async fn put(want: Want, to: SocketAddr, events: mpsc::Sender<Event>, counters: Arc<PullCounters>) -> IpAddr {
    let (address, node) = (want.address, &want.node);
    match timeout(PATIENCE, ask(&want, to)).await.unwrap_or_else(|elapsed| Err(elapsed.into())) {
        Ok(Answer::Slice(slice, namespace)) => {
            count(&counters.pulled);
            debug!(%address, %node, record = %slice.statement, "pulled");
            // The namespace first: without it nothing of the slice is believed. Nobody listens any more only when the agent ends.
            for opened in namespace.into_iter().chain([slice]) {
                let _ = events.send(Event::Opened(opened)).await;
            }
        }
        Ok(Answer::Unknown) => count(&counters.unknown),
        Ok(Answer::Refused(why)) => {
            count(&counters.refused);
            debug!(%address, %node, why, "an answer was refused");
        }
        Err(error) => {
            count(&counters.failed);
            debug!(%address, %node, %error, "a question was not answered");
        }
    }
    address
}

async fn ask(want: &Want, to: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(to).await?;
    wire::write_question(&mut stream, want.address).await?;
    let said = wire::read_answer(&mut stream).await?;
    Ok(said.slice.map_or(Answer::Unknown, |slice| judge(&slice, said.namespace.as_ref(), want)))
}

fn judge(slice: &Bytes, namespace: Option<&Bytes>, want: &Want) -> Answer {
    let (slice, namespace) = match (record::open(slice), namespace.map(record::open).transpose()) {
        (Ok(slice), Ok(namespace)) => (slice, namespace),
        (Err(error), _) | (_, Err(error)) => return Answer::Refused(error.to_string()),
    };
    if !answers(&slice, want) {
        return Answer::Refused(format!("{} says nothing of it", slice.statement));
    }
    match namespace {
        Some(other) if !is_home(&other, &slice) => {
            Answer::Refused(format!("{} is not the namespace of {}", other.statement, slice.statement))
        }
        namespace => Answer::Slice(Arc::new(slice), namespace.map(Arc::new)),
    }
}

/// Tells whether a record is the slice of the asked node, and has the address in it. Whether its signer may say so is for the
/// state to judge.
fn answers(opened: &Opened, want: &Want) -> bool {
    let Statement::Record(record) = &opened.statement else { return false };
    let of_node = matches!(&record.key, RecordKey::Slice(_, node) if *node == want.node.name);
    let has_address =
        |resource: &Resource| matches!(resource, Resource::Workload(workload) if workload.addresses.contains(&want.address));
    record.cluster == want.node.cluster && of_node && record.resources.iter().any(has_address)
}

/// Tells whether a record is about the namespace of a slice.
fn is_home(opened: &Opened, slice: &Opened) -> bool {
    let (Statement::Record(home), Statement::Record(slice)) = (&opened.statement, &slice.statement) else { return false };
    let same = matches!((&home.key, &slice.key), (RecordKey::Namespace(name), RecordKey::Slice(of, _)) if name == of);
    same && home.cluster == slice.cluster
}

#[cfg(test)]
mod tests;
