//! The node agent: sources in, a programmed node out.
//!
//! ```text
//!  manifests ┐                          ┌─> Zone ──────────────────────────> DNS server
//!  inbox     ├─ Event ─> State ─ Change ┤
//!  store     ┘             │            └─> PolicySet, Plan ─ Reconciler ──> NodeTunnel ─> flow records
//!                          └─> Publisher (one node of a cluster) ─> store <─ Mirror <─ other clusters' stores
//! ```
//!
//! One task owns the state and everything derived from it ([`control`]); the rest only feeds it or shows what it says.

pub mod announce;
pub mod control;
pub mod dns;
pub mod flows;
pub mod http;
pub mod interest;
pub mod metrics;
pub mod names;
pub mod probe;
pub mod publish;
pub mod pull;
pub mod start;
pub mod traffic;
pub mod tunnel;
pub mod view;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mesh_core::{Now, Time, WallTime};

/// The process's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts the steady clock at zero.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { time: Time::from_nanos(nanos(self.0.elapsed())), wall: WallTime::from_unix_nanos(nanos(wall)) }
    }

    /// Returns the moment of the steady clock as the runtime's timers take it.
    pub fn instant(&self, time: Time) -> Instant {
        self.0 + time.since(Time::ZERO)
    }
}
