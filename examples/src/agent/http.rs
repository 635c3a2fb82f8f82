//! The local API: a Unix socket that only the agent's own user may open.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::stream::{self, Stream, StreamExt};
use mesh_core::FlowRecord;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::broadcast::error::RecvError;

use super::view::Shared;

/// Opens the socket, also where an agent that was killed left one behind.
///
/// A socket on which somebody still answers is another agent's: that is an error.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent answers on this socket"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until `shutdown` is done.
pub async fn serve(
    listener: UnixListener,
    shared: Arc<Shared>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/health", get(health))
        .route("/status", get(async |State(shared): State<Arc<Shared>>| Json(shared.view().status.clone())))
        .route("/peers", get(async |State(shared): State<Arc<Shared>>| Json(shared.view().peers.clone())))
        .route("/state", get(async |State(shared): State<Arc<Shared>>| Json(shared.view().state.clone())))
        .route("/flows", get(flows))
        .route("/metrics", get(metrics))
        .with_state(shared);
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let health = shared.view().status.health.clone();
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], shared.metrics.encode(&shared.view())).into_response()
}

#[derive(Deserialize)]
struct FlowQuery {
    #[serde(default = "default_limit")]
    limit: usize,
    #[serde(default)]
    follow: bool,
}

fn default_limit() -> usize {
    100
}

async fn flows(State(shared): State<Arc<Shared>>, Query(query): Query<FlowQuery>) -> Response {
    let (latest, coming) = shared.flows.latest_and_stream(query.limit);
    let latest = stream::iter(latest).map(|record| line(&record));
    let body = if query.follow { Body::from_stream(latest.chain(follow(coming))) } else { Body::from_stream(latest) };
    ([(header::CONTENT_TYPE, "application/jsonl")], body).into_response()
}

fn line(record: &FlowRecord) -> io::Result<String> {
    serde_json::to_string(record).map(|json| json + "\n").map_err(io::Error::other)
}

fn follow(coming: tokio::sync::broadcast::Receiver<FlowRecord>) -> impl Stream<Item = io::Result<String>> {
    stream::unfold(coming, async |mut coming| match coming.recv().await {
        Ok(record) => Some((line(&record), coming)),
        Err(RecvError::Lagged(lost)) => Some((Ok(format!("{{\"lost\":{lost}}}\n")), coming)),
        Err(RecvError::Closed) => None,
    })
}
