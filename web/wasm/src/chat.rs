//! `EngineChat` of `web/src/engine/engine.ts`: a conversation and what else a chat template is given.

use crate::error::Thrown;
use haikuq_runtime::text::{ChatOptions, Message, Tokenizer, read_json};
use serde_json::{Map, Value};

/// Reads the JSON of an `EngineChat` for the chat template of `tokenizer`; `now` is local time in seconds since 1970.
pub fn conversation(json: &str, tokenizer: &Tokenizer, now: i64) -> Result<(Vec<Message>, ChatOptions), Thrown> {
    // JavaScript wrote it, so nothing is wrong with it but an integer that is too large.
    let chat: Result<Map<String, Value>, _> = read_json(json.as_bytes());
    let mut chat = chat.map_err(|e| Thrown::new("invalid-argument", e.to_string()))?;
    let continued = chat.get("continueFinalMessage") == Some(&Value::Bool(true));
    let mut list = |name| match chat.remove(name) {
        Some(Value::Array(items)) => Some(items),
        _ => None,
    };
    let mut messages: Vec<Message> = list("messages").unwrap_or_default().into_iter().filter_map(message).collect();
    // OpenAI's word for the system message of everyone else.
    if !tokenizer.chat_template().is_some_and(|template| template.contains("developer")) {
        messages.iter_mut().filter(|m| m.role == "developer").for_each(|m| m.role = "system".into());
    }
    let mut options = ChatOptions::default();
    (options.add_generation_prompt, options.continue_final_message) = (!continued, continued);
    options.now = Some(now);
    (options.tools, options.documents) = (list("tools"), list("documents"));
    options.variables = match chat.remove("chatTemplateKwargs") {
        Some(Value::Object(variables)) => variables.into_iter().collect(),
        _ => Default::default(),
    };
    Ok((messages, options))
}

/// JavaScript has checked that these are objects with a role.
fn message(json: Value) -> Option<Message> {
    let Value::Object(mut fields) = json else { return None };
    let Some(Value::String(role)) = fields.remove("role") else { return None };
    let content = fields.remove("content").unwrap_or_default();
    Some(Message { role, content, fields })
}
