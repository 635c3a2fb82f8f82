//! Signed records: what travels between clusters. The signed bytes are the bytes that travel.
//!
//! An envelope holds a kind, a payload, the signer's key and its signature over `domain ‖ kind ‖ payload`; the payload names
//! the fleet by its root key, so that a record of one fleet is nothing in another. [`open`] checks form and signature only;
//! what a signer may say is decided by [`State`](crate::State).

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::keys::Verifier;
use crate::{ClusterName, Grant, NameError, NamespaceName, ObjectName, PublicKey, Resource, SecretKey, ServiceId};

mod decode;
mod encode;
#[cfg(test)]
mod tests;
mod wire;

/// The size limit of a record of a cluster: a slice of a thousand workloads with long labels fits.
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// The size limit of a root record: fleet policies travel in one.
pub const MAX_ROOT_RECORD_BYTES: usize = 8 << 20;
/// Separates these signatures from every other use of the keys.
const DOMAIN: &[u8] = b"landbridge signed record v1\0";

/// A record's place in its cluster's history: an incarnation is a fencing token, never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Which publisher's life.
    pub incarnation: u64,
    /// Which step of it.
    pub counter: u64,
}

/// What a record of a cluster is about: a newer record with this key replaces all that the older one said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RecordKey {
    /// A node and its link.
    Node(ObjectName),
    /// A namespace.
    Namespace(NamespaceName),
    /// The workloads of one namespace on one node.
    Slice(NamespaceName, ObjectName),
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

/// Why something was not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// A fact of a kind that records do not carry.
    #[error("{fact} is of a kind that records do not carry")]
    Kind {
        /// The fact.
        fact: String,
    },
    /// A grant that names no key.
    #[error("the grant of cluster {cluster} names no key")]
    NoKey {
        /// The cluster.
        cluster: ClusterName,
    },
    /// More than every reader accepts.
    #[error("{len} bytes, {max} are allowed")]
    TooLarge {
        /// The size it would have.
        len: usize,
        /// The limit.
        max: usize,
    },
}

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// More than any record has.
    #[error("{len} bytes, {max} are allowed")]
    TooLarge {
        /// The size.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Not a record's form.
    #[error("not a record: {0}")]
    Form(String),
    /// The signature is not the signer's over these bytes.
    #[error("the signature is not of {signer} over these bytes")]
    Signature {
        /// The key that the envelope names.
        signer: PublicKey,
    },
}

/// Bytes whose form and signature are right, with their contents; whether the signer has a say is another question.
///
/// Only [`open`] and the holder of the key ([`open_own`]) make one and nobody can change it, so that a record that was verified once, on whatever thread, can be given to
/// any number of states as [`Event::Opened`](crate::Event::Opened).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    contents: Contents,
    bytes: Bytes,
}

/// What signed bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The key that signed.
    pub signer: PublicKey,
    /// The root key of the fleet it is for.
    pub fleet: PublicKey,
    /// What is said.
    pub statement: Statement,
    /// SHA-256 over all that is signed: equal statements, equal digests, however the envelope was written.
    pub digest: [u8; 32],
}

impl Opened {
    /// Returns the bytes as they travelled.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the contents, without the proof.
    pub fn into_contents(self) -> Contents {
        self.contents
    }
}

impl Deref for Opened {
    type Target = Contents;
    fn deref(&self) -> &Contents {
        &self.contents
    }
}

/// What a signer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// A cluster's record.
    Record(Record),
    /// A statement for a fleet's root to make.
    Root(RootRecord),
}

impl Record {
    /// Signs the record for the fleet of `root` with the cluster's key; returns the bytes that travel.
    pub fn sign(&self, root: &PublicKey, key: &SecretKey) -> Result<Bytes, SignError> {
        seal(wire::Kind::Record, encode::record(self, root)?.encode_to_vec(), key)
    }
}

impl RootRecord {
    /// Signs the statement with the fleet's root key; returns the bytes that travel.
    pub fn sign(&self, root: &SecretKey) -> Result<Bytes, SignError> {
        let (kind, payload) = encode::root_record(self, &root.public())?;
        seal(kind, payload, root)
    }
}

fn seal(kind: wire::Kind, payload: Vec<u8>, key: &SecretKey) -> Result<Bytes, SignError> {
    let signature = key.sign(&signed(kind, &payload)).to_vec();
    let signer = key.public().as_bytes().to_vec();
    let bytes = wire::Envelope { kind: kind as u32, payload, signer, signature }.encode_to_vec();
    let (len, max) = (bytes.len(), limit(kind));
    if len > max { Err(SignError::TooLarge { len, max }) } else { Ok(bytes.into()) }
}

/// Reads a record and checks its signature against the signer's key inside.
pub fn open(bytes: &Bytes) -> Result<Opened, RecordError> {
    let envelope = Unchecked::read(bytes)?;
    let signer: [u8; 32] = envelope.signer.as_slice().try_into().map_err(|_| form("a public key has 32 bytes"))?;
    let verifier = Verifier::read(&signer).map_err(|error| form(&error.to_string()))?;
    let signature: [u8; 64] = envelope.signature.as_slice().try_into().map_err(|_| form("a signature has 64 bytes"))?;
    let signed = signed(envelope.kind, &envelope.payload);
    if !verifier.verifies(&signed, &signature) {
        return Err(RecordError::Signature { signer: verifier.key() });
    }
    envelope.opened(verifier.key(), &signed, bytes)
}

