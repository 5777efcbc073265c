//! `tokenizer.json` for folders that have a SentencePiece model alone (`tokenizer.model`), as older checkpoints do. Texts
//! get the ids that the `sentencepiece` library gives, and the tokens around them that transformers adds.

mod merges;
mod model;

use super::super::{CheckpointError, Companion, MAX_COMPANION_BYTES, regular};
use super::config::{self, added_tokens, token_text};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
pub(in crate::checkpoint) use merges::merges;
pub(in crate::checkpoint) use model::Kind;
use model::{Algorithm, Model};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

/// Names of the file, in the order of preference.
pub const FILES: [&str; 3] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"];

/// Longer pieces are in no vocabulary, and take long to look for.
const LONGEST_PIECE: usize = 4096;

/// The tokenizer of `folder`, if it has such a file: `tokenizer.json`, and `tokenizer_config.json` where `found` has none.
///
/// # Errors
/// If the file cannot be read, or says what a `tokenizer.json` cannot.
pub(super) fn make(folder: &Path, found: &[Companion]) -> Result<Vec<Companion>, CheckpointError> {
    let path = FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let Some(path) = path else { return Ok(Vec::new()) };
    regular::within(folder, &path)?;
    let bytes = regular::read(&path, MAX_COMPANION_BYTES)?;
    // The same name has been given to tiktoken's lists of tokens; there is no tokenizer then.
    if is_tiktoken(&bytes) {
        return Ok(Vec::new());
    }
    let wrong = |why: String| CheckpointError::Tokenizer { path: path.clone(), why };
    let model = Model::read(&bytes).map_err(|error| wrong(format!("is no SentencePiece model, or is cut off: {error}")))?;
    check(&model).map_err(wrong)?;
    let config = config::read(folder, found)?;
    let tokenizer = tokenizer(&model, folder, &config)?;
    let mut made = vec![Companion { name: "tokenizer.json".into(), bytes: tokenizer.to_string().into_bytes() }];
    if !found.iter().any(|c| c.name == "tokenizer_config.json") {
        let mut named = Map::new();
        for (name, id) in [("bos_token", model.bos), ("eos_token", model.eos), ("pad_token", model.pad)] {
            let piece = usize::try_from(id).ok().and_then(|id| model.pieces.get(id));
            named.extend(piece.map(|piece| (name.into(), json!(piece.text))));
        }
        made.push(Companion { name: "tokenizer_config.json".into(), bytes: Value::Object(named).to_string().into_bytes() });
    }
    Ok(made)
}

/// Whether a file has tiktoken's lines: a token in base64, a space, its rank.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let Some((token, rank)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(' ')) else { return false };
    !token.is_empty() && BASE64_STANDARD.decode(token).is_ok() && rank.trim_end().parse::<u32>().is_ok()
}

fn check(model: &Model) -> Result<(), String> {
    if model.pieces.is_empty() {
        return Err("has no pieces: it is no SentencePiece model, or is cut off".into());
    }
    if matches!(model.algorithm, Algorithm::Word | Algorithm::Char) {
        let algorithm = format!("{:?}", model.algorithm).to_lowercase();
        return Err(format!("is of SentencePiece's type {algorithm}; a tokenizer.json can be made of unigram and bpe"));
    }
    if model.whitespace_as_suffix {
        return Err("has its spaces after words (treat_whitespace_as_suffix), which a tokenizer.json cannot say".into());
    }
    let mut ids = HashMap::new();
    for (id, piece) in model.pieces.iter().enumerate() {
        if piece.text.len() > LONGEST_PIECE {
            return Err(format!("has the piece {id} of {} bytes, of at most {LONGEST_PIECE}", piece.text.len()));
        }
        if !piece.score.is_finite() {
            return Err(format!("has the score {} for the piece {id}, {:?}", piece.score, piece.text));
        }
        if let Some(first) = ids.insert(piece.text.as_str(), id) {
            return Err(format!("has the piece {:?} twice, as {first} and as {id}", piece.text));
        }
    }
    match model.pieces.iter().filter(|piece| piece.kind == Kind::Unknown).count() {
        1 => Ok(()),
        count => Err(format!("has {count} pieces for what it does not know; it needs one")),
    }
}

