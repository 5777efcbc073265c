//! The files of a tokenizer. The first byte of an input says which the rest is: 0 `tokenizer.json`, 1 `tokenizer_config.json`,
//! 2 `special_tokens_map.json`, 3 `tokenizer.model` (SentencePiece), 4 `vocab.json`.

#![cfg_attr(fuzzing, no_main)]

use haikuq::checkpoint::{Companion, read_companions};
use haikuq::tokenizer::from_companions;
use haikuq_fuzz::fixtures::{hostile, path, read, read_json, small_tokenizer, write};
use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target, folder};
use haikuq_runtime::text::{Special, StreamDecoder, Tokenizer, TokenizerFiles};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::LazyLock;

const FIXTURES: &str = "tests/fixtures/tokenizers";

static FOLDERS: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    let folders = ["sentencepiece", "vocabulary"].map(|name| folder().join(name));
    folders.iter().for_each(|f| std::fs::create_dir_all(f).expect("a folder of the run"));
    write(&folders[1].join("merges.txt"), b"#version: 0.2\na b\nab c\n", 0);
    write(&folders[1].join("tokenizer_config.json"), br#"{"tokenizer_class": "GPT2Tokenizer"}"#, 0);
    folders
});

static SMALL: LazyLock<Vec<u8>> =
    LazyLock::new(|| small_tokenizer(read_json(&format!("{FIXTURES}/qwen3/tokenizer.json")), 60).to_string().into_bytes());

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut seed = |kind: u8, bytes: Vec<u8>| seeds.push([vec![kind], bytes].concat());
    for name in ["gemma2", "gemma3", "harmony", "llama3", "mistral", "phi3", "phi4mini", "qwen3", "smollm2"] {
        let tokenizer = read_json(&format!("{FIXTURES}/{name}/tokenizer.json"));
        seed(0, small_tokenizer(tokenizer, 60).to_string().into_bytes());
        let mut config = read_json(&format!("{FIXTURES}/{name}/tokenizer_config.json"));
        // Templates have a target of their own.
        if config["chat_template"].is_string() {
            config["chat_template"] = json!("{{ messages[0].content }}");
        }
        seed(1, config.to_string().into_bytes());
    }
    let model = |model: Value| {
        json!({"version": "1.0", "added_tokens": [], "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": true, "strip_right": true},
            {"type": "Prepend", "prepend": "_"}]}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Whitespace"}, {"type": "Digits", "individual_digits": true}, {"type": "Punctuation", "behavior": "Isolated"}]},
            "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"a": {"id": "a", "ids": [0], "tokens": ["a"]}}},
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "CTC", "pad_token": "a",
            "word_delimiter_token": "|", "cleanup": true}]}, "model": model})
    };
    let unigram =
        json!({"type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": [["<unk>", 0.0], ["a", -1.5], ["ab", -2.0]]});
    let pieces = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1, "##b": 2}});
    let words = json!({"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "a": 1}});
    [unigram, pieces, words].into_iter().for_each(|m| seed(0, model(m).to_string().into_bytes()));
    seed(2, read(&format!("{FIXTURES}/smollm2/special_tokens_map.json")));
    for name in ["gemma", "llama", "unigram", "unigram-bytes"] {
        let file = format!("tests/fixtures/sentencepiece/{name}/tokenizer.model");
        if path(&file).is_file() {
            let whole = read(&file);
            // The pieces are most of it; the settings are at the end.
            seed(3, [&whole[..0], &whole[whole.len().saturating_sub(1200)..]].concat());
            seed(3, whole);
        }
    }
    hostile("tokenizer").into_iter().for_each(|file| seed(0, file));
    hostile("sentencepiece").into_iter().for_each(|file| seed(3, file));
    seed(4, br#"{"a": 0, "b": 1, "ab": 2, "c": 3, "abc": 4, "<|endoftext|>": 5}"#.to_vec());
    seeds
}

fn mutate(input: &mut Vec<u8>, mutator: &mut Mutator<'_>) {
    let kind = input.first().copied().unwrap_or(0);
    let mut rest = input.get(1..).unwrap_or_default().to_vec();
    let done = !mutator.random.one_in(4) && if kind == 3 { mutator.protobuf(&mut rest) } else { mutator.json(&mut rest) };
    if !done {
        mutator.bytes(&mut rest);
    }
    *input = [vec![kind], rest].concat();
    input.truncate(mutator.most_bytes);
}

/// Whether everything that a tokenizer does ends well, however it ends.
fn use_it(tokenizer: &Tokenizer, length: usize) -> String {
    let mut said = Vec::new();
    // Two of them, which the length decides.
    let texts = ["Hello, Wörld 123\n\n  x😀", "ab abc <|im_start|>a<|endoftext|> \u{0}", "<|endoftext|>é</s>▁a"];
    for text in ["", texts[length % texts.len()]] {
        for special in [Special::Plain, Special::Recognize] {
            match tokenizer.encode(text, special) {
                Ok(ids) => {
                    said.extend(tokenizer.decode(&ids, true).err().map(|e| e.to_string()));
                    let mut stream = StreamDecoder::new(tokenizer);
                    ids.iter().take(100).for_each(|id| drop(stream.push(*id)));
                    stream.finish();
                }
                Err(error) => said.push(error.to_string()),
            }
        }
    }
    let some: Vec<u32> = (0..8).chain([60, 61, 1 << 20, u32::MAX]).collect();
    said.extend(tokenizer.decode(&some, false).err().map(|e| e.to_string()));
    let _ = (tokenizer.bos_token_id(), tokenizer.eos_token_id(), tokenizer.tokens_from(50).len());
    said.dedup();
    said.join("; ")
}

fn run(input: &[u8]) -> Outcome {
    let (kind, file) = input.split_first().unwrap_or((&0, &[]));
    let tokenizer = match kind {
        3 | 4 => {
            let folder = &FOLDERS[usize::from(*kind == 4)];
            write(&folder.join(if *kind == 3 { "tokenizer.model" } else { "vocab.json" }), file, 0);
            let companions: Vec<Companion> = read_companions(folder).map_err(|e| e.to_string())?;
            let made = from_companions(&companions).map_err(|e| format!("made, {e}"))?;
            made.ok_or("no tokenizer was made")?
        }
        _ => {
            let mut files = TokenizerFiles::new(&SMALL);
            match kind {
                1 => files.config = Some(file),
                2 => files.special_tokens_map = Some(file),
                _ => files.tokenizer = file,
            }
            Tokenizer::from_files(files).map_err(|e| e.to_string())?
        }
    };
    Ok(format!("a tokenizer; {}", use_it(&tokenizer, input.len())))
}

fuzz_target!(Target {
    name: "tokenizer",
    seeds,
    dictionary: &[
        "type",
        "BPE",
        "Unigram",
        "WordPiece",
        "WordLevel",
        "ByteLevel",
        "Metaspace",
        "Split",
        "Sequence",
        "Digits",
        "Replace",
        "NFC",
        "NFKC",
        "Lowercase",
        "StripAccents",
        "BertNormalizer",
        "Precompiled",
        "precompiled_charsmap",
        "Prepend",
        "Strip",
        "Nmt",
        "pattern",
        "Regex",
        "String",
        "content",
        "behavior",
        "Isolated",
        "Removed",
        "MergedWithPrevious",
        "MergedWithNext",
        "Contiguous",
        "invert",
        "ByteFallback",
        "Fuse",
        "CTC",
        "BPEDecoder",
        "TemplateProcessing",
        "RobertaProcessing",
        "BertProcessing",
        "single",
        "pair",
        "special_tokens",
        "SpecialToken",
        "A",
        "B",
        "vocab",
        "merges",
        "unk_token",
        "unk_id",
        "byte_fallback",
        "ignore_merges",
        "dropout",
        "fuse_unk",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "added_tokens",
        "added_tokens_decoder",
        "id",
        "special",
        "normalized",
        "lstrip",
        "rstrip",
        "single_word",
        "chat_template",
        "bos_token",
        "eos_token",
        "add_bos_token",
        "add_prefix_space",
        "prepend_scheme",
        "always",
        "first",
        "never",
        "replacement",
        "▁",
        "##",
        "(?i:a|b)+",
        "(a*)*b",
        "(a+)+$",
        "\\p{L}{1,9}",
        "(?!a)",
        "(?<=a)",
        "truncation",
        "padding",
        "max_input_chars_per_word",
        "max_length",
        "stride",
        "Whitespace",
        "UnicodeScripts",
        "FixedLength",
        "length",
    ],
    mutate,
    most_bytes: 40 << 10,
    run,
});
