//! [`JsConstraint`]: a format that another WebAssembly module follows a text with.

use haikuq_runtime::generate::{Constraint, ConstraintError, Outlook};
use js_sys::Uint32Array;
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen]
extern "C" {
    /// `EngineConstraint` of `web/src/engine/grammar.ts`.
    pub type JsConstraint;

    #[wasm_bindgen(method, catch)]
    fn accept(this: &JsConstraint, ids: &[u32]) -> Result<Uint32Array, JsValue>;

    #[wasm_bindgen(method, getter)]
    fn complete(this: &JsConstraint) -> bool;

    #[wasm_bindgen(method, catch)]
    fn allow(this: &JsConstraint, words: u32) -> Result<Uint32Array, JsValue>;
}

impl Constraint for JsConstraint {
    fn accept(&mut self, ids: &[u32]) -> Result<Outlook, ConstraintError> {
        let forced = Self::accept(self, ids).map_err(failed)?.to_vec();
        Ok(Outlook { forced, complete: self.complete() })
    }

    fn allow(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError> {
        let words = mask.len() as u32;
        let allowed = Self::allow(self, words).map_err(failed)?;
        if allowed.length() == words {
            allowed.copy_to(mask);
        }
        Ok(())
    }
}

/// Our own errors alone arrive here, and they are texts.
fn failed(error: JsValue) -> ConstraintError {
    ConstraintError(error.as_string().unwrap_or_default())
}
