//! Forgetting what has ceased to matter.

use super::{State, Trust};
use crate::interest::Topics;
use crate::{Change, ClusterName};

impl State {
    /// Forgets the records of other clusters that belong to none of the topics, and what they said.
    ///
    /// Which versions were seen is kept for as long as the process lives: when a topic returns, the same record or a newer one
    /// is believed, and an older one is refused as at any other time. Records that a proof of equivocation is about stay.
    pub fn forget(&mut self, topics: &Topics) -> Change {
        let mut change = Change::default();
        let Trust::Signed { cluster: own, .. } = self.config.trust.clone() else { return change };
        let others: Vec<ClusterName> = self.ledger.clusters.keys().filter(|name| **name != own).cloned().collect();
        for name in others {
            let Some(known) = self.ledger.clusters.get(&name) else { continue };
            // Slices before their nodes and namespaces, so that nothing is refused on the way.
            for key in known.held_of(|key| !topics.covers(&name, key)).into_iter().rev() {
                let said = self.said(&name, &key);
                if let Some(known) = self.ledger.clusters.get_mut(&name) {
                    known.forget(&key);
                }
                self.replace(said, None, &mut change);
            }
            self.watch(&name, &mut change);
        }
        change
    }
}
