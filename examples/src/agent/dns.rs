//! `GET /dns`: what this node's DNS server answers, asked without a socket of its own.

use axum::Json;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mesh_discovery::{Answer, QueryError, ServerHandle};
use serde::Deserialize;

/// A question about a name.
#[derive(Debug, Deserialize)]
pub struct Asked {
    /// Absolute, with or without the final dot.
    name: String,
    /// The record type.
    #[serde(rename = "type", default = "address")]
    rtype: String,
}

fn address() -> String {
    "A".into()
}

/// Answers a question; `server` is missing where the agent serves no DNS. What cannot be answered is told in words.
pub async fn answer(server: Option<ServerHandle>, Query(asked): Query<Asked>) -> Response {
    let Some(server) = server else {
        let words = "this agent answers no DNS: there is no `dns.listen` in its configuration";
        return (StatusCode::NOT_FOUND, words).into_response();
    };
    match server.ask(&asked.name, &asked.rtype).await {
        Ok(message) => match Answer::read(&message) {
            Ok(answer) => Json(answer).into_response(),
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        },
        Err(error @ (QueryError::Name(_) | QueryError::Type(_))) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        Err(error) => (StatusCode::GATEWAY_TIMEOUT, error.to_string()).into_response(),
    }
}
