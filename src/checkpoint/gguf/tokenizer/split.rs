//! How a text is cut before merges, by the name that `tokenizer.ggml.pre` has for it. The names are llama.cpp's, the
//! expressions those of the families' own `tokenizer.json`.

use super::super::super::CheckpointError;
use super::super::container::Container;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const KEY: &str = "tokenizer.ggml.pre";

/// A way to cut texts.
pub(super) struct Split {
    name: String,
    cut: Cut,
    /// Whether letters and their accents become one character first.
    composes: bool,
    /// Whether a piece of the cut that is a token needs no merges.
    pub(super) ignores_merges: bool,
    /// Whether a text begins with a token where the file does not say.
    pub(super) adds_bos: bool,
    /// Whether this is a guess.
    assumed: bool,
}

#[derive(Clone, Copy)]
enum Cut {
    /// As GPT-2 does.
    Gpt2,
    /// Each digit for itself, then as GPT-2 does.
    Digits,
    /// By an expression.
    By(&'static str),
    /// By several expressions, each of which cuts the pieces of those before it.
    InTurn([&'static str; 3]),
}

const LLAMA_3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(in crate::checkpoint) const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_35: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const DEEPSEEK_3: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

/// Finds the file's way; where it names none, GPT-2's is assumed.
pub(super) fn find(container: &Container<'_>) -> Result<Split, CheckpointError> {
    let name = container.text(KEY)?.unwrap_or("default");
    let unknown = || {
        let why = format!(
            "{KEY} {name:?} is not known (known: gpt-2, phi-2, olmo, mpt, smollm, starcoder, refact, command-r, llama-bpe, \
             dbrx, smaug-bpe, qwen2, qwen35, stablelm2, gpt-4o, hunyuan-dense, tekken and their \
             like)"
        );
        CheckpointError::GgufTokenizer { file: container.file.into(), why }
    };
    of(name).ok_or_else(unknown)
}

/// The way of that name.
fn of(name: &str) -> Option<Split> {
    let plain = |cut| Split { name: name.into(), cut, composes: false, ignores_merges: false, adds_bos: false, assumed: false };
    let composed = |cut| Split { composes: true, ..plain(cut) };
    Some(match name {
        "default" => Split { assumed: true, ..plain(Cut::Gpt2) },
        "gpt-2" | "gpt2" | "phi-2" | "jais" | "exaone4" | "granite-docling" => plain(Cut::Gpt2),
        "olmo" | "mpt" => composed(Cut::Gpt2),
        "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b" => plain(Cut::Digits),
        "command-r" => composed(Cut::Digits),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
            Split { ignores_merges: true, adds_bos: true, ..plain(Cut::By(LLAMA_3)) }
        }
        "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => plain(Cut::By(LLAMA_3)),
        "qwen2" | "deepseek-r1-qwen" | "megrez" | "stablelm2" => composed(Cut::By(QWEN_2)),
        "qwen35" => composed(Cut::By(QWEN_35)),
        "gpt-4o" | "llama4" => plain(Cut::By(GPT_4O)),
        "hunyuan-dense" | "deepseek-v3" => plain(Cut::InTurn(DEEPSEEK_3)),
        "tekken" => Split { ignores_merges: true, adds_bos: true, ..plain(Cut::By(TEKKEN)) },
        _ => return None,
    })
}

/// The name of the way in which a `tokenizer.json` of byte-level BPE cuts texts, if it has one.
pub(crate) fn split_name(tokenizer: &Value) -> Option<&'static str> {
    const NAMES: [&str; 11] =
        ["gpt-2", "smollm", "llama-bpe", "qwen2", "olmo", "command-r", "dbrx", "qwen35", "gpt-4o", "deepseek-v3", "tekken"];
    let ignores_merges = tokenizer.pointer("/model/ignore_merges").and_then(Value::as_bool).unwrap_or(false);
    NAMES.into_iter().find(|name| {
        of(name).is_some_and(|split| {
            let cuts = same(&tokenizer["pre_tokenizer"], &split.pre_tokenizer());
            cuts && same(&tokenizer["normalizer"], &split.normalizer()) && split.ignores_merges == ignores_merges
        })
    })
}

/// Whether two descriptions say the same. Offsets change no token.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys =
                |map: &Map<String, Value>| map.keys().filter(|key| *key != "trim_offsets").cloned().collect::<BTreeSet<String>>();
            keys(a) == keys(b) && keys(a).iter().all(|key| same(&a[key], &b[key]))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b,
    }
}

impl Split {
    pub(super) fn normalizer(&self) -> Value {
        if self.composes { json!({"type": "NFC"}) } else { Value::Null }
    }

    pub(super) fn pre_tokenizer(&self) -> Value {
        let bytes = |cuts: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": cuts});
        let then = |first: Value, cuts| json!({"type": "Sequence", "pretokenizers": [first, bytes(cuts)]});
        let split = |expression: &str| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
        match self.cut {
            Cut::Gpt2 => bytes(true),
            Cut::Digits => then(json!({"type": "Digits", "individual_digits": true}), true),
            Cut::By(expression) => then(split(expression), false),
            Cut::InTurn([first, second, third]) => {
                json!({"type": "Sequence", "pretokenizers": [split(first), split(second), split(third), bytes(false)]})
            }
        }
    }

    /// That the way was assumed.
    pub(super) fn warning(&self, file: &str) -> Option<String> {
        self.assumed.then(|| {
            let name = &self.name;
            format!("{file} does not say how text is cut before it is tokenized ({KEY} is {name}): GPT-2's way is assumed")
        })
    }
}
