//! The hash of a set's content.

use std::hash::{Hash, Hasher};

use mesh_core::{Prefix, PrefixMap};
use sha2::{Digest, Sha256};

use crate::PolicySet;

/// Feeds everything that is hashed into SHA-256: a set's content comes from other clusters too, and none of them shall be able
/// to make up a change with the fingerprint of what was there before.
struct Sha(Sha256);

impl Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        let (head, _) = digest.split_first_chunk().expect("a digest is longer than eight bytes");
        u64::from_be_bytes(*head)
    }
}

impl PolicySet {
    /// Sets the fingerprint to the hash of everything else, tables in the order of their keys.
    pub(crate) fn with_fingerprint(mut self) -> PolicySet {
        let mut sha = Sha(Sha256::new());
        let settings = &self.settings.0;
        let flags = [settings.ipblock_matches_pods, settings.own_node_ingress_allowed, settings.own_node_egress_allowed];
        (flags, self.settings.1 as u8).hash(&mut sha);
        (&self.workloads, &self.policed, &self.ends.nodes).hash(&mut sha);
        sorted(self.ends.known.iter()).hash(&mut sha);
        sorted(self.ends.node_addresses.iter()).hash(&mut sha);
        prefixes(&self.ends.pending).hash(&mut sha);
        prefixes(&self.ends.regions).hash(&mut sha);
        (&self.rulesets, sorted(self.cells.iter()), self.rows.content(), &self.rules).hash(&mut sha);
        sorted(self.exported.iter()).hash(&mut sha);
        self.fingerprint = sha.finish();
        self
    }
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items
}

fn prefixes<V: Ord>(map: &PrefixMap<V>) -> Vec<(Prefix, &V)> {
    sorted(map.iter())
}
