//! The tokenizer as keys: `tokenizer.json` by llama.cpp's words.

use super::super::ExportError;
use super::FORMAT;
use super::container::Value;
use super::keys::Keys;
use crate::architecture::Decoder;
use crate::checkpoint::gguf_split_name;
use haikuq_format::DecoderSpec;
use haikuq_runtime::package::additional_chat_template_name;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

type Files = [(String, Vec<u8>)];

fn refused(why: String) -> ExportError {
    ExportError::Refused { what: "tokenizer.json".into(), format: FORMAT, why }
}

/// A package's file of JSON.
fn json(files: &Files, name: &str) -> Result<Option<Json>, ExportError> {
    let Some((_, bytes)) = files.iter().find(|(n, _)| n == name) else { return Ok(None) };
    serde_json::from_slice(bytes).map(Some).map_err(|e| ExportError::Refused {
        what: name.into(),
        format: FORMAT,
        why: e.to_string(),
    })
}

/// Adds what the package's files say of text. A package without a tokenizer gives a file without one.
pub(super) fn add(keys: &mut Keys, files: &Files, spec: &DecoderSpec) -> Result<(), ExportError> {
    let Some(tokenizer) = json(files, "tokenizer.json")? else {
        keys.text("tokenizer.ggml.model", "none");
        return Ok(());
    };
    let config = json(files, "tokenizer_config.json")?.unwrap_or_default();
    if tokenizer["model"]["type"] != "BPE" {
        return Err(refused(format!("its model is {}, and BPE alone is written", tokenizer["model"]["type"])));
    }
    let vocabulary = Vocabulary::of(&tokenizer, &config, spec)?;
    let merges = merges(&tokenizer);
    if tokenizer["model"]["byte_fallback"] == true {
        keys.text("tokenizer.ggml.model", "llama");
        keys.text("tokenizer.ggml.pre", "default");
        keys.add("tokenizer.ggml.tokens", Value::Texts(vocabulary.tokens.clone()));
        keys.add("tokenizer.ggml.scores", Value::F32s(scores(&vocabulary, &merges)));
        keys.add("tokenizer.ggml.token_type", Value::I32s(vocabulary.kinds.clone()));
        keys.add("tokenizer.ggml.add_space_prefix", Value::Bool(adds_space(&tokenizer)?));
    } else {
        let Some(split) = gguf_split_name(&tokenizer) else {
            return Err(refused("llama.cpp has no name for the way in which its pre_tokenizer and normalizer cut texts".into()));
        };
        keys.text("tokenizer.ggml.model", "gpt2");
        keys.text("tokenizer.ggml.pre", split);
        keys.add("tokenizer.ggml.tokens", Value::Texts(vocabulary.tokens.clone()));
        keys.add("tokenizer.ggml.token_type", Value::I32s(vocabulary.kinds.clone()));
        keys.add("tokenizer.ggml.merges", Value::Texts(merges.iter().map(|[a, b]| format!("{a} {b}")).collect()));
    }
    let named = |name: &str| vocabulary.ids.get(&token_text(&config[format!("{name}_token")])?).copied();
    let eos = named("eos").or(spec.eos_token_ids.first().copied());
    let mut others = spec.eos_token_ids.iter().copied().filter(|id| Some(*id) != eos);
    for (key, id) in [
        ("bos", named("bos").or(spec.bos_token_id)),
        ("eos", eos),
        ("eot", others.next()),
        ("eom", others.next()),
        ("unknown", named("unk")),
        ("padding", named("pad")),
    ] {
        if let Some(id) = id {
            keys.number(&format!("tokenizer.ggml.{key}_token_id"), id as usize);
        }
    }
    let [first, last] = around(&tokenizer);
    keys.add("tokenizer.ggml.add_bos_token", Value::Bool(first));
    keys.add("tokenizer.ggml.add_eos_token", Value::Bool(last));
    templates(keys, files, &config);
    Ok(())
}

