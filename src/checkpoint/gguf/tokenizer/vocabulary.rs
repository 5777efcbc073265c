//! Tokens with their kinds and scores.

use super::super::super::CheckpointError;
pub(super) use super::super::super::tokenizer::sentencepiece::Kind;
use super::super::container::Container;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The tokens of a model, by id.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: Vec<&'a str>,
    pub(super) kinds: Vec<Kind>,
    /// Of SentencePiece models; the higher, the sooner two pieces become this one.
    pub(super) scores: Option<Vec<f64>>,
    ids: HashMap<&'a str, u32>,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(container: &Container<'a>) -> Result<Self, CheckpointError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const KINDS: &str = "tokenizer.ggml.token_type";
        const SCORES: &str = "tokenizer.ggml.scores";
        let tokens = container.texts(TOKENS)?.ok_or_else(|| container.wrong(TOKENS, "is missing"))?;
        let count = tokens.len();
        let check = |key: &str, found: usize| match found == count {
            true => Ok(()),
            false => Err(container.wrong(key, &format!("has {found} entries, {TOKENS} {count}"))),
        };
        let kinds = match container.numbers(KINDS)? {
            None => vec![Kind::Normal; count],
            Some(kinds) => {
                check(KINDS, kinds.len())?;
                kinds.into_iter().map(|n| Kind::of(n as i64)).collect()
            }
        };
        let scores = container.numbers(SCORES)?;
        if let Some(scores) = &scores {
            check(SCORES, scores.len())?;
        }
        let mut ids = HashMap::new();
        for (id, token) in tokens.iter().enumerate() {
            // The first of two alike, as in llama.cpp's search from the front.
            ids.entry(*token).or_insert(id as u32);
        }
        Ok(Self { tokens, kinds, scores, ids })
    }

    /// Id and kind of a token.
    pub(super) fn find(&self, text: &str) -> Option<(u32, Kind)> {
        self.ids.get(text).map(|id| (*id, self.kinds[*id as usize]))
    }

    /// A named token's id and text.
    pub(super) fn named(&self, container: &Container<'_>, name: &str) -> Result<Option<(u32, &'a str)>, CheckpointError> {
        let Some(id) = super::token_id(container, name)? else { return Ok(None) };
        let text = self.tokens.get(id as usize).copied();
        let missing = || {
            let count = self.tokens.len();
            container.wrong(&format!("tokenizer.ggml.{name}_token_id"), &format!("is {id}, and there are {count} tokens"))
        };
        text.map(|text| Some((id, text))).ok_or_else(missing)
    }

    /// Whether it stands in for a token that does not exist, so that a model's padded rows have names.
    fn is_padding(&self, id: usize) -> bool {
        self.kinds[id] == Kind::Unused && self.tokens[id] == format!("[PAD{id}]")
    }

    /// Whether a token is cut out of a text before the model sees it.
    fn is_added(&self, id: usize) -> bool {
        matches!(self.kinds[id], Kind::Control | Kind::UserDefined | Kind::Unknown)
    }

    /// `vocab` of the model. Added tokens after the last one of the model's own are left out, as checkpoints have it:
    /// the library numbers them on from there, which it can only do where there is no gap.
    pub(super) fn pieces(&self) -> Map<String, Value> {
        let count = (0..self.tokens.len()).rposition(|id| !self.is_padding(id)).map_or(0, |last| last + 1);
        let own = (0..count).rposition(|id| !self.is_added(id)).map_or(0, |last| last + 1);
        let whole = (0..count).all(|id| !self.is_padding(id) && self.ids.get(self.tokens[id]) == Some(&(id as u32)));
        let end = if whole { own } else { count };
        let real = (0..end).filter(|id| !self.is_padding(*id));
        // Of two alike, the first.
        let first = real.filter(|id| self.ids.get(self.tokens[*id]) == Some(&(*id as u32)));
        first.map(|id| (self.tokens[id].to_string(), json!(id))).collect()
    }

    /// `added_tokens`, of which `strips` says whether they swallow the white space after them.
    pub(super) fn added(&self, strips: impl Fn(&str) -> bool) -> Vec<Value> {
        let ids = (0..self.tokens.len()).filter(|id| self.is_added(*id) && !self.tokens[*id].is_empty());
        ids.map(|id| {
            json!({
                "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false,
                "rstrip": strips(self.tokens[id]), "normalized": false, "special": self.kinds[id] != Kind::UserDefined,
            })
        })
        .collect()
    }
}
