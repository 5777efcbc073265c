//! [`Matcher`]: a format that follows one text.

use crate::error::{GrammarError, words};

/// A format that follows one text, token by token.
pub struct Matcher {
    pub(crate) inner: llguidance::Matcher,
    /// Tokens of the vocabulary.
    pub(crate) size: usize,
}

/// What is known of a text before its next token is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Tokens that follow whatever the model says; the matcher has taken them in.
    pub forced: Vec<u32>,
    /// Whether nothing may follow these.
    pub complete: bool,
}

impl Matcher {
    /// Takes in what the text has got since the last call; nothing at its beginning.
    ///
    /// # Errors
    /// [`GrammarError::Parser`] if the text may not have these, or the grammar is too much work.
    pub fn accept(&mut self, ids: &[u32]) -> Result<Next, GrammarError> {
        let failed = |e: &dyn std::fmt::Display| GrammarError::Parser(words(e));
        self.inner.consume_tokens(ids).map_err(|e| failed(&e))?;
        let forced = if self.inner.is_stopped() { Vec::new() } else { self.inner.consume_ff_tokens() };
        match self.inner.get_error() {
            Some(why) => Err(failed(&why)),
            None => Ok(Next { forced, complete: self.inner.is_stopped() }),
        }
    }

    /// Sets the bits of the ids that may come next, those that end the text included where it may end, and clears all others.
    ///
    /// # Errors
    /// [`GrammarError::Parser`] if the grammar is too much work.
    pub fn allow(&mut self, mask: &mut [u32]) -> Result<(), GrammarError> {
        let allowed = self.inner.compute_mask_or_eos().map_err(|e| GrammarError::Parser(words(&e)))?;
        mask.fill(0);
        for (to, from) in mask.iter_mut().zip(allowed.as_slice()) {
            *to = *from;
        }
        if let Some(last) = mask.get_mut(self.size / 32) {
            *last &= (1 << (self.size % 32)) - 1;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").field("size", &self.size).finish_non_exhaustive()
    }
}
