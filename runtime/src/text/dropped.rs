//! What a chat template drops of a conversation without a word.

use super::{ChatOptions, Message, TextError, Tokenizer};
use serde_json::Value;

impl Tokenizer {
    /// Refuses a conversation whose tool calls, or whose tools' answers, the template has no place for: the model would
    /// be asked something else. The first message of either kind is looked at; templates treat all alike.
    ///
    /// # Errors
    /// [`TextError::Conversation`], which names the message and its field; or what [`Tokenizer::render_chat`] says.
    pub fn refuse_dropped_tools(&self, messages: &[Message], options: &ChatOptions) -> Result<(), TextError> {
        let calls = |m: &Message| m.fields.get("tool_calls").is_some_and(|calls| !calls.is_null());
        let answers = |m: &Message| m.role == "tool" && m.content.as_str() != Some("");
        let found = [(messages.iter().position(calls), "tool_calls"), (messages.iter().position(answers), "content")];
        for (at, field) in found.into_iter().filter_map(|(at, field)| Some((at?, field))) {
            let mut without = messages.to_vec();
            match field {
                "content" => without[at].content = Value::from(""),
                _ => _ = without[at].fields.shift_remove(field),
            }
            let whole = self.render_chat(messages, options)?;
            // A template that fails without the field has read it.
            if self.render_chat(&without, options).is_ok_and(|prompt| prompt == whole) {
                let role = &messages[at].role;
                let why = format!("messages[{at}].{field}: the model's chat template leaves out this field of the role {role:?}");
                return Err(TextError::Conversation { why });
            }
        }
        Ok(())
    }
}
