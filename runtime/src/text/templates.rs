//! [`ChatTemplates`]: the chat templates of a checkpoint, of which there may be several by name.

use super::TextError;
use crate::ordered;
use serde_json::Value;
use std::collections::BTreeMap;

const DEFAULT: &str = "default";
const WITH_TOOLS: &str = "tool_use";

/// Chat templates by name; a single one is `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ChatTemplates(BTreeMap<String, String>);

impl ChatTemplates {
    pub(super) fn from_files(default: Option<&str>, others: &[(&str, &str)]) -> Self {
        let default = default.map(|text| (DEFAULT, text));
        let named = default.into_iter().chain(others.iter().copied());
        Self(named.map(|(name, text)| (name.to_owned(), text.to_owned())).collect())
    }

    /// `chat_template` of a `tokenizer_config.json`: text, a list of `{name, template}`, or an object of templates by
    /// name.
    ///
    /// # Errors
    /// What it is instead.
    pub(super) fn from_config(value: Option<&Value>) -> Result<Self, String> {
        let text = |name: &str, value: Option<&Value>| match value.and_then(Value::as_str) {
            Some(text) => Ok((name.to_owned(), text.to_owned())),
            None => Err(format!("chat_template {name:?} is no text")),
        };
        let named = match value {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(template @ Value::String(_)) => ordered::try_map([text(DEFAULT, Some(template))]),
            Some(Value::Object(templates)) => {
                ordered::try_map(templates.iter().map(|(name, template)| text(name, Some(template))))
            }
            Some(Value::Array(templates)) => {
                let named = |t: &Value| match t.get("name").and_then(Value::as_str) {
                    Some(name) => text(name, t.get("template")),
                    None => Err("chat_template has an entry without a name".to_owned()),
                };
                ordered::try_map(templates.iter().map(named))
            }
            Some(other) => Err(format!("chat_template is neither text nor a list nor an object: {other}")),
        };
        named.map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every template.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The template called `name`, or the one that transformers chooses; the only one where there is but one.
    ///
    /// # Errors
    /// If there is none, or none of that name.
    pub(super) fn choose(&self, name: Option<&str>, with_tools: bool) -> Result<&str, TextError> {
        let find = |name: &str| self.0.get(name).map(String::as_str);
        let only = || (self.0.len() == 1).then(|| self.texts().next()).flatten();
        let found = match name {
            _ if self.is_empty() => return Err(TextError::NoChatTemplate),
            Some(name) => find(name),
            None => with_tools.then(|| find(WITH_TOOLS)).flatten().or_else(|| find(DEFAULT)).or_else(only),
        };
        found.ok_or_else(|| TextError::TemplateName {
            name: name.unwrap_or(DEFAULT).to_owned(),
            known: self.names().collect::<Vec<_>>().join(", "),
        })
    }
}
