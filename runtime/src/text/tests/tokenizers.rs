//! Small tokenizers, each with the parts (normalizer, pre-tokenizer, decoder, post-processor, kinds of added tokens) of
//! a kind that real checkpoints have, and a vocabulary of a few hundred pieces.

use crate::text::{Tokenizer, TokenizerFiles};
use serde_json::{Value, json};

/// The chat template that all of them share, with a marker of its own for what the model thinks.
pub const CHAT: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|><think>{% endif %}";

/// Texts of many scripts, with characters of one to four bytes and sequences that look like one character.
pub const MIXED: &str =
    "Hello, world! 123 don't  stop\n\n\tПривет мир, こんにちは世界 안녕 नमस्ते مرحبا 👩‍👩‍👧‍👦 🇩🇪 naïve é𝄞 ✅ <table>x</table>";

/// Every kind, by name.
pub fn all() -> Vec<(&'static str, Tokenizer)> {
    vec![
        ("gpt2", gpt2()),
        ("llama3", llama3()),
        ("qwen", qwen()),
        ("smollm", smollm()),
        ("llama2", llama2()),
        ("gemma", gemma()),
        ("mistral", mistral()),
        ("unigram", unigram()),
    ]
}

fn load(tokenizer: Value) -> Tokenizer {
    let config = json!({ "bos_token": "<s>", "eos_token": {"content": "<|end|>"}, "chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": CHAT}] });
    let (tokenizer, config) = (tokenizer.to_string(), config.to_string());
    Tokenizer::from_files(TokenizerFiles {
        tokenizer: tokenizer.as_bytes(),
        config: Some(config.as_bytes()),
        ..Default::default()
    })
    .unwrap()
}

fn added(id: usize, content: &str, special: bool, normalized: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": normalized, "special": special})
}

/// The control tokens that all of them have: special ones, and `<think>` and `<tool_call>`, which are not marked so.
fn control(first_id: usize) -> Vec<Value> {
    let special = ["<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"].map(|t| (t, true));
    let plain = ["<think>", "</think>", "<tool_call>"].map(|t| (t, false));
    special.into_iter().chain(plain).enumerate().map(|(i, (t, s))| added(first_id + i, t, s, false)).collect()
}

/// GPT-2's spelling of bytes as visible characters.
fn byte_characters() -> Vec<String> {
    let visible = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    let mut spell = |b: u32| {
        let c = if visible(b) { b } else { next };
        next += u32::from(!visible(b));
        char::from_u32(c).unwrap().to_string()
    };
    (0..256).map(&mut spell).collect()
}

/// A byte-level BPE model with a few merges, among them one within a character (`é` is `Ã©`).
fn byte_level_bpe(extra: &[&str], ignore_merges: bool) -> Value {
    let merges = [
        ("h", "e"),
        ("l", "l"),
        ("he", "ll"),
        ("hell", "o"),
        ("Ġ", "w"),
        ("o", "r"),
        ("Ġw", "or"),
        ("Ã", "©"),
        ("ð", "Ł"),
        ("Ċ", "Ċ"),
        ("1", "2"),
    ];
    let mut vocab = byte_characters();
    vocab.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    vocab.extend(extra.iter().map(|s| (*s).to_string()));
    let vocab: serde_json::Map<String, Value> = vocab.into_iter().enumerate().map(|(i, t)| (t, i.into())).collect();
    let merges: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges})
}

fn vocab_size(model: &Value) -> usize {
    model["vocab"].as_object().map_or_else(|| model["vocab"].as_array().unwrap().len(), serde_json::Map::len)
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

fn tokenizer(
    added: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Value,
) -> Tokenizer {
    load(
        json!({"version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}, "padding": null, "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model}),
    )
}

/// GPT-2: the byte-level regex; a control token that the vocabulary spells as an ordinary piece.
pub fn gpt2() -> Tokenizer {
    let model = byte_level_bpe(&["<s>", "<|end|>"], false);
    let size = vocab_size(&model);
    let mut tokens = vec![added(size - 2, "<s>", true, false), added(size - 1, "<|end|>", true, false)];
    tokens.extend(control(size - 2).split_off(2));
    tokenizer(tokens, Value::Null, byte_level(true), Value::Null, byte_level(true), model)
}

/// Llama 3: its regex, whole words before merges, a beginning-of-sequence token by template.
pub fn llama3() -> Tokenizer {
    let regex =
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let model = byte_level_bpe(&["Ġworld", "<|", "|>", "user"], true);
    let size = vocab_size(&model);
    let bos = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [size], "tokens": ["<s>"]}}});
    let post = json!({"type": "Sequence", "processors": [byte_level(true), bos]});
    let pre = json!({"type": "Sequence", "pretokenizers": [split(regex), byte_level(false)]});
    tokenizer(control(size), Value::Null, pre, post, byte_level(true), model)
}

