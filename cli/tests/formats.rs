//! Answers that keep to a format, by the real runtime: JSON, schemas, regular expressions, grammars; and what is refused.

mod common;

use common::{Adapter, convert};
use haikuq::runner::{Runner, RunnerOptions};
use haikuq_grammar::{Format, Vocabulary};
use haikuq_runtime::decoder::CachePrecision;
use haikuq_runtime::generate::{Completion, Conversation, FinishReason, GenerateOptions, Request, TokenEvent, generate};
use haikuq_runtime::text::{Special, Tokenizer};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Output;

fn load(run_ahead: usize) -> Runner {
    let mut options = RunnerOptions::new(None, CachePrecision::F32);
    (options.decoder.exact, options.decoder.run_ahead) = (true, Some(run_ahead));
    Runner::load(&convert("q4-fast"), &options, &mut |_| {}).unwrap()
}

fn warm(seed: u64, max_tokens: usize) -> GenerateOptions {
    let mut options = GenerateOptions::default();
    options.max_tokens = Some(max_tokens);
    (options.sampling.temperature, options.sampling.seed) = (1.0, seed);
    options.sampling.repetition_penalty = 1.1;
    options.stop_tokens = vec![0];
    options
}

/// A text in `format`, of which `written` is there already, with the conversation after it.
fn write(
    runner: &mut Runner,
    format: &Format,
    options: &GenerateOptions,
    written: &[u32],
    stop_after: usize,
) -> (Completion, Vec<u32>) {
    let tokenizer: Tokenizer = runner.tokenizer().unwrap();
    let size = runner.decoder.spec().vocab_size;
    let mut matcher = Vocabulary::of_tokenizer(&tokenizer, size, &options.stop_tokens).unwrap().matcher(format).unwrap();
    let prompt = tokenizer.encode("Tell me a story.", Special::Plain).unwrap();
    let mut conversation = Conversation::start(&mut runner.decoder).unwrap();
    let mut request = Request::new(&mut conversation, &prompt, options);
    request.written = written;
    request.constraint = Some(&mut matcher);
    let mut tokens = 0;
    let mut on_token = |event: TokenEvent<'_>| {
        tokens += usize::from(event.id.is_some());
        if tokens >= stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let work = generate(&mut runner.decoder, &tokenizer, std::slice::from_mut(&mut request), &mut on_token);
    let completion = pollster::block_on(work).unwrap().remove(0);
    let cached = conversation.cached().to_vec();
    assert!([prompt.as_slice(), &completion.ids].concat().starts_with(&cached));
    assert!(cached.len() >= prompt.len(), "the next turn uses the cache");
    conversation.end(&mut runner.decoder);
    (completion, cached)
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "kind of creature": { "enum": ["dragon", "rabbit", "cloud"] },
            "age": { "type": "integer", "minimum": 1, "maximum": 120 },
            "friends": { "type": "array", "items": { "type": "string", "maxLength": 6 }, "maxItems": 2 },
        },
        "required": ["name", "kind of creature", "age", "friends"],
        "additionalProperties": false,
    })
}

#[test]
fn every_answer_to_a_schema_has_its_members_in_order() {
    let mut runner = load(2);
    let format = Format::JsonSchema(person());
    for seed in 0..20 {
        let (completion, _) = write(&mut runner, &format, &warm(seed, 200), &[], usize::MAX);
        let value: Value = serde_json::from_str(&completion.text).unwrap_or_else(|e| panic!("{e}: {}", completion.text));
        assert_eq!(completion.finish, FinishReason::Stop);
        let members: Vec<_> = value.as_object().unwrap().keys().collect();
        assert_eq!(members, ["name", "kind of creature", "age", "friends"]);
        assert!(value["name"].as_str().unwrap().chars().count() <= 12);
        assert!((1..=120).contains(&value["age"].as_u64().unwrap()));
        assert!(value["friends"].as_array().unwrap().len() <= 2);
    }
}

