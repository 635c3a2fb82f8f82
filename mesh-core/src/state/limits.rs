//! How much is kept of what others sign, and what it weighs.

use std::ops::{AddAssign, SubAssign};

use bytes::Bytes;

use super::State;
use crate::{Record, Resource};

/// How much a state keeps of what others sign, in bytes of memory, about. What does not fit is refused and counted as
/// [`OverLimit`](crate::RefusalReason::OverLimit): what is held already stays, and a later telling finds room where there is some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For signers that no grant names, of all clusters together: enough for a fleet's records to outrun its grants, not enough
    /// for a stranger to fill the memory.
    pub strangers: usize,
    /// For the signers of one cluster that a grant names: enough for 150,000 workloads while its key changes.
    pub cluster: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { strangers: 16 << 20, cluster: 512 << 20 }
    }
}

/// What a state keeps of what others signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Clusters of which something is kept, whoever said it.
    pub clusters: usize,
    /// Records of signers that a grant names.
    pub records: usize,
    /// What they weigh, in bytes of memory, about.
    pub bytes: usize,
    /// Records of other signers.
    pub stranger_records: usize,
    /// What those weigh.
    pub stranger_bytes: usize,
}

/// What a record costs beside its bytes and its facts.
const RECORD: usize = 512;
/// What the key of a fact costs.
const KEY: usize = 96;
/// What a fact costs that is offered and believed: `benches/benches/record_memory.rs` measures it for workloads.
const FACT: usize = 1024;
/// What an element of a fact's list costs: a label, an endpoint, and what is smaller.
const LABEL: usize = 64;
const ENDPOINT: usize = 256;
const ELEMENT: usize = 48;

/// What a record weighs in memory: as it is kept, and what its facts add where they are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) kept: usize,
    facts: usize,
}

impl Weight {
    pub(super) fn of(record: &Record, bytes: &Bytes) -> Weight {
        let kept = RECORD + bytes.len() + KEY * record.resources.len();
        Weight { kept, facts: record.resources.iter().map(fact).sum() }
    }

    /// What is left of a record that is forgotten: its key and its version.
    pub(super) fn forgotten() -> Weight {
        Weight { kept: RECORD, facts: 0 }
    }

    pub(super) fn bytes(bytes: usize) -> Weight {
        Weight { kept: bytes, facts: 0 }
    }

    pub(super) fn total(self) -> usize {
        self.kept + self.facts
    }
}

impl AddAssign for Weight {
    fn add_assign(&mut self, other: Weight) {
        *self = Weight { kept: self.kept + other.kept, facts: self.facts + other.facts };
    }
}

impl SubAssign for Weight {
    fn sub_assign(&mut self, other: Weight) {
        *self = Weight { kept: self.kept - other.kept, facts: self.facts - other.facts };
    }
}

fn fact(resource: &Resource) -> usize {
    let lists = match resource {
        Resource::Node(node) => LABEL * node.labels.iter().len() + ELEMENT * (node.addresses.len() + node.prefixes.len()),
        Resource::NodeLink(link) => ELEMENT * (link.endpoints.len() + link.overlay.len()),
        Resource::Namespace(namespace) => LABEL * namespace.labels.iter().len(),
        Resource::Workload(workload) => {
            LABEL * workload.labels.iter().len() + ENDPOINT * workload.addresses.len() + ELEMENT * workload.ports.len()
        }
        Resource::Export(export) => {
            let lists = export.endpoints.iter().map(|endpoint| endpoint.addresses.len() + endpoint.ports.len());
            ENDPOINT * export.endpoints.len() + ELEMENT * (lists.sum::<usize>() + export.ports.len())
        }
        Resource::ServiceImport(import) => ELEMENT * import.addresses.len(),
        _ => 0,
    };
    FACT + lists
}

impl State {
    /// Sets other limits than the default ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> State {
        self.ledger.limits = limits;
        self
    }

    /// Returns what is kept of what others signed, for status pages and tests.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage { clusters: self.ledger.clusters.len(), ..Usage::default() };
        for cluster in self.ledger.clusters.values() {
            for (key, signer) in &cluster.signers {
                let (records, bytes) = (signer.records.len(), signer.weight);
                if cluster.names(key) {
                    usage.records += records;
                    usage.bytes += bytes.total();
                } else {
                    usage.stranger_records += records;
                    usage.stranger_bytes += bytes.kept;
                }
            }
        }
        usage
    }
}