/// Qwen 2: NFC, its regex.
pub fn qwen() -> Tokenizer {
    let regex = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let model = byte_level_bpe(&[], false);
    let pre = json!({"type": "Sequence", "pretokenizers": [split(regex), byte_level(false)]});
    tokenizer(control(vocab_size(&model)), json!({"type": "NFC"}), pre, byte_level(false), byte_level(false), model)
}

/// SmolLM: single digits, then the byte-level regex.
pub fn smollm() -> Tokenizer {
    let model = byte_level_bpe(&[], false);
    let pre = json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(true)]});
    tokenizer(control(vocab_size(&model)), Value::Null, pre, Value::Null, byte_level(true), model)
}

/// A sentencepiece BPE with byte fallback.
fn sentencepiece_bpe(extra: &[&str]) -> Value {
    let mut vocab: Vec<String> = vec!["<unk>".into(), "<s>".into(), "</s>".into()];
    vocab.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    vocab.extend(("!,.0123456789<>|_/'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ▁éвет世\n").chars().map(String::from));
    let merges = [("l", "l"), ("e", "ll"), ("ell", "o"), ("▁", "w"), ("o", "r"), ("▁w", "or"), ("▁", "▁"), ("е", "т")];
    let merges: Vec<_> = merges.into_iter().filter(|(a, b)| *a != "е" || vocab.contains(&b.to_string())).collect();
    vocab.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    vocab.extend(extra.iter().map(|s| (*s).to_string()));
    let vocab: serde_json::Map<String, Value> = vocab.into_iter().enumerate().map(|(i, t)| (t, i.into())).collect();
    let merges: Vec<Value> = merges.iter().map(|(a, b)| json!([a, b])).collect();
    json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": vocab, "merges": merges})
}

fn sentencepiece_decoder(strip: bool) -> Value {
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if strip {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": decoders})
}

fn sentencepiece_added(size: usize) -> Vec<Value> {
    let mut tokens = vec![added(0, "<unk>", true, false), added(1, "<s>", true, false), added(2, "</s>", true, false)];
    tokens.extend(control(size - 1).split_off(1));
    tokens
}

/// Llama 2: a space before every stretch by normalizer, byte fallback, the first space stripped on decoding.
pub fn llama2() -> Tokenizer {
    let model = sentencepiece_bpe(&[]);
    let normalizer = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let bos = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    tokenizer(sentencepiece_added(vocab_size(&model)), normalizer, Value::Null, bos, sentencepiece_decoder(true), model)
}

/// Gemma: spaces kept as they are, pieces such as `<table>` and runs of newlines that are added tokens and text, and
/// ordinary pieces of private-use characters.
pub fn gemma() -> Tokenizer {
    let private = ["\u{100001}", "\u{100003}\u{100004}"];
    let model = sentencepiece_bpe(&[&private[..], &["<table>", "</table>", "\n\n", "▁▁▁"]].concat());
    let size = vocab_size(&model);
    let mut tokens = sentencepiece_added(size);
    let pieces = ["<table>", "</table>", "\n\n", "▁▁▁"];
    let pieces = pieces.iter().enumerate().map(|(i, t)| added(size - pieces.len() + i, t, false, false));
    tokens.splice(3..3, pieces);
    let normalizer = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let pre = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    tokenizer(tokens, normalizer, pre, Value::Null, sentencepiece_decoder(false), model)
}

/// Mistral 0.3: the metaspace pre-tokenizer, a space before the sequence alone.
pub fn mistral() -> Tokenizer {
    let model = sentencepiece_bpe(&[]);
    let pre = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    tokenizer(sentencepiece_added(vocab_size(&model)), Value::Null, pre, Value::Null, sentencepiece_decoder(true), model)
}

/// A unigram model whose vocabulary spells control tokens as pieces of text, with the metaspace decoder and no byte
/// fallback: characters that it cannot spell are unknown.
pub fn unigram() -> Tokenizer {
    let mut vocab = vec![json!(["<unk>", 0.0]), json!(["<s>", 0.0]), json!(["</s>", 0.0])];
    let letters = "!,.0123456789<>|_/'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ▁\nПриветм";
    vocab.extend(letters.chars().map(|c| json!([c.to_string(), -8.0])));
    vocab.extend(["▁wor", "ello", "<|user|>", "<|assistant|>", "▁▁"].map(|p| json!([p, -4.0])));
    let model = json!({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false});
    let find = |t: &str| vocab.iter().position(|p| p[0] == t).unwrap();
    let mut tokens = vec![added(0, "<unk>", true, false), added(1, "<s>", true, false), added(2, "</s>", true, false)];
    tokens.extend(["<|user|>", "<|assistant|>"].map(|t| added(find(t), t, true, false)));
    let rest = ["<|end|>", "<|system|>"]
        .map(|t| (t, true))
        .into_iter()
        .chain(["<think>", "</think>", "<tool_call>"].map(|t| (t, false)));
    tokens.extend(rest.enumerate().map(|(i, (t, special))| added(vocab.len() + i, t, special, false)));
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    tokenizer(tokens, Value::Null, metaspace.clone(), Value::Null, metaspace, model)
}
