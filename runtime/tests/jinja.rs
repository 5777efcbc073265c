//! Idioms of chat templates mean what they mean to jinja2 as Hugging Face transformers sets it up, as
//! `tests/fixtures/tokenizers/jinja.json` says.

use haikuq_runtime::text::{ChatOptions, Message, Tokenizer, TokenizerFiles, read_json};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
struct Expected {
    now: i64,
    variables: BTreeMap<String, Value>,
    idioms: Vec<Idiom>,
    /// What differs, and is known to.
    left: Vec<Idiom>,
}

#[derive(Deserialize)]
struct Idiom {
    source: String,
    text: Option<String>,
    error: Option<String>,
}

#[test]
fn idioms_mean_what_they_mean_to_jinja2() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers");
    let mut expected: Expected = read_json(&std::fs::read(fixtures.join("jinja.json")).unwrap()).unwrap();
    let tokenizer = std::fs::read(fixtures.join("smollm2/tokenizer.json")).unwrap();
    let messages: Vec<Message> = serde_json::from_value(expected.variables.remove("messages").unwrap()).unwrap();
    let mut options = ChatOptions::default();
    (options.now, options.variables) = (Some(expected.now), expected.variables);
    let render = |source: &str| {
        let mut files = TokenizerFiles::new(&tokenizer);
        files.chat_template = Some(source);
        Tokenizer::from_files(files).unwrap().render_chat(&messages, &options)
    };
    let mut differences = Vec::new();
    for Idiom { source, text, error } in expected.idioms {
        let found = render(&source);
        match (&found, &text) {
            (Ok(found), Some(text)) if found == text => {}
            (Err(_), None) => {}
            _ => differences.push(format!("{source}\n  found    {found:?}\n  expected {:?}", text.or(error))),
        }
    }
    for Idiom { source, text, .. } in expected.left {
        if render(&source).ok() == text {
            differences.push(format!("{source}\n  is listed as different, and is not"));
        }
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}
