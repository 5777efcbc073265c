//! [`ApiError`]: errors in the shape of OpenAI's.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub(super) status: StatusCode,
    pub(super) message: String,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, message: String) -> Self {
        Self { status, message, param: None, code: None }
    }

    /// A parameter with a value that it cannot have.
    pub(super) fn invalid(param: &str, why: &str) -> Self {
        let message = format!("{param}: {why}");
        Self { param: Some(param.into()), code: Some("invalid_value"), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// A parameter that OpenAI has and this server does nothing with.
    pub(super) fn unsupported(param: &str, why: &str) -> Self {
        let message = format!("{param} is not supported here{why}: leave it out");
        Self { param: Some(param.into()), code: Some("unsupported_parameter"), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// A parameter that nobody knows.
    pub(super) fn unknown(param: &str) -> Self {
        let message = format!("{param} is no parameter of this request");
        Self { param: Some(param.into()), code: Some("unknown_parameter"), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// A request that cannot be read.
    pub(super) fn malformed(why: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("the request is no JSON object: {why}"))
    }

    /// A prompt that leaves no room for an answer.
    pub(super) fn too_long(message: String) -> Self {
        let param = Some("messages".into());
        Self { param, code: Some("context_length_exceeded"), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// Something that the model's files do not allow.
    pub(super) fn refused(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The engine failed.
    pub(super) fn failed(message: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The engine is gone.
    pub(super) fn gone(message: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    pub(super) fn no_model(name: &str, names: &[&str]) -> Self {
        let message = format!("there is no model {name:?} here, but {}", names.join(", "));
        Self { param: Some("model".into()), code: Some("model_not_found"), ..Self::new(StatusCode::NOT_FOUND, message) }
    }

    pub(super) fn no_path() -> Self {
        let message = "this server has /v1/models, /v1/chat/completions and /v1/completions".into();
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The object that clients read; part of a stream that fails as well.
    pub(super) fn to_json(&self) -> Value {
        let kind = if self.status.is_client_error() { "invalid_request_error" } else { "server_error" };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.to_json())).into_response()
    }
}
