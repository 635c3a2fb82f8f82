//! What the control loop shows to the API: a value replaced as a whole, never a lock held over work.

use std::sync::{Arc, RwLock};

use super::flows::FlowLog;
use super::metrics::Metrics;
use crate::api::{Peer, StateSummary, Status};

/// All answers of the API at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// `GET /status`.
    pub status: Status,
    /// `GET /peers`.
    pub peers: Vec<Peer>,
    /// `GET /state`.
    pub state: StateSummary,
    /// Packets forwarded and bytes, out and in.
    pub forwarded: Forwarded,
    /// Flow records that were lost because nobody took them in time.
    pub flows_lost: u64,
}

/// What went through the tunnel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forwarded {
    /// Packets sent to peers.
    pub packets_out: u64,
    /// Their bytes, before encryption.
    pub bytes_out: u64,
    /// Packets delivered from peers.
    pub packets_in: u64,
    /// Their bytes, after decryption.
    pub bytes_in: u64,
}

/// What the control loop and the API have in common.
#[derive(Debug)]
pub struct Shared {
    view: RwLock<Arc<View>>,
    /// The node's flow records.
    pub flows: FlowLog,
    /// The metrics.
    pub metrics: Metrics,
}

impl Shared {
    /// Begins with `view`.
    pub fn new(view: View) -> Shared {
        Shared { view: RwLock::new(Arc::new(view)), flows: FlowLog::new(), metrics: Metrics::new() }
    }

    /// Returns the view of now.
    pub fn view(&self) -> Arc<View> {
        self.view.read().expect("no holder of this lock panics").clone()
    }

    /// Replaces the view.
    pub fn set_view(&self, view: View) {
        *self.view.write().expect("no holder of this lock panics") = Arc::new(view);
    }
}
