//! Control tokens, and how text that spells one is kept from becoming one.
//!
//! A model obeys its control tokens (`<|user|>`, `</s>`, `<tool_call>`), so text from outside must never turn into them.
//! The `tokenizers` library can leave out *special* tokens, but not every control token is marked special, and a
//! model's own vocabulary may spell one as an ordinary piece. So there is a second tokenizer, the [`PlainTwin`], the same in
//! everything but the names of its control tokens: each is called by one private-use character that does not occur in
//! the text. Text cannot name a control token there, and a chat prompt names exactly those that its template wrote.

use super::TextError;
use super::error::cannot_encode;
use super::guard::guarded;
use super::templates::ChatTemplates;
use crate::ordered;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, Model, Tokenizer};

/// What vocabularies of the sentencepiece kind call the start and the end of a text, special or not.
const ENDS: [&str; 5] = ["<s>", "</s>", "<bos>", "<eos>", "<pad>"];

/// The control tokens of a tokenizer by id, with their spelling.
pub(super) struct ControlTokens {
    by_id: BTreeMap<u32, String>,
    /// The token for what the vocabulary cannot spell, which plain text may become.
    unknown: Option<u32>,
}

impl ControlTokens {
    /// A token added to the model's own vocabulary is a control token
    ///
    /// * if it is marked special or the configuration names it (`eos_token`), or vocabularies call the start or the end
    ///   of a text so;
    /// * or, other than white space, if a chat template writes it (`<tool_call>`, `<think>`);
    /// * or, other than white space, if it is no piece of the model's own vocabulary.
    ///
    /// The tokens left are runs of white space and pieces like `<table>`, which are ordinary text. `json` is the
    /// `tokenizer.json` that `tokenizer` was read from.
    pub(super) fn find(tokenizer: &Tokenizer, json: &[u8], named: &BTreeSet<&str>, templates: &ChatTemplates) -> Self {
        let model = tokenizer.get_model();
        let is_control = |token: &AddedToken| {
            let text = token.content.as_str();
            let blank = text.chars().all(|c| c.is_whitespace() || c == '▁' || c == 'Ġ' || c == 'Ċ');
            token.special
                || named.contains(text)
                || ENDS.contains(&text)
                || !blank && (templates.texts().any(|t| t.contains(text)) || model.token_to_id(text).is_none())
        };
        let added = tokenizer.get_added_tokens_decoder();
        let by_id = ordered::map(added.into_iter().filter(|(_, token)| is_control(token)).map(|(id, token)| (id, token.content)));
        let unknown = match model {
            ModelWrapper::BPE(bpe) => bpe.unk_token.as_ref().and_then(|t| model.token_to_id(t)),
            ModelWrapper::WordPiece(m) => model.token_to_id(&m.unk_token),
            ModelWrapper::WordLevel(m) => model.token_to_id(&m.unk_token),
            ModelWrapper::Unigram(_) => unigram_unknown(json),
        };
        Self { by_id, unknown }
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn any_in(&self, ids: &[u32]) -> bool {
        ids.iter().any(|id| self.contains(*id))
    }

    /// The control token that begins at the start of `text`: the longest of several, as tokenizers match.
    pub(super) fn at_start_of(&self, text: &str) -> Option<(u32, &str)> {
        let matching = self.by_id.iter().filter(|(_, token)| text.starts_with(token.as_str()));
        matching.max_by_key(|(_, token)| token.len()).map(|(id, token)| (*id, token.as_str()))
    }

    /// Every control token in `text`, leftmost first, as byte position, id and spelling.
    pub(super) fn find_in<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, u32, &'a str)> + 'a {
        let first = ordered::set(self.by_id.values().filter_map(|token| token.chars().next()));
        let mut at = 0;
        std::iter::from_fn(move || {
            while let Some(c) = text[at..].chars().next() {
                let start = at;
                if first.contains(&c)
                    && let Some((id, token)) = self.at_start_of(&text[at..])
                {
                    at += token.len();
                    return Some((start, id, token));
                }
                at += c.len_utf8();
            }
            None
        })
    }

    /// Where the end of `text` begins that is the beginning of a control token, the longest of several.
    pub(super) fn begins_at_end_of(&self, text: &str) -> Option<usize> {
        let longest = self.by_id.values().map(String::len).max().unwrap_or(0);
        let from = text.len().saturating_sub(longest.saturating_sub(1));
        let mut ends = (from..text.len()).filter(|at| text.is_char_boundary(*at));
        ends.find(|at| self.by_id.values().any(|token| token.starts_with(&text[*at..])))
    }

    /// The last guard of plain text: no control token is in its ids, whatever the tokenizer did.
    pub(super) fn check_plain(&self, text: &str, ids: &[u32]) -> Result<(), TextError> {
        match ids.iter().find(|id| self.contains(**id) && Some(**id) != self.unknown) {
            Some(id) => Err(cannot_encode(text, &format!("it becomes the control token {:?} ({id})", self.by_id[id]))),
            None => Ok(()),
        }
    }
}

/// The `unk_id` of a unigram model, which the library keeps to itself.
fn unigram_unknown(json: &[u8]) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct File {
        model: Head,
    }
    #[derive(serde::Deserialize)]
    struct Head {
        unk_id: Option<u32>,
    }
    serde_json::from_slice::<File>(json).ok()?.model.unk_id
}

/// Private-use planes, of which a twin takes characters for its control tokens and one for a mark.
const PRIVATE_USE: [std::ops::RangeInclusive<u32>; 2] = [0x10_0000..=0x10_fffd, 0xf_0000..=0xf_fffd];

