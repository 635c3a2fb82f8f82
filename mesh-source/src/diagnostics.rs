//! What is wrong with a source now.

use mesh_core::SourceId;
use mesh_core::manifest::ManifestError;
use tokio::sync::watch;

/// What is wrong with a source now; empty when nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// The source has told everything once.
    pub synced: bool,
    /// The mistakes in manifests: the facts of their files stay as they were before.
    pub errors: Vec<ManifestError>,
    /// What is odd in manifests and does not stand in the way.
    pub warnings: Vec<ManifestError>,
    /// What is wrong with files and directories as such, each with its path and a way out.
    pub problems: Vec<String>,
    /// The number of objects of kinds that the mesh does not read.
    pub ignored: usize,
    /// The number of announcements now refused, because they speak for another node than their file's.
    pub mismatches: usize,
}

impl Diagnostics {
    /// Tells whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.problems.is_empty() && self.mismatches == 0
    }
}

/// Publishes diagnostics, and logs each thing once when it comes up.
#[derive(Debug)]
pub(crate) struct Reporter {
    source: SourceId,
    sender: watch::Sender<Diagnostics>,
}

impl Reporter {
    pub(crate) fn new(source: &SourceId) -> Reporter {
        Reporter { source: source.clone(), sender: watch::Sender::default() }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Diagnostics> {
        self.sender.subscribe()
    }

    pub(crate) fn report(&self, now: Diagnostics) {
        let source = &*self.source.0;
        {
            let before = self.sender.borrow();
            for error in now.errors.iter().filter(|error| !before.errors.contains(error)) {
                tracing::warn!(source, %error, "manifest is broken; the facts of its file stay as they were");
            }
            for warning in now.warnings.iter().filter(|warning| !before.warnings.contains(warning)) {
                tracing::warn!(source, %warning, "manifest is odd");
            }
            for problem in now.problems.iter().filter(|problem| !before.problems.contains(problem)) {
                tracing::warn!(source, problem, "cannot read everything");
            }
            if !before.is_clean() && now.is_clean() {
                tracing::info!(source, "everything can be read again");
            }
        }
        self.sender.send_if_modified(|diagnostics| {
            let differs = *diagnostics != now;
            *diagnostics = now;
            differs
        });
    }
}
