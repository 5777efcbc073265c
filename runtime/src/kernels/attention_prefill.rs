//! `attention_prefill`: attention of many tokens of one sequence. Its CPU twin is
//! [`attention::cpu`](super::attention::cpu).

use super::attention::{AttentionBuffers, AttentionShape, Scores};
use crate::device::{Dispatch, Flag, Gpu, GpuError, Kernel};

super::shader!(ATTENTION_PREFILL = "attention_prefill");

/// Attention of `num_tokens` tokens at consecutive positions of one sequence (idle ones only at the end), whose keys
/// and values are in the cache.
#[derive(Clone, Debug)]
pub struct AttentionPrefill<'a> {
    /// Tokens of the step.
    pub num_tokens: u32,
    /// Heads and cache.
    pub shape: AttentionShape,
    /// Scale, window and soft cap.
    pub scores: Scores,
    /// Inputs and output.
    pub buffers: AttentionBuffers<'a>,
}

impl AttentionPrefill<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let shape = self.shape;
        // Queries that a workgroup takes, as the shader counts them.
        let queries = match shape.head_dim {
            0..=128 => 64,
            129..=256 => 32,
            _ => 16,
        };
        let mut flags = shape.flags();
        flags.extend(chunks(&shape));
        let mut constants = shape.constants();
        constants.extend(self.scores.constants());
        constants.extend([
            ("HEADS", shape.num_heads.into()),
            ("GROUP", shape.group().into()),
            ("PITCH", (shape.pitch() / 4).into()),
        ]);
        let b = &self.buffers;
        let size = gpu.uniform("attention_prefill", &[self.num_tokens, 0, 0, 0]);
        let size = (&size).into();
        let (bindings, sinks) = b.with_sinks(&[&b.q, &b.tokens, &b.pages, &b.keys, &b.values, &b.output, &size]);
        flags.extend(sinks);
        let grid = [self.num_tokens.div_ceil(queries), shape.num_heads, 1];
        Kernel { shader: &ATTENTION_PREFILL, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// How many runs of 32 dimensions a kernel's registers are for.
pub(super) fn chunks(shape: &AttentionShape) -> Option<Flag> {
    match shape.head_dim.div_ceil(32) {
        0 | 1 => None,
        2 => Some(Flag::Chunks2),
        3 => Some(Flag::Chunks3),
        4 => Some(Flag::Chunks4),
        5..=8 => Some(Flag::Chunks8),
        _ => Some(Flag::Chunks16),
    }
}
