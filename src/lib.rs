//! placeholder
pub mod golden;
pub mod model;