/// The file's merges must be the package's. Scores stand for the order of pieces, and for all pairs that make a piece.
pub(super) fn check(read: &Decoder, files: &Files) -> Result<(), ExportError> {
    let Some(expected) = json(files, "tokenizer.json")? else { return Ok(()) };
    let found = read.checkpoint().companion("tokenizer.json").and_then(|bytes| serde_json::from_slice(bytes).ok());
    let [found, expected] = [found.unwrap_or_default(), expected].map(|t| pieces(&merges(&t)));
    let Some(at) = (0..found.len().max(expected.len())).find(|i| found.get(*i) != expected.get(*i)) else { return Ok(()) };
    let of = |list: &[(String, BTreeSet<usize>)]| match list.get(at) {
        Some((piece, splits)) => format!("{piece:?} of {} pairs", splits.len()),
        None => "none".into(),
    };
    let (found, expected) = (of(&found), of(&expected));
    Err(refused(format!("its merges are none that scores say: piece {at} is {expected}, and would be {found} in llama.cpp")))
}

/// Pieces in the order in which they are made, with the places at which they may be put together.
fn pieces(merges: &[[String; 2]]) -> Vec<(String, BTreeSet<usize>)> {
    let mut places = HashMap::new();
    let mut all = Vec::<(String, BTreeSet<usize>)>::new();
    for [a, b] in merges {
        let piece = format!("{a}{b}");
        let place = *places.entry(piece.clone()).or_insert(all.len());
        if place == all.len() {
            all.push((piece, BTreeSet::new()));
        }
        all[place].1.insert(a.len());
    }
    all
}

/// Tokens by id, with their kinds.
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i32>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    fn of(tokenizer: &Json, config: &Json, spec: &DecoderSpec) -> Result<Self, ExportError> {
        let unknown = token_text(&tokenizer["model"]["unk_token"]).or_else(|| token_text(&config["unk_token"]));
        let bytes = tokenizer["model"]["byte_fallback"] == true;
        let mut known = BTreeMap::<u32, (String, i32)>::new();
        let id_of = |id: &Json| id.as_u64().and_then(|id| u32::try_from(id).ok());
        for (text, id) in tokenizer["model"]["vocab"].as_object().into_iter().flatten() {
            let is_byte = bytes && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            let kind = if is_byte { BYTE } else { NORMAL };
            known.extend(id_of(id).map(|id| (id, (text.clone(), kind))));
        }
        for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            let text = token["content"].as_str().unwrap_or_default().to_string();
            let kind = match token["special"] == true {
                true if bytes && Some(&text) == unknown.as_ref() => UNKNOWN,
                true => CONTROL,
                false => USER_DEFINED,
            };
            known.extend(id_of(&token["id"]).map(|id| (id, (text, kind))));
        }
        if let Some((id, (text, _))) = known.range(spec.vocab_size as u32..).next() {
            let why = format!("token {text:?} has the id {id}, and the decoder has {} of them", spec.vocab_size);
            return Err(refused(why));
        }
        let (mut tokens, mut kinds) = (Vec::with_capacity(spec.vocab_size), Vec::with_capacity(spec.vocab_size));
        for id in 0..spec.vocab_size as u32 {
            let (text, kind) = known.get(&id).cloned().unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED));
            tokens.push(text);
            kinds.push(kind);
        }
        let ids = known.into_iter().map(|(id, (text, _))| (text, id)).collect();
        Ok(Self { tokens, kinds, ids })
    }
}

/// A token in a configuration: its text, or an object with it.
fn token_text(value: &Json) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string)
}

/// Merges in either style.
fn merges(tokenizer: &Json) -> Vec<[String; 2]> {
    let pair = |merge: &Json| match merge {
        Json::String(text) => text.split_once(' ').map(|(a, b)| [a.to_string(), b.to_string()]),
        Json::Array(pair) => Some([pair.first()?.as_str()?.to_string(), pair.get(1)?.as_str()?.to_string()]),
        _ => None,
    };
    tokenizer["model"]["merges"].as_array().into_iter().flatten().filter_map(pair).collect()
}

