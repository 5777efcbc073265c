//! The runtime's tokenizers and texts.

use crate::{Encode, GrammarError, Matcher, Next, Vocabulary};
use haikuq_runtime::generate::{Constraint, ConstraintError, Outlook};
use haikuq_runtime::text::{Special, Tokenizer};

impl Vocabulary {
    /// The vocabulary of a package: its tokenizer, the size of its decoder's vocabulary and the tokens that end its texts.
    ///
    /// # Errors
    /// [`GrammarError::Tokenizer`] if the tokenizer's tokens have no bytes of their own.
    pub fn of_tokenizer(tokenizer: &Tokenizer, size: usize, ends: &[u32]) -> Result<Self, GrammarError> {
        let bytes = tokenizer.token_bytes().map_err(|e| GrammarError::Tokenizer(e.to_string()))?;
        let tokens = bytes.iter().map(<[u8]>::to_vec).collect();
        let tokenizer = tokenizer.clone();
        let encode: Encode = Box::new(move |text| tokenizer.encode_bare(text, Special::Plain).ok());
        Self::new(tokens, size, ends, encode)
    }
}

impl Constraint for Matcher {
    fn accept(&mut self, ids: &[u32]) -> Result<Outlook, ConstraintError> {
        let Next { forced, complete } = Self::accept(self, ids).map_err(|e| ConstraintError(e.to_string()))?;
        Ok(Outlook { forced, complete })
    }

    fn allow(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError> {
        Self::allow(self, mask).map_err(|e| ConstraintError(e.to_string()))
    }
}
