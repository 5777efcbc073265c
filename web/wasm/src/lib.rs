//! The haikuq runtime as a WebAssembly module: what `web/src/engine/engine.ts` calls `Engine`.
//!
//! Everything of substance is in `haikuq-runtime`; this crate turns JavaScript values into its types and back.

#![allow(clippy::missing_errors_doc, reason = "src/engine/engine.ts says it where callers look")]
#![allow(clippy::use_self, reason = "wasm-bindgen needs the type's name in what it exports")]
#![allow(clippy::arc_with_non_send_sync, reason = "the runtime's types are Send natively; here there is one thread")]

mod boundary;
#[cfg(target_arch = "wasm32")]
mod chat;
#[cfg(target_arch = "wasm32")]
mod constraint;
#[cfg(target_arch = "wasm32")]
mod engine;
#[cfg(target_arch = "wasm32")]
mod error;
#[cfg(target_arch = "wasm32")]
mod profile;
#[cfg(target_arch = "wasm32")]
mod request;
#[cfg(target_arch = "wasm32")]
mod source;
#[cfg(target_arch = "wasm32")]
mod values;

#[cfg(target_arch = "wasm32")]
pub use engine::Engine;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen::prelude::wasm_bindgen;

/// Runs once when the module is initialized: a panic is a defect, and the console should say where.
#[cfg(target_arch = "wasm32")]
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| error::log(&format!("haikuq: {info}"))));
}
