//! `delta_chunk` and `delta_chunks`: the scan of a gated delta net as products of matrices, a chunk of tokens at a time (S. Yang et
//! al., "Parallelizing Linear Transformers with the Delta Rule", 2024). Where a prompt is cut decides which tokens share a chunk, and
//! so the last digits. Its CPU twin is [`delta_net::cpu`](super::delta_net::cpu).

use super::candidate::{Candidate, Numerics};
use super::delta_net::{DeltaScan, Scan, mixed_size};
use crate::device::{Binding, Dispatch, Gpu, GpuError, Kernel, Profile};
use crate::program::Phase;
use haikuq_format::layout::padded;
use haikuq_format::spec::DeltaNet;

super::shader!(DELTA_CHUNK = "delta_chunk");
super::shader!(DELTA_CHUNKS = "delta_chunks");

/// Tokens of a chunk; `CHUNK` in `shared/delta_chunk.wgsl`.
const CHUNK: u32 = 32;

/// Many consecutive tokens on a GPU.
pub static CANDIDATE: Candidate<Scan> = Candidate {
    name: "delta_chunks",
    numerics: Numerics::Fast,
    can: |profile, shape| shape.phase == Phase::Prefill && works(profile, &shape.net),
    fits: |profile, shape| shape.phase == Phase::Prefill && !profile.software && works(profile, &shape.net),
    scratch: |_, shape| scratch_bytes(shape.tokens, &shape.net),
    bind: |gpu, job| bind(gpu, &job.scan, &job.scratch),
};

/// Columns of a workgroup; `COLUMNS` in the shader.
const COLUMNS: u32 = 16;

/// Whether a device's workgroups hold a chunk's keys and queries beside their columns of a state.
pub fn works(profile: &Profile, net: &DeltaNet) -> bool {
    let quads = net.key_dim as u32 / 4;
    let vectors = 2 * quads * (CHUNK + 1) + COLUMNS * (quads + 1);
    net.key_dim <= MAX_KEY_DIM && 16 * vectors + 4 * CHUNK * (COLUMNS + 1) <= profile.workgroup_memory
}

/// Widest keys: those of a chunk are as many numbers as an invocation can have on their way.
const MAX_KEY_DIM: usize = 128;

/// Bytes of scratch memory for `num_tokens` tokens: for each chunk the key heads' keys and queries, and two matrices and a
/// row a value head.
pub fn scratch_bytes(num_tokens: u32, net: &DeltaNet) -> u64 {
    let chunk = u64::from(CHUNK);
    let (keys, heads) = (net.key_size() as u64, net.num_value_heads as u64);
    u64::from(num_tokens.div_ceil(CHUNK)) * 4 * (2 * chunk * keys + (2 * chunk + 1) * chunk * heads)
}

/// Binds both kernels.
///
/// # Errors
/// [`GpuError::Limit`] if they do not fit the device.
pub fn bind(gpu: &Gpu, scan: &DeltaScan<'_>, scratch: &Binding<'_>) -> Result<Vec<Dispatch>, GpuError> {
    let net = &scan.net;
    let mut constants = vec![
        ("KEY_HEADS", net.num_key_heads as f64),
        ("VALUE_HEADS", net.num_value_heads as f64),
        ("KEY_DIM", net.key_dim as f64),
        ("VALUE_DIM", net.value_dim as f64),
        ("X_PITCH", padded(mixed_size(net)) as f64 / 4.0),
        ("TOKENS", scan.num_tokens.into()),
    ];
    let heads = net.num_value_heads as u32;
    let bindings = [(0, scan.x.clone()), (1, scan.tokens.clone()), (2, scratch.clone())];
    let grid = [heads, scan.num_tokens.div_ceil(CHUNK), 1];
    let within = Kernel { shader: &DELTA_CHUNK, flags: &[], constants: &constants, bindings: &bindings, grid }.bind(gpu)?;
    constants.push(("Y_PITCH", padded(net.value_size()) as f64));
    let [x, tokens, made] = bindings;
    let bindings = [x, tokens, made, (3, scan.states.clone()), (4, scan.y.clone())];
    let grid = [(net.value_dim as u32).div_ceil(COLUMNS), heads, 1];
    let along = Kernel { shader: &DELTA_CHUNKS, flags: &[], constants: &constants, bindings: &bindings, grid }.bind(gpu)?;
    Ok(vec![within, along])
}
