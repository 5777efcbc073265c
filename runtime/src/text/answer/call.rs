//! Calls between their tags, in each spelling.

use super::format::Body;
use super::value::Reader;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// A function that the model calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Its name.
    pub name: String,
    /// Its arguments: an object of JSON, as text.
    pub arguments: String,
}

/// `{"name": …, "arguments": …}` in the words of several families.
#[derive(Deserialize)]
struct Spelled<'a> {
    #[serde(alias = "function", alias = "tool_name", borrow)]
    name: &'a RawValue,
    #[serde(alias = "parameters", alias = "args", alias = "input", borrow)]
    arguments: Option<&'a RawValue>,
}

/// The calls that `text` spells, all of it; none if it is anything else.
pub(super) fn read(body: Body, text: &str, tools: &[Value]) -> Option<Vec<ToolCall>> {
    let calls = match body {
        Body::Json => json(text),
        Body::Named => json(text).or_else(|| named(text)),
        Body::Xml => xml(text, tools).or_else(|| json(text)),
        Body::Braces(quote) => braces(text, quote),
        Body::Python => python(text).or_else(|| json(text)),
    };
    calls.filter(|calls| !calls.is_empty())
}

/// Bytes of the calls at the start of `text`, which are complete by themselves. Nothing while more is needed; an error if this is
/// no call.
pub(super) fn complete(body: Body, text: &str) -> Result<Option<usize>, ()> {
    let start = text.len() - text.trim_start().len();
    let value = if body == Body::Named && !text[start..].starts_with(['[', '{']) {
        // After the name and its id, the arguments.
        let Some(brace) = text.find('{') else {
            let words = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '[' | ']' | ' ' | '\n');
            return if text.chars().all(words) { Ok(None) } else { Err(()) };
        };
        brace
    } else {
        start
    };
    let mut values = serde_json::Deserializer::from_str(&text[value..]).into_iter::<&RawValue>();
    match values.next() {
        None => Ok(None),
        Some(Ok(_)) => Ok(Some(value + values.byte_offset())),
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(_)) => Err(()),
    }
}

/// One object, an array of them, or several with nothing but space, commas or semicolons between them.
pub(super) fn json(text: &str) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ';'));
        if rest.is_empty() {
            return Some(calls);
        }
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
        let value = values.next()?.ok()?.get();
        rest = &rest[values.byte_offset()..];
        match value.starts_with('[') {
            true => {
                for item in serde_json::from_str::<Vec<&RawValue>>(value).ok()? {
                    calls.push(spelled(item.get())?);
                }
            }
            false => calls.push(spelled(value)?),
        }
    }
}

/// One object that is a call: `{"name", "arguments"}`, perhaps within `{"function": …}` as OpenAI has it.
fn spelled(text: &str) -> Option<ToolCall> {
    let call: Spelled = serde_json::from_str(text).ok()?;
    if call.name.get().starts_with('{') {
        return spelled(call.name.get());
    }
    let name: String = serde_json::from_str(call.name.get()).ok()?;
    let arguments = match call.arguments.map_or("{}", RawValue::get) {
        "null" => "{}".to_string(),
        text if text.starts_with('"') => serde_json::from_str(text).ok()?,
        text => text.to_string(),
    };
    is_object(&arguments).then_some(ToolCall { name, arguments })
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok_and(|value| value.get().starts_with('{'))
}

/// `name[ARGS]{…}`, `name[CALL_ID]id[ARGS]{…}` or `name{…}`, one call after the other.
fn named(text: &str) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    for call in text.split("[TOOL_CALLS]") {
        let (before, arguments) = call.split_at(call.find('{')?);
        let name = before.split(['[']).next().unwrap_or_default().trim();
        let arguments = arguments.trim();
        if name.is_empty() || !is_object(arguments) {
            return None;
        }
        calls.push(ToolCall { name: name.into(), arguments: arguments.into() });
    }
    Some(calls)
}

/// A value between tags is text as it stands, unless the function's schema, or without one its spelling, says otherwise.
fn xml(text: &str, tools: &[Value]) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, inner) = rest.strip_prefix("<function=")?.split_once('>')?;
        let (body, after) = inner.split_once("</function>")?;
        let mut arguments = Map::new();
        let mut parameters = body.trim();
        while !parameters.is_empty() {
            let (key, value) = parameters.strip_prefix("<parameter=")?.split_once('>')?;
            let (value, next) = value.split_once("</parameter>")?;
            let value = value.strip_prefix('\n').unwrap_or(value);
            let value = value.strip_suffix('\n').unwrap_or(value);
            arguments.insert(key.trim().into(), typed(value, schema(tools, name.trim(), key.trim())));
            parameters = next.trim_start();
        }
        calls.push(ToolCall { name: name.trim().into(), arguments: Value::Object(arguments).to_string() });
        rest = after.trim_start();
    }
    Some(calls)
}

/// The schema of a function's parameter.
fn schema<'a>(tools: &'a [Value], name: &str, key: &str) -> Option<&'a Value> {
    let function = |tool: &'a Value| tool.get("function").unwrap_or(tool);
    let tool = tools.iter().map(function).find(|tool| tool["name"] == name)?;
    tool["parameters"]["properties"].get(key)
}

fn typed(text: &str, schema: Option<&Value>) -> Value {
    let is_text = schema.is_some_and(|schema| match &schema["type"] {
        Value::String(kind) => kind == "string",
        Value::Array(kinds) => kinds.iter().all(|kind| kind == "string" || kind == "null"),
        _ => false,
    });
    let other = || serde_json::from_str(text.trim()).ok().filter(|value: &Value| !value.is_string());
    let value = if is_text { None } else { other() };
    value.unwrap_or_else(|| Value::String(text.into()))
}

/// `call:name{key:value}`, one after the other.
fn braces(text: &str, quote: &'static str) -> Option<Vec<ToolCall>> {
    let mut reader = Reader::new(text, Some(quote));
    let mut calls = Vec::new();
    while !reader.is_at_end() {
        reader.take("call:")?;
        let name = reader.name()?;
        reader.take("{")?;
        let arguments = Value::Object(reader.fields(":", "}")?).to_string();
        calls.push(ToolCall { name: name.into(), arguments });
    }
    Some(calls)
}

/// `[name(key=value), …]`, with or without the brackets.
fn python(text: &str) -> Option<Vec<ToolCall>> {
    let mut reader = Reader::new(text, None);
    let in_list = reader.take("[").is_some();
    let mut calls = Vec::new();
    while !reader.is_at_end() && reader.take("]").is_none() {
        if !calls.is_empty() {
            reader.take(",")?;
        }
        let name = reader.name()?;
        reader.take("(")?;
        let arguments = Value::Object(reader.fields("=", ")")?).to_string();
        calls.push(ToolCall { name: name.into(), arguments });
    }
    // A list that is not closed is not complete.
    (reader.is_at_end() && (!in_list || text.trim_end().ends_with(']'))).then_some(calls)
}
