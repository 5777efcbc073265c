//! Texts as they are sent: whole, or as a stream of server-sent events.

use super::answer::{Answer, finish_reason};
use super::engine::{Engine, Event, Work};
use super::error::ApiError;
use super::parameters::Writing;
use axum::Json;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use haikuq_runtime::generate::{Completion, Constraint, Usage};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// What answers of one kind are called.
pub(super) struct Kind {
    whole: &'static str,
    chunk: &'static str,
    id: &'static str,
}

/// Answers of a chat.
pub(super) const CHAT: Kind = Kind { whole: "chat.completion", chunk: "chat.completion.chunk", id: "chatcmpl" };

/// Texts that go on.
pub(super) const COMPLETIONS: Kind = Kind { whole: "text_completion", chunk: "text_completion", id: "cmpl" };

/// A text that is asked for.
pub(super) struct Text {
    pub(super) prompt: Vec<u32>,
    /// What it may be.
    pub(super) constraint: Option<Box<dyn Constraint>>,
    pub(super) reply: Reply,
}

/// What a text becomes.
pub(super) enum Reply {
    Chat(Box<Answer>),
    Text(String),
}

impl Reply {
    /// Takes the next piece, or the end, and gives what chunks say of it.
    fn push(&mut self, piece: Option<&str>) -> Vec<Value> {
        match self {
            Self::Chat(answer) => answer.push(piece).into_iter().map(|delta| json!({ "delta": delta })).collect(),
            Self::Text(text) => {
                let piece = piece.unwrap_or_default();
                text.push_str(piece);
                if piece.is_empty() { Vec::new() } else { vec![json!({ "text": piece })] }
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(self, Self::Chat(answer) if answer.is_over())
    }

    fn has_calls(&self) -> bool {
        matches!(self, Self::Chat(answer) if answer.has_calls())
    }

    /// What the first chunk says, and what the last one does.
    fn ends(&self) -> (Option<Value>, Value) {
        match self {
            Self::Chat(_) => {
                (Some(json!({ "delta": { "role": "assistant", "content": "", "refusal": null } })), json!({ "delta": {} }))
            }
            Self::Text(_) => (None, json!({ "text": "" })),
        }
    }

    fn whole(self) -> Value {
        match self {
            Self::Chat(answer) => json!({ "message": answer.message() }),
            Self::Text(text) => json!({ "text": text }),
        }
    }
}

/// Has the texts written and sends them.
pub(super) async fn respond(
    engine: &Engine,
    texts: Vec<Text>,
    writing: Writing,
    kind: &'static Kind,
) -> Result<Response, ApiError> {
    let (events, receiver) = unbounded_channel();
    let (mut work, mut replies, mut over) = (Vec::new(), Vec::new(), Vec::new());
    let limit = engine.max_context();
    for (index, Text { prompt, constraint, reply }) in texts.into_iter().enumerate() {
        if prompt.len() >= limit {
            let message = format!("the prompt has {} tokens, and the context holds {limit}, the answer included", prompt.len());
            return Err(ApiError::too_long(message));
        }
        let mut options = writing.options.clone();
        // Texts of one prompt differ.
        options.sampling.seed = options.sampling.seed.wrapping_add(index as u64);
        let is_over = Arc::new(AtomicBool::new(false));
        over.push(is_over.clone());
        let with_markers = matches!(reply, Reply::Chat(_));
        work.push(Work { index, prompt, options, constraint, with_markers, is_over, events: events.clone() });
        replies.push(Some(reply));
    }
    drop(events);
    engine.write(work)?;
    let number = RandomState::new().hash_one(0);
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let head = json!({ "id": format!("{}-{number:016x}", kind.id), "created": created, "model": engine.name() });
    let usage = Total { choices: writing.choices, prompt_tokens: 0, reused_tokens: 0, completion_tokens: 0 };
    let texts = Texts { receiver, replies, over, head, kind, usage };
    if writing.stream { Ok(stream(texts, writing.include_usage)) } else { whole(texts).await }
}

/// The texts of a response while they are written.
struct Texts {
    receiver: UnboundedReceiver<(usize, Event)>,
    replies: Vec<Option<Reply>>,
    over: Vec<Arc<AtomicBool>>,
    /// What all chunks begin with.
    head: Value,
    kind: &'static Kind,
    usage: Total,
}

/// What all texts of a response cost.
struct Total {
    /// Texts of one prompt, which is counted once.
    choices: usize,
    prompt_tokens: usize,
    reused_tokens: usize,
    completion_tokens: usize,
}

impl Total {
    fn add(&mut self, index: usize, usage: &Usage) {
        if index.is_multiple_of(self.choices) {
            self.prompt_tokens += usage.prompt_tokens;
            self.reused_tokens += usage.reused_tokens;
        }
        self.completion_tokens += usage.completion_tokens;
    }

    fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": { "cached_tokens": self.reused_tokens },
        })
    }
}

