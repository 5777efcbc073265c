//! A text as the parts of a chat's answer.

use haikuq_runtime::generate::FinishReason;
use haikuq_runtime::text::{AnswerParser, AnswerPart, ToolCall};
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};

/// OpenAI's word for the way in which a text ended.
pub(super) fn finish_reason(finish: FinishReason, calls: bool) -> &'static str {
    match finish {
        FinishReason::Length | FinishReason::Context => "length",
        _ if calls => "tool_calls",
        _ => "stop",
    }
}

/// An answer that grows: deltas for a stream, and all of it at the end.
pub(super) struct Answer {
    parser: AnswerParser,
    content: String,
    reasoning: String,
    calls: Vec<Value>,
    /// Whether the first call ends the answer.
    one_call: bool,
}

impl Answer {
    pub(super) fn new(parser: AnswerParser, one_call: bool) -> Self {
        Self { parser, content: String::new(), reasoning: String::new(), calls: Vec::new(), one_call }
    }

    /// Takes the next piece, or the end, and gives the deltas that it makes.
    pub(super) fn push(&mut self, piece: Option<&str>) -> Vec<Value> {
        let parts = match piece {
            Some(piece) => self.parser.push(piece),
            None => self.parser.finish(),
        };
        let mut deltas = Vec::new();
        for part in parts {
            if self.is_over() {
                break;
            }
            match part {
                AnswerPart::Content(text) => {
                    self.content.push_str(&text);
                    deltas.push(json!({ "content": text }));
                }
                AnswerPart::Reasoning(text) => {
                    self.reasoning.push_str(&text);
                    deltas.push(json!({ "reasoning_content": text }));
                }
                AnswerPart::Call(call) => {
                    let index = self.calls.len();
                    let call = spelled(call);
                    let mut delta = call.clone();
                    delta["index"] = index.into();
                    deltas.push(json!({ "tool_calls": [delta] }));
                    self.calls.push(call);
                }
            }
        }
        deltas
    }

    /// Whether nothing that may follow counts.
    pub(super) fn is_over(&self) -> bool {
        self.one_call && !self.calls.is_empty()
    }

    pub(super) fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// The assistant's message.
    pub(super) fn message(self) -> Value {
        let silent = self.content.is_empty() && !self.calls.is_empty();
        let mut message =
            json!({ "role": "assistant", "content": if silent { Value::Null } else { self.content.into() }, "refusal": null });
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = self.reasoning.into();
        }
        if !self.calls.is_empty() {
            message["tool_calls"] = self.calls.into();
        }
        message
    }
}

/// A call in OpenAI's shape.
fn spelled(call: ToolCall) -> Value {
    json!({ "id": call_id(), "type": "function", "function": { "name": call.name, "arguments": call.arguments } })
}

/// Nine letters and digits: Mistral's templates take no other ids.
fn call_id() -> String {
    let mut number = RandomState::new().hash_one(0);
    let digit = || {
        let digit = (number % 36) as u32;
        number /= 36;
        char::from_digit(digit, 36).unwrap_or('0')
    };
    std::iter::repeat_with(digit).take(9).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use haikuq_runtime::text::AnswerFormat;

    fn answer(one_call: bool) -> Answer {
        let tools = [json!({"type": "function", "function": {"name": "clock"}})];
        Answer::new(AnswerFormat::of("<tool_call> <think> </think>").parser("", &tools), one_call)
    }

    #[test]
    fn thoughts_words_and_calls_are_deltas_and_one_message() {
        let mut answer = answer(false);
        let text = "<think>Hm.</think>Now:<tool_call>{\"name\": \"clock\", \"arguments\": {\"zone\": 1}}</tool_call>";
        let mut deltas: Vec<Value> = text.split_inclusive('>').flat_map(|piece| answer.push(Some(piece))).collect();
        deltas.extend(answer.push(None));
        assert_eq!(deltas[0], json!({"reasoning_content": "Hm."}));
        assert_eq!(deltas[1], json!({"content": "Now:"}));
        let call = &deltas[2]["tool_calls"][0];
        assert_eq!((&call["index"], &call["type"]), (&json!(0), &json!("function")));
        assert_eq!(call["function"], json!({"name": "clock", "arguments": "{\"zone\": 1}"}));
        assert_eq!(call["id"].as_str().map(str::len), Some(9));
        let message = answer.message();
        assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("Now:"), &json!("Hm.")));
        assert_eq!(message["tool_calls"][0]["id"], call["id"], "a call keeps its id");
    }

    #[test]
    fn nothing_follows_the_only_call() {
        let mut answer = answer(true);
        let call = "<tool_call>{\"name\": \"clock\"}</tool_call>";
        assert_eq!(answer.push(Some(&format!("{call}{call}"))).len(), 1);
        assert!(answer.is_over());
        assert_eq!(answer.push(Some("more")), Vec::<Value>::new());
        let message = answer.message();
        assert_eq!((&message["content"], message["tool_calls"].as_array().map(Vec::len)), (&Value::Null, Some(1)));
    }

    #[test]
    fn a_text_that_was_cut_says_so_whatever_it_called() {
        assert_eq!(finish_reason(FinishReason::Length, true), "length");
        assert_eq!(finish_reason(FinishReason::Context, false), "length");
        assert_eq!((finish_reason(FinishReason::Stop, true), finish_reason(FinishReason::Stop, false)), ("tool_calls", "stop"));
    }
}
