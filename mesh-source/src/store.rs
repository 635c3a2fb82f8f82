//! Stores of signed records: bytes under paths. No store is trusted with what the bytes say.

use std::fmt;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use mesh_core::record::{MAX_RECORD_BYTES, MAX_ROOT_RECORD_BYTES};
use mesh_core::{Bytes, ClusterName, RecordKey};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

mod claim;
mod directory;
#[cfg(feature = "etcd")]
mod etcd;
mod follow;
mod memory;
mod source;

pub use self::claim::{Claim, ClaimError, Hold};
pub use self::directory::DirectoryStore;
#[cfg(feature = "etcd")]
pub use self::etcd::{EtcdConfig, EtcdConfigError, EtcdStore, EtcdTls};
pub use self::follow::{Following, Interest, NobodyListens, Teller, Told};
pub use self::memory::MemoryStore;
pub use self::source::StoreSource;

/// The directory of the root's records: no cluster's record has a root record's name, so a cluster may be called that, too.
const ROOT: &str = "fleet";
/// A file name of 255 bytes is the most that Linux takes, and a temporary one is longer than the name.
const MAX_NAME: usize = 200;
const ENDING: &str = ".rec";

/// Where a record lies in a store: `east/slice__shop__node-1.rec`, `fleet/grant__east.rec`.
///
/// The path says what the record is about, so that a newer one takes its place. It proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPath(String);

impl RecordPath {
    /// Returns the path of a cluster's record.
    pub fn record(cluster: &ClusterName, key: &RecordKey) -> RecordPath {
        let name = match key {
            RecordKey::Node(name) => format!("node__{name}"),
            RecordKey::Namespace(name) => format!("namespace__{name}"),
            RecordKey::Slice(namespace, node) => format!("slice__{namespace}__{node}"),
            RecordKey::Export(id) => format!("export__{}__{}", id.namespace, id.name),
            RecordKey::Import(id) => format!("import__{}__{}", id.namespace, id.name),
            RecordKey::Lease => "lease".to_owned(),
        };
        RecordPath::of(cluster.as_str(), &name)
    }

    /// Returns the path of the grant of a cluster.
    pub fn grant(cluster: &ClusterName) -> RecordPath {
        RecordPath::of(ROOT, &format!("grant__{cluster}"))
    }

    /// Returns the path of the fleet policies.
    pub fn policies() -> RecordPath {
        RecordPath::of(ROOT, "policies")
    }

    /// Returns the path of the revocation of a cluster's grants.
    pub fn revocation(cluster: &ClusterName) -> RecordPath {
        RecordPath::of(ROOT, &format!("revocation__{cluster}"))
    }

    /// Takes a path as a store lists it; `None` for anything that is no record's.
    pub fn parse(path: &str) -> Option<RecordPath> {
        let (directory, file) = path.split_once('/')?;
        let name = file.strip_suffix(ENDING)?;
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        let whole = ClusterName::new(directory).is_ok() && !name.is_empty() && !name.starts_with('.');
        (whole && name.len() <= MAX_NAME && name.bytes().all(good)).then(|| RecordPath(path.to_owned()))
    }

    /// Returns the path's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the cluster's directory, or `fleet`.
    pub(crate) fn directory(&self) -> &str {
        self.0.split_once('/').map_or("", |(directory, _)| directory)
    }

    /// Tells whether this is a root record's path.
    pub fn is_root(&self) -> bool {
        let name = self.0.split_once('/').map_or("", |(_, name)| name);
        self.directory() == ROOT && ["grant__", "policies", "revocation__"].iter().any(|kind| name.starts_with(kind))
    }

    /// Returns the path of this root record as it was seen in the store of `origin`: copies of different age lie side by side.
    pub(crate) fn seen_in(&self, origin: &ClusterName) -> RecordPath {
        let name = self.0.split_once('/').map_or("", |(_, name)| name);
        RecordPath::of(ROOT, &format!("{}{SEEN_IN}{origin}", name.strip_suffix(ENDING).unwrap_or(name)))
    }

    /// Tells whether this is a copy made by a mirror.
    pub fn is_seen_in(&self) -> bool {
        self.0.contains(SEEN_IN)
    }

    /// Returns how large a record at this path may be.
    pub(crate) fn limit(&self) -> u64 {
        (if self.is_root() { MAX_ROOT_RECORD_BYTES } else { MAX_RECORD_BYTES }) as u64
    }

