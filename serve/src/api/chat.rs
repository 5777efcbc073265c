//! `POST /v1/chat/completions`.

use super::answer::Answer;
use super::demanded::{CHOICES, Demanded, Wanted};
use super::engine::Engine;
use super::error::ApiError;
use super::parameters::{Parameters, writing};
use super::respond::{CHAT, Reply, Text, respond};
use axum::response::Response;
use haikuq_runtime::text::{ChatOptions, Message, Tokenizer, read_json};
use serde_json::{Map, Value};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tokens at a prompt's end that may open the thoughts.
const PROMPT_END: usize = 8;

/// Parameters that ask for what is so anyway.
const NEUTRAL: [(&str, &[&str]); 8] = [
    ("logprobs", &["false"]),
    ("top_logprobs", &["0"]),
    ("modalities", &["[\"text\"]"]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("prediction", &[]),
    ("audio", &[]),
    ("web_search_options", &[]),
];

/// Answers a request.
pub(super) async fn answer(engines: &[Engine], body: &[u8]) -> Result<Response, ApiError> {
    let mut parameters = Parameters::read(body)?;
    let model: String = parameters.need("model", "the name of one of /v1/models")?;
    let engine = super::find(engines, &model)?;
    let writing = writing(&mut parameters, engine, &["max_completion_tokens", "max_tokens"])?;
    let chat = Chat::take(&mut parameters)?;
    parameters.neutral(&NEUTRAL)?;
    parameters.end()?;
    let (tokenizer, format, one_call, tools) =
        (engine.tokenizer().clone(), engine.format().clone(), chat.one_call, chat.tools().to_vec());
    let (compile, choices) = (engine.compiler(), writing.choices);
    // A long conversation takes a while, and a grammar may.
    let made = tokio::task::spawn_blocking(move || -> Result<_, ApiError> {
        let demanded = chat.demanded.clone();
        let (prompt, end) = chat.encode(&tokenizer)?;
        let wanted = demanded.map(|demanded| demanded.format(&format, &tokenizer, &end)).transpose()?;
        let compile = |wanted: &Wanted| compile(&wanted.format).map_err(|e| ApiError::invalid(wanted.param, &e.to_string()));
        let constraints = (0..choices).map(|_| wanted.as_ref().map(compile).transpose()).collect::<Result<Vec<_>, _>>()?;
        Ok((prompt, format.parser(&end, &tools), constraints))
    });
    let (prompt, parser, constraints) = made.await.map_err(|e| ApiError::failed(e.to_string()))??;
    let text = |constraint| {
        let reply = Reply::Chat(Box::new(Answer::new(parser.clone(), one_call)));
        Text { prompt: prompt.clone(), constraint, reply }
    };
    respond(engine, constraints.into_iter().map(text).collect(), writing, &CHAT).await
}

/// The messages, and the tools that the model may call.
struct Chat {
    messages: Vec<Message>,
    options: ChatOptions,
    /// Whether an answer ends after one call.
    one_call: bool,
    /// What an answer has to be.
    demanded: Option<Demanded>,
}

impl Chat {
    fn take(parameters: &mut Parameters) -> Result<Self, ApiError> {
        let mut messages: Vec<Message> = parameters.need("messages", "a list of messages")?;
        if messages.is_empty() {
            return Err(ApiError::invalid("messages", "there must be one"));
        }
        for (i, message) in messages.iter_mut().enumerate() {
            check_content(&message.content).map_err(|why| ApiError::invalid(&format!("messages[{i}].content"), &why))?;
            if let Some(calls) = message.fields.get_mut("tool_calls") {
                read_arguments(calls).map_err(|why| ApiError::invalid(&format!("messages[{i}].tool_calls"), &why))?;
            }
        }
        let mut options = ChatOptions::default();
        options.continue_final_message = messages.last().is_some_and(|message| message.role == "assistant");
        options.add_generation_prompt = !options.continue_final_message;
        options.now = SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|t| i64::try_from(t.as_secs()).ok());
        options.tools = parameters.take("tools", "a list of functions")?;
        for (i, tool) in options.tools.iter().flatten().enumerate() {
            if tool["type"] != "function" || !tool["function"]["name"].is_string() {
                return Err(ApiError::invalid(
                    &format!("tools[{i}]"),
                    "not {\"type\": \"function\", \"function\": {\"name\": …}}",
                ));
            }
        }
        if options.tools.as_ref().is_some_and(Vec::is_empty) {
            options.tools = None;
        }
        let one_call = !parameters.take("parallel_tool_calls", "true or false")?.unwrap_or(true);
        let (choice, format) = (parameters.take("tool_choice", CHOICES)?, parameters.take("response_format", "an object")?);
        let demanded = Demanded::new(&mut options.tools, choice.as_ref(), one_call, format.as_ref())?;
        let variables: Option<Map<String, Value>> = parameters.take("chat_template_kwargs", "an object")?;
        options.variables.extend(variables.into_iter().flatten());
        if let Some(effort) = parameters.take::<String>("reasoning_effort", "a text")? {
            options.variables.insert("reasoning_effort".into(), effort.into());
        }
        Ok(Self { messages, options, one_call, demanded })
    }

    fn tools(&self) -> &[Value] {
        self.options.tools.as_deref().unwrap_or_default()
    }

    /// The prompt, and its end as text.
    fn encode(mut self, tokenizer: &Tokenizer) -> Result<(Vec<u32>, String), ApiError> {
        // OpenAI's newer name for the system, which few templates know.
        if !tokenizer.chat_template().is_some_and(|template| template.contains("developer")) {
            for message in self.messages.iter_mut().filter(|message| message.role == "developer") {
                message.role = "system".into();
            }
        }
        let refused = |e: haikuq_runtime::text::TextError| ApiError::refused(e.to_string());
        let prompt = tokenizer.encode_chat_with(&self.messages, &self.options).map_err(refused)?;
        let end = tokenizer.decode(&prompt[prompt.len().saturating_sub(PROMPT_END)..], false).map_err(refused)?;
        Ok((prompt, end))
    }
}

