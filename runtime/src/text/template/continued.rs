//! Conversations whose last message stays open, so that the model goes on with it.
//!
//! Templates close every message. So, as transformers does it, a tag is put where the message's text ends, and after
//! rendering everything from there on is cut off.

use super::TextError;
use super::python::is_space;
use serde_json::Value as Json;

const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG";

/// A last message that carries the tag.
pub(super) struct Open {
    text: String,
}

impl Open {
    /// Puts the tag into the last of `messages`.
    pub(super) fn mark(messages: &mut [Json], template: &str) -> Result<Self, TextError> {
        let cannot = |why: &str| TextError::Conversation { why: format!("the final message cannot go on: {why}") };
        let last = messages.last_mut().ok_or_else(|| cannot("there is none"))?;
        if !template.contains("content") {
            return Err(cannot("the chat template does not write what messages say"));
        }
        let text = match last.get_mut("content") {
            None | Some(Json::Null) => return Err(cannot("it has no content")),
            Some(Json::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
            Some(content) => Some(content),
        };
        let Some(Json::String(text)) = text else { return Err(cannot("it has no text")) };
        let open = Self { text: text.clone() };
        text.push_str(TAG);
        text.push(' ');
        Ok(open)
    }

    /// What was rendered up to the tag.
    pub(super) fn cut(&self, mut rendered: String) -> Result<String, TextError> {
        let tag = rendered.rfind(TAG).filter(|_| rendered.contains(self.text.trim_matches(is_space)));
        let tag = tag.ok_or_else(|| TextError::Conversation {
            why: "the final message cannot go on: the chat template does not write it as it is".into(),
        })?;
        let kept = rendered[tag + TAG.len()..].starts_with(' ');
        rendered.truncate(tag);
        if !kept {
            // The template trims what messages say, so this one is trimmed too.
            rendered.truncate(rendered.trim_end_matches(is_space).len());
        }
        Ok(rendered)
    }
}
