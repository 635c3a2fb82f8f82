//! A client of the agent's local API.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("{}: {source}\n  is mesh-agent running on this node, and is this its `socket`? (--socket FILE)", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The conversation broke off.
    #[error("the agent broke off: {0}")]
    Http(#[from] hyper::Error),
    /// An answer that is no answer of this version's.
    #[error("the agent's answer cannot be read: {0}")]
    Decode(#[from] serde_json::Error),
    /// The agent said no.
    #[error("the agent answers {status} to {path}")]
    Status {
        /// HTTP's status.
        status: StatusCode,
        /// What was asked.
        path: String,
    },
    /// The agent says why it cannot answer.
    #[error("{0}")]
    Words(String),
}

/// Asks one agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Makes a client of the agent behind `socket`.
    pub fn new(socket: &Path) -> Client {
        Client { socket: socket.into() }
    }

    async fn get(&self, path: &str) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|source| ClientError::Connect { path: self.socket.clone(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "agent").body(Empty::<Bytes>::new()).expect("paths here are valid");
        Ok(sender.send_request(request).await?)
    }

    /// Asks for a JSON document; 503 (not ready) has one as well.
    pub async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.get(path).await?;
        let status = response.status();
        let is_text = response.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() && is_text && !body.is_empty() {
            return Err(ClientError::Words(String::from_utf8_lossy(&body).into_owned()));
        }
        if !status.is_success() && status != StatusCode::SERVICE_UNAVAILABLE {
            return Err(ClientError::Status { status, path: path.into() });
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// Asks for text.
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let body = self.get(path).await?.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Hands each line of a streamed answer to `line`, until the stream ends or `line` returns false.
    pub async fn lines(&self, path: &str, mut line: impl FnMut(&str) -> bool) -> Result<(), ClientError> {
        let mut body = self.get(path).await?.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let rest = pending.split_off(end + 1);
                let whole = std::mem::replace(&mut pending, rest);
                if !line(String::from_utf8_lossy(&whole).trim_end()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