/// Text, or parts that are text.
fn check_content(content: &Value) -> Result<(), String> {
    match content {
        Value::Null | Value::String(_) => Ok(()),
        Value::Array(parts) => match parts.iter().find(|part| part["type"] != "text") {
            Some(part) => Err(format!("parts of type {} are not supported here, only text", part["type"])),
            None => Ok(()),
        },
        _ => Err("neither a text nor a list of parts".into()),
    }
}

/// Turns the arguments of earlier calls, which OpenAI's shape has as text, into the objects that templates expect.
fn read_arguments(calls: &mut Value) -> Result<(), String> {
    for call in calls.as_array_mut().ok_or("not a list")? {
        let Some(arguments) = call.pointer_mut("/function/arguments") else {
            return Err("a call has no function with arguments".into());
        };
        if let Value::String(text) = arguments {
            let read: Map<String, Value> =
                read_json(text.as_bytes()).map_err(|e| format!("arguments are no JSON object: {e}"))?;
            *arguments = Value::Object(read);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_of_earlier_calls_become_objects() {
        let mut calls = json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]);
        read_arguments(&mut calls).unwrap();
        assert_eq!(calls[0]["function"]["arguments"], json!({"a": 1}));
        read_arguments(&mut calls).unwrap();
        assert_eq!(calls[0]["function"]["arguments"], json!({"a": 1}), "objects stay");
        for (wrong, why) in [
            (json!({}), "not a list"),
            (json!([{"function": {"arguments": "[1]"}}]), "no JSON object"),
            (json!([{}]), "no function"),
        ] {
            assert!(read_arguments(&mut wrong.clone()).unwrap_err().contains(why), "{wrong}");
        }
    }

    #[test]
    fn pictures_are_refused() {
        assert!(check_content(&json!([{"type": "text", "text": "a"}])).is_ok());
        assert!(check_content(&json!([{"type": "image_url"}])).unwrap_err().contains("image_url"));
        assert!(check_content(&json!(3)).is_err());
    }
}
