//! The verbs, one file each, with its `Args` and a `run` that returns the exit code.

pub mod bench;
mod bench_format;
pub mod calibrate;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod diff;
pub mod doctor;
pub mod export;
pub mod fleet;
pub mod golden;
pub mod inspect;
pub mod merge;
pub mod publish;
pub mod run;
pub mod score;
pub mod serve;
pub mod site;
pub mod validate;
pub mod verify;
