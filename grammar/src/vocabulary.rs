//! [`Vocabulary`]: a tokenizer as the parser sees it, the bytes of every token.

use crate::error::{GrammarError, words};
use crate::format::Format;
use crate::matcher::Matcher;
use llguidance::ParserFactory;
use std::sync::Arc;
use toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

/// Before the name of a control token: a byte that no text has.
pub const MARK: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// Bytes of a token at most. Longer ones are never chosen.
const LONGEST: usize = 1000;

/// The token ids of a text, as the model's tokenizer gives them, in the middle of a text; `None` if it refuses.
pub type Encode = Box<dyn Fn(&str) -> Option<Vec<u32>> + Send + Sync>;

/// A tokenizer as the parser sees it. Making one takes some 0.1 s for 150,000 tokens; formats are compiled for it in
/// milliseconds.
pub struct Vocabulary {
    factory: ParserFactory,
    size: usize,
}

/// The tokens' bytes, and the tokenizer itself for bytes that have to follow.
struct Tokens {
    trie: TokTrie,
    encode: Encode,
}

impl Vocabulary {
    /// A vocabulary of `size` tokens. `tokens` are what each writes, by id: nothing for one that is never to be chosen, [`MARK`] and
    /// the name for a control token. `ends` end a text; without any, a text under a format ends only where nothing can follow.
    ///
    /// # Errors
    /// [`GrammarError::Tokenizer`].
    pub fn new(tokens: Vec<Vec<u8>>, size: usize, ends: &[u32], encode: Encode) -> Result<Self, GrammarError> {
        let mut tokens = tokens;
        tokens.truncate(size);
        tokens.iter_mut().filter(|t| t.len() > LONGEST).for_each(Vec::clear);
        tokens.resize(size, Vec::new());
        let mut ends: Vec<u32> = ends.iter().copied().filter(|id| (*id as usize) < size).collect();
        for end in &ends {
            // An end is no part of a text, whatever its letters are.
            let name = &mut tokens[*end as usize];
            if name.first() != Some(&MARK) {
                name.insert(0, MARK);
            }
        }
        if tokens.iter().all(|t| t.is_empty() || t[0] == MARK) {
            return Err(GrammarError::Tokenizer("its tokenizer has no token that writes anything".into()));
        }
        if ends.is_empty() {
            // The parser wants one; it lies beyond every mask.
            ends.push(size as u32);
            tokens.push([&[MARK][..], b"<end>"].concat());
        }
        let info = TokRxInfo::new(tokens.len() as u32, ends[0]);
        let trie = TokTrie::from(&info, &tokens).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(Tokens { trie, encode });
        let capabilities = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&env, capabilities, &slices).map_err(|e| GrammarError::Tokenizer(words(&e)))?;
        Ok(Self { factory: quiet(factory), size })
    }

    /// Compiles `format` for a text that has not begun.
    ///
    /// # Errors
    /// [`GrammarError`] that names what cannot be kept.
    pub fn matcher(&self, format: &Format) -> Result<Matcher, GrammarError> {
        let parser = self.factory.create_parser(format.grammar()?).map_err(|e| format.refused(&e))?;
        let inner = llguidance::Matcher::new(Ok(parser));
        match inner.get_error() {
            Some(why) => Err(format.refused(&why)),
            None => Ok(Matcher { inner, size: self.size }),
        }
    }
}

fn quiet(mut factory: ParserFactory) -> ParserFactory {
    factory.quiet();
    factory.limits_mut().verbose_errors = false;
    factory
}

impl Tokens {
    /// Ids of `text` in the middle of a text, if the tokenizer writes just these bytes for it.
    fn exact(&self, text: &str) -> Option<Vec<TokenId>> {
        let writes = |ids: &[TokenId]| ids.iter().flat_map(|id| self.trie.token(*id)).copied().collect::<Vec<u8>>();
        let known = |ids: &[TokenId]| ids.iter().all(|id| (*id as usize) < self.trie.vocab_size());
        let ids = (self.encode)(text).filter(|ids| known(ids))?;
        if writes(&ids) == text.as_bytes() {
            return Some(ids);
        }
        // A tokenizer may write a space before what it takes for a beginning: let it begin with something else.
        let ids = (self.encode)(&format!("\n{text}")).filter(|ids| known(ids))?;
        (1..ids.len())
            .find(|n| writes(&ids[..*n]).ends_with(b"\n"))
            .map(|n| ids[n..].to_vec())
            .filter(|ids| writes(ids) == text.as_bytes())
    }
}

impl TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        // Where the tokenizer changes a text, the longest tokens that write it are as good.
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.exact(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }
}
