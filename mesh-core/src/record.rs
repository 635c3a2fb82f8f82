//! Signed records: what travels between clusters. The signed bytes are the bytes that travel.

use std::fmt;
use std::sync::Arc;

use crate::{ClusterName, Grant, NamespaceName, ObjectName, Resource, ServiceId};

/// A record's place in its cluster's history: an incarnation is a fencing token, never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Which publisher's life.
    pub incarnation: u64,
    /// Which step of it.
    pub counter: u64,
}

/// What a record of a cluster is about: a newer record with this key replaces all that the older one said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// A node and its link.
    Node(ObjectName),
    /// A namespace.
    Namespace(NamespaceName),
    /// The workloads of one node.
    Slice(ObjectName),
    /// An exported service with its endpoints.
    Export(ServiceId),
    /// Clusterset addresses allocated for a service in the cluster itself.
    Import(ServiceId),
    /// The cluster's sign of life.
    Lease,
}

/// A record of one cluster, signed by its publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The cluster that speaks.
    pub cluster: ClusterName,
    /// Its version.
    pub version: Version,
    /// What it is about.
    pub key: RecordKey,
    /// All that is so; empty: the record is a tombstone.
    pub resources: Vec<Resource>,
}

/// A statement of the fleet's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootRecord {
    /// What a cluster may speak for.
    Grant(Arc<Grant>),
    /// The fleet policies, all of them: a newer serial replaces every older one.
    Policies {
        /// Grows with every signing.
        serial: u64,
        /// Manifests by file name, as written.
        manifests: Vec<(String, String)>,
    },
    /// Every grant of the cluster below this epoch is void.
    Revocation {
        /// The cluster.
        cluster: ClusterName,
        /// The first epoch that counts.
        epoch: u64,
    },
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.counter)
    }
}

impl fmt::Display for RecordKey {
    /// Writes `slice/node-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordKey::Node(name) => write!(f, "node/{name}"),
            RecordKey::Namespace(name) => write!(f, "namespace/{name}"),
            RecordKey::Slice(node) => write!(f, "slice/{node}"),
            RecordKey::Export(id) => write!(f, "export/{id}"),
            RecordKey::Import(id) => write!(f, "import/{id}"),
            RecordKey::Lease => f.write_str("lease"),
        }
    }
}
