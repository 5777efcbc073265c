//! Golden outputs: what a checkpoint says in full precision, kept so that a package can be judged without its weights.
//!
//! * [`record`]: runs a model over windows of token ids and keeps what later comparisons need;
//! * [`file`](mod@file): the files that hold it.

pub mod file;
pub mod record;
