//! [`Tokenizer`]: text to token ids and back, with control tokens under the caller's control.

use super::TextError;
use super::control::{ControlTokens, PlainTwin};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use tokenizers::AddedToken;

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
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`: names of special tokens, and in most checkpoints the chat template.
    pub config: Option<&'a [u8]>,
    /// `chat_template.jinja`; wins over a template in the configuration.
    pub chat_template: Option<&'a str>,
}

/// A checkpoint's tokenizer with its chat template. Clones share everything.
#[derive(Clone)]
pub struct Tokenizer {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) tokenizer: tokenizers::Tokenizer,
    special: BTreeSet<u32>,
    pub(super) control: ControlTokens,
    /// `bos_token` and its like, as templates name them.
    pub(super) named: BTreeMap<String, String>,
    pub(super) chat_template: Option<String>,
    twin: OnceLock<Arc<PlainTwin>>,
}

impl Tokenizer {
    /// Loads a tokenizer.
    ///
    /// # Errors
    /// If a file is not JSON or holds something that the `tokenizers` library does not know.
    pub fn from_files(files: TokenizerFiles) -> Result<Self, TextError> {
        let bad = |e: tokenizers::Error| TextError::File { file: "tokenizer.json", why: e.to_string() };
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(files.tokenizer).map_err(bad)?;
        // These belong to training; transformers ignores them too unless asked.
        tokenizer.with_truncation(None).map_err(bad)?;
        tokenizer.with_padding(None);
        let config = match files.config {
            Some(bytes) => Config::from_json(bytes)?,
            None => Config::default(),
        };
        // A token that the configuration names is special even where tokenizer.json does not say so.
        let added = tokenizer.get_added_tokens_decoder();
        let unknown: Vec<AddedToken> = (config.named.values().chain(&config.additional))
            .filter(|token| tokenizer.token_to_id(token).is_some() && !added.values().any(|a| a.content == **token))
            .map(|token| AddedToken::from(token.clone(), true))
            .collect();
        tokenizer.add_special_tokens(unknown).map_err(bad)?;

        let chat_template = files.chat_template.map(str::to_owned).or(config.chat_template);
        let added = tokenizer.get_added_tokens_decoder();
        let named: BTreeSet<&str> = config.named.values().map(String::as_str).collect();
        let control = ControlTokens::find(&tokenizer, files.tokenizer, &named, chat_template.as_deref().unwrap_or_default());
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let inner = Inner { tokenizer, special, control, named: config.named, chat_template, twin: OnceLock::new() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Token ids of `text` as the start of a sequence, with the tokens around it that the tokenizer's post-processor
    /// adds (a beginning-of-sequence token where the model wants one): what transformers' `tokenizer(text)` gives.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it (a vocabulary without a token for some character).
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TextError> {
        let encoding = self.encoding(text, special)?;
        let whole = self.inner.tokenizer.post_process(encoding, None, true).map_err(|e| cannot_encode(text, &e))?;
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
        let encode = |t: &tokenizers::Tokenizer, text: &str| t.encode_fast(text, false).map_err(|e| cannot_encode(text, &e));
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
        let make = |text| PlainTwin::new(&self.inner.tokenizer, &self.inner.control, text);
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
        self.inner.tokenizer.decode(&visible, false).map_err(fail)
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

pub(super) fn cannot_encode(text: &str, why: &dyn std::fmt::Display) -> TextError {
    TextError::Encode { bytes: text.len(), why: why.to_string() }
}

/// What matters of `tokenizer_config.json`.
#[derive(Default)]
struct Config {
    named: BTreeMap<String, String>,
    additional: Vec<String>,
    chat_template: Option<String>,
}

impl Config {
    fn from_json(bytes: &[u8]) -> Result<Self, TextError> {
        let bad = |why: String| TextError::File { file: "tokenizer_config.json", why };
        let config: serde_json::Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        let names = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        let named = names.iter().filter_map(|name| Some(((*name).to_owned(), token_text(config.get(*name)?)?))).collect();
        let additional = match config.get("additional_special_tokens") {
            Some(Value::Array(tokens)) => tokens.iter().filter_map(token_text).collect(),
            _ => Vec::new(),
        };
        let chat_template = match config.get("chat_template") {
            None | Some(Value::Null) => None,
            Some(Value::String(template)) => Some(template.clone()),
            Some(Value::Array(templates)) => {
                let text = |t: &Value, key| t.get(key).and_then(Value::as_str).map(str::to_owned);
                let default = templates.iter().find(|t| text(t, "name").as_deref() == Some("default"));
                default.or(templates.first()).and_then(|t| text(t, "template"))
            }
            Some(other) => return Err(bad(format!("chat_template is neither text nor a list: {other}"))),
        };
        Ok(Self { named, additional, chat_template })
    }
}

/// A token is a string or an object with its `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}
