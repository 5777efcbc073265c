//! haikuq: decoder checkpoints to small WebGPU packages, proven by real inference.
//!
//! Data flows one way: [`checkpoint`] reads files, [`architecture`] gives their tensors canonical names and a
//! [`haikuq_format::DecoderSpec`]. Nothing after that knows a model family's name. [`quantize`] chooses codes and
//! scales, [`convert`] streams them into a package, and [`golden`] records what the checkpoint says in full precision.

pub mod architecture;
pub mod checkpoint;
pub mod cli;
pub mod convert;
pub mod golden;
pub mod model;
pub mod quantize;
