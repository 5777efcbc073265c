//! An answer as a model writes it, taken apart: what it says, what it thinks, and which tools it calls.
//!
//! Every family marks these in its own way. [`AnswerFormat::of`] knows the way by the model's chat template, since a template that
//! shows earlier calls to a model shows how the model writes them.

mod call;
mod format;
mod harmony;
mod lark;
mod parser;
#[cfg(test)]
mod tests;
mod value;

pub use call::ToolCall;
pub use format::AnswerFormat;
pub use lark::{CallCount, CallRule};
pub use parser::{AnswerParser, AnswerPart};
