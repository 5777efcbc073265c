//! [`Tokenizer`]: text to token ids and back, with control tokens under the caller's control.

use super::TextError;
use super::config::{Config, without_mark};
use super::control::{ControlTokens, PlainTwin};
use super::diagnose::diagnose;
use super::error::cannot_encode;
use super::guard::guarded;
use super::templates::ChatTemplates;
use super::vet::vet;
use crate::ordered;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use tokenizers::{Model, OffsetType, PostProcessor, PreTokenizer};

/// What becomes of text that spells a control token, such as `<|user|>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It becomes the control token: for text that the program or the model's own template wrote.
    Recognize,
    /// It is encoded as the letters that it is: for text that came from a user, a file or a page.
    Plain,
}

/// The files that a tokenizer is made of.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`: names of special tokens, and in most checkpoints the chat template.
    pub config: Option<&'a [u8]>,
    /// `special_tokens_map.json`; counts where the configuration has no `added_tokens_decoder`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `chat_template.jinja`; wins over what the configuration has.
    pub chat_template: Option<&'a str>,
    /// Further chat templates by name, those of `additional_chat_templates/`; they too win over the configuration.
    pub additional_chat_templates: &'a [(&'a str, &'a str)],
}

impl<'a> TokenizerFiles<'a> {
    /// A `tokenizer.json` alone.
    pub const fn new(tokenizer: &'a [u8]) -> Self {
        Self { tokenizer, config: None, special_tokens_map: None, chat_template: None, additional_chat_templates: &[] }
    }
}

/// A checkpoint's tokenizer with its chat template. Clones share everything.
#[derive(Clone)]
pub struct Tokenizer {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) tokenizer: tokenizers::Tokenizer,
    /// What `tokenizer.json` has around the vocabulary.
    pub(super) around: Map<String, Value>,
    special: BTreeSet<u32>,
    pub(super) control: ControlTokens,
    /// `bos_token` and its like, as templates name them.
    pub(super) named: BTreeMap<String, String>,
    pub(super) templates: ChatTemplates,
    twin: OnceLock<Arc<PlainTwin>>,
    /// The token that ends an assistant's turn in the chat template.
    pub(super) turn_end: OnceLock<Option<u32>>,
}

/// Tokens of `text` alone: the library's `encode_fast` without what it does afterwards. Truncation and padding belong to training, and
/// a page would download them with the thread pool that they bring.
///
/// # Errors
/// If the tokenizer cannot encode it.
pub(super) fn encode(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<tokenizers::Encoding, TextError> {
    let encoded = guarded(|| {
        let mut pieces = tokenizer.get_added_vocabulary().extract_and_normalize(tokenizer.get_normalizer(), text);
        if let Some(splitter) = tokenizer.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut pieces)?;
        }
        tokenizer.get_model().tokenize_in_pretokenized(&mut pieces, None)?;
        pieces.into_encoding(None, 0, OffsetType::None)
    });
    encoded.map_err(|why| cannot_encode(text, &why))?.map_err(|e| cannot_encode(text, &e))
}

impl Tokenizer {
    /// Loads a tokenizer.
    ///
    /// # Errors
    /// If a file is not JSON or holds something that the `tokenizers` library does not know.
    pub fn from_files(files: TokenizerFiles) -> Result<Self, TextError> {
        let bad = |why: String| TextError::File { file: "tokenizer.json", why };
        let failed = |e: tokenizers::Error| bad(e.to_string());
        let json = without_mark(files.tokenizer);
        let around = vet(json).map_err(|why| bad(diagnose(json, false).unwrap_or(why)))?;
        let read = guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(|why| bad(why.into()))?;
        let mut tokenizer = read.map_err(|e| bad(diagnose(json, true).unwrap_or_else(|| e.to_string())))?;
        let mut config = Config::read(files.config, files.special_tokens_map)?;
        let is_special = |(id, token): (u32, tokenizers::AddedToken)| token.special.then_some(id);
        let mut special = ordered::set(tokenizer.get_added_tokens_decoder().into_iter().filter_map(is_special));
        config.apply(&mut tokenizer).map_err(failed)?;
        special.extend(tokenizer.get_added_tokens_decoder().into_iter().filter_map(is_special));

        let of_files = ChatTemplates::from_files(files.chat_template, files.additional_chat_templates);
        let templates = if of_files.is_empty() { std::mem::take(&mut config.templates) } else { of_files };
        let named = ordered::set(config.named.values().map(String::as_str).chain(config.extra()));
        let control = ControlTokens::find(&tokenizer, json, &named, &templates);
        let (twin, turn_end) = Default::default();
        let inner = Inner { tokenizer, around, special, control, named: config.named, templates, twin, turn_end };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Token ids of `text` as the start of a sequence, with the tokens around it that the tokenizer's post-processor
    /// adds (a beginning-of-sequence token where the model wants one): what transformers' `tokenizer(text)` gives.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it (a vocabulary without a token for some character).
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TextError> {
        let encoding = self.encoding(text, special)?;
        let Some(processor) = self.inner.tokenizer.get_post_processor() else { return Ok(encoding.get_ids().to_vec()) };
        let whole = guarded(|| processor.process(encoding, None, true));
        let whole = whole.map_err(|why| cannot_encode(text, &why))?.map_err(|e| cannot_encode(text, &e))?;
        Ok(whole.get_ids().to_vec())
    }

    /// Token ids of `text` as it stands, with nothing before or after: transformers' `add_special_tokens=False`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_bare(&self, text: &str, special: Special) -> Result<Vec<u32>, TextError> {
        Ok(self.encoding(text, special)?.get_ids().to_vec())
    }

