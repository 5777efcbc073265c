//! What a step of a decoder does, as plain data: a list of operations over named values.
//!
//! [`build`] turns a [`DecoderSpec`](haikuq_format::DecoderSpec) and a [`Part`] of a step into a [`Program`]; each operation
//! is one thing that a paper would name. [`rewrite`] fuses operations where a kernel does several at once. [`place`] decides
//! which values share a buffer. Nothing here knows a device, a kernel or a buffer: programs are built, printed and compared
//! without a GPU (`tests/program.rs` shows a layer's operations).
//!
//! The decoder binds a program: for each operation `kernels::choose` picks the best candidate for the device.

mod build;
mod operation;
pub mod place;
pub mod rewrite;
mod value;

pub use build::build;
pub use operation::{FusedNorm, Operation, Output, RowSource};
pub use value::Value;

use std::fmt;

/// Sequences that one decode step serves; a larger batch takes several steps.
pub const MAX_BATCH: usize = 8;

/// Tokens of a prefill program are a multiple of this; the last chunk of a prompt is filled up with idle tokens, so that a
/// handful of programs serves prompts of every length.
pub const PREFILL_STEP: usize = 32;

/// How the tokens of a step belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// One token each of several sequences, or one of one.
    Decode,
    /// Many consecutive tokens of one sequence.
    Prefill,
}

/// A step: how many tokens, and how they belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// How the tokens belong together.
    pub phase: Phase,
    /// Tokens, idle ones included.
    pub tokens: usize,
}

impl Step {
    /// Consecutive tokens of one sequence. A handful would go faster as decoding does, once its kernels are compiled for
    /// their number; the second turn of a chat would begin with seconds of compiling.
    pub fn of_prefill(tokens: usize) -> Self {
        if tokens == 1 {
            Self::of_decode(1)
        } else {
            Self { phase: Phase::Prefill, tokens: tokens.next_multiple_of(PREFILL_STEP) }
        }
    }

    /// One token of each of several sequences.
    pub fn of_decode(tokens: usize) -> Self {
        Self { phase: Phase::Decode, tokens }
    }
}

/// The parts that steps are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// From token ids to the residual stream after the last layer.
    Body(Step),
    /// From `rows` rows of `from` to logits.
    Head {
        /// Rows of logits.
        rows: usize,
        /// [`Value::Hidden`] where the step's own rows are wanted, [`Value::HeadRows`] where some were picked out.
        from: Value,
    },
    /// From `rows` rows of logits to chosen tokens.
    Sample {
        /// Rows of logits.
        rows: usize,
        /// Whether each chosen token becomes the next step's, at the next position.
        advance: bool,
        /// Whether only tokens of a mask may be chosen.
        masked: bool,
    },
}

/// Operations in the order in which they run.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// How many rows values have.
    pub rows: usize,
    /// Whether rows are few enough for matrix-vector kernels.
    pub phase: Phase,
    /// The operations.
    pub operations: Vec<Operation>,
}

/// One operation a line.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operations.iter().try_for_each(|operation| writeln!(f, "{operation}"))
    }
}
