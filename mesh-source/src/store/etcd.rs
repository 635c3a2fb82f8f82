//! A store in etcd: its v3 API over gRPC, with TLS and client certificates.
//!
//! ```text
//!   <prefix>/records/east/node__n1.rec    the records, each under its path
//!   <prefix>/claims/east                  who has the say over east's records, for as long as its lease lives
//!   <prefix>/incarnations/east            the last incarnation that was handed out
//! ```
//!
//! A put under a claim is a transaction that compares the lease of the claim's key, so that a publisher that was paused for too
//! long changes nothing any more. etcd 3.4 or later.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use mesh_core::{Bytes, ClusterName};
use tokio::sync::watch;

use self::client::{Client, Error};
use self::messages::{Compare, KeyValue, RangeRequest, RequestOp, TxnRequest};
use super::{Claim, ClaimError, Following, Interest, RecordPath, Store, StoreError, check_size};

mod claim;
mod client;
mod follow;
mod messages;

/// Records of at most this many keys are asked for at once.
const PAGE: i64 = 512;

/// Where an etcd is, and how this process proves who it is.
#[derive(Clone)]
pub struct EtcdConfig {
    /// The members' client URLs, `https://…` or, without the certificates, `http://…`; tried in turn.
    pub endpoints: Vec<String>,
    /// Where the fleet's keys begin: several fleets may share an etcd.
    pub prefix: String,
    /// The certificates, as PEM; none for an etcd without TLS.
    pub tls: Option<EtcdTls>,
}

/// Certificates and a key, as PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// Who signs the certificates of the members.
    pub ca: Vec<u8>,
    /// This process's certificate.
    pub certificate: Vec<u8>,
    /// The certificate's secret key.
    pub key: Vec<u8>,
}

/// Why an etcd cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum EtcdConfigError {
    /// There is no endpoint.
    #[error("endpoints: name at least one member, as https://HOST:2379")]
    NoEndpoint,
    /// An endpoint is no URL, or its scheme and the certificates do not fit each other.
    #[error("endpoints: {endpoint}: {reason}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificates cannot be used.
    #[error("certificates: {0}")]
    Tls(String),
}

/// A store in etcd; its clones share their connections.
#[derive(Clone)]
pub struct EtcdStore {
    client: Arc<Client>,
    keys: Keys,
}

/// Where things are in etcd.
#[derive(Clone, Debug)]
struct Keys {
    records: String,
    claims: String,
    incarnations: String,
}

impl EtcdStore {
    /// Makes the store of an etcd, which need not be there yet: it is connected to when it is needed.
    ///
    /// # Errors
    /// Returns an error where the endpoints or certificates cannot be used.
    ///
    /// # Panics
    /// Panics outside of a tokio runtime.
    pub fn new(config: &EtcdConfig) -> Result<EtcdStore, EtcdConfigError> {
        let prefix = config.prefix.trim_end_matches('/');
        let keys = Keys {
            records: format!("{prefix}/records/"),
            claims: format!("{prefix}/claims/"),
            incarnations: format!("{prefix}/incarnations/"),
        };
        Ok(EtcdStore { client: Arc::new(Client::new(config)?), keys })
    }

