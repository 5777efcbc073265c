//! Text in, token ids out, and back: tokenizers, chat templates, incremental detokenization, stop strings, and what a
//! checkpoint recommends for generation.

mod chat;
mod control;
mod detokenize;
mod error;
mod generation_defaults;
mod stop;
mod template;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use detokenize::StreamDecoder;
pub use error::TextError;
pub use generation_defaults::{GenerationDefaults, SamplingWishes};
pub use stop::StopStrings;
pub use template::{ChatOptions, Message};
pub use tokenizer::{Special, Tokenizer, TokenizerFiles};
