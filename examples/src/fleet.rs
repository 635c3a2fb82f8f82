//! `meshctl fleet`: the fleet's root, its grants, and the signed artifacts that agents read.
//!
//! `fleet.yaml` and `fleet/*.yaml` in git are the desired state; what the root signs goes into stores, as files below
//! `fleet/`. No secret is in git, and none leaves the machine that it was made on.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_core::manifest::{self, FleetFile};
use mesh_core::state::MAX_CLOCK_SKEW;
use mesh_core::{Bytes, ClusterName, PublicKey, RootRecord, SecretKey, WallTime};
use mesh_source::keyfiles::KeyFileError;
use mesh_source::{DirectoryStore, RecordPath, Store, StoreError};

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The desired state has mistakes.
    #[error("{} mistake(s), nothing was signed:\n  {}", .0.len(), .0.join("\n  "))]
    Desired(Vec<String>),
    /// A grant or a policy cannot be signed.
    #[error("{subject} cannot be signed: {source}")]
    Sign {
        /// What.
        subject: String,
        /// Why.
        source: mesh_core::record::SignError,
    },
    /// A key file cannot be made or used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The store does not take the artifacts.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> SignError {
    let path = path.to_owned();
    move |source| SignError::File { path, source }
}

/// Reads `fleet.yaml` of a fleet's directory.
pub fn read_fleet(directory: &Path) -> Result<FleetFile, SignError> {
    let path = directory.join("fleet.yaml");
    let text = fs::read_to_string(&path).map_err(file_error(&path))?;
    let mistakes = |errors: Vec<manifest::ManifestError>| SignError::Desired(errors.iter().map(ToString::to_string).collect());
    manifest::parse_fleet("fleet.yaml", &text).map_err(mistakes)
}

/// Reads the fleet policies of a fleet's directory, by file name.
pub fn read_policies(directory: &Path) -> Result<Vec<(String, String)>, SignError> {
    let path = directory.join("fleet");
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error(&path)(error)),
    };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "yaml" || ending == "yml"));
    files.sort();
    let read = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::read_to_string(file).map(|text| (name, text)).map_err(file_error(file))
    };
    files.iter().map(read).collect()
}

/// Signs the grants and fleet policies of `directory` once, and puts them into every store.
///
/// `keys` are the clusters' public keys where `fleet.yaml` does not name them. Returns what was put, by store path.
pub fn sign_fleet(
    directory: &Path,
    keys: &BTreeMap<ClusterName, PublicKey>,
    root: &SecretKey,
    stores: &[PathBuf],
) -> Result<Vec<RecordPath>, SignError> {
    let mut fleet = read_fleet(directory)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let begin = WallTime::from_unix_secs(now.as_secs()) - MAX_CLOCK_SKEW;
    for (name, cluster) in &mut fleet.clusters {
        cluster.key = cluster.key.or(keys.get(name).copied());
        // Of two grants of one epoch the later one counts, so that signing again after an edit is enough.
        cluster.not_before = cluster.not_before.or(Some(begin));
    }
    let mut artifacts: Vec<(RecordPath, Bytes)> = Vec::new();
    for grant in fleet.grants() {
        let subject = format!("the grant of cluster {}", grant.cluster);
        let path = RecordPath::grant(&grant.cluster);
        let record = RootRecord::Grant(Arc::new(grant));
        artifacts.push((path, record.sign(root).map_err(|source| SignError::Sign { subject, source })?));
    }
    let serial = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let policies = RootRecord::Policies { serial, manifests: read_policies(directory)? };
    let signed = policies.sign(root).map_err(|source| SignError::Sign { subject: "the fleet's policies".into(), source })?;
    artifacts.push((RecordPath::policies(), signed));
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(file_error(directory))?;
    for store in stores {
        let store = DirectoryStore::new(store);
        for (path, bytes) in &artifacts {
            runtime.block_on(store.put(path, bytes.clone(), None))?;
        }
    }
    Ok(artifacts.into_iter().map(|(path, _)| path).collect())
}
