//! [`Constraint`]: what a text may be, token by token. A grammar is one; this crate has none.

use crate::package::ThreadSafe;

/// What a text may be. It follows the text from its first token on.
pub trait Constraint: ThreadSafe {
    /// Takes in the tokens that the text has got since the last call; none at its beginning.
    ///
    /// # Errors
    /// If the text may not have these, or the grammar is too much work.
    fn accept(&mut self, ids: &[u32]) -> Result<Outlook, ConstraintError>;

    /// Sets the bits of the ids that may come next, end tokens included where the text may end, and clears all others: bit
    /// `i % 32` of word `i / 32`. `mask` has a bit for each id of the decoder's vocabulary.
    ///
    /// # Errors
    /// If the grammar is too much work.
    fn allow(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError>;
}

/// What is known of a text before its next token is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Tokens that follow whatever the model says. The constraint has taken them in.
    pub forced: Vec<u32>,
    /// Whether the text ends after these, since nothing may follow.
    pub complete: bool,
}

/// A constraint that cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the constraint on the text failed: {0}")]
pub struct ConstraintError(pub String);
