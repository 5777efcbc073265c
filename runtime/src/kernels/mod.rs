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
pub mod altup;
pub mod attend;
pub mod attention;
pub mod attention_decode;
pub mod attention_prefill;
// No browser has matrices in WGSL, and pages download every kernel.
#[cfg(not(target_arch = "wasm32"))]
pub mod attention_prefill_matrices;
pub mod attention_prefill_parts;
pub mod attention_prefill_tile;
pub mod attention_prefill_whole;
pub mod attention_split;
pub mod candidate;
pub mod choose;
pub mod cut_gates;
pub mod delta_chunks;
pub mod delta_net;
pub mod embed;
pub mod experts;
pub mod experts_int8;
#[cfg(not(target_arch = "wasm32"))]
pub mod experts_matrices;
pub mod gate_heads;
pub mod gated_norm;
pub mod mamba2;
pub mod mamba_chunks;
pub mod matmul;
pub mod matmul_int8;
#[cfg(not(target_arch = "wasm32"))]
pub mod matmul_matrices;
pub mod matmul_tile;
pub mod matvec;
pub mod matvec_int8;
pub mod measured;
pub mod multiply;
pub mod norm;
pub mod per_layer_inputs;
pub mod project;
pub mod project_experts;
pub mod projection;
pub mod quantize;
pub mod rope_cache;
pub mod sample;
pub mod short_conv;
pub mod stream_read;
pub mod tables;
pub mod weights;

/// The text of a shader file, as the build script has left it.
macro_rules! text {
    ($file:literal) => {
        include_str!(concat!(env!("OUT_DIR"), "/kernels/", $file, ".wgsl"))
    };
}
pub(crate) use text;

/// `shader!(NAME = "file")`: the shader file `file.wgsl` beside the file that says so.
macro_rules! shader {
    ($name:ident = $file:literal) => {
        pub(crate) static $name: $crate::device::Shader =
            $crate::device::Shader { name: $file, text: $crate::kernels::text!($file), imports: $crate::kernels::shared };
    };
}
pub(crate) use shader;

/// Files for `#import`, from `shared/`.
const SHARED: &[(&str, &str)] = &[
    ("activation", text!("shared/activation")),
    ("attention_merge", text!("shared/attention_merge")),
    ("attention_parts", text!("shared/attention_parts")),
    ("attention_score", text!("shared/attention_score")),
    ("cache", text!("shared/cache")),
    ("chunks", text!("shared/chunks")),
    ("delta_chunk", text!("shared/delta_chunk")),
    ("convolution", text!("shared/convolution")),
    ("lane_sum", text!("shared/lane_sum")),
    ("mamba_chunk", text!("shared/mamba_chunk")),
    ("octet", text!("shared/octet")),
    ("output", text!("shared/output")),
    ("output_heads", text!("shared/output_heads")),
    ("packed_unit", text!("shared/packed_unit")),
    ("projection", text!("shared/projection")),
    ("raw_affine", text!("shared/raw_affine")),
    ("ring", text!("shared/ring")),
    ("quantize_block", text!("shared/quantize_block")),
    ("sampling", text!("shared/sampling")),
    ("scheme", text!("shared/scheme")),
    ("signed_octet", text!("shared/signed_octet")),
    ("query_scaling", text!("shared/query_scaling")),
    ("sin_cos", text!("shared/sin_cos")),
    ("tile_rows", text!("shared/tile_rows")),
    ("unit", text!("shared/unit")),
    ("unit_halves", text!("shared/unit_halves")),
    ("workgroup_sum", text!("shared/workgroup_sum")),
];

/// A shared WGSL file.
pub fn shared(name: &str) -> Option<&'static str> {
    SHARED.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests;
