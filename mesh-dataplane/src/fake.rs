//! A tunnel of memory alone: keeps what it is told, and fails when it is told to.

use std::collections::{BTreeSet, VecDeque};

use mesh_core::FlowRecord;

use crate::op::Op;
use crate::tunnel::{Actual, Tunnel, TunnelError};

type Predicate = Box<dyn Fn(&Op) -> bool + Send>;

/// A tunnel that carries no packets: for tests of everything above the [`Tunnel`] seam.
#[derive(Default)]
pub struct FakeTunnel {
    actual: Actual,
    applied: Vec<Op>,
    tried: u64,
    failing: BTreeSet<u64>,
    failing_where: Option<Predicate>,
    failing_observations: u32,
    flows: VecDeque<FlowRecord>,
}

impl FakeTunnel {
    /// Makes a tunnel with nothing programmed.
    pub fn new() -> FakeTunnel {
        FakeTunnel::default()
    }

    /// Has the `n`-th op from now fail, counted from zero, once.
    pub fn fail_nth(&mut self, n: u64) {
        self.failing.insert(self.tried + n);
    }

    /// Has every op fail for which `fails` holds, until the next call.
    pub fn fail_where(&mut self, fails: impl Fn(&Op) -> bool + Send + 'static) {
        self.failing_where = Some(Box::new(fails));
    }

    /// Has the next `times` observations fail.
    pub fn fail_observe(&mut self, times: u32) {
        self.failing_observations = times;
    }

    /// Forgets everything that was programmed, as a user-space tunnel does that is started again.
    pub fn forget(&mut self) {
        self.actual = Actual::default();
    }

    /// Returns what is programmed.
    pub fn actual(&self) -> &Actual {
        &self.actual
    }

    /// Returns what is programmed, for a test that meddles with it behind the reconciler's back.
    pub fn actual_mut(&mut self) -> &mut Actual {
        &mut self.actual
    }

    /// Returns the ops that succeeded, in order.
    pub fn applied(&self) -> &[Op] {
        &self.applied
    }

    /// Queues a record for [`poll_flow`](Tunnel::poll_flow).
    pub fn push_flow(&mut self, record: FlowRecord) {
        self.flows.push_back(record);
    }

    fn try_apply(&mut self, op: &Op) -> Result<(), TunnelError> {
        let number = self.tried;
        self.tried += 1;
        if self.failing.remove(&number) || self.failing_where.as_ref().is_some_and(|fails| fails(op)) {
            return Err(TunnelError::failed(op.to_string(), "told to fail"));
        }
        let actual = &mut self.actual;
        match op {
            Op::SetPolicy(policy) => actual.policy = Some(policy.fingerprint()),
            Op::SetServices(services) => actual.services = Some(services.clone()),
            Op::SetLocal(local) => actual.local = Some(local.clone()),
            Op::SetGuarded(prefixes) => actual.guarded.clone_from(prefixes),
            Op::SetPeer(node, peer) => {
                actual.peers.insert(node.clone(), peer.clone());
            }
            Op::SetRoute(_, node) if !actual.peers.contains_key(node) => return Err(TunnelError::UnknownPeer(node.clone())),
            Op::SetRoute(prefix, node) => {
                actual.routes.insert(*prefix, node.clone());
            }
            Op::DelRoute(prefix) => {
                actual.routes.remove(prefix);
            }
            Op::DelPeer(node) => {
                actual.peers.remove(node);
                actual.routes.retain(|_, owner| owner != node);
            }
        }
        self.applied.push(op.clone());
        Ok(())
    }
}

impl Tunnel for FakeTunnel {
    fn observe(&mut self) -> Result<Actual, TunnelError> {
        if self.failing_observations > 0 {
            self.failing_observations -= 1;
            return Err(TunnelError::failed("observe", "told to fail"));
        }
        Ok(self.actual.clone())
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<(usize, TunnelError)> {
        ops.iter().enumerate().filter_map(|(index, op)| self.try_apply(op).err().map(|error| (index, error))).collect()
    }

    fn poll_flow(&mut self) -> Option<FlowRecord> {
        self.flows.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::conformance;

    #[test]
    fn the_fake_tunnel_conforms() {
        conformance(&mut || Box::new(FakeTunnel::new()));
    }
}
