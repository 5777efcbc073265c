//! What each token writes, in bytes: half a character, a word with the space before it.

use super::{TextError, Tokenizer};
use serde_json::Value;

/// Before the name of a control token: a byte that no text has.
const MARK: u8 = 0xff;

/// What the tokens of a vocabulary write, by id.
#[derive(Clone, Debug, Default)]
pub struct TokenBytes {
    /// Of all tokens, one after the other.
    pub bytes: Vec<u8>,
    /// Where each token's bytes end.
    pub ends: Vec<u32>,
}

impl TokenBytes {
    /// The bytes of each token: none for an id that no token has, 0xff and its name for a control token.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start as usize..*end as usize])
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len() as u32);
    }
}

impl Tokenizer {
    /// What each token writes in the middle of a text.
    ///
    /// # Errors
    /// [`TextError::File`] where that depends on its neighbours, or on something that this does not know.
    pub fn token_bytes(&self) -> Result<TokenBytes, TextError> {
        let mut steps = Vec::new();
        flatten(self.inner.around.get("decoder").unwrap_or(&Value::Null), &mut steps)?;
        let mut all = TokenBytes::default();
        let (tokens, mut buffer) = (self.tokens_from(0), Vec::new());
        for (id, token) in &tokens {
            while all.ends.len() < *id as usize {
                all.push(&[]);
            }
            buffer.clear();
            if self.is_special(*id) || self.is_control(*id) {
                buffer.push(MARK);
                buffer.extend_from_slice(token.as_bytes());
            } else {
                decode(&steps, token, &mut buffer);
            }
            all.push(&buffer);
        }
        Ok(all)
    }
}

/// A step of a decoder that changes what a token in the middle of a text writes.
enum Step {
    ByteLevel,
    ByteFallback,
    Replace(String, String),
}

fn flatten(decoder: &Value, steps: &mut Vec<Step>) -> Result<(), TextError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match decoder["type"].as_str().unwrap_or("none") {
        "Sequence" => {
            for part in decoder["decoders"].as_array().into_iter().flatten() {
                flatten(part, steps)?;
            }
        }
        "ByteLevel" => steps.push(Step::ByteLevel),
        "ByteFallback" => steps.push(Step::ByteFallback),
        "Metaspace" => steps.push(Step::Replace(text(&decoder["replacement"]), " ".into())),
        "Replace" if decoder["pattern"]["String"].is_string() => {
            steps.push(Step::Replace(text(&decoder["pattern"]["String"]), text(&decoder["content"])));
        }
        // They put tokens together, and take something from the text's beginning.
        "Fuse" | "Strip" => {}
        other => {
            let why = format!("a token's bytes cannot be told with its decoder {other}");
            return Err(TextError::File { file: "tokenizer.json", why });
        }
    }
    Ok(())
}

fn decode(steps: &[Step], token: &str, into: &mut Vec<u8>) {
    let mut token = std::borrow::Cow::Borrowed(token);
    for step in steps {
        match step {
            Step::Replace(from, to) if !from.is_empty() => token = token.replace(from.as_str(), to).into(),
            Step::Replace(..) => {}
            Step::ByteFallback => {
                let hex = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).filter(|t| t.len() == 2);
                if let Some(byte) = hex.and_then(|t| u8::from_str_radix(t, 16).ok()) {
                    into.push(byte);
                    return;
                }
            }
            Step::ByteLevel => {
                into.extend(token.chars().map_while(byte_of));
                if into.len() == token.chars().count() {
                    return;
                }
                into.clear();
            }
        }
    }
    into.extend_from_slice(token.as_bytes());
}

/// The byte that a character of GPT-2's alphabet stands for: itself if it can be seen, or else in turn from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let hidden = |n: u32| match n {
        0..=32 => n as u8,
        33..=66 => (n + 94) as u8,
        _ => 173,
    };
    match code {
        33..=126 | 161..=172 | 174..=255 => Some(code as u8),
        256..=323 => Some(hidden(code - 256)),
        _ => None,
    }
}
