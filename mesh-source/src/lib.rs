//! Where the facts of a Landbridge mesh come from: directories of manifests, stores of signed records.
//!
//! ```text
//!   manifests/*.yaml ── ManifestDirectory ─┐
//!   inbox/<node>.json ── InboxDirectory ───┼─ Source::next() ─> Event ─> State
//!   store/<cluster>/*.rec ─ StoreSource ───┘
//!         ▲
//!         └── Mirror ── another cluster's store          Store::put ─> store/<cluster>/*.rec
//! ```
//!
//! Every source tells everything it has between `Begin` and `Synced`, and only differences after that. A source never gives
//! up: what is wrong (a broken manifest, a directory that is not there) is in its [`Diagnostics`], and it goes on when the
//! files are better. Facts of a file that has become broken stay as they were.
//!
//! ```
//! use mesh_core::{ClusterName, Event, SourceId, policy::PolicyScope};
//! use mesh_source::{ManifestDirectory, Source};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let directory = tempfile::tempdir()?;
//! std::fs::write(directory.path().join("shop.yaml"), "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")?;
//! let east = PolicyScope::Cluster(ClusterName::new("east")?);
//! let mut source = ManifestDirectory::new(SourceId("manifests".into()), directory.path(), east);
//! assert!(matches!(source.next().await?, Event::Begin(_)));
//! assert!(matches!(source.next().await?, Event::Set(..)));
//! assert!(matches!(source.next().await?, Event::Synced(_)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod diagnostics;
mod files;
pub mod inbox;
pub mod keyfiles;
mod manifests;
mod mirror;
mod outbox;
mod source;
pub mod statefile;
mod store;
mod tail;
mod write;

pub use diagnostics::Diagnostics;
pub use inbox::{AnnounceError, Announced, InboxDirectory, announce};
pub use manifests::ManifestDirectory;
pub use mirror::{Mirror, MirrorFrom};
pub use outbox::{Outbox, OutboxConfig, OutboxEvent};
pub use source::{Source, SourceError};
pub use store::{
    Claim, ClaimError, DirectoryStore, Following, Hold, Interest, MemoryStore, NobodyListens, RecordPath, Store, StoreError,
    StoreSource, Teller, Told,
};
#[cfg(feature = "etcd")]
pub use store::{EtcdConfig, EtcdConfigError, EtcdStore, EtcdTls};
