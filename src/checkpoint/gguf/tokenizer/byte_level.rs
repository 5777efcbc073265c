//! Byte-level BPE, llama.cpp's `gpt2`: letters stand for bytes, and merges are listed.

use super::super::super::CheckpointError;
use super::super::container::Container;
use super::split;
use super::vocabulary::Vocabulary;
use serde_json::{Map, Value, json};

/// `tokenizer.json`, whether a text begins with a token where the file does not say, and what a user should know.
pub(super) fn tokenizer(
    container: &Container<'_>,
    vocabulary: &Vocabulary<'_>,
) -> Result<(Value, bool, Option<String>), CheckpointError> {
    let split = split::find(container)?;
    let pieces = vocabulary.pieces();
    let merges = merges(container, &pieces)?;
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(|_| false),
        "normalizer": split.normalizer(),
        "pre_tokenizer": split.pre_tokenizer(),
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": split.ignores_merges, "vocab": pieces, "merges": merges,
        },
    });
    Ok((tokenizer, split.adds_bos, split.warning(container.file)))
}

/// The listed merges, each as two texts.
pub(super) fn merges(container: &Container<'_>, pieces: &Map<String, Value>) -> Result<Vec<[String; 2]>, CheckpointError> {
    const KEY: &str = "tokenizer.ggml.merges";
    let merges = container.texts(KEY)?.ok_or_else(|| container.wrong(KEY, "is missing"))?;
    let parts = |(i, merge): (usize, &&str)| {
        // A part is one letter at least, which may itself be a space.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let space = merge[first..].find(' ').map(|at| at + first);
        let pair = space.map(|at| [merge[..at].to_string(), merge[at + 1..].to_string()]);
        let whole = pair.filter(|[a, b]| [a, b, &format!("{a}{b}")].iter().all(|t| pieces.contains_key(*t)));
        whole.ok_or_else(|| container.wrong(KEY, &format!("has an entry, {i}, {merge:?}, that is not two tokens that make one")))
    };
    merges.iter().enumerate().map(parts).collect()
}
