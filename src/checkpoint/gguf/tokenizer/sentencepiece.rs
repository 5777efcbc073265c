//! SentencePiece's BPE, llama.cpp's `llama`: pieces of text with `▁` for spaces, each with a score, and bytes for what
//! no piece spells. Gemma 4's is the same with listed merges.

use super::super::super::CheckpointError;
use super::super::container::Container;
use super::super::family::Family;
use super::vocabulary::{Kind, Vocabulary};
use serde_json::{Value, json};

/// `tokenizer.json`.
pub(super) fn tokenizer(
    container: &Container<'_>,
    vocabulary: &Vocabulary<'_>,
    family: &Family,
) -> Result<Value, CheckpointError> {
    let prefix = container.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizers = if prefix { vec![json!({"type": "Prepend", "prepend": "▁"}), space] } else { vec![space] };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    // Which special tokens swallow what follows is in no file; llama.cpp knows that of Phi-3's too.
    let strips = |token: &str| family.name == "phi3" && !matches!(token, "<unk>" | "<s>" | "<|endoftext|>");
    let unknown = vocabulary.named(container, "unknown")?.map(|(_, text)| text);
    let pieces = vocabulary.pieces();
    let merges = match container.text(super::MODEL_KEY)? {
        Some("gemma4") => json!(super::byte_level::merges(container, &pieces)?),
        _ => json!(merges(container, vocabulary)?),
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(strips),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": pieces, "merges": merges,
        },
    }))
}

/// The merges that the scores stand for.
fn merges<'a>(container: &Container<'_>, vocabulary: &Vocabulary<'a>) -> Result<Vec<[&'a str; 2]>, CheckpointError> {
    let missing = || container.wrong("tokenizer.ggml.scores", "is missing");
    let scores = vocabulary.scores.as_ref().ok_or_else(missing)?;
    let all = vocabulary.tokens.iter().zip(&vocabulary.kinds).zip(scores);
    let normal = all.filter(|((_, kind), _)| **kind == Kind::Normal).map(|((piece, _), score)| (*piece, *score));
    Ok(super::super::super::tokenizer::sentencepiece::merges(normal, |text| {
        vocabulary.find(text).is_some_and(|(_, kind)| kind == Kind::Normal)
    }))
}
