//! [`AnswerParser`]: the parts of an answer as its text arrives.

use super::call::{self, ToolCall};
use super::format::{AnswerFormat, Body, Calls, Tags};
use super::harmony::Harmony;
use serde_json::Value;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerPart {
    /// What the model says; the next piece of it.
    Content(String),
    /// What it thinks before.
    Reasoning(String),
    /// A call, whole.
    Call(ToolCall),
}

/// Takes an answer apart while it is written.
///
/// Text that could be the beginning of a tag is held back until it is clear. Text that looks like a call but cannot be read stays
/// content, tags included: nothing that a model wrote is lost. Space around thoughts and calls belongs to neither.
#[derive(Clone, Debug)]
pub struct AnswerParser {
    format: AnswerFormat,
    tools: Vec<Value>,
    state: State,
    held: String,
    /// Whether space at the start of what comes is dropped.
    at_start: bool,
    harmony: Harmony,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but space so far: the answer may be a call as a whole.
    Start,
    Content,
    Reasoning(Tags),
    Call(Tags, Body),
}

impl AnswerParser {
    pub(super) fn new(format: AnswerFormat, thinks: bool, tools: &[Value]) -> Self {
        let state = match format.reasoning {
            Some(tags) if thinks => State::Reasoning(tags),
            _ => State::Start,
        };
        Self { format, tools: tools.to_vec(), state, held: String::new(), at_start: true, harmony: Harmony::default() }
    }

    /// Takes the next piece of the answer's text and gives what is certain now.
    pub fn push(&mut self, piece: &str) -> Vec<AnswerPart> {
        self.held.push_str(piece);
        let mut parts = Vec::new();
        if self.format.calls == Calls::Harmony {
            self.harmony.take(&mut self.held, !self.tools.is_empty(), false, &mut parts);
        } else {
            while self.step(&mut parts) {}
        }
        joined(parts)
    }

    /// What is left, now that nothing follows.
    pub fn finish(&mut self) -> Vec<AnswerPart> {
        let mut parts = self.push("");
        if self.format.calls == Calls::Harmony {
            self.harmony.take(&mut self.held, !self.tools.is_empty(), true, &mut parts);
            return joined(parts);
        }
        let text = std::mem::take(&mut self.held);
        match self.state {
            State::Start => match self.whole(&text) {
                Some(calls) => parts.extend(calls.into_iter().map(AnswerPart::Call)),
                None => self.say(&text, &mut parts),
            },
            State::Content => self.say(&text, &mut parts),
            State::Reasoning(_) => think(text.trim_end(), &mut parts),
            State::Call(tags, body) => match call::read(body, &text, &self.tools) {
                Some(calls) => parts.extend(calls.into_iter().map(AnswerPart::Call)),
                None => self.say(&format!("{}{text}", tags.open), &mut parts),
            },
        }
        joined(parts)
    }

