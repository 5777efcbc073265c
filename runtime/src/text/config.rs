//! What `tokenizer_config.json` and `special_tokens_map.json` say of a tokenizer, read as transformers reads them.
//!
//! `add_bos_token` and `add_eos_token` are not among it: where there is a `tokenizer.json`, transformers too goes by its
//! post-processor alone.

use super::TextError;
use super::templates::ChatTemplates;
use crate::ordered;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use tokenizers::{AddedToken, Tokenizer};

const CONFIG: &str = "tokenizer_config.json";
const LEGACY: &str = "special_tokens_map.json";

/// Names of special tokens that tokenizers have; models may have more (`image_token`).
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What matters of the configuration.
#[derive(Default)]
pub(super) struct Config {
    /// Tokens by name, such as `eos_token`.
    pub(super) named: BTreeMap<String, String>,
    /// Further special tokens.
    extra: Vec<AddedToken>,
    /// Added tokens by id with their flags, which go before those of `tokenizer.json`.
    added: BTreeMap<u32, AddedToken>,
    pub(super) templates: ChatTemplates,
}

impl Config {
    /// Reads the files that there are.
    ///
    /// # Errors
    /// If one is not JSON, or a known field is of another kind.
    pub(super) fn read(config: Option<&[u8]>, legacy: Option<&[u8]>) -> Result<Self, TextError> {
        let mut fields = object(CONFIG, config)?;
        let bad = |why: String| TextError::File { file: CONFIG, why };
        let added = match fields.get("added_tokens_decoder") {
            None => None,
            Some(Value::Object(tokens)) => Some(ordered::try_map(tokens.iter().map(added_token)).map_err(bad)?),
            Some(_) => return Err(bad("added_tokens_decoder is no object".into())),
        };
        // Checkpoints that list their added tokens have everything in one file; the other is older than that.
        let legacy = object(LEGACY, legacy)?;
        if added.is_none() {
            fields.extend(legacy);
        }
        let mut extra = fields.get("extra_special_tokens").filter(|tokens| !is_empty(tokens)).cloned();
        if let Some(Value::Object(tokens)) = extra.take_if(|tokens| tokens.is_object()) {
            fields.extend(tokens);
        }
        let extra = extra.or_else(|| fields.get("additional_special_tokens").cloned());
        let extra = extra.as_ref().and_then(Value::as_array).into_iter().flatten();
        // Beside the names that all have, any that a text is given for.
        let is_name = |name: &str, value: &Value| NAMES.contains(&name) || name.ends_with("_token") && !value.is_boolean();
        let named = fields.iter().filter(|(name, value)| is_name(name, value));
        Ok(Self {
            named: ordered::map(named.filter_map(|(name, value)| Some((name.clone(), token_text(value)?)))),
            extra: extra.filter_map(special_token).collect(),
            added: added.unwrap_or_default(),
            templates: ChatTemplates::from_config(fields.get("chat_template")).map_err(bad)?,
        })
    }

    /// The further special tokens.
    pub(super) fn extra(&self) -> impl Iterator<Item = &str> {
        self.extra.iter().map(|token| token.content.as_str())
    }

    /// Sets what the configuration says of the added tokens of `tokenizer`: the flags that it gives, and that tokens
    /// with a name are special.
    ///
    /// A token that is not in the vocabulary and whose id would not be the one that the configuration says is left
    /// out: the model has no embedding for it.
    pub(super) fn apply(&self, tokenizer: &mut Tokenizer) -> tokenizers::Result<()> {
        let names = ordered::set(self.named.values().map(String::as_str));
        let before = ordered::map(tokenizer.get_added_tokens_decoder());
        let mut next_id = tokenizer.get_vocab_size(false) as u32;
        next_id = next_id.max(before.last_key_value().map_or(0, |(id, _)| id + 1));
        let (mut tokens, mut added) = (Vec::new(), BTreeSet::new());
        for (id, token) in if self.added.is_empty() { &before } else { &self.added } {
            let special = token.special || names.contains(token.content.as_str());
            let token = AddedToken { special, ..token.clone() };
            if tokenizer.token_to_id(&token.content).is_none() {
                if *id != next_id {
                    continue;
                }
                next_id += 1;
            }
            added.insert(token.content.clone());
            tokens.push(token);
        }
        added.extend(before.values().map(|token| token.content.clone()));
        let named = self.named.values().map(|token| AddedToken::from(token.clone(), true));
        for token in named.chain(self.extra.iter().cloned()) {
            if tokenizer.token_to_id(&token.content).is_some() && added.insert(token.content.clone()) {
                tokens.push(token);
            }
        }
        // Adding is costly even where nothing changes.
        tokens.retain(|token| tokenizer.token_to_id(&token.content).and_then(|id| before.get(&id)) != Some(token));
        if !tokens.is_empty() {
            tokenizer.add_tokens(tokens)?;
        }
        Ok(())
    }
}

/// JSON without the byte order mark that some editors put before it.
pub(super) fn without_mark(json: &[u8]) -> &[u8] {
    json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json)
}

fn object(file: &'static str, bytes: Option<&[u8]>) -> Result<Map<String, Value>, TextError> {
    let parsed = bytes.map_or(Ok(Map::new()), |bytes| serde_json::from_slice(without_mark(bytes)));
    parsed.map_err(|e| TextError::File { file, why: e.to_string() })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// A token is a string or an object with its `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

fn special_token(value: &Value) -> Option<AddedToken> {
    let token = AddedToken::from(token_text(value)?, true);
    Some(AddedToken { special: true, ..with_flags(token, value) })
}

fn added_token((id, value): (&String, &Value)) -> Result<(u32, AddedToken), String> {
    let parsed = id.parse().ok().zip(value.is_object().then(|| token_text(value)).flatten());
    let (id, text) = parsed.ok_or_else(|| format!("added_tokens_decoder: {id:?} is no id with a token"))?;
    let special = value.get("special").and_then(Value::as_bool).unwrap_or(false);
    Ok((id, with_flags(AddedToken::from(text, special), value)))
}

/// `token` with the flags that an object gives.
fn with_flags(token: AddedToken, value: &Value) -> AddedToken {
    let flag = |name: &str, default: bool| value.get(name).and_then(Value::as_bool).unwrap_or(default);
    AddedToken {
        single_word: flag("single_word", token.single_word),
        lstrip: flag("lstrip", token.lstrip),
        rstrip: flag("rstrip", token.rstrip),
        normalized: flag("normalized", token.normalized),
        ..token
    }
}
