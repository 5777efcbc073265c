//! haikuq: decoder checkpoints to small WebGPU packages, proven by real inference.
//!
//! ```
//! use haikuq::convert::Conversion;
//! use haikuq::quantize::Recipe;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A folder as it comes from the hub; this one is in the repository.
//! let conversion = Conversion::new("golden/haiku-7m", Recipe::load("q4-fast")?);
//! # let folder = tempfile::tempdir()?;
//! # let out = folder.path().join("haiku-7m.q4");
//! let converted = conversion.run(&out, &|_| ())?;
//! assert!(converted.manifest.bits_per_weight() < 5.5);
//! # Ok(())
//! # }
//! ```
//!
//! Data flows one way: [`checkpoint`] reads a checkpoint's files, [`architecture`] gives their tensors canonical names and a
//! [`haikuq_format::DecoderSpec`], [`calibrate`] measures on a text where errors matter, [`quantize`] chooses codes and scales,
//! [`convert`] writes a package; [`accelerator`] is the GPU that helps them. Nothing after [`architecture`] knows a model
//! family's name. [`reference`](mod@reference) is the forward pass in f32 that everything else is
//! measured against, and [`golden`] keeps what it says. [`runner`] loads a package on a GPU
//! ([`kernel_times`] keeps what it measured there); reference and runner are a [`model::LanguageModel`].
//!
//! [`export`] writes a package's numbers as the files of other programs, [`card`] the page that it is published with.
//!
//! Downloading checkpoints, serving packages and the program are crates of their own: `haikuq-hub`, `haikuq-serve`,
//! `haikuq-cli`.

pub mod accelerator;
pub mod architecture;
pub mod calibrate;
pub mod card;
pub mod checkpoint;
pub mod convert;
pub mod documents;
pub mod exponentials;
pub mod export;
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
mod staging;
pub mod timings;
pub mod tokenizer;
pub mod validate;
mod zeros;
