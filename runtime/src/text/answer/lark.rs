//! Grammars of answers that call tools, as text in llguidance's variant of Lark. Compiling them is the task of `haikuq-grammar`.

use super::format::{AnswerFormat, Body, Calls, Tags};
use crate::text::Tokenizer;
use serde_json::json;
use std::fmt::Write;

/// A function that an answer may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRule {
    /// Its name.
    pub name: String,
    /// JSON schema of its arguments, as text.
    pub arguments: String,
}

/// How many calls an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallCount {
    /// Any number, also none: then the answer is text.
    Any,
    /// At least one, and no text.
    Some,
    /// One, and no text.
    One,
}

impl AnswerFormat {
    /// The grammar of answers that call `rules` and nothing else, after `prompt_end` ([`AnswerFormat::parser`]). `None` where the
    /// format's calls are not JSON, or where text and calls cannot be told apart while they are written.
    pub fn lark(&self, tokenizer: &Tokenizer, rules: &[CallRule], count: CallCount, prompt_end: &str) -> Option<String> {
        let words = Words { tokenizer };
        let (calls, begins_with_token) = self.calls(&words, rules, count)?;
        let thought = self.reasoning.filter(|tags| words.is_token(tags.open) && words.is_token(tags.close));
        let start = match (count, thought) {
            (CallCount::Any, _) if !begins_with_token => return None,
            (CallCount::Any, None) => "TEXT? calls?".to_string(),
            (CallCount::Any, Some(Tags { open, close })) => {
                format!("(TEXT | {} | {})* calls?", words.of(open), words.of(close))
            }
            (_, None) => "calls".into(),
            (_, Some(Tags { open, close })) => match prompt_end.trim_end().ends_with(open) {
                true => format!("TEXT? {} SPACE calls", words.of(close)),
                false => format!("({} TEXT? {} SPACE)? calls", words.of(open), words.of(close)),
            },
        };
        let mut lark = format!("start: {start}\ncalls: {calls}\nTEXT: /(.|\\n)+/\nSPACE: /\\s*/\n");
        for (i, rule) in rules.iter().enumerate() {
            let _ = writeln!(lark, "arguments{i}: %json {}", rule.arguments);
        }
        Some(lark)
    }

    /// The right side of the rule of all calls, and whether these begin with a token that no text has.
    fn calls(&self, words: &Words<'_>, rules: &[CallRule], count: CallCount) -> Option<(String, bool)> {
        let each = |call: &dyn Fn(usize, &str) -> String| {
            let calls: Vec<_> = rules.iter().enumerate().map(|(i, rule)| call(i, &rule.name)).collect();
            format!("({})", calls.join(" | "))
        };
        let object = |key: &str| {
            each(&|i, name| {
                let head = format!("{{\"name\": {}, \"{key}\": ", json!(name));
                format!("{} arguments{i} \"}}\"", json!(head))
            })
        };
        let several = count != CallCount::One;
        Some(match self.calls {
            Calls::Tagged(Tags { open, close }, Body::Json | Body::Named)
                if open == "[TOOL_CALLS]" && words.is_token("[ARGS]") =>
            {
                let _ = close;
                let call = each(&|i, name| format!("{} {} {} arguments{i}", words.of(open), json!(name), words.of("[ARGS]")));
                (if several { format!("{call}+") } else { call }, words.is_token(open))
            }
            Calls::Tagged(Tags { open, close }, Body::Json) if open == "<tool_call>" => {
                let call = format!("{} \"\\n\" {} \"\\n\" {}", words.of(open), object("arguments"), words.of(close));
                (if several { format!("{call} (\"\\n\" {call})*") } else { call }, words.is_token(open))
            }
            Calls::Tagged(Tags { open, close }, Body::Json | Body::Named) => {
                let call = object("arguments");
                let list = if several { format!("{call} (\", \" {call})*") } else { call };
                (format!("{} \"[\" {list} \"]\" {}", words.of(open), words.of(close)), words.is_token(open))
            }
            Calls::Tagged(_, Body::Xml | Body::Braces(_) | Body::Python) => return None,
            Calls::Whole(tag) => (object(if words.is_token(tag) { "parameters" } else { "arguments" }), false),
            Calls::Harmony => {
                let token = |name: &str| words.of(name);
                let message = |channel: &str| format!("{} {} ", token("<|channel|>"), json!(channel));
                let thought = format!(
                    "({} {} TEXT {} {} \"assistant\")?",
                    message("analysis"),
                    token("<|message|>"),
                    token("<|end|>"),
                    token("<|start|>")
                );
                let call = each(&|i, name| {
                    let head = message(&format!("commentary to=functions.{name} "));
                    format!("{head} {} \"json\" {} arguments{i}", token("<|constrain|>"), token("<|message|>"))
                });
                // Text comes in channels of its own, which the first token does not tell apart.
                (format!("{thought} {call}"), false)
            }
        })
    }
}

/// Markers as a grammar has them.
struct Words<'a> {
    tokenizer: &'a Tokenizer,
}

impl Words<'_> {
    /// Whether the marker is a token that no text becomes.
    fn is_token(&self, marker: &str) -> bool {
        self.tokenizer.token_id(marker).is_some_and(|id| self.tokenizer.is_control(id))
    }

    fn of(&self, marker: &str) -> String {
        match self.tokenizer.token_id(marker) {
            Some(id) if self.tokenizer.is_control(id) => format!("<[{id}]>"),
            _ => json!(marker).to_string(),
        }
    }
}
