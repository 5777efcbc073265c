//! The haikuq runtime as a WebAssembly module: what `web/src/engine/engine.ts` calls `Engine`.
//!
//! Everything of substance is in `haikuq-runtime`; this crate turns JavaScript values into its types and back.

#![cfg(target_arch = "wasm32")]
#![allow(clippy::arc_with_non_send_sync, reason = "the runtime's types are Send natively; here there is one thread")]

mod chat;
mod engine;
mod error;
mod profile;
mod request;
mod source;
mod values;

pub use engine::Engine;

use wasm_bindgen::prelude::wasm_bindgen;

/// Runs once when the module is initialized: a panic is a defect, and the console should say where.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| error::log(&format!("haikuq: {info}"))));
}
