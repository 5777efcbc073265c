//! Text in, token ids out, and back: tokenizers, chat templates, incremental detokenization, stop strings, and what a
//! checkpoint recommends for generation.

mod answer;
mod charsmap;
mod chat;
mod config;
mod control;
mod detokenize;
mod diagnose;
mod dropped;
mod ends;
mod error;
mod generation_defaults;
mod guard;
mod merges;
mod message;
mod numbers;
mod stop;
mod template;
mod templates;
#[cfg(test)]
mod tests;
mod token_bytes;
mod tokenizer;
mod vet;

pub use answer::{AnswerFormat, AnswerParser, AnswerPart, CallCount, CallRule, ToolCall};
pub use detokenize::StreamDecoder;
pub use ends::{EndSource, EndToken};
pub use error::TextError;
pub use generation_defaults::{GenerationDefaults, SamplingOverrides};
pub use message::{ChatOptions, Message};
pub use numbers::read_json;
pub use stop::StopStrings;
pub use token_bytes::TokenBytes;
pub use tokenizer::{Special, Tokenizer, TokenizerFiles};
