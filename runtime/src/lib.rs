//! The haikuq runtime: opens a package and generates text on wgpu, natively and in the browser.
//!
//! * [`decoder`]: a package's transformer on a GPU, with its paged key/value cache;
//! * [`generate`](mod@generate): text as it is chosen, one prompt or many, conversations that keep their cache;
//! * [`device`]: adapters, devices, shader permutations, dispatches;
//! * [`kernels`]: one WGSL file a kernel, with its host side and its CPU twin beside it;
//! * [`package`]: opening a package from any byte source, everything checked;
//! * [`program`]: what a step does, as a list of operations;
//! * [`sampling`]: how the next token is chosen;
//! * [`text`]: tokenizers, chat templates, incremental detokenization, stop strings.
//!
//! The runtime knows packages only: no checkpoints, no model families, no quantization.

pub mod decoder;
pub mod device;
pub mod generate;

pub mod kernels;
mod ordered;
pub mod package;
pub mod program;
pub mod sampling;
pub mod text;
