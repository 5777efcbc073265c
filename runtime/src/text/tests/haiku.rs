//! The tokenizer of `golden/haiku-7m`, against ids that Hugging Face transformers made.

use crate::text::{Message, Special, StreamDecoder, Tokenizer, TokenizerFiles};
use serde_json::Value;

pub fn path(file: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/haiku-7m").join(file)
}

pub fn tokenizer() -> Tokenizer {
    let read = |file| std::fs::read(path(file)).unwrap();
    let (tokenizer, config) = (read("tokenizer.json"), read("tokenizer_config.json"));
    Tokenizer::from_files(TokenizerFiles { tokenizer: &tokenizer, config: Some(&config), ..Default::default() }).unwrap()
}

/// Prompts with ids and greedy continuations with text, from the metadata of `reference.safetensors`.
fn generations() -> Vec<Value> {
    let file = std::fs::read(path("reference.safetensors")).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    serde_json::from_str(header["__metadata__"]["generations"].as_str().unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn prompts_have_the_ids_that_transformers_gives() {
    let t = tokenizer();
    let generations = generations();
    assert_eq!(generations.len(), 12);
    for g in generations {
        let prompt = g["prompt"].as_str().unwrap();
        assert_eq!(t.encode(prompt, Special::Recognize).unwrap(), ids(&g["prompt_ids"]), "{prompt}");
        let question = prompt.strip_prefix("<|user|>").unwrap().strip_suffix("<|assistant|>").unwrap();
        assert_eq!(t.encode_chat(&[Message::user(question)], true).unwrap(), ids(&g["prompt_ids"]), "{prompt}");
    }
}

#[test]
fn continuations_have_the_text_that_transformers_gives() {
    let t = tokenizer();
    for g in generations() {
        let (ids, text) = (ids(&g["greedy_ids"]), g["greedy_text"].as_str().unwrap());
        assert_eq!(t.decode(&ids, false).unwrap(), text);
        let mut stream = StreamDecoder::with_special(&t);
        let streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
        assert_eq!(streamed + &stream.finish(), text);
    }
}
