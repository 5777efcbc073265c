//! `attention_prefill_tile`: attention of many tokens of one sequence in f32, on any GPU. Its CPU twin is
//! [`attention::cpu`](super::attention::cpu).

use super::attend::Attend;
use super::attention::{AttentionShape, MAX_HEAD_DIM};
use super::attention_prefill::AttentionPrefill;
use super::attention_prefill_parts::Tiling;
use super::candidate::{Candidate, Numerics};
use crate::device::{Binding, Dispatch, Gpu, GpuError, Profile};
use crate::program::Phase;

super::shader!(ATTENTION_PREFILL_TILE = "attention_prefill_tile");

/// Many consecutive tokens on a GPU, in f32.
pub static CANDIDATE: Candidate<Attend> = Candidate {
    name: "attention_prefill_tile",
    // Keys are cut into parts by the number of tokens in a step.
    numerics: Numerics::Fast,
    can: |_, shape| shape.phase == Phase::Prefill && works(&shape.attention),
    fits: |profile, shape| shape.phase == Phase::Prefill && fits(profile, &shape.attention),
    scratch: |_, shape| scratch_bytes(shape.tokens, &shape.attention, shape.scores.window),
    bind: |gpu, job| bind(gpu, &job.prefill(), &job.scratch),
};

/// How work is cut for a large GPU.
pub(super) fn tiling(shape: &AttentionShape) -> Tiling {
    // Rows as the shader counts them.
    Tiling { rows: if shape.head_dim > 128 { 32 } else { 64 }, keys: 64, workgroups: 1024 }
}

/// Whether the kernel is worth choosing on a device: programs on the processor are not helped by its tiles.
pub fn fits(profile: &Profile, shape: &AttentionShape) -> bool {
    !profile.software && works(shape)
}

/// Whether the kernel runs, for heads of this shape.
pub(super) fn works(shape: &AttentionShape) -> bool {
    shape.head_dim.is_multiple_of(4) && shape.head_dim <= MAX_HEAD_DIM
}

/// Bytes of scratch memory for `num_tokens` tokens.
pub fn scratch_bytes(num_tokens: u32, shape: &AttentionShape, window: Option<u32>) -> u64 {
    tiling(shape).scratch_bytes(num_tokens, shape, window)
}

/// Binds the kernel, and the one that merges parts where there are any.
///
/// # Errors
/// [`GpuError::Limit`] if they do not fit the device.
pub fn bind(gpu: &Gpu, job: &AttentionPrefill<'_>, scratch: &Binding<'_>) -> Result<Vec<Dispatch>, GpuError> {
    tiling(&job.shape).bind(gpu, &ATTENTION_PREFILL_TILE, &[], job, scratch)
}
