//! The dispatches of a step, built once for each number of tokens.

use super::cache::KvCache;
use super::weights::Weights;
use super::{Buffers, DecoderError, MAX_BATCH};
use crate::gpu::{Dispatch, Gpu, GpuError};
use haikuq_format::DecoderSpec;
use std::collections::HashMap;

/// What kind of step, and of how many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Step {
    prefill: bool,
    tokens: usize,
}

impl Step {
    /// Consecutive tokens of one sequence.
    pub(super) fn of_prefill(tokens: usize) -> Self {
        Self { prefill: true, tokens }
    }

    /// One token of each of several sequences.
    pub(super) fn of_decode(tokens: usize) -> Self {
        Self { prefill: false, tokens }
    }
}

/// Graphs that were built so far.
#[derive(Default)]
pub(super) struct Graphs {
    bodies: HashMap<Step, Vec<Dispatch>>,
    heads: HashMap<usize, Vec<Dispatch>>,
    samples: HashMap<usize, Vec<Dispatch>>,
}

/// A prompt's last chunk can have any length: keep this many graphs of such lengths before starting over.
const MAX_GRAPHS: usize = 32;
