//! Which tokens of a window count.

use clap::ValueEnum;

/// Tokens of a window that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Scored {
    /// All but the first
    #[default]
    All,
    /// Those in its second half, which are predicted from at least half a window (llama.cpp's perplexity is the same
    /// without the first of them)
    SecondHalf,
}

impl Scored {
    /// The first position of a window of `context` tokens whose logits count.
    pub fn first_position(self, context: usize) -> usize {
        match self {
            Self::All => 0,
            // The logits of a position are the next token's.
            Self::SecondHalf => (context / 2).saturating_sub(1),
        }
    }
}
