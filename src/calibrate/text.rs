//! Where calibration text comes from, and how it becomes windows of token ids.

use super::file::CalibrationFile;
use super::sensitivity::measure_on;
use super::{Calibration, CalibrationError, Options};
use crate::architecture::Decoder;
use crate::documents::{Document, parse_documents, read_documents, windows};
use crate::model::BoxError;
use crate::reference::GpuProducts;
use haikuq_files::{hash_file, hex};
use haikuq_format::manifest::FileEntry;
use haikuq_runtime::text::Tokenizer;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The text for those who bring none; `docs/calibration.md` says what is in it.
const BUILT_IN: &str = include_str!("built_in.jsonl");

/// Its name where texts are named.
pub const BUILT_IN_NAME: &str = "built-in";

/// Where a calibration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CalibrationSource {
    /// The built-in text.
    BuiltIn,
    /// Text files, plain or `.jsonl` (see [`crate::documents`]).
    Text(Vec<PathBuf>),
    /// A file that `haikuq calibrate` made.
    File(PathBuf),
}

impl CalibrationSource {
    /// What a path names: a calibration file if it ends in `.safetensors`, else a text.
    pub fn from_path(path: &Path) -> Self {
        match path.extension() {
            Some(e) if e.eq_ignore_ascii_case("safetensors") => Self::File(path.into()),
            _ => Self::Text(vec![path.into()]),
        }
    }

    /// Reads or makes the calibration of `decoder`. A file is checked against the decoder and its checkpoint's hashes, and
    /// then `options` and `tokenizer` are not needed. `products` and `progress` are those of
    /// [`measure_on`].
    ///
    /// # Errors
    /// See [`CalibrationError`].
    pub fn load<E: Into<BoxError>>(
        &self,
        decoder: &Decoder,
        tokenizer: impl FnOnce() -> Result<Tokenizer, E>,
        options: &Options,
        products: Option<&Arc<GpuProducts>>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Calibration, CalibrationError> {
        let text = match self {
            Self::File(path) => {
                let file = CalibrationFile::read(path)?;
                file.check_spec(&decoder.spec, path)?;
                file.check_checkpoint(&checkpoint_files(decoder)?, path)?;
                return Ok(file.calibration);
            }
            Self::BuiltIn => None,
            Self::Text(paths) => Some(paths),
        };
        let tokenizer = tokenizer().map_err(|source| CalibrationError::Tokenizer(source.into()))?;
        let max_context = decoder.spec.max_context;
        let text = match text {
            Some(paths) => CalibrationText::read(paths, &tokenizer, max_context, options),
            None => CalibrationText::built_in(&tokenizer, max_context, options),
        };
        measure_on(products, decoder, text?, options, progress)
    }
}

/// The files of a decoder's checkpoint with their hashes.
///
/// # Errors
/// If one cannot be read.
pub fn checkpoint_files(decoder: &Decoder) -> Result<Vec<FileEntry>, CalibrationError> {
    Ok(decoder.checkpoint().source_files().iter().map(|path| hash_file(path)).collect::<Result<_, _>>()?)
}

/// A text as windows of token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalibrationText {
    /// Its files.
    pub sources: Vec<FileEntry>,
    /// Token ids; at least one window, and all of one length.
    pub windows: Vec<Vec<u32>>,
}

impl CalibrationText {
    /// Cuts text files into windows, taken from the files in turn.
    ///
    /// # Errors
    /// If a file is no text, or all of them have less than a window.
    pub fn read(
        paths: &[PathBuf],
        tokenizer: &Tokenizer,
        max_context: usize,
        options: &Options,
    ) -> Result<Self, CalibrationError> {
        let texts = paths.iter().map(|path| Ok((hash_file(path)?, read_documents(path)?)));
        Self::cut(texts.collect::<Result<_, CalibrationError>>()?, tokenizer, max_context, options)
    }

