//! Text in, token ids out, and back.

mod error;

pub use error::TextError;
