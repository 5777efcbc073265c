//! [`GrammarError`]: why a text cannot be held to something.

/// What is wrong with a format, or with a text under it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// A keyword of a JSON schema that would not be kept.
    #[error("the JSON schema has {keyword:?} at {at}, {why}")]
    Keyword {
        /// The keyword.
        keyword: String,
        /// The schema that has it, as a JSON pointer from `#` on.
        at: String,
        /// Why not, and what to do instead.
        why: String,
    },
    /// A JSON schema that cannot be compiled.
    #[error("the JSON schema cannot be kept: {0}")]
    Schema(String),
    /// A regular expression that cannot be compiled.
    #[error("the regular expression cannot be kept: {0}")]
    Regex(String),
    /// A grammar that cannot be compiled.
    #[error("the grammar cannot be kept: {0}")]
    Grammar(String),
    /// Text that is no format.
    #[error("no response format: {0}")]
    Format(String),
    /// A tokenizer whose tokens cannot be told apart by what they write.
    #[error("texts of this model cannot be held to a format: {0}")]
    Tokenizer(String),
    /// A text that does not keep to its format, or a parser that gives up.
    #[error("the text cannot be held to its format any further: {0}")]
    Parser(String),
}

/// llguidance's words without its notes to itself.
pub(crate) fn words(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let text = text.split("\n<").next().unwrap_or_default();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
