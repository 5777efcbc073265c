//! Text files as documents, and documents as windows of token ids.
//!
//! A file is one document of plain text, or, where its name ends in `.jsonl`, one JSON object a line:
//!
//! | object | document |
//! | --- | --- |
//! | `{"text": …}` | plain text |
//! | `{"user": …, "reply": …}` | a question and its answer, in the model's chat template |
//! | `{"user": …}` | a question alone (prompts) |
//! | `{"messages": [{"role": …, "content": …}, …]}` | a conversation, in the model's chat template |
//!
//! Messages may have further fields that the chat template knows, such as `tool_calls`. Other fields of a line are
//! ignored. All that a document says is text: control tokens spelled in it are not recognized.

use haikuq_files::read_text;
use haikuq_runtime::text::{ChatOptions, Message, Special, TextError, Tokenizer};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Largest text that is read.
const MAX_BYTES: u64 = 4 << 30;

/// Bytes of a token that is far longer than tokens are on average.
const TOKEN_BYTES: usize = 32;

/// One document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Plain text.
    Text(String),
    /// A conversation for the chat template.
    Chat(Vec<Message>),
}

/// What can be wrong with a text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Reading failed, or the file is not UTF-8.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line that is no JSON.
    #[error("{}, line {line}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A line without text.
    #[error("{}, line {line}: needs \"text\", \"messages\", or \"user\" with or without \"reply\"", path.display())]
    Fields {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// Nothing in it.
    #[error("{}: no text", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A document that the tokenizer or its chat template refuses.
    #[error("document {document}: {source}")]
    Tokenize {
        /// From 1.
        document: usize,
        /// What is wrong.
        source: TextError,
    },
}

#[derive(Deserialize)]
struct Line {
    text: Option<String>,
    user: Option<String>,
    reply: Option<String>,
    messages: Option<Vec<Message>>,
}

/// Reads the documents of a file.
///
/// # Errors
/// See [`DocumentError`].
pub fn read_documents(path: &Path) -> Result<Vec<Document>, DocumentError> {
    let text = read_text(path, MAX_BYTES).map_err(|source| DocumentError::Io { path: path.into(), source })?;
    parse_documents(&text, path)
}

/// As [`read_documents`] from memory; `path` says the form, and what messages call it.
///
/// # Errors
/// See [`DocumentError`].
pub fn parse_documents(text: &str, path: &Path) -> Result<Vec<Document>, DocumentError> {
    let documents = match path.extension() {
        Some(e) if e.eq_ignore_ascii_case("jsonl") => {
            let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
            lines.map(|(i, l)| parse_line(l, i + 1, path)).collect::<Result<Vec<_>, _>>()?
        }
        _ if text.is_empty() => vec![],
        _ => vec![Document::Text(text.into())],
    };
    if documents.is_empty() {
        return Err(DocumentError::Empty { path: path.into() });
    }
    Ok(documents)
}

fn parse_line(line: &str, number: usize, path: &Path) -> Result<Document, DocumentError> {
    let json = |source| DocumentError::Json { path: path.into(), line: number, source };
    match serde_json::from_str(line).map_err(json)? {
        Line { messages: Some(messages), .. } if !messages.is_empty() => Ok(Document::Chat(messages)),
        Line { user: Some(user), reply, .. } => {
            let reply = reply.map(|r| Message::new("assistant", r));
            Ok(Document::Chat([Message::new("user", user)].into_iter().chain(reply).collect()))
        }
        Line { text: Some(text), .. } => Ok(Document::Text(text)),
        _ => Err(DocumentError::Fields { path: path.into(), line: number }),
    }
}

impl Document {
    /// The beginning of a plain text that is longer than `bytes` and some.
    fn beginning(&self, bytes: usize) -> Option<Self> {
        let bytes = bytes.saturating_add(1 << 16);
        match self {
            Self::Text(text) if text.len() > bytes => {
                let end = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                Some(Self::Text(text[..end].into()))
            }
            _ => None,
        }
    }