/// Reads a record that `key` has signed, without checking the signature: whoever holds the key could sign whatever it says.
///
/// # Errors
/// Returns an error where another key is named as the signer, as of a wrong signature, or the bytes are no record.
pub fn open_own(bytes: &Bytes, key: &SecretKey) -> Result<Opened, RecordError> {
    let (envelope, own) = (Unchecked::read(bytes)?, key.public());
    if envelope.signer != own.as_bytes() {
        return Err(RecordError::Signature { signer: own });
    }
    envelope.opened(own, &signed(envelope.kind, &envelope.payload), bytes)
}

fn form(what: &str) -> RecordError {
    RecordError::Form(what.into())
}

/// An envelope of a permitted size, about which nothing is known yet.
struct Unchecked {
    kind: wire::Kind,
    payload: Vec<u8>,
    signer: Vec<u8>,
    signature: Vec<u8>,
}

impl Unchecked {
    fn read(bytes: &Bytes) -> Result<Unchecked, RecordError> {
        let too_large = |max| RecordError::TooLarge { len: bytes.len(), max };
        if bytes.len() > MAX_ROOT_RECORD_BYTES {
            return Err(too_large(MAX_ROOT_RECORD_BYTES));
        }
        let wire::Envelope { kind, payload, signer, signature } =
            wire::Envelope::decode(&bytes[..]).map_err(|_| form("no envelope"))?;
        let kind = wire::Kind::from_number(kind).ok_or_else(|| form("an unknown kind"))?;
        if bytes.len() > limit(kind) {
            return Err(too_large(limit(kind)));
        }
        Ok(Unchecked { kind, payload, signer, signature })
    }

    /// Reads the payload, of which `signer` is known to have signed `signed`.
    fn opened(&self, signer: PublicKey, signed: &[u8], bytes: &Bytes) -> Result<Opened, RecordError> {
        let (fleet, statement) = parse(self.kind, &self.payload).map_err(RecordError::Form)?;
        let contents = Contents { signer, fleet, statement, digest: Sha256::digest(signed).into() };
        Ok(Opened { contents, bytes: bytes.clone() })
    }
}

/// Returns the record in bytes that were opened before.
pub(crate) fn contents(bytes: &[u8]) -> Option<Record> {
    let envelope = wire::Envelope::decode(bytes).ok()?;
    match parse(wire::Kind::from_number(envelope.kind)?, &envelope.payload).ok()? {
        (_, Statement::Record(record)) => Some(record),
        (_, Statement::Root(_)) => None,
    }
}

fn parse(kind: wire::Kind, payload: &[u8]) -> decode::Decoded<(PublicKey, Statement)> {
    fn message<T: Message + Default>(payload: &[u8]) -> decode::Decoded<T> {
        T::decode(payload).map_err(|error| error.to_string())
    }
    let (fleet, root) = match kind {
        wire::Kind::Record => {
            let (fleet, record) = decode::record(message(payload)?)?;
            return Ok((fleet, Statement::Record(record)));
        }
        wire::Kind::Grant => decode::grant(message(payload)?)?,
        wire::Kind::Policies => decode::policies(message(payload)?)?,
        wire::Kind::Revocation => decode::revocation(&message(payload)?)?,
    };
    Ok((fleet, Statement::Root(root)))
}

fn signed(kind: wire::Kind, payload: &[u8]) -> Vec<u8> {
    [DOMAIN, &(kind as u32).to_be_bytes(), payload].concat()
}

fn limit(kind: wire::Kind) -> usize {
    if kind == wire::Kind::Record { MAX_RECORD_BYTES } else { MAX_ROOT_RECORD_BYTES }
}

impl fmt::Display for Statement {
    /// Writes `east slice/shop/node-1`, or `grant of east`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Record(record) => write!(f, "{} {}", record.cluster, record.key),
            Statement::Root(RootRecord::Grant(grant)) => write!(f, "grant of {}", grant.cluster),
            Statement::Root(RootRecord::Policies { serial, .. }) => write!(f, "fleet policies {serial}"),
            Statement::Root(RootRecord::Revocation { cluster, epoch }) => {
                write!(f, "revocation of {cluster} below epoch {epoch}")
            }
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.counter)
    }
}

impl fmt::Display for RecordKey {
    /// Writes `slice/shop/node-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordKey::Node(name) => write!(f, "node/{name}"),
            RecordKey::Namespace(name) => write!(f, "namespace/{name}"),
            RecordKey::Slice(namespace, node) => write!(f, "slice/{namespace}/{node}"),
            RecordKey::Export(id) => write!(f, "export/{id}"),
            RecordKey::Import(id) => write!(f, "import/{id}"),
            RecordKey::Lease => f.write_str("lease"),
        }
    }
}

impl FromStr for RecordKey {
    type Err = NameError;
    fn from_str(text: &str) -> Result<RecordKey, NameError> {
        let parts = || NameError::Parts { text: text.into(), form: "kind/name" };
        if text == "lease" {
            return Ok(RecordKey::Lease);
        }
        let (kind, name) = text.split_once('/').ok_or_else(parts)?;
        Ok(match kind {
            "node" => RecordKey::Node(name.parse()?),
            "namespace" => RecordKey::Namespace(name.parse()?),
            "slice" => {
                let (namespace, node) = name.split_once('/').ok_or_else(parts)?;
                RecordKey::Slice(namespace.parse()?, node.parse()?)
            }
            "export" => RecordKey::Export(name.parse()?),
            "import" => RecordKey::Import(name.parse()?),
            _ => return Err(parts()),
        })
    }
}

impl TryFrom<String> for RecordKey {
    type Error = NameError;
    fn try_from(text: String) -> Result<RecordKey, NameError> {
        text.parse()
    }
}

impl From<RecordKey> for String {
    fn from(key: RecordKey) -> String {
        key.to_string()
    }
}
