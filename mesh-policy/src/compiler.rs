//! Keeps the compiled policy in step with the state.

use std::sync::Arc;

use mesh_core::{Change, State};

use crate::PolicySet;

/// Compiles the state's policies, again whenever something changed that they depend on.
#[derive(Clone, Debug, Default)]
pub struct Compiler {
    current: Arc<PolicySet>,
}

impl Compiler {
    /// Makes a compiler whose current set is that of an empty state.
    pub fn new() -> Compiler {
        Compiler::default()
    }

    /// Brings the set in step with `state`, in which `change` is what is different since the last call.
    pub fn update(&mut self, state: &State, change: &Change) -> &Arc<PolicySet> {
        let _ = change;
        let next = PolicySet::compile(state);
        if next.fingerprint() != self.current.fingerprint() {
            self.current = Arc::new(next);
        }
        &self.current
    }

    /// Returns the set of the last update.
    pub fn current(&self) -> &Arc<PolicySet> {
        &self.current
    }
}
