//! The last known state on disk: it is there whole, or it is known not to be.
//!
//! A file is `LBSTATE1`, the SHA-256 of the content, the content.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::files::read_bounded;
use crate::write::{Existing, write_atomically};

const MAGIC: &[u8; 8] = b"LBSTATE1";
const HEADER: usize = MAGIC.len() + 32;
/// A state of a million workloads is some hundreds of megabytes.
const MAX_STATE_BYTES: u64 = 1 << 30;

/// Why a state file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// It cannot be read.
    #[error("{path}: cannot read the last known state: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It, or what takes its place, cannot be written.
    #[error("{path}: cannot write the last known state: {source}; make room, or make the directory writable")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a state file held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// There is no file.
    Missing,
    /// The content, as it was saved.
    State(Vec<u8>),
    /// The file was damaged, and is now beside its place under the name of the field.
    Corrupt(PathBuf),
}

/// Saves `content`: after a crash the file has the old content or the new one.
///
/// # Errors
/// Returns an error where the file cannot be written; the old content is still there then.
pub fn save_atomic(path: &Path, content: &[u8]) -> Result<(), StateFileError> {
    let bytes = [MAGIC, Sha256::digest(content).as_slice(), content].concat();
    write_atomically(path, &bytes, 0o600, Existing::Replace)
        .map_err(|source| StateFileError::Write { path: path.to_owned(), source })
}

/// Loads what was saved; a damaged file is set aside.
///
/// # Errors
/// Returns an error where a file is there and cannot be read, or is damaged and cannot be set aside.
pub fn load(path: &Path) -> Result<Loaded, StateFileError> {
    let bytes = match read_bounded(path, MAX_STATE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
        Err(source) => return Err(StateFileError::Read { path: path.to_owned(), source }),
    };
    let content = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_at_checked(HEADER - MAGIC.len()));
    match content {
        Some((digest, content)) if Sha256::digest(content).as_slice() == digest => Ok(Loaded::State(content.to_vec())),
        _ => set_aside(path).map(Loaded::Corrupt),
    }
}

/// Renames a state file that is of no use to `<name>.corrupt-<n>`, the first number that is free; returns the new name.
///
/// # Errors
/// Returns an error where it cannot be renamed.
pub fn set_aside(path: &Path) -> Result<PathBuf, StateFileError> {
    let write = |source| StateFileError::Write { path: path.to_owned(), source };
    for number in 1_u32.. {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".corrupt-{number}"));
        let aside = path.with_file_name(name);
        if aside.exists() {
            continue;
        }
        fs::rename(path, &aside).map_err(write)?;
        tracing::warn!(path = %path.display(), aside = %aside.display(), "the last known state is damaged and was set aside");
        return Ok(aside);
    }
    unreachable!("there are more numbers than files")
}
