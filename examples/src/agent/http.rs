//! The local API: a Unix socket that only the agent's own user may open.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::stream::{self, Stream, StreamExt};
use mesh_core::{FlowRecord, ServiceId};
use mesh_discovery::ServerHandle;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};

use super::dns;
use super::view::Shared;
use crate::api::ServiceTraffic;

/// Opens the socket, also where an agent that was killed left one behind.
///
/// A socket on which somebody still answers is another agent's: that is an error.
pub fn bind(path: &std::path::Path) -> io::Result<UnixListener> {
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
    questions: mpsc::Sender<Question>,
    names: Option<ServerHandle>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/health", get(health))
        .route("/status", get(async |State(shared): State<Arc<Shared>>| Json(shared.view().status.clone())))
        .route("/peers", get(async |State(shared): State<Arc<Shared>>| Json(shared.view().peers.clone())))
        .route("/state", get(async |State(shared): State<Arc<Shared>>| Json(shared.view().state.clone())))
        .route("/services/{namespace}/{name}", get(move |Path(id): Path<(String, String)>| service(questions, id)))
        .route("/dns", get(move |asked| dns::answer(names.clone(), asked)))
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

/// Who takes the connections to a service: asked of the control loop, with where to answer.
pub type Question = (ServiceId, oneshot::Sender<Option<ServiceTraffic>>);

async fn service(questions: mpsc::Sender<Question>, (namespace, name): (String, String)) -> Response {
    let Ok(id) = format!("{namespace}/{name}").parse() else { return StatusCode::NOT_FOUND.into_response() };
    let (reply, answer) = oneshot::channel();
    if questions.send((id, reply)).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match answer.await {
        Ok(Some(traffic)) => Json(traffic).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
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
