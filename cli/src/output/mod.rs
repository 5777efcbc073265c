//! Words and figures for people and programs: the two streams, tables, units, progress.

pub mod context;
pub mod hub_progress;
pub mod progress;
pub mod table;
pub mod units;
pub mod upload_progress;

pub use context::Context;
