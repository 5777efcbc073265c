//! Why a `tokenizer.json` cannot be loaded: the `tokenizers` library says no more than that no variant fits.

use serde_json::Value;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
};

/// Parts of a tokenizer, with the kinds that the library knows and the field in which a sequence has its members.
const PARTS: [(&str, &[&str], &str); 5] = [
    (
        "normalizer",
        &[
            "BertNormalizer",
            "ByteLevel",
            "Lowercase",
            "NFC",
            "NFD",
            "NFKC",
            "NFKD",
            "Nmt",
            "Precompiled",
            "Prepend",
            "Replace",
            "Sequence",
            "Strip",
            "StripAccents",
        ],
        "normalizers",
    ),
    (
        "pre_tokenizer",
        &[
            "BertPreTokenizer",
            "ByteLevel",
            "CharDelimiterSplit",
            "Digits",
            "FixedLength",
            "Metaspace",
            "Punctuation",
            "Sequence",
            "Split",
            "UnicodeScripts",
            "Whitespace",
            "WhitespaceSplit",
        ],
        "pretokenizers",
    ),
    ("model", &["BPE", "Unigram", "WordLevel", "WordPiece"], ""),
    ("post_processor", &["BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"], "processors"),
    (
        "decoder",
        &["BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace", "Sequence", "Strip", "WordPiece"],
        "decoders",
    ),
];

/// What is wrong with a `tokenizer.json`, where that can be told better than the library does. `vetted`: whether it may see
/// parts of the file, to say what it has against them.
pub(super) fn diagnose(json: &[u8], vetted: bool) -> Option<String> {
    let file: Value = match serde_json::from_slice(json) {
        Ok(file) => file,
        Err(e) => return Some(format!("no JSON: {e}")),
    };
    if file.get("model").is_none_or(Value::is_null) {
        return Some("it has no \"model\": this is not the format of the Hugging Face tokenizers library".into());
    }
    PARTS.iter().find_map(|(part, kinds, members)| wrong_part(&file[part], part, kinds, members, vetted))
}

fn wrong_part(value: &Value, part: &str, kinds: &[&str], members: &str, vetted: bool) -> Option<String> {
    if value.is_null() {
        return None;
    }
    // Models of old files have none.
    let kind = match value.get("type").and_then(Value::as_str) {
        None if part == "model" => "unknown",
        None => return Some(format!("its {part} has no \"type\"")),
        Some(kind) => kind,
    };
    if kind != "unknown" && !kinds.contains(&kind) {
        return Some(format!("its {part} is of type {kind:?}, which is not known; known are {}", kinds.join(", ")));
    }
    if kind == "Sequence" {
        let parts = value.get(members).and_then(Value::as_array);
        return parts.into_iter().flatten().find_map(|v| wrong_part(v, part, kinds, members, vetted));
    }
    if !vetted {
        return None;
    }
    if let Some(regex) = value.pointer("/pattern/Regex").and_then(Value::as_str) {
        let pattern = SplitPattern::Regex(regex.into());
        let split = tokenizers::pre_tokenizers::split::Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        if let Err(e) = split {
            return Some(format!("its {part} has the regular expression {regex:?}, which is not understood: {e}"));
        }
    }
    let fits = match part {
        "normalizer" => fits::<NormalizerWrapper>(value),
        "pre_tokenizer" => fits::<PreTokenizerWrapper>(value),
        "model" => fits::<ModelWrapper>(value),
        "post_processor" => fits::<PostProcessorWrapper>(value),
        _ => fits::<DecoderWrapper>(value),
    };
    fits.err().map(|e| format!("its {part} of type {kind:?} is malformed: {e}"))
}

fn fits<T: serde::de::DeserializeOwned>(value: &Value) -> Result<(), serde_json::Error> {
    serde_json::from_slice::<T>(&serde_json::to_vec(value)?).map(drop)
}
