//! What a text may be: JSON, JSON of a schema, a regular expression or a grammar, compiled for the vocabulary of a tokenizer.
//!
//! The parser is llguidance's. [`Vocabulary`] is a tokenizer as the parser sees it, [`Format`] what is asked for, and [`Matcher`]
//! follows one text. Natively a [`Matcher`] is the runtime's `Constraint`; in a page this crate is a WebAssembly module of its own,
//! which is loaded when a request has a format.

mod error;
mod format;
mod matcher;
mod narrow;
#[cfg(feature = "runtime")]
mod of_runtime;
mod schema;
mod vocabulary;

pub use error::GrammarError;
pub use format::Format;
pub use matcher::{Matcher, Next};
pub use vocabulary::{Encode, MARK, Vocabulary};
