//! `meshctl fleet`: the fleet's root, its grants, and the signed artifacts that agents read.
//!
//! ```text
//!   git:  fleet.yaml  clusters/east.yaml  revoked.yaml  fleet/*.yaml ──┐
//!                                                                      ├─ plan ─> what to sign, what stands ─> stores, fleet/*.rec
//!   what the root signed before, in the stores (held) ─────────────────┘
//! ```
//!
//! The files in git are the desired state. No secret is among them, and none leaves the machine that it was made on. What
//! says the same as before keeps the bytes that were signed then.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_core::manifest::{FleetFile, FleetPart};
use mesh_core::{Bytes, ClusterName, Now, PublicKey, SecretKey, Time, WallTime};
use mesh_source::keyfiles::KeyFileError;
use mesh_source::{RecordPath, StoreError};

use crate::config::{StoreConfig, StoreConfigError};

pub mod audit;
pub mod edit;
pub mod plan;
pub mod secrets;

use self::plan::{Desired, Held, Plan};

/// Why nothing was signed, or not everything was put.
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
    /// A command that makes no sense here; it says what would.
    #[error("{0}")]
    Refused(String),
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
    /// The store is not what it is said to be.
    #[error(transparent)]
    Open(#[from] StoreConfigError),
    /// Some stores have what was signed, and some do not.
    #[error("signed, but not in every store; run the same command again:\n  {}", .0.join("\n  "))]
    Partly(Vec<String>),
}

/// Returns the error of a file.
pub fn file_error(path: &Path) -> impl FnOnce(io::Error) -> SignError {
    let path = path.to_owned();
    move |source| SignError::File { path, source }
}

/// Reads the clock.
pub fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { time: Time::ZERO, wall: WallTime::from_unix_nanos(u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX)) }
}

/// Reads what a fleet's directory grants: `fleet.yaml`, `clusters/<cluster>.yaml`, `revoked.yaml`. Manifests are not looked at.
pub fn read_fleet(directory: &Path) -> Result<FleetFile, SignError> {
    let text = |path: &Path| fs::read_to_string(path).map_err(file_error(path));
    let mut files = vec![("fleet.yaml".to_owned(), text(&directory.join("fleet.yaml"))?)];
    let revoked = directory.join("revoked.yaml");
    if revoked.exists() {
        files.push(("revoked.yaml".into(), text(&revoked)?));
    }
    for path in yaml_files(&directory.join("clusters"))? {
        files.push((format!("clusters/{}", path.file_name().unwrap_or_default().to_string_lossy()), text(&path)?));
    }
    let (mut parts, mut errors) = (Vec::new(), Vec::new());
    for part in files.iter().filter_map(|(path, text)| FleetPart::read(path, text)) {
        match part {
            Ok(part) => parts.push(part),
            Err(mistakes) => errors.extend(mistakes),
        }
    }
    let fleet = FleetFile::assemble(parts).map_err(|mistakes| errors.extend(mistakes));
    let told = || SignError::Desired(errors.iter().map(ToString::to_string).collect());
    fleet.ok().filter(|_| errors.is_empty()).ok_or_else(told)
}

/// Reads the fleet policies of a fleet's directory, by file name.
pub fn read_policies(directory: &Path) -> Result<Vec<(String, String)>, SignError> {
    let read = |file: PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::read_to_string(&file).map(|text| (name, text)).map_err(file_error(&file))
    };
    yaml_files(&directory.join("fleet"))?.into_iter().map(read).collect()
}

fn yaml_files(directory: &Path) -> Result<Vec<PathBuf>, SignError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error(directory)(error)),
    };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.is_file() && file.extension().is_some_and(|ending| ending == "yaml" || ending == "yml"));
    files.sort();
    Ok(files)
}

/// Returns the store in the directory where what is signed waits to be copied by other means.
pub fn default_store(directory: &Path) -> StoreConfig {
    StoreConfig::Directory(directory.join("signed"))
}

/// Runs something of a store to its end.
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T, SignError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(file_error(Path::new("runtime")))?;
    Ok(runtime.block_on(work))
}

