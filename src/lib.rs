//! haikuq: decoder checkpoints to small WebGPU packages, proven by real inference.
//!
//! Data flows one way: [`hub`] downloads a checkpoint that is not on disk, [`checkpoint`] reads its files,
//! [`architecture`] gives their tensors canonical names and a [`haikuq_format::DecoderSpec`], [`calibrate`] measures on a
//! text where errors matter, [`quantize`] chooses codes and scales, [`convert`] writes a package; [`accelerator`] is the GPU that
//! helps them. Nothing after
//! [`architecture`] knows a model family's name. [`golden`] records what the checkpoint says in full precision, and
//! [`runner`] loads a package on a GPU ([`kernel_times`] keeps what it measured there); both are a [`model::LanguageModel`]. [`serve`] brings packages to a
//! browser, and [`browser`] asks one what they say there.

pub mod accelerator;
pub mod architecture;
pub mod browser;
pub mod calibrate;
pub mod checkpoint;
pub mod cli;
pub mod convert;
pub mod exponentials;
pub mod files;
pub mod golden;
pub mod hub;
pub mod kept;
pub mod kernel_times;
pub mod matmul;
pub mod model;
pub mod quantize;
pub mod runner;
pub mod serve;
pub mod timings;
pub mod tokenizer;
pub mod validate;
mod zeros;
