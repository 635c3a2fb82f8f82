//! Brings a tunnel to its plan and keeps it there: observe, diff, apply, and again.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_core::{NodeId, Time};

use crate::op::Op;
use crate::plan::Plan;
use crate::tunnel::{Tunnel, TunnelError};

/// How long the node may forward while its policy cannot be programmed: longer than any transient failure of the kernel and
/// than a tunnel's restart takes, and well below the time in which a person would call the mesh down.
pub const POLICY_GRACE: Duration = Duration::from_secs(30);

/// How often a converged tunnel is observed again: bounds how long an outside change (somebody's `ip route del`) stays.
pub const RESYNC: Duration = Duration::from_secs(60);

/// The first wait after a failure, doubled with each further one up to [`MAX_BACKOFF`].
pub const MIN_BACKOFF: Duration = Duration::from_millis(100);

/// The longest wait after failures: also a lasting one is tried again at this pace.
pub const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// Brings a tunnel to its plan.
///
/// Every run begins with what the tunnel says of itself, so a restart, an outside change and a half-applied plan need no path
/// of their own.
#[derive(Debug, Default)]
pub struct Reconciler {
    failures: u32,
    policy_missing_since: Option<Time>,
    next: Option<Time>,
}

/// What an op must wait for.
#[derive(Default)]
struct Failed {
    policy: bool,
    guard: bool,
    peers: BTreeSet<NodeId>,
}

impl Reconciler {
    /// Makes a reconciler that has not run yet.
    pub fn new() -> Reconciler {
        Reconciler::default()
    }

    /// Takes `tunnel` as far towards `want` as it goes; returns what failed. A failed step holds back only what depends on it:
    /// a peer its routes; the policy and a growing guard every new peer and route. What goes away always may.
    ///
    /// When the policy cannot be programmed for longer than [`POLICY_GRACE`], all routes are withdrawn until it can.
    pub fn run(&mut self, want: &Plan, tunnel: &mut dyn Tunnel, now: Time) -> Result<(), Vec<TunnelError>> {
        let mut errors = Vec::new();
        match tunnel.observe() {
            Err(error) => {
                // Nothing is known of the tunnel, its policy included.
                self.policy_missing_since.get_or_insert(now);
                errors.push(error);
            }
            Ok(actual) => {
                let ops = want.diff(&actual);
                let failed = apply_in_stages(&ops, tunnel, &mut errors);
                if failed.policy {
                    let since = *self.policy_missing_since.get_or_insert(now);
                    if now.since(since) >= POLICY_GRACE {
                        withdraw_routes(tunnel, &mut errors);
                    }
                } else {
                    self.policy_missing_since = None;
                }
            }
        }
        self.schedule(&errors, now);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Returns when to run again, should the plan not change before: after a failure soon, else to resync. `None` before the
    /// first run.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.next
    }

    fn schedule(&mut self, errors: &[TunnelError], now: Time) {
        if errors.is_empty() {
            self.failures = 0;
            self.next = Some(now + RESYNC);
            return;
        }
        let backoff = MIN_BACKOFF.saturating_mul(1 << self.failures.min(16)).min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        let wait = if errors.iter().any(TunnelError::is_retryable) { backoff } else { MAX_BACKOFF };
        let mut next = now + wait;
        if let Some(since) = self.policy_missing_since {
            let grace_ends = since + POLICY_GRACE;
            if grace_ends > now {
                next = next.min(grace_ends);
            }
        }
        self.next = Some(next);
    }
}

/// Applies `ops` in their order, a stage of independent ones at a time, and leaves out what depends on a failed one.
fn apply_in_stages(ops: &[Op], tunnel: &mut dyn Tunnel, errors: &mut Vec<TunnelError>) -> Failed {
    let mut failed = Failed::default();
    for stage in ops.chunk_by(|a, b| stage_of(a) == stage_of(b)) {
        let ready: Vec<Op> = stage.iter().filter(|op| !failed.holds(op)).cloned().collect();
        if ready.is_empty() {
            continue;
        }
        for (index, error) in tunnel.apply(&ready) {
            if let Some(op) = ready.get(index) {
                failed.note(op);
            }
            errors.push(error);
        }
    }
    failed
}

fn withdraw_routes(tunnel: &mut dyn Tunnel, errors: &mut Vec<TunnelError>) {
    match tunnel.observe() {
        Ok(actual) if actual.routes.is_empty() => {}
        Ok(actual) => {
            let ops: Vec<Op> = actual.routes.into_keys().map(Op::DelRoute).collect();
            errors.extend(tunnel.apply(&ops).into_iter().map(|(_, error)| error));
        }
        Err(error) => errors.push(error),
    }
}

/// Ops of one stage do not depend on each other.
fn stage_of(op: &Op) -> u8 {
    match op {
        Op::SetPolicy(_) => 0,
        Op::SetGuarded(_) => 1,
        Op::SetLocal(_) => 2,
        Op::SetPeer(..) => 3,
        Op::SetRoute(..) | Op::SetServices(_) => 4,
        Op::DelRoute(_) => 5,
        Op::DelPeer(_) => 6,
    }
}

impl Failed {
    fn note(&mut self, op: &Op) {
        match op {
            Op::SetPolicy(_) => self.policy = true,
            Op::SetGuarded(_) => self.guard = true,
            Op::SetPeer(node, _) => {
                self.peers.insert(node.clone());
            }
            _ => {}
        }
    }

    fn holds(&self, op: &Op) -> bool {
        match op {
            Op::SetPeer(..) => self.policy || self.guard,
            Op::SetRoute(_, node) => self.policy || self.guard || self.peers.contains(node),
            Op::SetLocal(_) => self.policy,
            Op::SetPolicy(_) | Op::SetServices(_) | Op::SetGuarded(_) | Op::DelRoute(_) | Op::DelPeer(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
