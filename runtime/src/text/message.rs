//! [`Message`] and [`ChatOptions`]: what a chat template is given.

use super::read_json;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// One message of a conversation, as JSON has it in OpenAI's shape: `role`, `content`, and whatever else the template
/// knows (`tool_calls`, `tool_call_id`, `name`, `reasoning_content`).
///
/// It is read with serde_json, and its numbers as [`read_json`] reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// The content: text, a list of parts such as `{"type": "text", "text": …}`, or null.
    pub content: Value,
    /// The other fields.
    pub fields: Map<String, Value>,
}

impl Message {
    /// A message of `role`: text, or JSON.
    pub fn new(role: impl Into<String>, content: impl Into<Value>) -> Self {
        Self { role: role.into(), content: content.into(), fields: Map::new() }
    }

    /// What the user says.
    pub fn user(content: impl Into<Value>) -> Self {
        Self::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<Value>) -> Self {
        Self::new("assistant", content)
    }

    /// What the model is told to be.
    pub fn system(content: impl Into<Value>) -> Self {
        Self::new("system", content)
    }

    /// The same with a further field.
    #[must_use]
    pub fn with(mut self, field: impl Into<String>, value: impl Into<Value>) -> Self {
        self.fields.insert(field.into(), value.into());
        self
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Message;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message: an object with role and content")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
                let (mut role, mut content, mut fields) = (None, None, Map::new());
                // As it is spelled: a number would lose digits in a `Value`.
                while let Some((name, json)) = map.next_entry::<String, Box<RawValue>>()? {
                    let json = json.get().as_bytes();
                    match name.as_str() {
                        "role" if role.is_some() => return Err(A::Error::duplicate_field("role")),
                        "content" if content.is_some() => return Err(A::Error::duplicate_field("content")),
                        "role" => role = Some(read_json(json).map_err(A::Error::custom)?),
                        "content" => content = Some(read_json(json).map_err(A::Error::custom)?),
                        _ => drop(fields.insert(name, read_json(json).map_err(A::Error::custom)?)),
                    }
                }
                let role = role.ok_or_else(|| A::Error::missing_field("role"))?;
                Ok(Message { role, content: content.unwrap_or_default(), fields })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// As transformers hands messages to a template: without fields that are null.
impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("role", &self.role)?;
        if !self.content.is_null() {
            map.serialize_entry("content", &self.content)?;
        }
        for (name, value) in self.fields.iter().filter(|(_, value)| !value.is_null()) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// How a conversation is rendered.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ChatOptions {
    /// Whether the prompt ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// Whether the last message stays open, so that the model goes on with it; not with `add_generation_prompt`.
    pub continue_final_message: bool,
    /// What `strftime_now` formats: seconds since 1970 in local time. Templates that ask whether there is such a
    /// function find none where this is `None`, so that the same conversation gives the same prompt on any day.
    pub now: Option<i64>,
    /// Functions that the model may call, as JSON schemas in OpenAI's shape.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from, by custom with `title` and `text`.
    pub documents: Option<Vec<Value>>,
    /// Which template of several; by default `tool_use` where there are tools and such a template, or else `default`.
    pub template: Option<String>,
    /// Further variables that a template may know, such as `enable_thinking`. JSON text of these and of tools and documents
    /// is best read with [`read_json`], which keeps integers of up to 128 bits.
    pub variables: BTreeMap<String, Value>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            continue_final_message: false,
            now: None,
            tools: None,
            documents: None,
            template: None,
            variables: BTreeMap::new(),
        }
    }
}
