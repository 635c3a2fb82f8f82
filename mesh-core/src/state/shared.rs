//! Labels that many facts have, kept once: the replicas of a deployment are told in many records.

use hashbrown::HashSet;

use crate::Labels;

/// The labels of facts, each once. What no fact has any more is dropped when there are twice as many as there were.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedLabels {
    known: HashSet<Labels, foldhash::fast::RandomState>,
    sweep_at: usize,
}

impl SharedLabels {
    /// Puts the equal labels that are known in the place of `labels`.
    pub(super) fn share(&mut self, labels: &mut Labels) {
        if let Some(known) = self.known.get(labels) {
            labels.clone_from(known);
            return;
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(Labels::is_shared);
            self.sweep_at = (2 * self.known.len()).max(1024);
        }
        self.known.insert(labels.clone());
    }
}
