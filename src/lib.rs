//! haikuq: decoder checkpoints to small WebGPU packages, proven by real inference.
//!
//! Data flows one way: [`checkpoint`] reads a checkpoint's files, [`architecture`] gives their tensors canonical names and a
//! [`haikuq_format::DecoderSpec`], [`calibrate`] measures on a text where errors matter, [`quantize`] chooses codes and scales,
//! [`convert`] writes a package; [`accelerator`] is the GPU that helps them. Nothing after [`architecture`] knows a model
//! family's name. [`reference`](mod@reference) is the forward pass in f32 that everything else is
//! measured against, and [`golden`] keeps what it says. [`runner`] loads a package on a GPU
//! ([`kernel_times`] keeps what it measured there); reference and runner are a [`model::LanguageModel`].
//!
//! Downloading checkpoints, serving packages and the program are crates of their own: `haikuq-hub`, `haikuq-serve`,
//! `haikuq-cli`.

pub mod accelerator;
pub mod architecture;
pub mod calibrate;
pub mod checkpoint;
pub mod convert;
pub mod documents;
pub mod exponentials;
pub mod golden;
mod header;
pub mod kept;
pub mod kernel_times;
pub mod logits;
pub mod matmul;
pub mod model;
pub mod quantize;
pub mod reference;
pub mod runner;
pub mod timings;
pub mod tokenizer;
pub mod validate;
mod zeros;
