//! Kernels: `X.wgsl` beside `X.rs`, which holds the host side (parameters, bindings, grid) and the CPU twin.
//!
//! Rules that every kernel keeps:
//!
//! * all WebGPU default limits: 8 storage buffers, 128 MiB bindings, 256 invocations, 16 KiB of workgroup memory;
//! * f32 accumulation; f16 and subgroups only as permutations (`#ifdef F16`, `#ifdef SUBGROUPS`) with the same results;
//! * activations are f32, rows of `padded(columns)` values, zero beyond the true columns;
//! * a test feeds the kernel and its CPU twin the same random inputs, odd sizes included.

pub mod attention;
pub mod attention_decode;
pub mod attention_prefill;
pub mod embed;
pub mod matmul;
pub mod matvec;
pub mod projection;
pub mod rms_norm;
pub mod rope_cache;
pub mod sample;
pub mod stream_read;
pub mod weights;

/// Shader files by kernel name.
const SOURCES: &[(&str, &str)] = &[
    ("attention_combine", include_str!("attention_combine.wgsl")),
    ("attention_decode", include_str!("attention_decode.wgsl")),
    ("attention_prefill", include_str!("attention_prefill.wgsl")),
    ("embed", include_str!("embed.wgsl")),
    ("mark_seen", include_str!("mark_seen.wgsl")),
    ("matmul", include_str!("matmul.wgsl")),
    ("matvec", include_str!("matvec.wgsl")),
    ("rms_norm", include_str!("rms_norm.wgsl")),
    ("rope_cache", include_str!("rope_cache.wgsl")),
    ("sample_choose", include_str!("sample_choose.wgsl")),
    ("sample_scan", include_str!("sample_scan.wgsl")),
    ("stream_read", include_str!("stream_read.wgsl")),
];

/// Files for `#import`, from `shared/`.
const SHARED: &[(&str, &str)] = &[
    ("activation", include_str!("shared/activation.wgsl")),
    ("attention_score", include_str!("shared/attention_score.wgsl")),
    ("cache", include_str!("shared/cache.wgsl")),
    ("octet", include_str!("shared/octet.wgsl")),
    ("output", include_str!("shared/output.wgsl")),
    ("projection", include_str!("shared/projection.wgsl")),
    ("sampling", include_str!("shared/sampling.wgsl")),
    ("scheme", include_str!("shared/scheme.wgsl")),
    ("sin_cos", include_str!("shared/sin_cos.wgsl")),
    ("unit", include_str!("shared/unit.wgsl")),
    ("workgroup_sum", include_str!("shared/workgroup_sum.wgsl")),
];

/// The WGSL file of a kernel, before preprocessing.
pub fn source(kernel: &str) -> Option<&'static str> {
    find(SOURCES, kernel)
}

/// A shared WGSL file.
pub fn shared(name: &str) -> Option<&'static str> {
    find(SHARED, name)
}

fn find(files: &'static [(&str, &str)], name: &str) -> Option<&'static str> {
    files.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}