    /// The built-in text. Its conversations are plain text to a model without a chat template.
    ///
    /// # Errors
    /// As [`CalibrationText::read`].
    pub fn built_in(tokenizer: &Tokenizer, max_context: usize, options: &Options) -> Result<Self, CalibrationError> {
        let mut documents = parse_documents(BUILT_IN, Path::new("built-in.jsonl"))?;
        if tokenizer.chat_template().is_none() {
            documents = documents.into_iter().map(plain).collect();
        }
        let sha256 = hex(&Sha256::digest(BUILT_IN));
        let entry = FileEntry { name: BUILT_IN_NAME.into(), bytes: BUILT_IN.len() as u64, sha256 };
        Self::cut(vec![(entry, documents)], tokenizer, max_context, options)
    }

    /// What to say where there are fewer or shorter windows than `options` asks for.
    pub fn note(&self, options: &Options) -> Option<String> {
        let (windows, length) = (self.windows.len(), self.windows.first().map_or(0, Vec::len));
        let names: Vec<&str> = self.sources.iter().map(|s| s.name.as_str()).collect();
        let fewer = windows < options.windows;
        let shorter = length < options.window_tokens;
        (fewer || shorter).then(|| {
            let why = if shorter { " (the model's context)" } else { "" };
            let asked = if fewer { format!("; {} were asked for", options.windows) } else { String::new() };
            format!("{}: {windows} windows of {length} tokens{why}{asked}", names.join(", "))
        })
    }

    fn cut(
        texts: Vec<(FileEntry, Vec<Document>)>,
        tokenizer: &Tokenizer,
        max_context: usize,
        options: &Options,
    ) -> Result<Self, CalibrationError> {
        let length = options.window_tokens.min(max_context);
        let (mut sources, mut cuts, mut tokens) = (Vec::new(), Vec::new(), 0);
        for (entry, documents) in texts {
            let cut = windows(&documents, tokenizer, length, Some(options.windows));
            let cut = cut.map_err(|source| CalibrationError::Tokenize { text: entry.name.clone(), source })?;
            tokens += cut.tokens;
            sources.push(entry);
            cuts.push(cut.windows);
        }
        let rounds = cuts.iter().map(Vec::len).max().unwrap_or(0);
        let in_turn = (0..rounds).flat_map(|round| cuts.iter().filter_map(move |windows| windows.get(round)));
        let windows: Vec<_> = in_turn.take(options.windows).cloned().collect();
        if windows.is_empty() || length < 2 {
            let text = sources.into_iter().map(|s| s.name).collect();
            return Err(CalibrationError::TooShort { text, tokens, window_tokens: length });
        }
        Ok(Self { sources, windows })
    }
}

/// What a conversation's messages say, one after another.
fn plain(document: Document) -> Document {
    match document {
        Document::Chat(messages) => {
            Document::Text(messages.iter().map(|m| format!("{}\n\n", m.content.as_str().unwrap_or_default())).collect())
        }
        text => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use haikuq_runtime::text::Message;

    #[test]
    fn the_built_in_text_is_of_both_kinds_from_the_beginning_on() {
        let documents = parse_documents(BUILT_IN, Path::new("built-in.jsonl")).unwrap();
        for part in documents.chunks_exact(20) {
            let chats = part.iter().filter(|d| matches!(d, Document::Chat(_))).count();
            assert!((5..=15).contains(&chats), "{chats} of 20");
        }
    }

    #[test]
    fn without_a_chat_template_a_conversation_is_its_messages() {
        let chat = Document::Chat(vec![Message::user("Is 91 a prime?"), Message::assistant("No.")]);
        assert_eq!(plain(chat), Document::Text("Is 91 a prime?\n\nNo.\n\n".into()));
    }

    #[test]
    fn a_path_is_a_calibration_file_by_its_ending() {
        let of = |path: &str| CalibrationSource::from_path(Path::new(path));
        assert_eq!(of("a/b.SafeTensors"), CalibrationSource::File("a/b.SafeTensors".into()));
        assert_eq!(of("a/b.jsonl"), CalibrationSource::Text(vec!["a/b.jsonl".into()]));
    }
}
