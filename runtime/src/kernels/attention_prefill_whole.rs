//! `attention_prefill_tile` with the keys of a row in one part, however few tokens a step has: then nothing but a row's own
//! sequence decides its bits. Its CPU twin is [`attention::cpu`](super::attention::cpu).

use super::attend::Attend;
use super::attention::AttentionShape;
use super::attention_prefill::AttentionPrefill;
use super::attention_prefill_parts::Tiling;
use super::attention_prefill_tile::{self, ATTENTION_PREFILL_TILE, fits, works};
use super::candidate::{Candidate, Numerics};
use crate::device::{Binding, Dispatch, Gpu, GpuError};
use crate::program::Phase;

/// Many consecutive tokens on a GPU, in f32, exactly.
pub static CANDIDATE: Candidate<Attend> = Candidate {
    name: "attention_prefill_whole",
    numerics: Numerics::Exact,
    can: |_, shape| shape.phase == Phase::Prefill && works(&shape.attention),
    fits: |profile, shape| shape.phase == Phase::Prefill && fits(profile, &shape.attention),
    scratch: |_, shape| tiling(&shape.attention).scratch_bytes(shape.tokens, &shape.attention, shape.scores.window),
    bind: |gpu, job| bind(gpu, &job.prefill(), &job.scratch),
};

/// A workgroup is enough for a row.
fn tiling(shape: &AttentionShape) -> Tiling {
    Tiling { workgroups: 1, ..attention_prefill_tile::tiling(shape) }
}

/// Binds the kernel.
///
/// # Errors
/// [`GpuError::Limit`] if it does not fit the device.
pub fn bind(gpu: &Gpu, job: &AttentionPrefill<'_>, scratch: &Binding<'_>) -> Result<Vec<Dispatch>, GpuError> {
    tiling(&job.shape).bind(gpu, &ATTENTION_PREFILL_TILE, &[], job, scratch)
}
