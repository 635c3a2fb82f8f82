//! Deciding open flows again after a change, each before its next packet and all of them soon.

use std::sync::Arc;

use mesh_policy::PolicySet;

use super::Forwarder;

/// How many slots one [`handle_timeout`](Forwarder::handle_timeout) looks at: about a millisecond of work.
pub(super) const BATCH: usize = 4_096;
/// How many replaced policy sets are kept for the sake of flows that hold verdicts of theirs. Beyond that all flows are decided
/// again at once: sets are large, and a flow may be idle for hours.
const MAX_RETIRED: usize = 8;

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Review {
    /// It is allowed, and up to date.
    Kept,
    /// It is not allowed any more; its record says why.
    Cut,
    /// It is not there (any more).
    Gone,
}

impl Forwarder {
    /// Puts `policy` in force, from the next packet on.
    pub(super) fn set_policy(&mut self, policy: &Arc<PolicySet>) {
        if self.policy.as_ref().is_some_and(|current| current.fingerprint() == policy.fingerprint()) {
            return;
        }
        self.denials.flush(&mut self.records);
        if let Some(old) = self.policy.replace(policy.clone()) {
            self.retired.push_back((self.policies, old));
        }
        self.policies += 1;
        self.invalidate();
        if self.retired.len() > MAX_RETIRED {
            self.review_batch(usize::MAX);
        }
        self.decide_held();
    }

    /// Has every flow decided again.
    pub(super) fn invalidate(&mut self) {
        self.generation += 1;
        self.unreviewed = self.flows.slots();
        if self.unreviewed == 0 {
            self.retired.clear();
        }
    }

    /// Decides again the flow in `slot` if something changed since: cuts it where it is not allowed any more, and ends it where
    /// neither end lives here any more.
    pub(super) fn review(&mut self, slot: u32) -> Review {
        let Some(entry) = self.flows.get(slot) else { return Review::Gone };
        if entry.generation == self.generation {
            return Review::Kept;
        }
        let tuple = entry.tuple;
        let (source, destination) = (self.routes.owner(tuple.source), self.routes.owner(tuple.destination));
        // Without a policy there is no flow, and one that was set is never taken back.
        let Ok(decision) = self.decide(&tuple, source, destination) else { return Review::Gone };
        if decision.denial().is_some() {
            if let Some(entry) = self.flows.remove(slot) {
                self.cut(&entry, &decision);
            }
            return Review::Cut;
        }
        if decision.is_empty() {
            if let Some(entry) = self.flows.remove(slot) {
                self.close(&entry);
            }
            return Review::Gone;
        }
        let (generation, policy) = (self.generation, self.policies);
        let Some(entry) = self.flows.get_mut(slot) else { return Review::Gone };
        entry.generation = generation;
        entry.policy = policy;
        (entry.egress, entry.ingress) = (decision.egress, decision.ingress);
        (entry.source, entry.destination) = (source, destination);
        Review::Kept
    }

    /// Reviews some of the slots that are left.
    pub(super) fn review_batch(&mut self, most: usize) {
        for _ in 0..most {
            if self.unreviewed == 0 {
                break;
            }
            self.unreviewed -= 1;
            self.review(u32::try_from(self.unreviewed).expect("slots are counted in u32"));
        }
        if self.unreviewed == 0 {
            self.retired.clear();
        }
    }

    pub(super) fn retired_policy(&self, number: u64) -> Option<&Arc<PolicySet>> {
        self.retired.iter().find(|(retired, _)| *retired == number).map(|(_, policy)| policy)
    }
}
