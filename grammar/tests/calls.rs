//! Answers that have to call tools do so, whatever the model says. In the format of each family a die writes them, and
//! [`AnswerFormat`] finds their calls.

use haikuq_grammar::{Format, Vocabulary};
use haikuq_runtime::sampling::uniform;
use haikuq_runtime::text::{AnswerFormat, AnswerPart, CallCount, CallRule, Tokenizer, TokenizerFiles};
use rstest::rstest;
use serde_json::{Value, json};

/// Tokens of an answer at most.
const LONGEST: usize = 600;

fn tokenizer(path: &str) -> Tokenizer {
    let path = format!("{}/../{path}/tokenizer.json", env!("CARGO_MANIFEST_DIR"));
    Tokenizer::from_files(TokenizerFiles::new(&std::fs::read(path).unwrap())).unwrap()
}

fn template(path: &str) -> String {
    std::fs::read_to_string(format!("{}/../{path}/chat_template.jinja", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": { "city": { "enum": ["Rome", "Oslo"] }, "days": { "type": "integer", "minimum": 1, "maximum": 9 } },
        "required": ["city", "days"],
        "additionalProperties": false,
    })
}

fn tools() -> Vec<Value> {
    ["weather", "flights"].map(|name| json!({ "type": "function", "function": { "name": name, "parameters": schema() } })).into()
}

/// An answer under the grammar, with control tokens spelled.
fn answer(tokenizer: &Tokenizer, lark: &str, ends: &[u32], seed: u64) -> String {
    let size = tokenizer.vocab_size();
    let vocabulary = Vocabulary::of_tokenizer(tokenizer, size, ends).unwrap();
    let mut matcher = vocabulary.matcher(&Format::Grammar(lark.into())).unwrap_or_else(|e| panic!("{e}\n{lark}"));
    let mut mask = vec![0u32; size.div_ceil(32)];
    let mut ids = Vec::new();
    let mut next = matcher.accept(&[]).unwrap();
    for step in 0.. {
        ids.extend(&next.forced);
        if next.complete {
            break;
        }
        assert!(ids.len() < LONGEST, "{lark}\n{}", tokenizer.decode(&ids, false).unwrap());
        matcher.allow(&mut mask).unwrap();
        let allowed: Vec<u32> = (0..size as u32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect();
        // Texts of dice would hardly end by themselves: control tokens are likelier than they are.
        let control: Vec<u32> = allowed.iter().copied().filter(|id| tokenizer.is_control(*id) || ends.contains(id)).collect();
        let of = if !control.is_empty() && uniform(seed, 2 * step) < 0.3 { &control } else { &allowed };
        let id = of[(uniform(seed, 2 * step + 1) * of.len() as f32) as usize];
        if ends.contains(&id) {
            break;
        }
        ids.push(id);
        next = matcher.accept(&[id]).unwrap();
    }
    tokenizer.decode(&ids, false).unwrap()
}

#[rstest]
#[case::qwen("tests/fixtures/tokenizers/qwen3", None, "<|im_end|>", &[CallCount::Any, CallCount::Some, CallCount::One])]
#[case::harmony("tests/fixtures/tokenizers/harmony", None, "<|call|>", &[CallCount::Some, CallCount::One])]
#[case::json("golden/haiku-7m", Some(""), "<|endoftext|>", &[CallCount::Some, CallCount::One])]
#[case::tags_that_are_text("golden/haiku-7m", Some("<tool_call> </tool_call>"), "<|endoftext|>", &[CallCount::Some, CallCount::One])]
#[case::mistral("golden/haiku-7m", Some("[TOOL_CALLS]"), "<|endoftext|>", &[CallCount::Some])]
#[case::granite("golden/haiku-7m", Some("<|tool_call|>"), "<|endoftext|>", &[CallCount::Some])]
#[case::phi("golden/haiku-7m", Some("<|tool_call|> <|/tool_call|>"), "<|endoftext|>", &[CallCount::One])]
fn demanded_calls_are_made(#[case] folder: &str, #[case] text: Option<&str>, #[case] end: &str, #[case] counts: &[CallCount]) {
    let tokenizer = tokenizer(folder);
    let format = AnswerFormat::of(&text.map_or_else(|| template(folder), String::from));
    let ends = [tokenizer.token_id(end).unwrap()];
    let arguments = Format::schema_in_grammar(&schema()).unwrap();
    let rules = ["weather", "flights"].map(|name| CallRule { name: name.into(), arguments: arguments.clone() });
    let mut with_calls = 0;
    for &count in counts {
        let lark = format.lark(&tokenizer, &rules, count, "").unwrap();
        for seed in 0..8 {
            let text = answer(&tokenizer, &lark, &ends, seed);
            let mut parser = format.parser("", &tools());
            let mut parts = parser.push(&text);
            parts.extend(parser.finish());
            let (mut calls, mut said) = (0, String::new());
            for part in parts {
                match part {
                    AnswerPart::Call(call) => {
                        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
                        assert!(["weather", "flights"].contains(&call.name.as_str()), "{text}");
                        assert!(["Rome", "Oslo"].contains(&arguments["city"].as_str().unwrap()), "{text}");
                        assert!((1..10).contains(&arguments["days"].as_i64().unwrap()), "{text}");
                        calls += 1;
                    }
                    AnswerPart::Content(words) => said.push_str(&words),
                    AnswerPart::Reasoning(_) => {}
                }
            }
            with_calls += usize::from(calls > 0);
            match count {
                CallCount::Any => assert!(!said.contains("<tool_call>"), "{text}"),
                CallCount::Some => assert!(calls > 0 && said.is_empty(), "{count:?}: {calls} calls in {text:?}"),
                CallCount::One => assert!(calls == 1 && said.is_empty(), "{count:?}: {calls} calls in {text:?}"),
            }
        }
    }
    assert!(with_calls > 0);
}

#[test]
fn calls_that_are_not_json_have_no_grammar() {
    let tokenizer = tokenizer("golden/haiku-7m");
    let rules = [CallRule { name: "clock".into(), arguments: "{}".into() }];
    for template in ["<|tool_call>call:", "<|tool_call_start|>", "<tool_call> <function="] {
        assert_eq!(AnswerFormat::of(template).lark(&tokenizer, &rules, CallCount::Some, ""), None, "{template}");
    }
    for template in ["", "<tool_call> </tool_call>"] {
        // Tags that are text could be a part of any text.
        assert_eq!(AnswerFormat::of(template).lark(&tokenizer, &rules, CallCount::Any, ""), None, "{template}");
    }
}
