//! Harmony, gpt-oss's format: every message has a header, which says on which channel it is and to whom.
//!
//! `<|channel|>analysis<|message|>…<|end|>` is thought, `<|channel|>final<|message|>…` said, and
//! `<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>` a call. The template has written
//! `<|start|>assistant`, so an answer begins with its first message's header.

use super::call::ToolCall;
use super::parser::AnswerPart;

/// All tokens of the format.
pub(super) const MARKERS: [&str; 7] =
    ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"];

const MESSAGE: &str = "<|message|>";
const ENDS: [&str; 4] = ["<|end|>", "<|return|>", "<|call|>", "<|start|>"];

/// Where in an answer its text has arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct Harmony {
    message: Option<To>,
    /// Whether the model left headers out: all of the text is content then.
    plain: bool,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    Reader,
    Itself,
    Function(String),
}

impl Harmony {
    pub(super) fn is_reasoning(&self) -> bool {
        self.message == Some(To::Itself)
    }

    /// Takes from `held` what is certain; all of it at the end.
    pub(super) fn take(&mut self, held: &mut String, with_tools: bool, at_end: bool, parts: &mut Vec<AnswerPart>) {
        loop {
            let Some(message) = self.message.clone() else {
                if self.plain || !may_be_header(held) {
                    self.plain = true;
                    let text = std::mem::take(held);
                    if !text.is_empty() {
                        parts.push(AnswerPart::Content(text));
                    }
                    return;
                }
                let Some(at) = held.find(MESSAGE) else {
                    // A header that is not complete says nothing.
                    if at_end {
                        held.clear();
                    }
                    return;
                };
                let header = held.drain(..at + MESSAGE.len()).collect::<String>();
                self.message = Some(to(&header[..at], with_tools));
                continue;
            };
            let end = ENDS.iter().filter_map(|end| held.find(end).map(|at| (at, *end))).min();
            let (text, is_whole) = match end {
                Some((at, end)) => {
                    let text = held[..at].to_string();
                    // What starts the next message stays for its header.
                    held.drain(..if end == "<|start|>" { at } else { at + end.len() });
                    (text, true)
                }
                None if at_end => (std::mem::take(held), true),
                None => {
                    if matches!(message, To::Function(_)) {
                        return;
                    }
                    (held.drain(..sure(held)).collect(), false)
                }
            };
            match message {
                _ if text.is_empty() => {}
                To::Reader => parts.push(AnswerPart::Content(text)),
                To::Itself => parts.push(AnswerPart::Reasoning(text)),
                To::Function(name) => match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
                    Ok(_) => parts.push(AnswerPart::Call(ToolCall { name, arguments: text.trim().into() })),
                    Err(_) => parts.push(AnswerPart::Content(text)),
                },
            }
            if !is_whole || at_end && held.is_empty() {
                return;
            }
            self.message = None;
            if held.is_empty() {
                return;
            }
        }
    }
}

/// Whether `text` may be a header: it begins with one of the tokens, or with a recipient.
fn may_be_header(text: &str) -> bool {
    let text = text.trim_start();
    let begins = |sign: &str| text.starts_with(sign) || sign.starts_with(text);
    ["<|start|>", "<|channel|>", "to="].into_iter().any(begins)
}

fn to(header: &str, with_tools: bool) -> To {
    let channel = header.split("<|channel|>").nth(1).unwrap_or_default().trim_start();
    let name = header.split("to=functions.").nth(1).map(|rest| {
        let end = rest.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(rest.len());
        rest[..end].to_string()
    });
    match name {
        Some(name) if with_tools && !name.is_empty() => To::Function(name),
        _ if channel.starts_with("analysis") => To::Itself,
        _ => To::Reader,
    }
}

/// Bytes of `held` in which no message can end.
fn sure(held: &str) -> usize {
    let longest = ENDS.iter().map(|end| end.len()).max().unwrap_or(0);
    let from = held.len().saturating_sub(longest - 1);
    let mut ends = (from..held.len()).filter(|at| held.is_char_boundary(*at));
    ends.find(|at| ENDS.iter().any(|end| end.starts_with(&held[*at..]))).unwrap_or(held.len())
}