fn tokenizer(model: &Model, folder: &Path, config: &Map<String, Value>) -> Result<Value, CheckpointError> {
    let ids: BTreeMap<String, u32> = (0..).zip(&model.pieces).map(|(id, piece)| (piece.text.clone(), id)).collect();
    let unknown = model.pieces.iter().position(|piece| piece.kind == Kind::Unknown).unwrap_or_default();
    let fallback = model.byte_fallback;
    let own = match model.algorithm {
        Algorithm::Unigram => {
            // A piece that no text may become is worth less than the unknown one.
            let score = |kind: Kind, score: f32| if kind == Kind::Unused { -1e9 } else { score };
            let vocabulary: Vec<_> = model.pieces.iter().map(|p| (&p.text, score(p.kind, p.score))).collect();
            json!({"type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": fallback})
        }
        _ => {
            let normal = || model.pieces.iter().filter(|p| p.kind == Kind::Normal);
            let texts: HashSet<&str> = normal().map(|p| p.text.as_str()).collect();
            let scored = normal().map(|p| (p.text.as_str(), f64::from(p.score)));
            json!({
                "type": "BPE", "dropout": null, "unk_token": model.pieces[unknown].text, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": fallback,
                // Pieces that stand alone are no merges of others.
                "ignore_merges": !user_defined(model).is_empty(),
                "vocab": ids, "merges": merges(scored, |text| texts.contains(text)),
            })
        }
    };
    let control = |kind: Kind| matches!(kind, Kind::Control | Kind::Unknown);
    let special: BTreeSet<String> = model.pieces.iter().filter(|p| control(p.kind)).map(|p| p.text.clone()).collect();
    let added = added_tokens(folder, config, &ids, special)?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers(model, config)},
        "pre_tokenizer": pre_tokenizer(model, config), "post_processor": post_processor(model, config),
        "decoder": {"type": "Sequence", "decoders": decoders(model)}, "model": own,
    }))
}

/// Pieces that are cut out before others are put together, the longest first.
fn user_defined(model: &Model) -> Vec<&str> {
    let mut pieces: Vec<&str> =
        model.pieces.iter().filter(|p| p.kind == Kind::UserDefined && !p.text.is_empty()).map(|p| p.text.as_str()).collect();
    pieces.sort_by_key(|text| std::cmp::Reverse(text.len()));
    pieces
}

/// Whether the space before a text is that of the whole text, not of each part between special tokens:
/// transformers' `legacy: false`.
fn prefix_is_first(config: &Map<String, Value>) -> bool {
    config.get("legacy").and_then(Value::as_bool) == Some(false)
}

fn has_prefix(model: &Model, config: &Map<String, Value>) -> bool {
    config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(model.dummy_prefix)
}

/// In SentencePiece's order.
fn normalizers(model: &Model, config: &Map<String, Value>) -> Vec<Value> {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let mut normalizers = Vec::new();
    if !model.rules.is_empty() {
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(&model.rules)}));
    }
    if model.squeezes_spaces {
        // Spaces alone, no other white space; at the end what stands for one too.
        normalizers.push(replace(json!({"Regex": if model.escapes_spaces { r"\A +|[ ▁]+\z" } else { r"\A +| +\z" }}), ""));
        normalizers.push(replace(json!({"Regex": " {2,}"}), " "));
    }
    if has_prefix(model, config) && !prefix_is_first(config) {
        normalizers.push(json!({"type": "Prepend", "prepend": if model.escapes_spaces { "▁" } else { " " }}));
    }
    if model.escapes_spaces {
        normalizers.push(replace(json!({"String": " "}), "▁"));
    }
    normalizers
}

fn pre_tokenizer(model: &Model, config: &Map<String, Value>) -> Value {
    let mut parts = Vec::new();
    if has_prefix(model, config) && prefix_is_first(config) {
        parts.push(json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}));
    }
    let alone = user_defined(model);
    if !alone.is_empty() {
        let pattern = alone.iter().map(|text| escaped(text)).collect::<Vec<_>>().join("|");
        parts.push(json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}));
    }
    if parts.is_empty() { Value::Null } else { json!({"type": "Sequence", "pretokenizers": parts}) }
}

/// A regular expression for a text.
fn escaped(text: &str) -> String {
    let sign = |c: char| c.is_ascii_punctuation() && c != '<' && c != '>' && c != '_';
    text.chars().flat_map(|c| sign(c).then_some('\\').into_iter().chain([c])).collect()
}

fn decoders(model: &Model) -> Vec<Value> {
    let mut decoders = vec![json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "})];
    if model.byte_fallback {
        decoders.push(json!({"type": "ByteFallback"}));
    }
    decoders.push(json!({"type": "Fuse"}));
    if model.dummy_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    decoders
}

/// The tokens around a text. As in transformers, a text begins with a token unless the configuration says otherwise.
fn post_processor(model: &Model, config: &Map<String, Value>) -> Value {
    let flag = |name: &str, default| config.get(name).and_then(Value::as_bool).unwrap_or(default);
    let named = |name: &str, id: i32| {
        let by_name = config.get(name).and_then(token_text);
        let by_name = by_name.and_then(|text| model.pieces.iter().position(|piece| piece.text == text));
        let id = by_name.or(usize::try_from(id).ok())?;
        Some((id as u32, model.pieces.get(id)?.text.as_str()))
    };
    let bos = named("bos_token", model.bos).filter(|_| flag("add_bos_token", true));
    let eos = named("eos_token", model.eos).filter(|_| flag("add_eos_token", false));
    config::around(bos.as_ref(), eos.as_ref())
}