    /// Names of Kubernetes have no `_` and no `~`, so different records have different names.
    fn of(directory: &str, name: &str) -> RecordPath {
        if name.len() <= MAX_NAME {
            return RecordPath(format!("{directory}/{name}{ENDING}"));
        }
        let digest = Sha256::digest(name.as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        RecordPath(format!("{directory}/{}~{digest}{ENDING}", &name[..MAX_NAME - 1 - digest.len()]))
    }
}

const SEEN_IN: &str = "__seen-in__";

impl fmt::Display for RecordPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The record is larger than any record may be.
    #[error("{path}: {len} bytes are more than the {limit} that a record may have")]
    TooLarge {
        /// The record's path.
        path: RecordPath,
        /// Its size in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file could not be read, written or removed.
    #[error("{path}: {source}; make room, or make the store a directory that this process can use")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The claim under which the record was to be put is not held any more.
    #[error("the claim on cluster {cluster} was lost: another publisher may have it, so nothing is put under it any more")]
    ClaimLost {
        /// The cluster.
        cluster: ClusterName,
    },
    /// A store that is a service of its own did not do it.
    #[error("{store}: {reason}")]
    Service {
        /// Which store.
        store: String,
        /// Why, with a way out.
        reason: String,
    },
}

/// A place for signed records, shared by everybody who holds it.
///
/// A store is not trusted with what it holds, so nothing in here is checked against grants. What it does promise: of two claims on
/// a cluster one at most is held at a time, and each has a higher incarnation than the one before.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Puts a record at a path, in place of the one there; with a claim, only while that is held.
    ///
    /// # Errors
    /// Returns an error where it could not be put, which is [`StoreError::ClaimLost`] where the claim is not held any more.
    async fn put(&self, path: &RecordPath, bytes: Bytes, claim: Option<&Claim>) -> Result<(), StoreError>;

    /// Returns the record at a path.
    ///
    /// # Errors
    /// Returns an error where there is one and it cannot be read.
    async fn get(&self, path: &RecordPath) -> Result<Option<Bytes>, StoreError>;

    /// Returns the paths of all records, in order.
    ///
    /// # Errors
    /// Returns an error where the store cannot be read.
    async fn list(&self) -> Result<Vec<RecordPath>, StoreError>;

    /// Removes the record at a path, if there is one.
    ///
    /// # Errors
    /// Returns an error where it is still there.
    async fn remove(&self, path: &RecordPath) -> Result<(), StoreError>;

    /// Follows the records that are of interest, also as that grows: all of them at first, then each that changes. Never gives up.
    ///
    /// # Panics
    /// Panics outside of a tokio runtime.
    fn follow(&self, interest: watch::Receiver<Interest>) -> Following;

    /// Claims the say over a cluster's records for `holder` (a name for people), with an incarnation of `floor` or more.
    ///
    /// # Errors
    /// Returns an error where somebody holds the claim, or where the store cannot tell.
    async fn claim(&self, cluster: &ClusterName, holder: &str, floor: u64) -> Result<Claim, ClaimError>;
}

fn check_size(path: &RecordPath, bytes: &[u8]) -> Result<(), StoreError> {
    let (len, limit) = (bytes.len() as u64, path.limit());
    if len > limit { Err(StoreError::TooLarge { path: path.clone(), len, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::{ObjectName, ServiceId};

    #[test]
    fn paths_are_safe_and_read_back() {
        let east = ClusterName::new("east").expect("valid");
        let long = ObjectName::new(&vec!["a".repeat(60); 4].join(".")).expect("valid");
        let id = ServiceId { namespace: "shop".parse().expect("valid"), name: long.clone() };
        let slice = RecordKey::Slice("n".repeat(63).parse().expect("valid"), long.clone());
        assert!(RecordPath::record(&east, &slice).as_str().starts_with(&format!("east/slice__{}__a", "n".repeat(63))));
        for key in [RecordKey::Node(long), slice, RecordKey::Export(id), RecordKey::Lease] {
            let path = RecordPath::record(&east, &key);
            assert_eq!(RecordPath::parse(path.as_str()), Some(path.clone()));
            assert!(path.as_str().len() < 255 && !path.is_root(), "{path}");
        }
        let grant = RecordPath::grant(&east);
        assert_eq!(grant.as_str(), "fleet/grant__east.rec");
        assert!(grant.is_root() && grant.seen_in(&east).is_root() && grant.seen_in(&east).is_seen_in());
        let fleet = ClusterName::new("fleet").expect("a cluster may be called so");
        assert!(!RecordPath::record(&fleet, &RecordKey::Lease).is_root());
        for bad in [
            "lease.rec",
            "../lease.rec",
            "east/.tmp-1.rec",
            "east/a/b.rec",
            "East/lease.rec",
            "east/lease",
            "east/.rec",
            "east/é.rec",
        ] {
            assert_eq!(RecordPath::parse(bad), None, "{bad}");
        }
    }
}
