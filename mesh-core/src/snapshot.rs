//! The last known state for the disk: what was signed and accepted, the highest versions seen, the proofs of equivocation.
//!
//! A snapshot makes a restart fail static and keeps a replayed old record refused. The signed bytes are in it as they
//! travelled, and are verified again when it is read; the checksum finds what a disk does to bytes, not what a person does.
//! Plain facts are not in it: their sources are read again.
//!
//! ```text
//! "LBSNAP" | format version, u16 | SHA-256 of the body | body, protobuf
//! ```

use prost::Message;
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 6] = b"LBSNAP";
/// The format that this version writes, and the only one that it reads.
pub const FORMAT_VERSION: u16 = 1;
const HEADER: usize = MAGIC.len() + 2 + 32;

/// Why bytes are no snapshot for this state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Too short, or another kind of file.
    #[error("not a snapshot")]
    Header,
    /// Written by another version.
    #[error("the snapshot has format {found}, this version reads {FORMAT_VERSION}")]
    Version {
        /// The format that it names.
        found: u16,
    },
    /// The body is not what was written.
    #[error("the snapshot is corrupt: its checksum does not match")]
    Checksum,
    /// A body that no writer of this format writes.
    #[error("the snapshot's body is not understood")]
    Body,
    /// It is of another fleet.
    #[error("the snapshot is of another fleet")]
    ForeignFleet,
    /// The state trusts no root, so there is nothing to restore.
    #[error("no fleet is configured")]
    NoFleet,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Body {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) fleet: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) evidence: Vec<Evidence>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) root: Vec<bytes::Bytes>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) records: Vec<Kept>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Kept {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) bytes: bytes::Bytes,
    #[prost(bool, tag = "2")]
    pub(crate) disputed: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Evidence {
    /// The second of the two records.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) bytes: bytes::Bytes,
    /// The digest of the first.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) digest: Vec<u8>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) epoch: Option<u64>,
}

/// Returns the snapshot with `body`.
pub(crate) fn seal(body: &Body) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.encoded_len());
    bytes.resize(HEADER, 0);
    body.encode(&mut bytes).expect("a vector has room");
    let digest = Sha256::digest(&bytes[HEADER..]);
    bytes[..HEADER].copy_from_slice(&[&MAGIC[..], &FORMAT_VERSION.to_be_bytes(), &digest].concat());
    bytes
}

/// Returns the body of a snapshot whose checksum matches.
pub(crate) fn open(bytes: &[u8]) -> Result<Body, SnapshotError> {
    let header = bytes.get(..HEADER).filter(|header| header.starts_with(MAGIC)).ok_or(SnapshotError::Header)?;
    let found = u16::from_be_bytes([header[6], header[7]]);
    if found != FORMAT_VERSION {
        return Err(SnapshotError::Version { found });
    }
    if header[8..] != *Sha256::digest(&bytes[HEADER..]) {
        return Err(SnapshotError::Checksum);
    }
    Body::decode(&bytes[HEADER..]).map_err(|_| SnapshotError::Body)
}
