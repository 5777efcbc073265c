//! Kernels: `X.wgsl` beside `X.rs`, which holds the host side (parameters, bindings, grid) and the CPU twin.
//!
//! Rules that every kernel keeps:
//!
//! * all WebGPU default limits: 8 storage buffers, 128 MiB bindings, 256 invocations, 16 KiB of workgroup memory;
//! * f32 accumulation; f16 and subgroups only as permutations (`#ifdef F16`, `#ifdef SUBGROUPS`) with the same results;
//! * activations are f32, rows of `padded(columns)` values, zero beyond the true columns;
//! * a test feeds the kernel and its CPU twin the same random inputs, odd sizes included.

pub mod stream_read;

/// Positions in a page of the key/value cache.
pub const PAGE: usize = 64;

/// Shader files by kernel name.
const SOURCES: &[(&str, &str)] = &[("stream_read", include_str!("stream_read.wgsl"))];

/// Files for `#import`, from `shared/`.
const SHARED: &[(&str, &str)] = &[];

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
