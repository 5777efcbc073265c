//! What is asked of a generation, and what came of it.

use crate::sampling::SamplingOptions;
use serde::Serialize;
use std::time::Duration;

/// When and how to write. By default greedily, until the context is full.
///
/// ```
/// use haikuq_runtime::generate::GenerateOptions;
///
/// let mut options = GenerateOptions::default();
/// options.max_tokens = Some(64);
/// options.sampling.temperature = 0.7;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Tokens at most; as many as the context holds where absent.
    pub max_tokens: Option<usize>,
    /// How a token is chosen.
    pub sampling: SamplingOptions,
    /// Token ids that end the text; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Texts that end the text; they are not part of it.
    pub stop_strings: Vec<String>,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop token or stop string.
    Stop,
    /// `max_tokens` are written.
    Length,
    /// The context is full.
    Context,
    /// The caller said so.
    Cancelled,
}

/// One step of one text, as it is streamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEvent<'a> {
    /// Which of the requests, from 0.
    pub index: usize,
    /// The token chosen; none for what is flushed at the end.
    pub id: Option<u32>,
    /// Text that is certain now: whole characters, no part of a stop string. May be empty.
    pub text: &'a str,
}

/// A finished text.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The tokens, without the stop token.
    pub ids: Vec<u32>,
    /// The text, without the stop string.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens, times.
    pub usage: Usage,
}

/// What a completion cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt whose keys and values were cached already.
    pub reused_tokens: usize,
    /// Tokens chosen, the stop token included.
    pub completion_tokens: usize,
    /// From the call to the first token.
    pub time_to_first_token: Duration,
    /// From the first token to the last.
    pub decode_time: Duration,
}

impl Usage {
    /// Tokens a second after the first one; none for less than two tokens.
    pub fn decode_tokens_per_second(&self) -> Option<f64> {
        (self.completion_tokens > 1).then(|| (self.completion_tokens - 1) as f64 / self.decode_time.as_secs_f64())
    }
}