    /// Whether thoughts are being written now.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning(_)) || self.harmony.is_reasoning()
    }

    /// Goes on as far as the held text tells; whether there may be more.
    fn step(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        match self.state {
            State::Start => self.start(),
            State::Content => self.content(parts),
            State::Reasoning(tags) => {
                let Some(at) = self.held.find(tags.close) else {
                    // Space at the end of thoughts is none of them.
                    let sure = self.held[..self.sure(&[tags.close])].trim_end().len();
                    let text = self.held.drain(..sure).collect::<String>();
                    let text = if self.at_start { text.trim_start() } else { &text };
                    self.at_start &= text.is_empty();
                    think(text, parts);
                    return false;
                };
                let text = self.held.drain(..at + tags.close.len()).collect::<String>();
                let text = if self.at_start { text.trim_start() } else { &text };
                think(text.strip_suffix(tags.close).unwrap_or(text).trim_end(), parts);
                (self.state, self.at_start) = (State::Start, true);
                true
            }
            State::Call(tags, body) => self.call(tags, body, parts),
        }
    }

    /// At the start of an answer, or after thoughts, all of what follows may be a call.
    fn start(&mut self) -> bool {
        let text = self.held.trim_start();
        if text.is_empty() {
            return false;
        }
        let may_be_whole = match self.format.calls {
            // Text that is held until the end: only JSON, and only where there is something to call.
            Calls::Whole(open) if !self.tools.is_empty() => {
                let begins = |sign: &str| text.starts_with(sign) || sign.starts_with(text);
                text.starts_with(['{', '[']) || begins(open) || begins("```json")
            }
            _ => false,
        };
        if !may_be_whole {
            self.state = State::Content;
        }
        !may_be_whole
    }

    /// The calls that an answer is as a whole, each of a function that there is.
    fn whole(&self, text: &str) -> Option<Vec<ToolCall>> {
        let Calls::Whole(open) = self.format.calls else { return None };
        let text = text.trim();
        let text = text.strip_prefix(open).unwrap_or(text);
        let text = text.strip_prefix("```json").map_or(text, |inner| inner.trim_end_matches('`'));
        let list = |value: &Value| value["tool_calls"].as_array().map(|calls| Value::from(calls.clone()).to_string());
        let inner = serde_json::from_str(text).ok().as_ref().and_then(list);
        let calls = call::json(inner.as_deref().unwrap_or(text))?;
        let known =
            |call: &ToolCall| self.tools.iter().any(|tool| tool.get("function").unwrap_or(tool)["name"] == call.name.as_str());
        (!calls.is_empty() && calls.iter().all(known)).then_some(calls)
    }

    fn content(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        let reasoning = self.format.reasoning.map(|tags| (tags.open, State::Reasoning(tags)));
        let calls = match self.format.calls {
            Calls::Tagged(tags, body) if !self.tools.is_empty() => Some((tags.open, State::Call(tags, body))),
            _ => None,
        };
        let openings = || reasoning.iter().chain(&calls);
        let found = openings().filter_map(|(open, state)| Some((self.held.find(open)?, open.len(), *state)));
        let Some((at, length, state)) = found.min_by_key(|(at, ..)| *at) else {
            let tags: Vec<&str> = openings().map(|(open, _)| *open).collect();
            let mut sure = self.sure(&tags);
            if !tags.is_empty() {
                // A call may follow, of which space before it is a part.
                sure = self.held[..sure].trim_end().len();
            }
            let text = self.held.drain(..sure).collect::<String>();
            self.say(&text, parts);
            return false;
        };
        let text = self.held.drain(..at + length).collect::<String>();
        self.say(text[..at].trim_end(), parts);
        (self.state, self.at_start) = (state, true);
        true
    }

    fn call(&mut self, tags: Tags, body: Body, parts: &mut Vec<AnswerPart>) -> bool {
        let end = match tags.close {
            "" => call::complete(body, &self.held).map(|end| end.map(|at| (at, at))),
            close => Ok(self.held.find(close).map(|at| (at, at + close.len()))),
        };
        let (text, whole) = match end {
            Ok(None) => return false,
            Ok(Some((at, end))) => {
                let whole = self.held.drain(..end).collect::<String>();
                (whole[..at].to_string(), whole)
            }
            Err(()) => (String::new(), String::new()),
        };
        match call::read(body, &text, &self.tools) {
            Some(calls) => {
                parts.extend(calls.into_iter().map(AnswerPart::Call));
                self.at_start = true;
            }
            None => {
                let said = format!("{}{whole}", tags.open);
                self.say(&said, parts);
            }
        }
        self.state = State::Content;
        true
    }

    /// Bytes of the held text that no tag can begin in.
    fn sure(&self, tags: &[&str]) -> usize {
        let longest = tags.iter().map(|tag| tag.len()).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        let mut ends = (from..self.held.len()).filter(|at| self.held.is_char_boundary(*at));
        ends.find(|at| tags.iter().any(|tag| tag.starts_with(&self.held[*at..]))).unwrap_or(self.held.len())
    }

    fn say(&mut self, text: &str, parts: &mut Vec<AnswerPart>) {
        let text = if self.at_start && self.has_tags() { text.trim_start() } else { text };
        if !text.is_empty() {
            self.at_start = false;
            parts.push(AnswerPart::Content(text.into()));
        }
    }

    /// Whether space at an answer's start may be that around a tag: without any, the text is left as it is.
    fn has_tags(&self) -> bool {
        self.format.reasoning.is_some() || !self.tools.is_empty()
    }
}

fn think(text: &str, parts: &mut Vec<AnswerPart>) {
    if !text.is_empty() {
        parts.push(AnswerPart::Reasoning(text.into()));
    }
}

/// Neighbours of a kind as one.
pub(super) fn joined(parts: Vec<AnswerPart>) -> Vec<AnswerPart> {
    let mut joined: Vec<AnswerPart> = Vec::with_capacity(parts.len());
    for part in parts {
        match (joined.last_mut(), part) {
            (Some(AnswerPart::Content(text)), AnswerPart::Content(more))
            | (Some(AnswerPart::Reasoning(text)), AnswerPart::Reasoning(more)) => text.push_str(&more),
            (_, part) => joined.push(part),
        }
    }
    joined
}
