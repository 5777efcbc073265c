//! Block layouts: how the codes and scales of a chunk of rows become planes of 32-bit words, and back.
//!
//! A *chunk* is a run of whole rows of one matrix. Each row is padded with zero weights to whole units of
//! [`UNIT`] weights. A chunk has one or more *planes*, each a flat array of little-endian `u32` words:
//!
//! | plane | words | holds |
//! | --- | --- | --- |
//! | [`PlaneKind::Codes`] | 4, 2, 8 a unit (q4 and q5, q3, q8) | codes, or for q3 their two, for q5 their four low bits |
//! | [`PlaneKind::HighBits`] | 1 a unit | q3's third, q5's fifth bits |
//! | [`PlaneKind::Scales`] | one for 2 or 4 groups | f16 scales, row after row, the first in the low bits of a word; or E4M4 scales, a word for a group of each of 4 rows |
//! | [`PlaneKind::Offsets`] | one for 8 or 2 groups | u4 zero points or f16 offsets, indexed as the scales are |
//! | [`PlaneKind::Codebook`] | 8, 16 or 32 | f32 values |
//! | [`PlaneKind::Values`] | 16 or 32 a unit | f16 or f32 weights as they are |
//!
//! The bit arrangements let a kernel take four neighbouring weights with one mask and one shift; see [`codes`].

pub mod codes;
mod dequantize;
mod planes;

pub use dequantize::dequantize;
pub use planes::{
    PlaneBuffers, PlaneKind, PlaneSize, QuantizedRows, Scales, pack_f16, pack_f32, pack_quantized, plane_sizes, row_chunks,
    unpack_quantized,
};

/// Weights in the smallest unit of codes; rows are padded to whole units.
pub const UNIT: usize = 32;

/// Columns of a row with its padding.
pub const fn padded(columns: usize) -> usize {
    columns.next_multiple_of(UNIT)
}

/// Groups in a row: the last one may be short.
pub const fn groups(columns: usize, group: usize) -> usize {
    padded(columns).div_ceil(group)
}
