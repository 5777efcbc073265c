//! `haikuq-bindgen MODULE.wasm FOLDER`: writes the JavaScript around a module, its types and the module itself.
//!
//! A library call in place of the `wasm-bindgen` program: its version is the one of Cargo.lock, as the module demands.

use anyhow::{Context as _, bail};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, folder] = arguments.as_slice() else { bail!("usage: haikuq-bindgen MODULE.wasm FOLDER") };
    let mut bindgen = Bindgen::new();
    // `web`: an ES module that any bundler and a page without one can load.
    // A function that starts the module anew, for after a trap.
    bindgen.reset_state_function(true);
    bindgen.web(true)?.input_path(module).typescript(true).omit_default_module_path(false);
    bindgen.generate(folder).with_context(|| format!("wasm-bindgen failed on {module}"))
}
