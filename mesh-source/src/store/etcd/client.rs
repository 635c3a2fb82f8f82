//! Calls to an etcd of several members, tried in turn.

use std::error::Error as _;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::messages::{
    LeaseGrantRequest, LeaseRequest, LeaseResponse, LeaseRevokeResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
    WatchRequest, WatchResponse,
};
use super::{EtcdConfig, EtcdConfigError};

/// How long one member is given to answer: a healthy one takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it is given for a sign of life of a lease: two members must fit into a third of the lease.
const LEASE_PATIENCE: Duration = Duration::from_secs(1);
/// The largest answer that is read; a listing is asked for in smaller pages where this is not enough.
const MAX_ANSWER: usize = 64 << 20;

/// A call to one member.
type Calling<A> = Pin<Box<dyn Future<Output = Result<A, Status>> + Send>>;

/// The members of an etcd.
pub(super) struct Client {
    members: Vec<(String, Channel)>,
    /// The member that answered last.
    current: AtomicUsize,
    name: String,
}

/// Why etcd did not do what it was asked, after every member was tried that could have.
#[derive(Debug)]
pub(super) struct Error {
    member: String,
    status: Status,
}

impl Client {
    pub(super) fn new(config: &EtcdConfig) -> Result<Client, EtcdConfigError> {
        if config.endpoints.is_empty() {
            return Err(EtcdConfigError::NoEndpoint);
        }
        let members = config.endpoints.iter().map(|endpoint| Ok((endpoint.clone(), connect(config, endpoint)?)));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        let name = format!("etcd {}", config.endpoints.join(","));
        Ok(Client { members, current: AtomicUsize::new(0), name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.call("/etcdserverpb.KV/Range", request).await
    }

    pub(super) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        self.call("/etcdserverpb.KV/Txn", request).await
    }

    pub(super) async fn grant(&self, request: LeaseGrantRequest) -> Result<LeaseResponse, Error> {
        self.call("/etcdserverpb.Lease/LeaseGrant", request).await
    }

    pub(super) async fn revoke(&self, lease: i64) -> Result<(), Error> {
        let request = LeaseRequest { id: lease };
        self.call::<_, LeaseRevokeResponse>("/etcdserverpb.Lease/LeaseRevoke", request).await.map(drop)
    }

    /// Keeps a lease alive once; returns how many seconds it has left then, 0 where it is over.
    pub(super) async fn keep_alive(&self, lease: i64) -> Result<i64, Error> {
        let call = |mut grpc: Grpc<Channel>| -> Calling<i64> {
            Box::pin(async move {
                let request = with_leader(Request::new(tokio_stream::once(LeaseRequest { id: lease })));
                let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
                let answer = grpc.streaming(request, path, ProstCodec::<LeaseRequest, LeaseResponse>::default()).await?;
                let answer = answer.into_inner().message().await?;
                answer.map(|answer| answer.ttl).ok_or_else(|| Status::unavailable("the member said nothing"))
            })
        };
        self.try_in_turn(LEASE_PATIENCE, call).await
    }

    /// Opens a stream of watches on the member that answered last; the requests that wait in `requests` are sent at once.
    pub(super) async fn watch(&self, requests: UnboundedReceiver<WatchRequest>) -> Result<Stream, Error> {
        let (member, channel) = &self.members[self.current.load(Ordering::Relaxed) % self.members.len()];
        let open = async {
            let mut grpc = ready(channel).await?;
            let request = with_leader(Request::new(UnboundedReceiverStream::new(requests)));
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            grpc.streaming(request, path, ProstCodec::<WatchRequest, WatchResponse>::default()).await
        };
        let opened = timeout(PATIENCE, open).await.unwrap_or_else(|_| Err(silent(PATIENCE)));
        let answers = opened.map_err(|status| Error { member: member.clone(), status })?.into_inner();
        Ok(Stream { member: member.clone(), answers })
    }

    /// Turns to the next member, where the one that answered last ended a stream.
    pub(super) fn turn(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let call = |mut grpc: Grpc<Channel>| -> Calling<A> {
            let request = Request::new(request.clone());
            Box::pin(async move {
                let answer = grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, A>::default()).await;
                answer.map(tonic::Response::into_inner)
            })
        };
        self.try_in_turn(PATIENCE, call).await
    }

