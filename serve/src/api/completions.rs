//! `POST /v1/completions`.

use super::engine::Engine;
use super::error::ApiError;
use super::parameters::{Parameters, writing};
use super::respond::{COMPLETIONS, Reply, Text, respond};
use axum::response::Response;
use haikuq_runtime::decoder::MAX_BATCH;
use haikuq_runtime::text::Special;
use serde::Deserialize;

/// Parameters that ask for what is so anyway.
const NEUTRAL: [(&str, &[&str]); 3] = [("logprobs", &[]), ("echo", &["false"]), ("best_of", &["1"])];

/// A prompt, or several, as text or as ids of tokens.
#[derive(Deserialize)]
#[serde(untagged)]
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    SeveralIds(Vec<Vec<u32>>),
}

/// Answers a request.
pub(super) async fn answer(engines: &[Engine], body: &[u8]) -> Result<Response, ApiError> {
    let mut parameters = Parameters::read(body)?;
    let model: String = parameters.need("model", "the name of one of /v1/models")?;
    let engine = super::find(engines, &model)?;
    let prompts = parameters.need("prompt", "a text, a list of texts, or ids of tokens")?;
    let mut writing = writing(&mut parameters, engine, &["max_tokens"])?;
    // OpenAI's own default.
    writing.options.max_tokens.get_or_insert(16);
    parameters.neutral(&NEUTRAL)?;
    parameters.end()?;
    let tokenizer = engine.tokenizer().clone();
    let encoded = tokio::task::spawn_blocking(move || {
        let encode = |text: String| tokenizer.encode(&text, Special::Plain).map_err(|e| ApiError::refused(e.to_string()));
        match prompts {
            Prompts::Text(text) => Ok(vec![encode(text)?]),
            Prompts::Texts(texts) => texts.into_iter().map(encode).collect(),
            Prompts::Ids(ids) => Ok(vec![ids]),
            Prompts::SeveralIds(prompts) => Ok(prompts),
        }
    });
    let prompts: Vec<Vec<u32>> = encoded.await.map_err(|e| ApiError::failed(e.to_string()))??;
    if prompts.is_empty() || prompts.len() * writing.choices > MAX_BATCH {
        let why = format!("{} prompts with {} choices each are not 1 to {MAX_BATCH} texts", prompts.len(), writing.choices);
        return Err(ApiError::invalid("prompt", &why));
    }
    let vocabulary = engine.tokenizer().vocab_size();
    if let Some(id) = prompts.iter().flatten().find(|id| **id as usize >= vocabulary) {
        return Err(ApiError::invalid("prompt", &format!("there is no token {id}, but {vocabulary} of them")));
    }
    let each = prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, writing.choices));
    let texts = each.map(|prompt| Text { prompt: prompt.clone(), constraint: None, reply: Reply::Text(String::new()) }).collect();
    respond(engine, texts, writing, &COMPLETIONS).await
}