/// The private-use characters in `text`.
fn private_use(text: &str) -> impl Iterator<Item = u32> + '_ {
    text.chars().map(u32::from).filter(|c| *c >= *PRIVATE_USE[1].start() && PRIVATE_USE.iter().any(|plane| plane.contains(c)))
}

/// A tokenizer whose control tokens have private names.
#[derive(Clone)]
pub(super) struct PlainTwin {
    tokenizer: Tokenizer,
    names: BTreeMap<u32, char>,
    mark: char,
}

impl PlainTwin {
    /// The twin of `tokenizer` with names that occur neither in `text` nor in the vocabulary: Gemma 3 has pieces of
    /// private-use characters, and a name that is one, or part of one, would lose its id or be merged into it.
    /// `around` is what the file has beside its vocabulary.
    pub(super) fn new(
        tokenizer: &Tokenizer,
        around: &Map<String, Value>,
        control: &ControlTokens,
        text: &str,
    ) -> Result<Self, TextError> {
        let fail = |why: &dyn std::fmt::Display| cannot_encode(text, &format!("no tokenizer for plain text: {why}"));
        // By way of text, as tokenizers are read anyway, and of the model alone: a page downloads each further way.
        let model = serde_json::to_vec(tokenizer.get_model()).map_err(|e| fail(&e))?;
        let mut file = around.clone();
        file.insert("model".into(), serde_json::from_slice(&model).map_err(|e| fail(&e))?);
        drop(model);
        file.insert("added_tokens".into(), ordered::map(tokenizer.get_added_tokens_decoder()).iter().map(added_token).collect());
        let mut json = Value::Object(file);
        let mut used = ordered::set(private_use(text));
        match &json["model"]["vocab"] {
            Value::Object(vocab) => used.extend(vocab.keys().flat_map(|piece| private_use(piece))),
            Value::Array(pieces) => used.extend(pieces.iter().filter_map(|p| p[0].as_str()).flat_map(private_use)),
            _ => {}
        }
        let added = json["added_tokens"].as_array().into_iter().flatten();
        used.extend(added.filter_map(|token| token["content"].as_str()).flat_map(private_use));
        let mut free = PRIVATE_USE.into_iter().flatten().filter(|c| !used.contains(c)).filter_map(char::from_u32);
        let out_of_names = || cannot_encode(text, &"it uses up the private-use characters of planes 15 and 16");
        let mark = free.next().ok_or_else(out_of_names)?;
        let mut names = BTreeMap::new();
        for id in control.by_id.keys() {
            names.insert(*id, free.next().ok_or_else(out_of_names)?);
        }
        let by_token = ordered::map(control.by_id.iter().map(|(id, token)| (token.as_str(), names[id].to_string())));
        rename(&mut json, &by_token);
        let renamed = serde_json::to_vec(&json).map_err(|e| fail(&e))?;
        drop(json);
        let twin = guarded(|| Tokenizer::from_bytes(renamed)).map_err(|why| fail(&why))?.map_err(|e| fail(&e))?;
        for (id, name) in &names {
            if twin.token_to_id(&name.to_string()) != Some(*id) {
                return Err(fail(&format!("{:?} lost its id {id}", control.by_id[id])));
            }
        }
        Ok(Self { tokenizer: twin, names, mark })
    }

    /// Whether `text` uses none of this twin's names.
    pub(super) fn suits(&self, text: &str) -> bool {
        let taken = |c: u32| c == u32::from(self.mark) || self.names.values().any(|name| u32::from(*name) == c);
        !private_use(text).any(taken)
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The private name of control token `id`.
    pub(super) fn name(&self, id: u32) -> Option<char> {
        self.names.get(&id).copied()
    }

    /// A character that is no token's name and occurs in no text that suits.
    pub(super) fn mark(&self) -> char {
        self.mark
    }
}

/// A token as `tokenizer.json` lists it.
fn added_token((id, token): (&u32, &AddedToken)) -> Value {
    let flags = [
        ("single_word", token.single_word),
        ("lstrip", token.lstrip),
        ("rstrip", token.rstrip),
        ("normalized", token.normalized),
        ("special", token.special),
    ];
    let mut fields: Map<String, Value> = flags.into_iter().map(|(name, flag)| (name.into(), flag.into())).collect();
    fields.insert("id".into(), (*id).into());
    fields.insert("content".into(), token.content.as_str().into());
    Value::Object(fields)
}

/// Renames tokens in a `tokenizer.json`: in the added tokens, and in the model's vocabulary with everything that
/// refers to it. Merges that would spell a renamed token go, so that no text becomes one by merging.
fn rename(json: &mut Value, names: &BTreeMap<&str, String>) {
    let new_name = |old: &Value| old.as_str().and_then(|t| names.get(t)).map(|n| Value::from(n.as_str()));
    for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
        if let Some(name) = new_name(&token["content"]) {
            token["content"] = name;
        }
    }
    let model = &mut json["model"];
    if let Some(name) = new_name(&model["unk_token"]) {
        model["unk_token"] = name;
    }
    match &mut model["vocab"] {
        Value::Object(vocab) => {
            for (old, new) in names {
                if let Some(id) = vocab.swap_remove(*old) {
                    vocab.insert(new.clone(), id);
                }
            }
        }
        Value::Array(pieces) => {
            for piece in pieces {
                if let Some(name) = new_name(&piece[0]) {
                    piece[0] = name;
                }
            }
        }
        _ => {}
    }
    if let Some(merges) = model.get_mut("merges").and_then(Value::as_array_mut) {
        merges.retain(|merge| {
            let (a, b) = (merge[0].as_str().unwrap_or_default(), merge[1].as_str().unwrap_or_default());
            ![a, b, &format!("{a}{b}")].iter().any(|t| names.contains_key(t))
        });
    }
}