    fn service(&self, error: &Error) -> StoreError {
        StoreError::Service { store: self.client.name().to_owned(), reason: error.to_string() }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn put(&self, path: &RecordPath, bytes: Bytes, claim: Option<&Claim>) -> Result<(), StoreError> {
        check_size(path, &bytes)?;
        if let Some(claim) = claim.filter(|claim| !claim.is_held()) {
            return Err(claim.lost());
        }
        let compare = claim.map(|claim| Compare::leased(self.keys.claim(claim.cluster()), claim.fence()));
        let txn = TxnRequest {
            compare: compare.into_iter().collect(),
            success: vec![RequestOp::put(self.keys.record(path), bytes, 0)],
            failure: Vec::new(),
        };
        let done = self.client.txn(txn).await.map_err(|error| self.service(&error))?;
        match claim {
            Some(claim) if !done.succeeded => Err(claim.lost()),
            _ => Ok(()),
        }
    }

    async fn get(&self, path: &RecordPath) -> Result<Option<Bytes>, StoreError> {
        let range = RangeRequest { key: self.keys.record(path).into(), ..RangeRequest::default() };
        let found = self.client.range(range).await.map_err(|error| self.service(&error))?;
        let Some(found) = found.kvs.into_iter().next() else { return Ok(None) };
        check_size(path, &found.value)?;
        Ok(Some(found.value))
    }

    async fn list(&self) -> Result<Vec<RecordPath>, StoreError> {
        let listed = self.client.list(&self.keys.records, true).await.map_err(|error| self.service(&error))?;
        Ok(listed.kvs.iter().filter_map(|kv| self.keys.path(&kv.key)).collect())
    }

    async fn remove(&self, path: &RecordPath) -> Result<(), StoreError> {
        let delete = RequestOp::delete(self.keys.record(path));
        let txn = TxnRequest { success: vec![delete], ..TxnRequest::default() };
        self.client.txn(txn).await.map(drop).map_err(|error| self.service(&error))
    }

    fn follow(&self, interest: watch::Receiver<Interest>) -> Following {
        let (client, keys) = (self.client.clone(), self.keys.clone());
        Following::start(move |teller| follow::Follower::new(client, keys, interest, teller).run())
    }

    async fn claim(&self, cluster: &ClusterName, holder: &str, floor: u64) -> Result<Claim, ClaimError> {
        claim::claim(self, cluster, holder, floor).await
    }
}

impl Keys {
    fn record(&self, path: &RecordPath) -> String {
        format!("{}{path}", self.records)
    }

    fn claim(&self, cluster: &ClusterName) -> String {
        format!("{}{cluster}", self.claims)
    }

    fn incarnation(&self, cluster: &ClusterName) -> String {
        format!("{}{cluster}", self.incarnations)
    }

    /// Returns the path of a record's key; `None` for any other key.
    fn path(&self, key: &[u8]) -> Option<RecordPath> {
        RecordPath::parse(std::str::from_utf8(key).ok()?.strip_prefix(&self.records)?)
    }
}

/// What a listing found, all of it as of one revision.
struct Listed {
    kvs: Vec<KeyValue>,
    revision: i64,
    cluster_id: u64,
}

impl Client {
    /// Lists every key that begins with `prefix`, in pages that fit into a message.
    async fn list(&self, prefix: &str, keys_only: bool) -> Result<Listed, Error> {
        let (end, mut key) = (messages::end_of(prefix), Bytes::copy_from_slice(prefix.as_bytes()));
        let (mut listed, mut limit) = (Listed { kvs: Vec::new(), revision: 0, cluster_id: 0 }, PAGE);
        loop {
            let range = RangeRequest { key: key.clone(), range_end: end.clone(), limit, revision: listed.revision, keys_only };
            let page = match self.range(range).await {
                Err(error) if error.is_too_much() && limit > 1 => {
                    limit = (limit / 8).max(1);
                    continue;
                }
                page => page?,
            };
            if let Some(header) = page.header.filter(|_| listed.revision == 0) {
                (listed.revision, listed.cluster_id) = (header.revision, header.cluster_id);
            }
            if let Some(last) = page.kvs.last().filter(|_| page.more) {
                key = [&last.key, b"\0".as_slice()].concat().into();
            }
            let more = page.more && !page.kvs.is_empty();
            listed.kvs.extend(page.kvs);
            if !more {
                return Ok(listed);
            }
        }
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdStore({}, {})", self.client.name(), self.keys.records)
    }
}

impl fmt::Debug for EtcdConfig {
    /// Leaves out the certificates, one of which comes with a secret key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig").field("endpoints", &self.endpoints).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