#[test]
fn a_text_goes_on_from_any_of_its_tokens_and_is_cut_at_any() {
    let mut runner = load(2);
    let format = Format::JsonSchema(person());
    let (whole, _) = write(&mut runner, &format, &warm(3, 200), &[], usize::MAX);
    // Ids go through chunks of a prompt or through steps: with exact numerics that changes no token.
    for at in [1, whole.ids.len() / 2, whole.ids.len() - 1] {
        let (again, _) = write(&mut runner, &format, &warm(3, 200), &whole.ids[..at], usize::MAX);
        assert_eq!((again.ids, again.text, again.finish), (whole.ids.clone(), whole.text.clone(), FinishReason::Stop));
        let (cut, cached) = write(&mut runner, &format, &warm(3, at), &[], usize::MAX);
        assert_eq!((cut.ids.as_slice(), cut.finish), (&whole.ids[..at], FinishReason::Length));
        assert!(cached.len() < 100);
        let (stopped, _) = write(&mut runner, &format, &warm(3, 200), &[], at);
        assert_eq!((stopped.ids.as_slice(), stopped.finish), (&whole.ids[..at], FinishReason::Cancelled));
    }
}

#[test]
fn expressions_and_grammars_bind_the_whole_text() {
    let mut runner = load(1);
    let (date, _) = write(&mut runner, &Format::Regex(r"20\d\d-(0[1-9]|1[0-2])".into()), &warm(1, 20), &[], usize::MAX);
    assert_eq!((date.text.len(), &date.text[..2], date.finish), (7, "20", FinishReason::Stop));
    let grammar = "start: \"I \" verb \" \" noun \".\"\nverb: \"see\" | \"hear\"\nnoun: /[a-z]{3,5}/\n";
    let (line, _) = write(&mut runner, &Format::Grammar(grammar.into()), &warm(1, 20), &[], usize::MAX);
    assert!(line.text.starts_with("I see ") || line.text.starts_with("I hear "), "{}", line.text);
    assert!(line.text.ends_with('.'), "{}", line.text);
    // One text alone fits, so no step is taken.
    let (fixed, _) = write(&mut runner, &Format::Regex("Once upon a time".into()), &warm(1, 20), &[], usize::MAX);
    assert_eq!((fixed.text.as_str(), fixed.finish), ("Once upon a time", FinishReason::Stop));
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(arguments: &[&str]) -> Output {
    let package = convert("q4-fast");
    Adapter::default().haikuq(&[&["run", path(&package), "Tell me a story."], arguments].concat())
}

#[test]
fn the_program_writes_what_a_file_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("schema.json");
    std::fs::write(&file, person().to_string()).unwrap();
    let output = run(&["A haiku:", "--json-schema", path(&file), "--temperature", "1", "--seed", "4", "--json"]);
    let texts: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    for text in texts["texts"].as_array().unwrap() {
        let answer: Value = serde_json::from_str(text["text"].as_str().unwrap()).unwrap();
        assert!(answer["name"].is_string() && answer["age"].is_u64(), "{answer}");
        assert_eq!(text["finish"], "stop");
    }
    let output = run(&["--regex", "(yes|no)"]);
    assert!(["yes\n", "no\n"].contains(&String::from_utf8(output.stdout).unwrap().as_str()));
}

#[test]
fn what_cannot_be_kept_is_refused_by_name_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("schema.json");
    std::fs::write(&file, r#"{"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": true}}}"#).unwrap();
    let output = run(&["--json-schema", path(&file)]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty() && output.status.code() == Some(1), "{said}");
    assert!(said.contains("schema.json") && said.contains("\"uniqueItems\" at #/properties/tags"), "{said}");
    let said = String::from_utf8(run(&["--regex", "(a"]).stderr).unwrap();
    assert!(said.contains("the regular expression cannot be kept") && said.contains("unclosed group"), "{said}");
    assert_eq!(run(&["--regex", "a", "--json-object"]).status.code(), Some(2), "one format at a time");
}
