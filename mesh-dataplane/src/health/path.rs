//! The path to one node, by what becomes of its probes.
//!
//! ```text
//!               reply                 LOST in a row, or MANY of the latest 16
//!   Untried ───────────────> Up ────────────────────────────────────────────> Dead <──┐ two lost
//!      └── LOST in a row ──> Dead (never was up) ── reply ──> Up               │ reply │
//!                                                    Up <── HOLD long ─────── Held ────┘
//! ```

use std::net::IpAddr;
use std::time::Duration;

use mesh_core::Time;

/// How often a path is probed, give or take a tenth.
pub const INTERVAL: Duration = Duration::from_millis(500);
/// How many probes in a row are lost before a path is dead: with [`INTERVAL`] a path that dies is found out within 2.2 s.
pub const LOST: u32 = 3;
/// How long a path answers before it counts again.
pub const HOLD: Duration = Duration::from_secs(10);
/// The same for a path that came back less than ten minutes before it died: it shifts twice a minute at most, whatever it does.
pub const HOLD_AGAIN: Duration = Duration::from_secs(60);
/// How long a path is remembered to have come back.
pub(super) const AGAIN: Duration = Duration::from_secs(600);

/// So many lost of the latest 16 are a dead path too: one that flaps answers now and then.
const MANY: u32 = 6;
/// So many lost on hold and the hold begins anew: a single one is what any network loses.
const LOST_ON_HOLD: u32 = 2;
/// A reply to one of so many latest probes counts: round trips may take longer than [`INTERVAL`].
const LATE: u16 = 8;

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathState {
    /// No probe was answered, and too few were lost.
    Untried,
    /// It answers.
    Up,
    /// It does not.
    Dead,
    /// It answers again, not yet for long enough.
    Held,
}

#[derive(Clone, Debug)]
pub(super) struct Path {
    address: IpAddr,
    state: PathState,
    /// The number of the latest probe.
    sequence: u16,
    /// The latest probe was answered, or there was none.
    answered: bool,
    due: Time,
    /// One bit for each of the latest probes, the latest lowest: set where it was lost.
    history: u16,
    /// Since when it answers without a break.
    answers_since: Time,
    /// It was up before.
    proven: bool,
    came_back: Option<Time>,
    hold: Duration,
}

impl Path {
    pub(super) fn new(address: IpAddr, due: Time) -> Path {
        Path {
            address,
            state: PathState::Untried,
            sequence: 0,
            answered: true,
            due,
            history: 0,
            answers_since: due,
            proven: false,
            came_back: None,
            hold: HOLD,
        }
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    pub(super) fn state(&self) -> PathState {
        self.state
    }

    pub(super) fn due(&self) -> Time {
        self.due
    }

    /// Tells whether the path speaks against sending there.
    pub(super) fn is_good(&self) -> bool {
        matches!(self.state, PathState::Untried | PathState::Up)
    }

    /// Sends a probe, and finds out what became of the one before; returns its number.
    pub(super) fn probe(&mut self, now: Time) -> u16 {
        self.history = self.history << 1 | u16::from(!self.answered);
        self.judge(now);
        self.sequence = self.sequence.wrapping_add(1);
        self.answered = false;
        // A tenth this way or that, so that probes of many nodes do not come at once.
        let tenth = u64::from(self.sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let jitter = INTERVAL / 5 * u32::try_from(tenth % 100).unwrap_or(50) / 100;
        self.due = now + (INTERVAL - INTERVAL / 10 + jitter);
        self.sequence
    }

    pub(super) fn handle_reply(&mut self, sequence: u16, now: Time) {
        let age = self.sequence.wrapping_sub(sequence);
        if age >= LATE {
            return;
        }
        if age == 0 {
            self.answered = true;
        } else {
            // It was counted as lost, and was only late.
            self.history &= !(1 << (age - 1));
        }
        match self.state {
            PathState::Dead if self.proven => {
                self.state = PathState::Held;
                (self.history, self.answers_since) = (0, now);
            }
            PathState::Untried | PathState::Dead => {
                self.state = PathState::Up;
                self.proven = true;
                self.history = 0;
            }
            PathState::Held if now.since(self.answers_since) >= self.hold => {
                self.state = PathState::Up;
                (self.history, self.came_back) = (0, Some(now));
            }
            PathState::Held | PathState::Up => {}
        }
    }

    fn judge(&mut self, now: Time) {
        let lost = self.history.count_ones();
        let in_a_row = self.history.trailing_ones();
        let is_dead = match self.state {
            PathState::Untried => in_a_row >= LOST,
            PathState::Up => in_a_row >= LOST || lost >= MANY,
            PathState::Held => lost >= LOST_ON_HOLD,
            PathState::Dead => false,
        };
        if !is_dead {
            return;
        }
        if self.state == PathState::Up {
            self.hold = if self.came_back.is_some_and(|at| now.since(at) < AGAIN) { HOLD_AGAIN } else { HOLD };
        }
        self.state = PathState::Dead;
    }
}
