//! OpenAI's HTTP interface to packages that run on this machine's GPU, so that any client of it tries a package.
//!
//! | path | |
//! | --- | --- |
//! | `GET /v1/models`, `GET /v1/models/NAME` | the packages |
//! | `POST /v1/chat/completions` | answers, streamed or whole, with tools |
//! | `POST /v1/completions` | texts that go on from a prompt |
//!
//! Requests are written together: one joins the others at their next step. Parameters that are unknown or that nothing here does
//! are refused by name; those whose value changes nothing are accepted. [`Engine`] has a package's decoder on a thread of its own.

mod answer;
mod chat;
mod completions;
mod demanded;
mod engine;
mod error;
mod parameters;
mod respond;

pub use engine::{Engine, EngineError, LoadDecoder};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use error::ApiError;
use serde_json::{Value, json};
use std::sync::Arc;

/// Largest request that is read: long conversations, no pictures.
const MAX_REQUEST: usize = 16 << 20;

type Engines = Arc<Vec<Engine>>;

/// The routes for these packages.
pub fn router(engines: Vec<Engine>) -> Router {
    let missing = || async { ApiError::no_path().into_response() };
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(text_completions))
        .route("/v1/{*path}", get(missing).post(missing))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(Arc::new(engines))
}

async fn models(State(engines): State<Engines>) -> Json<Value> {
    Json(json!({ "object": "list", "data": engines.iter().map(card).collect::<Vec<_>>() }))
}

async fn model(State(engines): State<Engines>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(card(find(&engines, &name)?)))
}

fn card(engine: &Engine) -> Value {
    json!({ "id": engine.name(), "object": "model", "created": engine.created(), "owned_by": "haikuq" })
}

fn find<'a>(engines: &'a [Engine], name: &str) -> Result<&'a Engine, ApiError> {
    engines.iter().find(|engine| engine.name() == name).ok_or_else(|| {
        let names = engines.iter().map(|engine| engine.name()).collect::<Vec<_>>();
        ApiError::no_model(name, &names)
    })
}

async fn chat_completions(State(engines): State<Engines>, body: Bytes) -> Result<Response, ApiError> {
    chat::answer(&engines, &body).await
}

async fn text_completions(State(engines): State<Engines>, body: Bytes) -> Result<Response, ApiError> {
    completions::answer(&engines, &body).await
}
