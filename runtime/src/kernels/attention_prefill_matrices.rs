//! `attention_prefill_matrices`: attention of many tokens of one sequence with cooperative matrices. Queries and weights
//! are rounded to f16, sums are f32. Its CPU twin is [`attention::cpu`](super::attention::cpu).

use super::attend::Attend;
use super::attention::{AttentionShape, MAX_HEAD_DIM};
use super::attention_prefill::AttentionPrefill;
use super::attention_prefill_parts::Tiling;
use super::candidate::{Candidate, Numerics};
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Profile};
use crate::program::Phase;

super::shader!(ATTENTION_PREFILL_MATRICES = "attention_prefill_matrices");

/// Many consecutive tokens on a GPU with matrix units.
pub static CANDIDATE: Candidate<Attend> = Candidate {
    name: "attention_prefill_matrices",
    numerics: Numerics::Fast,
    can: |profile, shape| shape.phase == Phase::Prefill && fits(profile, &shape.attention),
    fits: |profile, shape| !profile.software && shape.phase == Phase::Prefill && fits(profile, &shape.attention),
    scratch: |_, shape| scratch_bytes(shape.tokens, &shape.attention, shape.scores.window),
    bind: |gpu, job| bind(gpu, &job.prefill(), &job.scratch),
};

/// Dimensions of a head beyond which two subgroups share it.
const WIDE: u32 = 256;

/// Whether two subgroups share a head.
fn is_wide(shape: &AttentionShape) -> bool {
    shape.head_dim > WIDE
}

fn tiling(shape: &AttentionShape) -> Tiling {
    // As the shader counts.
    let (rows, keys) = if is_wide(shape) { (32, 16) } else { (64, 32) };
    Tiling { rows, keys, workgroups: 768 }
}

/// Whether the kernel runs on a device, for heads of this shape.
pub fn fits(profile: &Profile, shape: &AttentionShape) -> bool {
    let lanes = profile.subgroup_barriers && profile.subgroup_min_size == 32 && profile.subgroup_max_size == 32;
    // Whole matrices for each subgroup.
    let step = if is_wide(shape) { 32 } else { 16 };
    let cache = shape.cache_f16 && shape.head_dim.is_multiple_of(step) && (16..=MAX_HEAD_DIM).contains(&shape.head_dim);
    profile.has_matrix(16, 16, 16) && lanes && cache && profile.workgroup_memory >= workgroup_bytes(shape)
}

/// Workgroup memory that the kernel takes: queries or keys and values, scores, weights.
fn workgroup_bytes(shape: &AttentionShape) -> u32 {
    let widest = match shape.head_dim.div_ceil(32) {
        n @ 0..=4 => 32 * n,
        5..=8 => 256,
        _ => 512,
    };
    let Tiling { rows, keys, .. } = tiling(shape);
    rows * (widest + 8) * 2 + (64 * (keys / 4 + 2) - 2) * (16 + 8) + 16
}

/// Bytes of scratch memory for `num_tokens` tokens.
pub fn scratch_bytes(num_tokens: u32, shape: &AttentionShape, window: Option<u32>) -> u64 {
    tiling(shape).scratch_bytes(num_tokens, shape, window)
}

/// Binds the kernel, where it [`fits`], and the one that merges parts where there are any.
///
/// # Errors
/// [`GpuError::Limit`] if they do not fit the device.
pub fn bind(gpu: &Gpu, job: &AttentionPrefill<'_>, scratch: &Binding<'_>) -> Result<Vec<Dispatch>, GpuError> {
    let mut flags = vec![Flag::Matrices, Flag::Subgroups];
    flags.extend(is_wide(&job.shape).then_some(Flag::HeadHalves));
    tiling(&job.shape).bind(gpu, &ATTENTION_PREFILL_MATRICES, &flags, job, scratch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MatrixShape;

    #[test]
    fn devices_without_what_the_kernel_uses_do_not_fit() {
        let shape = AttentionShape { num_heads: 24, num_kv_heads: 8, head_dim: 128, max_pages: 64, cache_f16: true };
        let full = Profile {
            f16: true,
            subgroups: true,
            subgroup_barriers: true,
            subgroup_min_size: 32,
            subgroup_max_size: 32,
            matrices: vec![MatrixShape { m: 16, n: 16, k: 16 }],
            workgroup_memory: 32 << 10,
            ..Profile::least()
        };
        assert!(fits(&full, &shape));
        assert!(!fits(&Profile::least(), &shape));
        assert!(!fits(&Profile { subgroup_max_size: 64, ..full.clone() }, &shape));
        assert!(!fits(&Profile { subgroup_barriers: false, ..full.clone() }, &shape));
        assert!(!fits(&Profile { workgroup_memory: 16 << 10, ..full.clone() }, &shape));
        assert!(!fits(&full, &AttentionShape { cache_f16: false, ..shape }));
        assert!(!fits(&full, &AttentionShape { head_dim: 72, ..shape }));
        let widest = AttentionShape { head_dim: 256, ..shape };
        assert!(!fits(&full, &widest));
        let large = Profile { workgroup_memory: 48 << 10, ..full };
        assert!(fits(&large, &widest));
        assert!(fits(&large, &AttentionShape { head_dim: 512, ..shape }));
        assert!(fits(&large, &AttentionShape { head_dim: 320, ..shape }));
        assert!(!fits(&large, &AttentionShape { head_dim: 336, ..shape }), "half of it is no multiple of 16");
    }
}
