//! Files with secret keys: mode 0600, one line of base64, never written over by accident.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mesh_core::SecretKey;
use mesh_core::keys::decode_secret;
use zeroize::Zeroizing;

use crate::write::{Existing, write_atomically};

/// A key file is one line.
const MAX_KEY_BYTES: usize = 256;

/// Why a key file is not used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{path}: cannot read the key: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("{path}: cannot write the key: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is a key already.
    #[error("{path}: there is a key already, and nothing brings a lost one back; move it away first")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read it.
    #[error("{path}: mode {mode:04o} lets others read or change a secret key; run: chmod 600 {path}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no key.
    #[error("{path}: holds no key: 32 bytes in base64 (44 characters) are expected")]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// The system has no randomness to give.
    #[error("no randomness for a new key: {0}")]
    Random(getrandom::Error),
}

/// Reads the 32 bytes of a secret key.
///
/// # Errors
/// Returns an error where the file cannot be read, where others than its owner may read or write it, or where it holds no key.
pub fn read_secret(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyFileError> {
    let read = |source| KeyFileError::Read { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(read)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Mode { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new([0; MAX_KEY_BYTES]);
    let mut file = fs::File::open(path).map_err(read)?;
    let mut len = 0;
    while len < text.len() {
        match file.read(&mut text[len..]).map_err(read)? {
            0 => break,
            more => len += more,
        }
    }
    decode_secret(&text[..len]).map_err(|_| KeyFileError::Form { path: path.to_owned() })
}

/// Tells whether a file's content has the form of a key: 32 bytes in base64 and nothing else.
pub fn is_key(content: &[u8]) -> bool {
    decode_secret(content).is_ok()
}

/// Writes the 32 bytes of a secret key to a new file of mode 0600, whole or not at all.
///
/// # Errors
/// Returns an error where the file exists or cannot be written.
pub fn write_secret(path: &Path, key: &[u8; 32]) -> Result<(), KeyFileError> {
    let mut text = Zeroizing::new([b'\n'; 45]);
    STANDARD.encode_slice(key, &mut text[..44]).expect("32 bytes are 44 characters");
    write_atomically(path, &*text, 0o600, Existing::Keep).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.to_owned() },
        _ => KeyFileError::Write { path: path.to_owned(), source },
    })
}

/// Reads the signing key of a root or a cluster.
///
/// # Errors
/// As [`read_secret`].
pub fn read_signing_key(path: &Path) -> Result<SecretKey, KeyFileError> {
    read_secret(path).map(|key| SecretKey::from_bytes(*key))
}

/// Makes a new signing key and writes it to a new file.
///
/// # Errors
/// As [`write_secret`].
pub fn create_signing_key(path: &Path) -> Result<SecretKey, KeyFileError> {
    let key = random()?;
    write_secret(path, &key)?;
    Ok(SecretKey::from_bytes(*key))
}

/// Reads a node's WireGuard key, which is made and written where there is none: it never leaves the node.
///
/// # Errors
/// As [`read_secret`] and [`write_secret`]; a file that is there and cannot be used is never replaced.
pub fn node_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyFileError> {
    match read_secret(path) {
        Err(KeyFileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = random()?;
            match write_secret(path, &key) {
                // Another process was faster, and its key is the node's.
                Err(KeyFileError::Exists { .. }) => read_secret(path),
                written => written.map(|()| key),
            }
        }
        read => read,
    }
}

fn random() -> Result<Zeroizing<[u8; 32]>, KeyFileError> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key).map_err(KeyFileError::Random)?;
    Ok(key)
}
