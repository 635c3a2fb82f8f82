//! Keeps the compiled policy in step with the state.

use std::sync::Arc;

use mesh_core::{Change, CrossClusterDefault, Key, State};

use crate::PolicySet;

/// Compiles the state's policies, again whenever something changed that they depend on.
///
/// A change that touches policy costs a compilation of everything in this version; one that does not touch it costs a look at its
/// keys. The set stays the same `Arc` as long as its content does, so a pointer comparison tells whether there is something to do.
#[derive(Clone, Debug, Default)]
pub struct Compiler {
    current: Arc<PolicySet>,
    /// The current set is of a state that the caller showed, not of the empty one.
    started: bool,
}

impl Compiler {
    /// Makes a compiler whose current set is that of an empty state, in which nothing is policed: take it up after an update.
    pub fn new() -> Compiler {
        Compiler::default()
    }

    /// Brings the set in step with `state`, in which `change` is what is different since the last call. The first call looks at
    /// all of the state, whatever changed.
    pub fn update(&mut self, state: &State, change: &Change) -> &Arc<PolicySet> {
        let exports = state.cross_cluster_default() == CrossClusterDefault::Exports;
        if !self.started || change.dirty.iter().any(|key| concerns_policy(key, exports)) {
            let next = PolicySet::compile(state);
            if next.fingerprint() != self.current.fingerprint() {
                self.current = Arc::new(next);
            }
            self.started = true;
        }
        &self.current
    }

    /// Returns the set of the last update.
    pub fn current(&self) -> &Arc<PolicySet> {
        &self.current
    }
}

/// Tells whether a verdict can depend on the fact of `key`; services matter where exports are consent between clusters.
fn concerns_policy(key: &Key, exports: bool) -> bool {
    match key {
        Key::Grant(_) | Key::Namespace(..) | Key::Node(_) | Key::NodeLink(_) | Key::Workload(_) => true,
        Key::NetworkPolicy(..) | Key::ClusterNetworkPolicy(..) => true,
        // A ServiceImport alone makes its namespace exist, and so the services in it importable.
        Key::Service(..) | Key::EndpointSlice(..) | Key::ServiceExport(..) | Key::ServiceImport(..) | Key::Export(..) => exports,
        Key::Lease(_) => false,
    }
}
