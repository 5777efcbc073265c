//! The f32 reference and the golden outputs that are recorded from it.
//!
//! * [`mod@reference`]: the forward pass that everything else is measured against;
//! * [`text`]: documents from text files, cut into windows of token ids;
//! * [`record`]: runs a model over windows and keeps what later comparisons need;
//! * [`stored`]: a package's weights for the reference, to tell quantization from kernels;
//! * [`file`](mod@file): golden files, so that a package can be judged without its source weights.

pub mod file;
pub mod logits;
pub mod record;
pub mod reference;
pub mod stored;
pub mod text;
