//! The haikuq runtime: opens a package and generates text on wgpu, natively and in the browser.
//!
//! ```no_run
//! # #[cfg(feature = "native")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # pollster::block_on(async {
//! use haikuq_runtime::decoder::{Decoder, DecoderOptions};
//! use haikuq_runtime::device::{Gpu, GpuOptions};
//! use haikuq_runtime::generate::{Conversation, GenerateOptions, Request, generate};
//! use haikuq_runtime::package::{FolderSource, Package};
//! use haikuq_runtime::text::Special;
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//!
//! let package = Package::open(FolderSource::new("haiku-7m.q4")).await?;
//! let gpu = Arc::new(Gpu::open(&GpuOptions::default()).await?);
//! let mut decoder = Decoder::load(gpu, &package, &DecoderOptions::default(), &mut |_| ()).await?;
//! let tokenizer = package.tokenizer().await?;
//! let prompt = tokenizer.encode("Once upon a time", Special::Plain)?;
//! let mut options = GenerateOptions::default();
//! options.max_tokens = Some(64);
//! options.stop_tokens = package.manifest().spec.eos_token_ids.clone();
//! let mut conversation = Conversation::start(&mut decoder)?;
//! let request = Request::new(&mut conversation, &prompt, &options);
//! generate(&mut decoder, &tokenizer, &mut [request], &mut |event| {
//!     print!("{}", event.text);
//!     ControlFlow::Continue(())
//! })
//! .await?;
//! # Ok(())
//! # })
//! # }
//! # #[cfg(not(feature = "native"))]
//! # fn main() {}
//! ```
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

#![cfg_attr(
    target_arch = "wasm32",
    allow(clippy::arc_with_non_send_sync, reason = "shared values are Send and Sync natively; a page has one thread")
)]

pub mod decoder;
pub mod device;
pub mod generate;

pub mod kernels;
mod ordered;
pub mod package;
pub mod program;
pub mod sampling;
pub mod text;
