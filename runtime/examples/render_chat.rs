//! Renders chat templates: a JSON object a line on standard input, an answer a line on standard output. For
//! `scripts/templates.py`, which compares them with those of Hugging Face transformers.
//!
//! A line has `template`, `messages`, `now` (seconds since 1970) and perhaps `tools`, `documents`, `variables`,
//! `add_generation_prompt`; an answer has `text` or `error`.

use haikuq_runtime::text::{ChatOptions, Message, Tokenizer, TokenizerFiles};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};

#[derive(serde::Deserialize)]
struct Line {
    template: String,
    messages: Vec<Message>,
    now: i64,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    #[serde(default)]
    variables: BTreeMap<String, Value>,
    #[serde(default)]
    add_generation_prompt: bool,
}

/// A tokenizer with one token: rendering needs none of them, but for `bos_token` and its like.
const TOKENIZER: &[u8] = br#"{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}}"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}).to_string();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line: Line = serde_json::from_str(&line?)?;
        let mut files = TokenizerFiles::new(TOKENIZER);
        files.config = Some(config.as_bytes());
        files.chat_template = Some(&line.template);
        let mut options = ChatOptions::default();
        options.add_generation_prompt = line.add_generation_prompt;
        options.now = Some(line.now);
        options.tools = line.tools;
        options.documents = line.documents;
        options.variables = line.variables;
        let rendered = Tokenizer::from_files(files).and_then(|tokenizer| tokenizer.render_chat(&line.messages, &options));
        let answer = rendered.map_or_else(|error| json!({"error": error.to_string()}), |text| json!({"text": text}));
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