    /// Calls the members in turn, until one answers or says that no other will do it either.
    async fn try_in_turn<A>(
        &self,
        patience: Duration,
        call: impl Fn(Grpc<Channel>) -> Calling<A> + Send + Sync,
    ) -> Result<A, Error> {
        let first = self.current.load(Ordering::Relaxed);
        let mut tried = 0;
        loop {
            let index = (first + tried) % self.members.len();
            let (member, channel) = &self.members[index];
            let one = async { call(ready(channel).await?).await };
            let status = match timeout(patience, one).await.unwrap_or_else(|_| Err(silent(patience))) {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(status) => status,
            };
            tried += 1;
            let elsewhere = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown);
            if !elsewhere || tried == self.members.len() {
                return Err(Error { member: member.clone(), status });
            }
        }
    }
}

/// What a member says about watches.
pub(super) struct Stream {
    member: String,
    answers: Streaming<WatchResponse>,
}

impl Stream {
    /// Returns the next answer. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<WatchResponse, Error> {
        match self.answers.message().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.broken("it ended the stream")),
            Err(status) => Err(Error { member: self.member.clone(), status }),
        }
    }

    /// Makes the error of a stream that is of no use any more.
    pub(super) fn broken(&self, why: &str) -> Error {
        Error { member: self.member.clone(), status: Status::unavailable(why) }
    }
}

fn connect(config: &EtcdConfig, endpoint: &str) -> Result<Channel, EtcdConfigError> {
    let wrong = |reason: &str| EtcdConfigError::Endpoint { endpoint: endpoint.to_owned(), reason: reason.to_owned() };
    let secure = endpoint.starts_with("https://");
    if secure != config.tls.is_some() {
        let reason = if secure { "https:// needs ca, certificate and key" } else { "with certificates it begins with https://" };
        return Err(wrong(reason));
    }
    let mut member = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| wrong(&error.to_string()))?;
    if let Some(tls) = &config.tls {
        let identity = Identity::from_pem(&tls.certificate, &tls.key);
        let settings = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca)).identity(identity);
        member = member.tls_config(settings).map_err(|error| EtcdConfigError::Tls(chain(&error)))?;
    }
    // A member that is asked for signs of life more often than every 5 s hangs up.
    let member = member.connect_timeout(PATIENCE).http2_keep_alive_interval(Duration::from_secs(6));
    Ok(member.keep_alive_timeout(Duration::from_secs(3)).keep_alive_while_idle(false).connect_lazy())
}

async fn ready(channel: &Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
    Ok(grpc)
}

/// A member that has lost its leader ends the stream, instead of being silent.
fn with_leader<T>(mut request: Request<T>) -> Request<T> {
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

fn silent(patience: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {} s", patience.as_secs()))
}

/// An error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl Error {
    /// Tells whether the answer was larger than is read.
    pub(super) fn is_too_much(&self) -> bool {
        matches!(self.status.code(), Code::OutOfRange | Code::ResourceExhausted) && self.status.message().contains("too large")
    }

    /// Tells whether the history that was asked for is not there: compacted, or not written yet.
    pub(super) fn is_other_history(&self) -> bool {
        self.status.code() == Code::OutOfRange && self.status.message().contains("revision")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.status.message();
        if message.contains("database space exceeded") {
            return f.write_str(
                "NOSPACE: its quota is used up and it takes no writes; compact and defragment it (`etcdctl compact`, `etcdctl \
                 defrag`), then `etcdctl alarm disarm`, or give it a larger --quota-backend-bytes",
            );
        }
        if message.contains("request is too large") {
            return f.write_str("it takes no record of this size; give every member a larger --max-request-bytes");
        }
        write!(f, "{}: {message}", self.member)?;
        match self.status.source() {
            Some(source) if !message.contains(&source.to_string()) => write!(f, ": {}", chain(source)),
            _ => Ok(()),
        }
    }
}