    fn encoding(&self, text: &str, special: Special) -> Result<tokenizers::Encoding, TextError> {
        let encoding = encode(&self.inner.tokenizer, text)?;
        if special == Special::Recognize || !self.inner.control.any_in(encoding.get_ids()) {
            return Ok(encoding);
        }
        let twin = self.plain_twin(text)?;
        let encoding = encode(twin.tokenizer(), text)?;
        self.inner.control.check_plain(text, encoding.get_ids())?;
        Ok(encoding)
    }

    /// The tokenizer that knows no control token by its name, made on first need.
    pub(super) fn plain_twin(&self, text: &str) -> Result<Cow<'_, PlainTwin>, TextError> {
        let make = |text| PlainTwin::new(&self.inner.tokenizer, &self.inner.around, &self.inner.control, text);
        let twin = match self.inner.twin.get() {
            Some(twin) => twin,
            None => {
                let made = Arc::new(make("")?);
                self.inner.twin.get_or_init(|| made)
            }
        };
        Ok(if twin.suits(text) { Cow::Borrowed(twin.as_ref()) } else { Cow::Owned(make(text)?) })
    }

    /// Text of token ids. Incomplete characters become U+FFFD; ids outside the vocabulary are left out. The text is not
    /// "cleaned up" (transformers' `clean_up_tokenization_spaces`), which would change what the model wrote.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        let visible: Cow<[u32]> = if ids.iter().all(|id| self.is_visible(*id, skip_special)) {
            Cow::Borrowed(ids)
        } else {
            ids.iter().copied().filter(|id| self.is_visible(*id, skip_special)).collect()
        };
        if visible.is_empty() {
            return Ok(String::new());
        }
        let fail = |e: tokenizers::Error| TextError::Decode { ids: ids.len(), why: e.to_string() };
        let decoded = guarded(|| self.inner.tokenizer.decode(&visible, false));
        decoded.map_err(|why| TextError::Decode { ids: ids.len(), why: why.into() })?.map_err(fail)
    }

    /// Whether `id` adds anything to a decoded text.
    pub(super) fn is_visible(&self, id: u32, skip_special: bool) -> bool {
        !(skip_special && self.is_special(id)) && self.inner.tokenizer.id_to_token(id).is_some()
    }

    /// The id of the token that is spelled `token` in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.tokenizer.token_to_id(token)
    }

    /// The token with this id as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.tokenizer.id_to_token(id)
    }

    /// Whether `id` is a special token, which decoding can skip.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.special.contains(&id)
    }

    /// Whether `id` is a control token: one that [`Special::Plain`] text never becomes.
    pub fn is_control(&self, id: u32) -> bool {
        self.inner.control.contains(id)
    }

    /// Number of tokens, added ones included. A model's vocabulary may be padded to more.
    pub fn vocab_size(&self) -> usize {
        self.inner.tokenizer.get_vocab_size(true)
    }

    /// The tokens from id `first` on, by id.
    pub fn tokens_from(&self, first: usize) -> Vec<(u32, String)> {
        let all = self.inner.tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token));
        let mut tokens: Vec<_> = all.filter(|(id, _)| *id as usize >= first).collect();
        tokens.sort();
        tokens
    }

    /// Id of the beginning-of-sequence token that the configuration names.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.inner.named.get("bos_token").and_then(|token| self.token_id(token))
    }

    /// Id of the end-of-sequence token that the configuration names.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.inner.named.get("eos_token").and_then(|token| self.token_id(token))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}