/// Reads what the root signed before, from every store that can be read; of the others it says so.
pub fn read_held(stores: &[StoreConfig], root: &PublicKey) -> Result<Held, SignError> {
    block_on(async {
        let mut held = Held::default();
        for config in stores {
            if let Err(error) = take_held(&mut held, config, root).await {
                held.unread.push(format!("{config} cannot be read, and what it holds is not known: {error}"));
            }
        }
        held
    })
}

async fn take_held(held: &mut Held, config: &StoreConfig, root: &PublicKey) -> Result<(), SignError> {
    let store = config.open("--store")?;
    for path in store.list().await?.into_iter().filter(RecordPath::is_root) {
        if let Some(bytes) = store.get(&path).await? {
            held.take(&bytes, root);
        }
    }
    Ok(())
}

/// What became of one artifact in the stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Where it is in a store.
    pub path: RecordPath,
    /// It was signed now; else it is as it was signed before.
    pub signed: bool,
    /// In how many stores it was not, or not like this.
    pub stores: usize,
}

/// Signs what the plan wants and puts it into every store: one that fails keeps no other from its records.
///
/// # Errors
/// Returns an error where something cannot be signed, before anything is put; and where some store did not take everything.
pub fn carry_out(plan: &Plan, root: &SecretKey, stores: &[StoreConfig]) -> Result<Vec<Put>, SignError> {
    let mut artifacts: Vec<(RecordPath, bool, Bytes)> = Vec::new();
    for wanted in &plan.wanted {
        let subject = || wanted.path.to_string();
        let sign = || wanted.statement.sign(root).map_err(|source| SignError::Sign { subject: subject(), source });
        let bytes = wanted.held.clone().map_or_else(sign, Ok)?;
        artifacts.push((wanted.path.clone(), wanted.held.is_none(), bytes));
    }
    block_on(async {
        let mut puts: Vec<_> =
            artifacts.iter().map(|(path, signed, _)| Put { path: path.clone(), signed: *signed, stores: 0 }).collect();
        let mut failures = Vec::new();
        for config in stores {
            failures.extend(put_into(config, &artifacts, &mut puts).await);
        }
        if failures.is_empty() { Ok(puts) } else { Err(SignError::Partly(failures)) }
    })?
}

/// Puts what is not in a store, or not like this; returns what went wrong. A service that is out of reach is not asked again.
async fn put_into(config: &StoreConfig, artifacts: &[(RecordPath, bool, Bytes)], puts: &mut [Put]) -> Vec<String> {
    let store = match config.open("--store") {
        Ok(store) => store,
        Err(error) => return vec![error.to_string()],
    };
    let mut failures = Vec::new();
    for ((path, _, bytes), put) in artifacts.iter().zip(puts) {
        if matches!(store.get(path).await, Ok(Some(there)) if there == *bytes) {
            continue;
        }
        match store.put(path, bytes.clone(), None).await {
            Ok(()) => put.stores += 1,
            Err(error @ StoreError::Service { .. }) => {
                failures.push(error.to_string());
                break;
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    failures
}

/// Signs the grants, revocations and fleet policies of `directory`, and puts them into every store; what stands as it was signed
/// before is not signed again.
///
/// `keys` are the clusters' public keys where the directory does not name them. Returns what became of each artifact.
pub fn sign_fleet(
    directory: &Path,
    keys: &BTreeMap<ClusterName, PublicKey>,
    root: &SecretKey,
    stores: &[StoreConfig],
) -> Result<Vec<Put>, SignError> {
    let mut fleet = read_fleet(directory)?;
    for (name, cluster) in &mut fleet.clusters {
        cluster.key = cluster.key.or(keys.get(name).copied());
    }
    let desired = Desired { fleet, policies: read_policies(directory)? };
    let held = read_held(stores, &root.public())?;
    let plan = plan::plan(&desired, &held, now().wall, false).map_err(SignError::Desired)?;
    carry_out(&plan, root, stores)
}
