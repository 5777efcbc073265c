//! [`TextError`]: what can be wrong with a tokenizer, a chat template or a conversation.

/// Why text cannot become tokens, or tokens text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A tokenizer that cannot be loaded.
    #[error("{file}: {why}")]
    File {
        /// `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` or `generation_config.json`.
        file: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The tokenizer refuses a text.
    #[error("the tokenizer cannot encode a text of {bytes} bytes: {why}")]
    Encode {
        /// Length of the text in UTF-8.
        bytes: usize,
        /// What the tokenizer says.
        why: String,
    },
    /// The tokenizer refuses token ids.
    #[error("the tokenizer cannot decode {ids} token ids: {why}")]
    Decode {
        /// Number of ids.
        ids: usize,
        /// What the tokenizer says.
        why: String,
    },
    /// The model has no chat template.
    #[error("the model has no chat template: it continues text and does not chat; give it a plain prompt")]
    NoChatTemplate,
    /// The model has chat templates, and none of the name that is wanted.
    #[error("the model has no chat template called {name:?}, but {known}")]
    TemplateName {
        /// The name that is wanted.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A conversation that cannot be put into the template as asked.
    #[error("this conversation cannot be rendered: {why}")]
    Conversation {
        /// What does not go together.
        why: String,
    },
    /// The chat template is malformed or uses what no template may use.
    #[error("chat template: {why}")]
    Template {
        /// What is wrong, with the line.
        why: String,
    },
    /// The chat template calls `raise_exception`: it does not want this conversation.
    #[error("the chat template refuses this conversation: {message}")]
    Refused {
        /// The template's own words, such as `System role not supported`.
        message: String,
    },
}

/// A text that a tokenizer refuses.
pub(super) fn cannot_encode(text: &str, why: &dyn std::fmt::Display) -> TextError {
    TextError::Encode { bytes: text.len(), why: why.to_string() }
}
