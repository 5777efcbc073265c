//! `tokenizer.json` for folders that have `vocab.json` and `merges.txt` alone, as older checkpoints do: byte-level BPE,
//! made as transformers makes it for the class that the folder names.

use super::super::gguf::QWEN_2_SPLIT;
use super::super::{CONFIG_FILE, CheckpointError, Companion, MAX_COMPANION_BYTES, read_json, regular};
use super::config::{self, ADDED, added_tokens, token_text};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";

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

/// The tokenizer of `folder`, if it has these files; `found` are its other companions.
///
/// # Errors
/// If a file cannot be read or does not fit the other, or the class is not known.
pub(super) fn make(folder: &Path, found: &[Companion]) -> Result<Option<Companion>, CheckpointError> {
    let (vocabulary, merges) = (folder.join(VOCABULARY), folder.join(MERGES));
    if !vocabulary.is_file() || !merges.is_file() {
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

    let config = config::read(folder, found)?;
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
    // These classes have it for what is not named.
    let named = ["bos_token", "eos_token", "unk_token"].iter().all(|name| config.contains_key(*name));
    let default = (!named).then(|| "<|endoftext|>".to_owned());
    let added = added_tokens(folder, &config, &ids, default.into_iter().collect())?;
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

fn class_of_family(folder: &Path) -> Option<String> {
    let config = read_json(folder, &folder.join(CONFIG_FILE)).ok()?;
    let family = config.get("model_type")?.as_str()?;
    FAMILIES.iter().find(|(name, _)| *name == family).map(|(_, class)| (*class).to_owned())
}
