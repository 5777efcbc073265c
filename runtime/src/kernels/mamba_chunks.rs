//! `mamba_chunk`, `mamba_carry` and `mamba_output`: the scan of a Mamba 2 mixer as products of matrices, chunks of tokens side by side
//! (T. Dao and A. Gu, "Transformers are SSMs", 2024, section 6). Where a prompt is cut decides which tokens share a chunk, and so
//! the last digits. Its CPU twin is [`mamba2::cpu`](super::mamba2::cpu).

use super::candidate::{Candidate, Numerics};
use super::mamba2::{MambaScan, Scan, ScanShape, mixed_size};
use crate::device::{Binding, Dispatch, Gpu, GpuError, Kernel, Profile};
use crate::program::Phase;
use haikuq_format::layout::padded;
use haikuq_format::spec::Mamba2;

super::shader!(MAMBA_CHUNK = "mamba_chunk");
super::shader!(MAMBA_CARRY = "mamba_carry");
super::shader!(MAMBA_OUTPUT = "mamba_output");

/// Tokens of a chunk; `CHUNK` in `shared/mamba_chunk.wgsl`.
const CHUNK: u32 = 32;

/// Many consecutive tokens on a GPU.
pub static CANDIDATE: Candidate<Scan> = Candidate {
    name: "mamba_chunks",
    numerics: Numerics::Fast,
    can,
    fits: |profile, shape| can(profile, shape) && !profile.software,
    scratch: |_, shape| scratch_bytes(shape.tokens, &shape.mamba),
    bind: |gpu, job| bind(gpu, &job.scan, &job.scratch),
};

fn can(profile: &Profile, shape: &ScanShape) -> bool {
    let room = scratch_bytes(shape.tokens, &shape.mamba) <= profile.max_binding;
    shape.phase == Phase::Prefill && works(&shape.mamba) && room
}

/// Whether heads begin where vectors do.
pub const fn works(mamba: &Mamba2) -> bool {
    mamba.head_dim.is_multiple_of(4)
}

/// Bytes of scratch memory for `num_tokens` tokens: for each chunk the heads' states and decays.
pub fn scratch_bytes(num_tokens: u32, mamba: &Mamba2) -> u64 {
    u64::from(num_tokens.div_ceil(CHUNK)) * 4 * (mamba.states_size() + 4 * mamba.num_heads) as u64
}

/// Binds the three kernels.
///
/// # Errors
/// [`GpuError::Limit`] if they do not fit the device.
pub fn bind(gpu: &Gpu, scan: &MambaScan<'_>, scratch: &Binding<'_>) -> Result<Vec<Dispatch>, GpuError> {
    let mamba = &scan.mamba;
    let mut constants = vec![
        ("HEADS", mamba.num_heads as f64),
        ("HEAD_DIM", mamba.head_dim as f64),
        ("GROUPS", mamba.num_groups as f64),
        ("STATE_SIZE", mamba.state_size as f64),
        ("X_PITCH", padded(mixed_size(mamba)) as f64 / 4.0),
        ("TOKENS", scan.num_tokens.into()),
    ];
    let (heads, chunks) = (mamba.num_heads as u32, scan.num_tokens.div_ceil(CHUNK));
    let (inputs, quads) = (mamba.head_dim as u32 / 4, mamba.state_size as u32 / 4);
    let bindings = [(0, scan.x.clone()), (1, scan.tokens.clone()), (2, scratch.clone())];
    let grid = [(inputs * quads.div_ceil(2)).div_ceil(128), heads, chunks];
    let added = Kernel { shader: &MAMBA_CHUNK, flags: &[], constants: &constants, bindings: &bindings, grid }.bind(gpu)?;
    let [x, tokens, made] = bindings;
    let bindings = [x.clone(), tokens.clone(), made.clone(), (3, scan.states.clone())];
    let grid = [(4 * inputs * quads).div_ceil(64), heads, 1];
    let carried = Kernel { shader: &MAMBA_CARRY, flags: &[], constants: &constants, bindings: &bindings, grid }.bind(gpu)?;
    constants.push(("Y_PITCH", padded(mamba.inner_size()) as f64));
    let bindings = [x, tokens, made, (3, scan.skip.clone()), (4, scan.y.clone())];
    let grid = [inputs.div_ceil(16), heads, chunks];
    let output = Kernel { shader: &MAMBA_OUTPUT, flags: &[], constants: &constants, bindings: &bindings, grid }.bind(gpu)?;
    Ok(vec![added, carried, output])
}
