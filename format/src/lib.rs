//! The haikuq package format: plain data and arithmetic, with no file system, GPU or model family in it.
//!
//! ```
//! use haikuq_format::Scheme;
//! use haikuq_format::layout::{dequantize, pack_f16};
//!
//! let planes = pack_f16(2, 2, &[0.5, -1.0, 2.0, 0.25]);
//! let planes: Vec<_> = planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
//! assert_eq!(dequantize(Scheme::F16, 2, 2, &planes), [0.5, -1.0, 2.0, 0.25]);
//! ```
//!
//! A *package* is a flat folder (or URL prefix) that a GPU can read as it lies on disk:
//!
//! ```text
//! haikuq.json                          Manifest: DecoderSpec, tensor table, shards, provenance
//! weights-00001-of-00003.safetensors   shards: planes of packed tensors, every plane at a multiple of 256 bytes
//! tokenizer.json, …                    carried over from the checkpoint
//! ```
//!
//! Three subjects, three places:
//!
//! * [`spec`]: what a runtime must know of a decoder, and nothing of where it came from;
//! * [`scheme`] and [`layout`]: how one tensor's numbers are stored, with pack and unpack;
//! * [`manifest`] and [`shard`]: what is in a package, and the checks that make it safe to trust.
//!
//! `docs/package-format.md` in the repository specifies all of this for readers in other languages.

mod e4m4;
pub mod layout;
pub mod manifest;
pub mod scheme;
pub mod shard;
pub mod spec;

pub use e4m4::E4M4;
pub use manifest::Manifest;
pub use scheme::Scheme;
pub use spec::DecoderSpec;

/// Every plane starts at a multiple of this many bytes from the start of its file and is zero-padded to a
/// multiple of it: WebGPU's default `minStorageBufferOffsetAlignment`.
pub const PLANE_ALIGNMENT: u64 = 256;

/// No plane of a chunk is larger than this, so that every binding stays well under WebGPU's default
/// `maxStorageBufferBindingSize` of 128 MiB.
pub const MAX_PLANE_BYTES: u64 = 64 << 20;

/// Default size of a shard.
pub const DEFAULT_SHARD_BYTES: u64 = 32 << 20;

/// `bytes` rounded up to the next multiple of [`PLANE_ALIGNMENT`].
pub const fn align(bytes: u64) -> u64 {
    bytes.next_multiple_of(PLANE_ALIGNMENT)
}