    /// Token ids: plain text as the start of a sequence, a conversation as the chat template writes it and, if it ends
    /// with a user's message and `prompt` is set, with the beginning of an answer.
    ///
    /// # Errors
    /// If the tokenizer or the chat template refuses it.
    pub fn encode(&self, tokenizer: &Tokenizer, prompt: bool) -> Result<Vec<u32>, TextError> {
        match self {
            Self::Text(text) => tokenizer.encode(text, Special::Plain),
            Self::Chat(messages) => tokenizer.encode_chat(messages, prompt),
        }
    }

    /// The same as text, for reading.
    ///
    /// # Errors
    /// If the chat template refuses it.
    pub fn render(&self, tokenizer: &Tokenizer, prompt: bool) -> Result<String, TextError> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Chat(messages) => {
                let mut options = ChatOptions::default();
                options.add_generation_prompt = prompt;
                tokenizer.render_chat(messages, &options)
            }
        }
    }
}

/// Cuts the tokens of `documents`, joined in order, into windows of `context` tokens without overlap, `limit` at most.
/// A rest that does not fill a window is left out; documents after the last window are not looked at.
///
/// # Errors
/// If the tokenizer or the chat template refuses a document.
pub fn windows(
    documents: &[Document],
    tokenizer: &Tokenizer,
    context: usize,
    limit: Option<usize>,
) -> Result<Windows, DocumentError> {
    let enough = limit.and_then(|n| n.checked_mul(context));
    let mut ids = Vec::new();
    for (i, document) in documents.iter().enumerate() {
        if enough.is_some_and(|n| ids.len() >= n) {
            break;
        }
        let encode = |document: &Document| {
            document.encode(tokenizer, false).map_err(|source| DocumentError::Tokenize { document: i + 1, source })
        };
        // Of a long text, no more than is sure to be enough: cutting it into tokens takes many times its size.
        let beginning = enough.and_then(|n| document.beginning((n - ids.len()).saturating_mul(TOKEN_BYTES)));
        let encoded = match &beginning {
            Some(beginning) => Some(encode(beginning)?).filter(|e| enough.is_some_and(|n| ids.len() + e.len() / 2 >= n)),
            None => None,
        };
        ids.extend(encoded.map_or_else(|| encode(document), Ok)?);
    }
    let windows = ids.chunks_exact(context.max(1)).take(limit.unwrap_or(usize::MAX)).map(<[u32]>::to_vec).collect();
    Ok(Windows { windows, tokens: ids.len() })
}

/// Windows of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// All of one length.
    pub windows: Vec<Vec<u32>>,
    /// Tokens that were there before the cut.
    pub tokens: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn message(role: &str, content: &str) -> Message {
        Message::new(role, content)
    }

    #[test]
    fn every_form_of_a_line_is_a_document() {
        let (_dir, path) = file(
            "a.jsonl",
            concat!(
                r#"{"text": "plain", "kind": "x"}"#,
                "\n\n",
                r#"{"user": "u", "reply": "r"}"#,
                "\n",
                r#"{"user": "u"}"#,
                "\n",
                r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}"#,
                "\n"
            ),
        );
        let expected = [
            Document::Text("plain".into()),
            Document::Chat(vec![message("user", "u"), message("assistant", "r")]),
            Document::Chat(vec![message("user", "u")]),
            Document::Chat(vec![message("system", "s"), message("user", "u")]),
        ];
        assert_eq!(read_documents(&path).unwrap(), expected);
    }

    #[test]
    fn errors_name_the_line() {
        let (_dir, path) = file("a.jsonl", "{\"text\": \"a\"}\n{\"prompt\": \"b\"}\n");
        assert!(read_documents(&path).unwrap_err().to_string().contains("line 2: needs \"text\""));
        let (_dir, path) = file("a.jsonl", "{\"text\": \"a\"}\n\n{\n");
        assert!(read_documents(&path).unwrap_err().to_string().contains("line 3: "));
    }

    #[test]
    fn a_plain_file_is_one_document_and_an_empty_one_is_an_error() {
        let (_dir, path) = file("a.txt", "one\ntwo\n");
        assert_eq!(read_documents(&path).unwrap(), [Document::Text("one\ntwo\n".into())]);
        let (_dir, path) = file("a.txt", "");
        assert!(matches!(read_documents(&path), Err(DocumentError::Empty { .. })));
    }
}
