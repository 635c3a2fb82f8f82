//! `meshctl lab`: a real fleet on one machine, from a directory of plain manifests.
//!
//! mesh-lab makes the namespaces; this module makes the fleet in them: keys, grants, one configuration and one real
//! `mesh-agent` per node, and a small real server in every workload.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub mod command;
mod files;
pub mod fleet;
pub mod nodes;
pub mod shipped;
pub mod stores;
pub mod story;

/// Tells long work that somebody wants it to end.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// The work was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Cancelled;

impl Cancel {
    /// Ends the work at its next check.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Fails once the work shall end.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.0.load(Ordering::Relaxed) { Err(Cancelled) } else { Ok(()) }
    }

    /// Waits between two looks at something.
    pub fn pause(&self, duration: Duration) -> Result<(), Cancelled> {
        self.check()?;
        std::thread::sleep(duration);
        self.check()
    }
}
