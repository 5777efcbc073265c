//! Kernels: `X.wgsl` beside `X.rs`, which holds the host side (parameters, bindings, grid) and the CPU twin.
//!
//! An operation of a [program](crate::program) that can be done in several ways has *candidates*
//! ([`candidate::Candidate`]): [`project`] and [`attend`] say what their operations are told, [`tables`] lists the candidates,
//! [`choose`](mod@choose) picks one by the device's profile, or by what was [`measured`] on it. A new way of doing an operation is one file and one row.
//!
//! Rules that every kernel keeps:
//!
//! * sums are f32 or whole numbers, never f16;
//! * activations in buffers are f32, rows of `padded(columns)` values, zero beyond the true columns;
//! * what a kernel needs beyond WebGPU's default limits (8 storage buffers, 128 MiB bindings, 256 invocations, 16 KiB of
//!   workgroup memory), f16 and subgroups as permutations (`#ifdef F16`, `#ifdef SUBGROUPS`) or as conditions of a candidate;
//!   some candidate of every operation needs nothing;
//! * a test feeds the kernel and its CPU twin the same random inputs, odd sizes included.

pub mod activations;
pub mod attend;
pub mod attention;
pub mod attention_decode;
pub mod attention_prefill;
pub mod attention_prefill_matrices;
pub mod attention_prefill_parts;
pub mod attention_prefill_tile;
pub mod attention_prefill_whole;
pub mod attention_split;
pub mod candidate;
pub mod choose;
pub mod embed;
pub mod matmul;
pub mod matmul_int8;
pub mod matmul_matrices;
pub mod matmul_tile;
pub mod matvec;
pub mod matvec_int8;
pub mod measured;
pub mod project;
pub mod projection;
pub mod quantize;
pub mod rms_norm;
pub mod rope_cache;
pub mod sample;
pub mod stream_read;
pub mod tables;
pub mod weights;

/// `shader!(NAME = "file")`: the shader file `file.wgsl` beside the file that says so.
macro_rules! shader {
    ($name:ident = $file:literal) => {
        pub(crate) static $name: $crate::device::Shader =
            $crate::device::Shader { name: $file, text: include_str!(concat!($file, ".wgsl")), imports: $crate::kernels::shared };
    };
}
pub(crate) use shader;

/// Files for `#import`, from `shared/`.
const SHARED: &[(&str, &str)] = &[
    ("activation", include_str!("shared/activation.wgsl")),
    ("attention_merge", include_str!("shared/attention_merge.wgsl")),
    ("attention_parts", include_str!("shared/attention_parts.wgsl")),
    ("attention_score", include_str!("shared/attention_score.wgsl")),
    ("cache", include_str!("shared/cache.wgsl")),
    ("chunks", include_str!("shared/chunks.wgsl")),
    ("octet", include_str!("shared/octet.wgsl")),
    ("output", include_str!("shared/output.wgsl")),
    ("output_heads", include_str!("shared/output_heads.wgsl")),
    ("packed_unit", include_str!("shared/packed_unit.wgsl")),
    ("projection", include_str!("shared/projection.wgsl")),
    ("raw_affine", include_str!("shared/raw_affine.wgsl")),
    ("quantize_block", include_str!("shared/quantize_block.wgsl")),
    ("sampling", include_str!("shared/sampling.wgsl")),
    ("scheme", include_str!("shared/scheme.wgsl")),
    ("signed_octet", include_str!("shared/signed_octet.wgsl")),
    ("sin_cos", include_str!("shared/sin_cos.wgsl")),
    ("unit", include_str!("shared/unit.wgsl")),
    ("unit_halves", include_str!("shared/unit_halves.wgsl")),
    ("workgroup_sum", include_str!("shared/workgroup_sum.wgsl")),
];

/// A shared WGSL file.
pub fn shared(name: &str) -> Option<&'static str> {
    SHARED.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests;
