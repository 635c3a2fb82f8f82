//! Questions to the running server without a socket: what `meshctl dns query` asks over the API.

use std::sync::Arc;
use std::time::Duration;

use domain::base::MessageBuilder;
use domain::base::iana::Rtype;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::{Client, Local, Shared};
use crate::name;
use crate::resolver::Handled;
use crate::wire::Transport;
use crate::zone::Zone;

/// How long a question may take: longer than all upstreams together have by default.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a running server, as a client on TCP would: from the zone, from the cache, and from the upstreams.
#[derive(Clone)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    zone: watch::Receiver<Arc<Zone>>,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not a DNS name.
    #[error("'{0}' is not a DNS name")]
    Name(String),
    /// Not a record type that can be asked for.
    #[error("'{0}' is not a DNS record type")]
    Type(String),
    /// The message is not a query.
    #[error("the message is not a DNS query, which nobody answers")]
    NoQuery,
    /// The upstreams did not answer in 10 seconds, or the server stopped.
    #[error("no answer within 10 seconds: the server is not running, or its upstreams are silent")]
    NoAnswer,
}

impl ServerHandle {
    pub(super) fn new(shared: Arc<Shared>, zone: watch::Receiver<Arc<Zone>>) -> ServerHandle {
        ServerHandle { shared, zone }
    }

    /// Answers a query message (RFC 1035 §4.1, without a length in front). The answer is never truncated.
    pub async fn query(&self, message: &[u8]) -> Result<Vec<u8>, QueryError> {
        let mut local = Local { responder: self.shared.resolver().own_responder(), zone: self.zone.clone() };
        local.zone.mark_changed();
        local.refresh();
        let mut reply = Vec::new();
        match local.responder.answer(message, Transport::Tcp, &mut reply) {
            Handled::Answer => return Ok(reply),
            Handled::Drop => return Err(QueryError::NoQuery),
            Handled::Forward => {}
        }
        let (asker, answer) = oneshot::channel();
        match self.shared.handle(message, Transport::Tcp, || Client::Api(asker)) {
            Some(ready) => Ok(ready),
            None => timeout(PATIENCE, answer).await.ok().and_then(Result::ok).ok_or(QueryError::NoAnswer),
        }
    }

    /// Asks for the records of a type (`A`, `SRV`, `TYPE65`, …) at an absolute name, with or without the final dot; returns the
    /// answer's message.
    pub async fn ask(&self, name: &str, rtype: &str) -> Result<Vec<u8>, QueryError> {
        let qname = name::parse(name).ok_or_else(|| QueryError::Name(name.into()))?;
        let qtype: Rtype = rtype.to_ascii_uppercase().parse().map_err(|_| QueryError::Type(rtype.into()))?;
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message.push((&qname, qtype)).expect("a vector has room for one question");
        self.query(&message.finish()).await
    }
}