/// A step of a response.
enum News {
    /// What a chunk of this choice says, and why it ended if it did.
    Chunk(usize, Value, Option<&'static str>),
    Failed(ApiError),
}

impl Texts {
    /// What comes next; none when all texts are finished.
    async fn next(&mut self) -> Option<Vec<News>> {
        let (index, event) = self.receiver.recv().await?;
        let Some(reply) = &mut self.replies[index] else { return Some(Vec::new()) };
        Some(match event {
            Event::Text(piece) => {
                let deltas = reply.push(Some(&piece));
                if reply.is_over() {
                    self.over[index].store(true, Ordering::Relaxed);
                }
                deltas.into_iter().map(|delta| News::Chunk(index, delta, None)).collect()
            }
            Event::Done(completion) => {
                let mut news: Vec<_> = reply.push(None).into_iter().map(|delta| News::Chunk(index, delta, None)).collect();
                news.push(News::Chunk(index, reply.ends().1, Some(ended(reply, &completion))));
                self.usage.add(index, &completion.usage);
                news
            }
            Event::Failed(error) => vec![News::Failed(error)],
        })
    }

    fn object(&self, object: &str, choices: Value) -> Value {
        let mut value = self.head.clone();
        value["object"] = object.into();
        value["choices"] = choices;
        value
    }
}

fn ended(reply: &Reply, completion: &Completion) -> &'static str {
    let cut_by_us = reply.is_over();
    if cut_by_us { "tool_calls" } else { finish_reason(completion.finish, reply.has_calls()) }
}

async fn whole(mut texts: Texts) -> Result<Response, ApiError> {
    let mut reasons = vec!["stop"; texts.replies.len()];
    while let Some(news) = texts.next().await {
        for item in news {
            match item {
                News::Chunk(index, _, Some(reason)) => reasons[index] = reason,
                News::Chunk(..) => {}
                News::Failed(error) => return Err(error),
            }
        }
    }
    let replies = std::mem::take(&mut texts.replies).into_iter().flatten().zip(reasons).enumerate();
    let choices = replies.map(|(index, (reply, reason))| {
        let mut choice = reply.whole();
        (choice["index"], choice["logprobs"], choice["finish_reason"]) = (index.into(), Value::Null, reason.into());
        choice
    });
    let choices = choices.collect::<Vec<_>>();
    let mut value = texts.object(texts.kind.whole, choices.into());
    value["usage"] = texts.usage.json();
    Ok(Json(value).into_response())
}

fn stream(mut texts: Texts, include_usage: bool) -> Response {
    let (send, receive) = unbounded_channel::<String>();
    tokio::spawn(async move {
        let chunk = |texts: &Texts, index: usize, mut choice: Value, reason: Option<&str>| {
            (choice["index"], choice["logprobs"], choice["finish_reason"]) = (index.into(), Value::Null, reason.into());
            let mut value = texts.object(texts.kind.chunk, json!([choice]));
            if include_usage {
                value["usage"] = Value::Null;
            }
            value
        };
        for index in 0..texts.replies.len() {
            if let Some(first) = texts.replies[index].as_ref().and_then(|reply| reply.ends().0) {
                let _ = send.send(event(&chunk(&texts, index, first, None)));
            }
        }
        while let Some(news) = texts.next().await {
            for item in news {
                let sent = match item {
                    News::Chunk(index, delta, reason) => send.send(event(&chunk(&texts, index, delta, reason))),
                    News::Failed(error) => {
                        let _ = send.send(event(&error.to_json()));
                        return;
                    }
                };
                // Nobody listens: the engine learns of it when `texts` is dropped.
                if sent.is_err() {
                    return;
                }
            }
        }
        if include_usage {
            let mut value = texts.object(texts.kind.chunk, json!([]));
            value["usage"] = texts.usage.json();
            let _ = send.send(event(&value));
        }
        let _ = send.send("data: [DONE]\n\n".into());
    });
    let events = futures_util::stream::unfold(receive, |mut receive| async move {
        let event = receive.recv().await?;
        Some((Ok::<_, Infallible>(event), receive))
    });
    // Layers around this may ask again after the end.
    let events = events.fuse();
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(events)).into_response()
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}
