//! Beside a vocabulary: the configuration of a tokenizer, and tokens with names or ids of their own.

use super::super::{CheckpointError, Companion, read_json};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Tokens beside the vocabulary, with their ids.
pub(super) const ADDED: &str = "added_tokens.json";

/// `tokenizer_config.json`, with what `special_tokens_map.json` adds.
pub(super) fn read(folder: &Path, found: &[Companion]) -> Result<Map<String, Value>, CheckpointError> {
    let mut config = Map::new();
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        if found.iter().any(|c| c.name == name)
            && let Value::Object(fields) = read_json(folder, &folder.join(name))?
        {
            config.extend(fields);
        }
    }
    Ok(config)
}

/// A token in a configuration: its text, or an object with it.
pub(super) fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// `added_tokens`: `special` ones, those with a name, which are special too, and those that stand beside the vocabulary.
pub(super) fn added_tokens(
    folder: &Path,
    config: &Map<String, Value>,
    ids: &BTreeMap<String, u32>,
    mut special: BTreeSet<String>,
) -> Result<Vec<Value>, CheckpointError> {
    for name in ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"] {
        special.extend(config.get(name).and_then(token_text));
    }
    let further = config.get("additional_special_tokens").and_then(Value::as_array);
    special.extend(further.into_iter().flatten().filter_map(token_text));
    let path = folder.join(ADDED);
    let beside = if path.is_file() { read_json(folder, &path)? } else { Value::Null };
    let mut tokens = BTreeMap::<u32, String>::new();
    for (token, id) in beside.as_object().into_iter().flatten() {
        tokens.extend(id.as_u64().and_then(|id| u32::try_from(id).ok()).map(|id| (id, token.clone())));
    }
    for (id, token) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        tokens.extend(id.parse().ok().zip(token_text(token)));
        if token.get("special").and_then(Value::as_bool) == Some(true) {
            special.extend(token_text(token));
        }
    }
    tokens.extend(special.iter().filter_map(|token| Some((*ids.get(token)?, token.clone()))));
    let one = |(id, token): (u32, String)| {
        let special = special.contains(&token);
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": !special, "special": special})
    };
    Ok(tokens.into_iter().map(one).collect())
}

/// The post-processor that puts a token before each text and one after it, by id and text; null for neither.
pub(in crate::checkpoint) fn around(before: Option<&(u32, &str)>, after: Option<&(u32, &str)>) -> Value {
    if before.is_none() && after.is_none() {
        return Value::Null;
    }
    let special = |(_, text): &(u32, &str)| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let text = |id: &str, kind: u8| {
        let sequence = json!({"Sequence": {"id": id, "type_id": kind}});
        before.map(special).into_iter().chain([sequence]).chain(after.map(special)).collect::<Vec<_>>()
    };
    let token = |(id, text): &(u32, &str)| (text.to_string(), json!({"id": text, "ids": [id], "tokens": [text]}));
    let tokens: Map<String, Value> = before.into_iter().chain(after).map(token).collect();
    let pair = [text("A", 0), text("B", 1)].concat();
    json!({"type": "TemplateProcessing", "single": text("A", 0), "pair": pair, "special_tokens": tokens})
}
