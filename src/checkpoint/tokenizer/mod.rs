//! `tokenizer.json` for folders that lack one and have the files of an older kind.

mod byte_level;
pub(super) mod config;
pub(super) mod sentencepiece;

use super::{CheckpointError, Companion};
use std::path::Path;

/// The files that `make` reads, beside the configuration.
pub fn files() -> impl Iterator<Item = &'static str> {
    byte_level::FILES.into_iter().chain(sentencepiece::FILES)
}

/// The files of a tokenizer, made of what lies in `folder`, if `found`, its other companions, have none: of a SentencePiece
/// model, or of a vocabulary of bytes with its merges.
///
/// # Errors
/// If a file cannot be read, or says what a `tokenizer.json` cannot.
pub(super) fn make(folder: &Path, found: &[Companion]) -> Result<Vec<Companion>, CheckpointError> {
    if found.iter().any(|c| c.name == "tokenizer.json") {
        return Ok(Vec::new());
    }
    let made = sentencepiece::make(folder, found)?;
    if !made.is_empty() {
        return Ok(made);
    }
    Ok(byte_level::make(folder, found)?.map_or_else(Vec::new, |one| vec![one]))
}
