//! Pulling identities: a packet came before the record that says who sent it (or who is to get it), and the node that the routes
//! name for the address is asked for that record, through the tunnel.
//!
//! ```text
//!  Tunnel::poll_want ─> PullRole ── TCP, overlay address, port 7300 ──> PullServer ─> State::signed_slice_of
//!  State <─ Event::Opened <─┘ <─ the signed slice and namespace, or nothing ┘
//! ```
//!
//! Who answers needs no trust: what counts is the signature of the cluster's publisher, and the state judges the records like any
//! others. Whoever asks is a node of the mesh, by its overlay address, for which the tunnel vouches.

use std::sync::atomic::{AtomicU64, Ordering};

pub mod ask;
pub mod serve;
pub mod wire;

pub use self::ask::PullRole;
pub use self::serve::{Asked, PullServer};

/// Where nodes answer each other, on their overlay addresses.
pub const PORT: u16 = 7300;

/// What came of questions, asked and answered.
#[derive(Debug, Default)]
pub struct PullCounters {
    /// Questions put to other nodes.
    pub asked: AtomicU64,
    /// Answered with a record.
    pub pulled: AtomicU64,
    /// Answered with nothing: the node does not know (yet) either.
    pub unknown: AtomicU64,
    /// Answered with something else than was asked for, or with no record at all.
    pub refused: AtomicU64,
    /// Not answered.
    pub failed: AtomicU64,
    /// Questions of other nodes, answered with a record.
    pub served: AtomicU64,
    /// Questions of other nodes, answered with nothing.
    pub served_unknown: AtomicU64,
    /// Connections that were not answered: of nobody who may ask, or of one who asks too much.
    pub turned_away: AtomicU64,
}

impl PullCounters {
    /// Returns every count with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("asked", &self.asked),
            ("pulled", &self.pulled),
            ("unknown", &self.unknown),
            ("refused", &self.refused),
            ("failed", &self.failed),
            ("served", &self.served),
            ("served-unknown", &self.served_unknown),
            ("turned-away", &self.turned_away),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
        .into_iter()
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
