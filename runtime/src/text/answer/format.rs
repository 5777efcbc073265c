//! [`AnswerFormat`]: how a model marks thoughts and calls, by its chat template.

use super::parser::AnswerParser;
use serde_json::Value;

/// How a model marks what it thinks and which tools it calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerFormat {
    pub(super) reasoning: Option<Tags>,
    pub(super) calls: Calls,
}

/// What a stretch of an answer begins and ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tags {
    pub(super) open: &'static str,
    pub(super) close: &'static str,
}

/// How calls are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// Between tags. An empty end means that a call's own end is its end.
    Tagged(Tags, Body),
    /// The whole answer is a call in JSON, perhaps after this token.
    Whole(&'static str),
    /// Channels say what everything is.
    Harmony,
}

/// How a call, or several of them, is spelled between its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// `{"name": …, "arguments": …}`, or an array of these.
    Json,
    /// `name[ARGS]{…}`, or the array of [`Body::Json`].
    Named,
    /// `<function=name><parameter=key>value</parameter></function>`.
    Xml,
    /// `call:name{key:value}`, with this around strings.
    Braces(&'static str),
    /// `[name(key=value)]` as Python spells it, or the array of [`Body::Json`].
    Python,
}

/// The thoughts of several families. A template that removes thoughts from earlier turns names the tags.
const REASONING: [Tags; 4] = [
    Tags { open: "<think>", close: "</think>" },
    Tags { open: "[THINK]", close: "[/THINK]" },
    Tags { open: "<|channel>thought", close: "<channel|>" },
    Tags { open: "<seed:think>", close: "</seed:think>" },
];

impl AnswerFormat {
    /// The format of the model that this chat template is for.
    ///
    /// Known are those of Hermes and Qwen (JSON, or tags for each parameter), Llama 3, Mistral, Gemma 4 and FunctionGemma, LFM 2,
    /// Phi 4 and Granite, and gpt-oss (harmony). With any other template a call is an answer that is JSON with a name and arguments.
    pub fn of(template: &str) -> Self {
        let has = |text: &str| template.contains(text);
        let tagged = |open, close, body| Calls::Tagged(Tags { open, close }, body);
        let calls = if has("<|tool_call>") {
            tagged("<|tool_call>", "<tool_call|>", Body::Braces("<|\"|>"))
        } else if has("<start_function_call>") {
            tagged("<start_function_call>", "<end_function_call>", Body::Braces("<escape>"))
        } else if has("<|channel|>") && has("<|message|>") {
            Calls::Harmony
        } else if has("<|tool_call_start|>") {
            tagged("<|tool_call_start|>", "<|tool_call_end|>", Body::Python)
        } else if has("[TOOL_CALLS]") {
            tagged("[TOOL_CALLS]", "", Body::Named)
        } else if has("<tool_call>") {
            tagged("<tool_call>", "</tool_call>", if has("<function=") { Body::Xml } else { Body::Json })
        } else if has("<|/tool_call|>") {
            tagged("<|tool_call|>", "<|/tool_call|>", Body::Json)
        } else if has("<|tool_call|>") {
            tagged("<|tool_call|>", "", Body::Json)
        } else if has("functools[") {
            tagged("functools", "", Body::Json)
        } else {
            Calls::Whole("<|python_tag|>")
        };
        let reasoning = REASONING.into_iter().find(|tags| has(tags.close) || has(tags.open));
        Self { reasoning, calls }
    }

    /// Tokens that are marked special in some vocabularies and that an [`AnswerParser`] has to see: spell them
    /// ([`StreamDecoder::spelling`](crate::text::StreamDecoder::spelling)).
    pub fn markers(&self) -> Vec<&'static str> {
        let mut markers = match self.calls {
            Calls::Tagged(Tags { open, close }, body) => match body {
                Body::Named => vec![open, "[ARGS]", "[CALL_ID]"],
                Body::Braces(quote) => vec![open, close, quote],
                Body::Json | Body::Xml | Body::Python => vec![open, close],
            },
            Calls::Whole(open) => vec![open],
            Calls::Harmony => super::harmony::MARKERS.to_vec(),
        };
        markers.extend(self.reasoning.iter().flat_map(|tags| [tags.open, tags.close]));
        if self.reasoning.is_some_and(|tags| tags.open.starts_with("<|channel>")) {
            markers.push("<|channel>");
        }
        markers.retain(|marker| !marker.is_empty());
        markers
    }

    /// The tags of a channel's or a template's thoughts, open and close: none for a model that does not think aloud.
    pub fn reasoning_tags(&self) -> Option<(&'static str, &'static str)> {
        self.reasoning.map(|tags| (tags.open, tags.close))
    }

    /// Takes one answer apart.
    ///
    /// `prompt_end` is the end of the prompt as text: some templates open the thoughts themselves. `tools` are the functions that
    /// the model was told of, in OpenAI's shape. Without any, nothing is taken for a call.
    pub fn parser(&self, prompt_end: &str, tools: &[Value]) -> AnswerParser {
        let thinks = self.reasoning.is_some_and(|tags| prompt_end.trim_end().ends_with(tags.open));
        AnswerParser::new(self.clone(), thinks, tools)
    }
}
