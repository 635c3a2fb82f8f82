//! The seam between the plan and what carries it out: three methods, and a read-back.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;

use mesh_core::{FlowRecord, NodeId, Prefix};

use crate::forwarder::{Opening, Want};
use crate::op::Op;
use crate::plan::{Local, Peer, ServiceTable};

/// Carries packets between nodes as it was told. Order, retry and resync are the [`Reconciler`](crate::Reconciler)'s.
///
/// Every implementation passes [`conformance`](crate::conformance::conformance).
pub trait Tunnel: Send {
    /// Reads back what is programmed now, from the device or kernel itself and not from memory of what was applied.
    fn observe(&mut self) -> Result<Actual, TunnelError>;

    /// Applies `ops` in order; returns the failed ones by index. A failed step does not keep later ones from being tried.
    fn apply(&mut self, ops: &[Op]) -> Vec<(usize, TunnelError)>;

    /// Returns the next record of a flow, `None` when there is none now.
    fn poll_flow(&mut self) -> Option<FlowRecord>;

    /// Returns what became of the next opening of a connection, where it was refused, or answered after a refusal; a tunnel
    /// that does not see connections tells nothing.
    fn poll_opening(&mut self) -> Option<Opening> {
        None
    }

    /// Returns the next address whose identity packets wait for, and the node to ask for it; a tunnel that holds no packets
    /// wants nothing.
    fn poll_want(&mut self) -> Option<Want> {
        None
    }
}

/// What is programmed now, as far as it can be read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// The fingerprint of the policy in force.
    pub policy: Option<u64>,
    /// The service table.
    pub services: Option<Arc<ServiceTable>>,
    /// The peers.
    pub peers: BTreeMap<NodeId, Peer>,
    /// The routes.
    pub routes: BTreeMap<Prefix, NodeId>,
    /// What is local.
    pub local: Option<Local>,
    /// The guarded prefixes.
    pub guarded: BTreeSet<Prefix>,
}

/// Why a tunnel could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// A route names a peer that was not set.
    #[error("no peer {0} to route to")]
    UnknownPeer(NodeId),
    /// It failed and may work another time: the kernel was busy, a link is down.
    #[error("{what} failed: {source}")]
    Failed {
        /// What was tried.
        what: String,
        /// What came of it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It cannot work here, however often it is tried: no such kernel module, no permission, nonsense asked.
    #[error("{what} is refused: {source}")]
    Refused {
        /// What was tried.
        what: String,
        /// What came of it.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl TunnelError {
    /// Makes a failure that may pass.
    pub fn failed(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> TunnelError {
        TunnelError::Failed { what: what.into(), source: source.into() }
    }

    /// Makes a failure that will stay.
    pub fn refused(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> TunnelError {
        TunnelError::Refused { what: what.into(), source: source.into() }
    }

    /// Tells whether trying again soon makes sense.
    pub fn is_retryable(&self) -> bool {
        matches!(self, TunnelError::Failed { .. })
    }
}
