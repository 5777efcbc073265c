//! Which tokens of a window count.

use clap::ValueEnum;

/// Tokens of a window that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Scored {
    /// All but the first
    #[default]
    All,
    /// Those that are predicted from more than half a window, as published WikiText figures are measured
    SecondHalf,
}

impl Scored {
    /// The first position of a window of `context` tokens whose logits count.
    pub fn first_position(self, context: usize) -> usize {
        match self {
            Self::All => 0,
            Self::SecondHalf => context / 2,
        }
    }
}
