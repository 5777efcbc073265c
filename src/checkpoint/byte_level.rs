//! `tokenizer.json` for folders that have `vocab.json` and `merges.txt` alone, as older checkpoints do: byte-level BPE,
//! made as transformers makes it for the class that the folder names.

use super::gguf::QWEN_2_SPLIT;
use super::{CheckpointError, Companion, MAX_COMPANION_BYTES, read_json, regular};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
/// Tokens beside the vocabulary, with their ids.
const ADDED: &str = "added_tokens.json";

/// The files that [`find`] reads, beside the configuration.
pub const FILES: [&str; 3] = [VOCABULARY, MERGES, ADDED];

/// Classes that cut texts as GPT-2 does.
const AS_GPT_2: [&str; 3] = ["GPT2Tokenizer", "CodeGenTokenizer", "GPTNeoTokenizer"];
/// Families whose class a folder need not name.
const FAMILIES: [(&str, &str); 6] = [
    ("gpt2", "GPT2Tokenizer"),
    ("phi", "CodeGenTokenizer"),
    ("starcoder2", "GPT2Tokenizer"),
    ("qwen2", "Qwen2Tokenizer"),
    ("qwen3", "Qwen2Tokenizer"),
    ("olmo", "GPT2Tokenizer"),
];

/// The tokenizer of `folder`, if it has these files and `found`, its other companions, has none.
///
/// # Errors
/// If a file cannot be read or does not fit the other, or the class is not known.
pub(super) fn find(folder: &Path, found: &[Companion]) -> Result<Option<Companion>, CheckpointError> {
    let (vocabulary, merges) = (folder.join(VOCABULARY), folder.join(MERGES));
    if found.iter().any(|c| c.name == "tokenizer.json") || !vocabulary.is_file() || !merges.is_file() {
        return Ok(None);
    }
    let wrong = |file: &Path, why: String| CheckpointError::Tokenizer { path: file.into(), why };
    let ids: BTreeMap<String, u32> = match serde_json::from_value(read_json(folder, &vocabulary)?) {
        Ok(ids) => ids,
        Err(error) => return Err(wrong(&vocabulary, format!("is no vocabulary of tokens with their ids: {error}"))),
    };
    regular::within(folder, &merges)?;
    let text = String::from_utf8(regular::read(&merges, MAX_COMPANION_BYTES)?)
        .map_err(|error| wrong(&merges, format!("is not UTF-8: {error}")))?;
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let merged = lines.filter(|(i, line)| !(line.is_empty() || *i == 0 && line.starts_with("#version")));
    let pair = |(i, line): (usize, &str)| {
        let pair = line.trim_end_matches('\r').split_once(' ');
        let pair = pair.filter(|(a, b)| [*a, *b, &format!("{a}{b}")].iter().all(|t| ids.contains_key(*t)));
        let why = || wrong(&merges, format!("line {} is {line:?}, which is not two tokens of {VOCABULARY} that make one", i + 1));
        pair.map(|(a, b)| [a.to_owned(), b.to_owned()]).ok_or_else(why)
    };
    let merges = merged.map(pair).collect::<Result<Vec<_>, _>>()?;

    let config = config(folder, found)?;
    let class = config.get("tokenizer_class").and_then(Value::as_str).map(|class| class.trim_end_matches("Fast"));
    let class =
        class.filter(|class| *class != "PreTrainedTokenizer").map_or_else(|| class_of_family(folder), |c| Some(c.to_owned()));
    let class = class.unwrap_or_default();
    let qwen = class == "Qwen2Tokenizer";
    if !qwen && !AS_GPT_2.contains(&class.as_str()) {
        let named = if class.is_empty() { "names no class that is known".into() } else { format!("names the class {class:?}") };
        let why = format!(
            "beside {MERGES} can be made into a tokenizer.json for GPT2Tokenizer, CodeGenTokenizer and Qwen2Tokenizer, and the \
             folder {named}; let transformers make it: AutoTokenizer.from_pretrained({0:?}).save_pretrained({0:?})",
            folder.display().to_string()
        );
        return Err(wrong(&vocabulary, why));
    }
    let flag = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or(false);
    let bytes = |cuts: bool| json!({"type": "ByteLevel", "add_prefix_space": flag("add_prefix_space"), "trim_offsets": true, "use_regex": cuts});
    let pre_tokenizer = match qwen {
        true => {
            let split = json!({"type": "Split", "pattern": {"Regex": QWEN_2_SPLIT}, "behavior": "Isolated", "invert": false});
            json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
        }
        false => bytes(true),
    };
    let added = added(folder, &config, &ids)?;
    let first = config.get("bos_token").and_then(token_text).unwrap_or_else(|| "<|endoftext|>".into());
    let first = ids.get(&first).filter(|_| flag("add_bos_token")).map(|id| (first, *id));
    let post_processor = first.map_or(
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true}),
        |(token, id)| {
            let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
            let sequence = |name: &str, kind: u8| json!({"Sequence": {"id": name, "type_id": kind}});
            let entry = json!({"id": token, "ids": [id], "tokens": [token]});
            json!({
                "type": "TemplateProcessing", "single": [special, sequence("A", 0)],
                "pair": [special, sequence("A", 0), sequence("B", 1)], "special_tokens": {token: entry},
            })
        },
    );
    let made = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": if qwen { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": ids, "merges": merges,
        },
    });
    Ok(Some(Companion { name: "tokenizer.json".into(), bytes: made.to_string().into_bytes() }))
}

/// `tokenizer_config.json`, with what `special_tokens_map.json` adds.
fn config(folder: &Path, found: &[Companion]) -> Result<Map<String, Value>, CheckpointError> {
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

fn class_of_family(folder: &Path) -> Option<String> {
    let config = read_json(folder, &folder.join(super::CONFIG_FILE)).ok()?;
    let family = config.get("model_type")?.as_str()?;
    FAMILIES.iter().find(|(name, _)| *name == family).map(|(_, class)| (*class).to_owned())
}

fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// `added_tokens`: those with a name, which are special, and those that stand beside the vocabulary.
fn added(folder: &Path, config: &Map<String, Value>, ids: &BTreeMap<String, u32>) -> Result<Vec<Value>, CheckpointError> {
    let mut special: BTreeSet<String> = BTreeSet::new();
    for name in ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"] {
        match config.get(name) {
            // What these classes take where nothing is said.
            None if matches!(name, "bos_token" | "eos_token" | "unk_token") => drop(special.insert("<|endoftext|>".into())),
            other => special.extend(other.and_then(token_text)),
        }
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