/// The higher, the sooner two pieces become this one.
fn scores(vocabulary: &Vocabulary, merges: &[[String; 2]]) -> Vec<f32> {
    let mut ranks = HashMap::new();
    for (rank, [a, b]) in merges.iter().enumerate() {
        ranks.entry(format!("{a}{b}")).or_insert(rank);
    }
    let last = merges.len();
    let score = |(id, (text, kind)): (usize, (&String, &i32))| match ranks.get(text).filter(|_| *kind == NORMAL) {
        Some(rank) => -(*rank as f32),
        None if *kind == NORMAL => -((last + id) as f32),
        None => 0.0,
    };
    vocabulary.tokens.iter().zip(&vocabulary.kinds).enumerate().map(score).collect()
}

/// Whether a text gets a space before it.
fn adds_space(tokenizer: &Json) -> Result<bool, ExportError> {
    let (normalizer, cut) = (&tokenizer["normalizer"], &tokenizer["pre_tokenizer"]);
    let parts = match normalizer["normalizers"].as_array() {
        Some(list) => list.clone(),
        None => vec![normalizer.clone()],
    };
    let is_space = |part: &Json| part["type"] == "Replace" && part["pattern"]["String"] == " " && part["content"] == "▁";
    let is_prefix = |part: &Json| part["type"] == "Prepend" && part["prepend"] == "▁";
    // No text has spaces by then.
    let no_cut = cut.is_null() || (cut["type"] == "Split" && cut["pattern"]["String"] == " ");
    match parts.as_slice() {
        [a, b] if is_prefix(a) && is_space(b) && no_cut => Ok(true),
        [a] if is_space(a) && no_cut => Ok(false),
        [none] if none.is_null() && cut["type"] == "Metaspace" && cut["replacement"] == "▁" => {
            Ok(cut["prepend_scheme"] != "never")
        }
        _ => {
            Err(refused("its normalizer is none that llama.cpp has for a vocabulary with bytes for what no piece spells".into()))
        }
    }
}

/// Whether a text gets a token before it, and after it.
fn around(tokenizer: &Json) -> [bool; 2] {
    let processor = &tokenizer["post_processor"];
    let all = processor["processors"].as_array().cloned().unwrap_or_else(|| vec![processor.clone()]);
    let template = all.iter().find(|p| p["type"] == "TemplateProcessing");
    let single = template.and_then(|t| t["single"].as_array().cloned()).unwrap_or_default();
    [single.first(), single.last()].map(|part| part.is_some_and(|part| part.get("SpecialToken").is_some()))
}

/// Chat templates: the one without a name, and others.
fn templates(keys: &mut Keys, files: &Files, config: &Json) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut default = files.iter().find(|(name, _)| name == "chat_template.jinja").map(|(_, bytes)| text(bytes));
    let mut named: Vec<(String, String)> =
        files.iter().filter_map(|(name, bytes)| Some((additional_chat_template_name(name)?.to_string(), text(bytes)))).collect();
    match &config["chat_template"] {
        Json::String(template) => default = default.or_else(|| Some(template.clone())),
        Json::Array(list) => {
            for entry in list {
                let of = |key: &str| entry[key].as_str().unwrap_or_default().to_string();
                match of("name").as_str() {
                    "default" => default = default.or_else(|| Some(of("template"))),
                    name if named.iter().all(|(n, _)| n != name) => named.push((name.into(), of("template"))),
                    _ => {}
                }
            }
        }
        _ => {}
    }
    if !named.is_empty() {
        keys.add("tokenizer.chat_templates", Value::Texts(named.iter().map(|(name, _)| name.clone()).collect()));
    }
    for (name, template) in named {
        keys.text(&format!("tokenizer.chat_template.{name}"), &template);
    }
    if let Some(template) = default {
        keys.text("tokenizer.chat_template", &template);
    }
}
