//! The requests of the page, all under `/work/`; see `docs/schemas/browser.md`.

use super::work::{Refusal, Work};
use super::{BrowserError, Hello};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use haikuq_serve::policy::text;
use serde::Deserialize;
use std::sync::Arc;

/// Header that carries the page's token.
const TOKEN: &str = "x-haikuq-token";

/// Bytes of rows in one request, at most.
const MAX_BODY: usize = 32 << 20;

/// Adds the page's requests to the server's routes; any request at all shows that the page lives.
pub(super) fn add(router: Router, work: Arc<Work>, token: String) -> Router {
    let routes = Router::new()
        .route("/work/job", get(job))
        .route("/work/hello", post(hello))
        .route("/work/next", get(next))
        .route("/work/rows", post(rows))
        .route("/work/finish", post(finish))
        .route("/work/greedy", post(greedy))
        .route("/work/error", post(error))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state::<_, _, (State<Arc<str>>, Request)>(token.into(), check_token))
        .with_state(work.clone());
    router.merge(routes).layer(from_fn_with_state(work, note_request))
}

async fn note_request(State(work): State<Arc<Work>>, request: Request, next: Next) -> Response {
    work.touch();
    next.run(request).await
}

/// Only the page that this program opened knows the token; another page in the same browser cannot send such a header
/// without asking first.
async fn check_token(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(TOKEN).map(HeaderValue::as_bytes);
    if given != Some(token.as_bytes()) {
        return text(StatusCode::FORBIDDEN, format_args!("the header {TOKEN} is missing or not this validation's"));
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Conflict(why) => text(StatusCode::CONFLICT, why),
            Self::Bad(why) => text(StatusCode::BAD_REQUEST, why),
        }
    }
}

#[derive(Deserialize)]
struct JobId {
    id: u64,
}

#[derive(Deserialize)]
struct Rows {
    id: u64,
    first: usize,
}

#[derive(Deserialize)]
struct Generated {
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct PageError {
    code: String,
    message: String,
}

async fn job(State(work): State<Arc<Work>>) -> Response {
    Json(work.assignment()).into_response()
}

async fn hello(State(work): State<Arc<Work>>, Json(hello): Json<Hello>) -> Result<StatusCode, Refusal> {
    work.hello(hello).await.map(|()| StatusCode::NO_CONTENT)
}

async fn next(State(work): State<Arc<Work>>) -> Result<Response, Refusal> {
    Ok(match work.next().await? {
        Some(next) => Json(next).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

async fn rows(State(work): State<Arc<Work>>, Query(rows): Query<Rows>, body: Bytes) -> Result<StatusCode, Refusal> {
    work.rows(rows.id, rows.first, body).await.map(|()| StatusCode::NO_CONTENT)
}

async fn finish(State(work): State<Arc<Work>>, Query(job): Query<JobId>) -> Result<StatusCode, Refusal> {
    work.finish(job.id).await.map(|()| StatusCode::NO_CONTENT)
}

async fn greedy(
    State(work): State<Arc<Work>>,
    Query(job): Query<JobId>,
    Json(generated): Json<Generated>,
) -> Result<StatusCode, Refusal> {
    work.generated(job.id, generated.ids).await.map(|()| StatusCode::NO_CONTENT)
}

async fn error(State(work): State<Arc<Work>>, Json(error): Json<PageError>) -> Result<StatusCode, Refusal> {
    let PageError { code, message } = error;
    work.fail(BrowserError::Page { code, message }).await.map(|()| StatusCode::NO_CONTENT)
}
