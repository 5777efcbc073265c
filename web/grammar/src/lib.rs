//! Response formats as a WebAssembly module: `web/src/engine/grammar.ts` says what it looks like from there.

#![cfg(target_arch = "wasm32")]
#![allow(clippy::missing_errors_doc, reason = "src/engine/grammar.ts says it where callers look")]

// For its feature alone: the clock.
use instant as _;

use haikuq_grammar::{Encode, Format, GrammarError};
use js_sys::Function;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsError, JsValue};

/// A function of the page, which has one thread.
struct OneThread(Function);

// SAFETY: a WebAssembly module without threads has no other thread to send it to.
unsafe impl Send for OneThread {}
// SAFETY: as above.
unsafe impl Sync for OneThread {}

impl OneThread {
    fn encode(&self, text: &str) -> Option<Vec<u32>> {
        let ids = self.0.call1(&JsValue::NULL, &text.into()).ok()?;
        Some(js_sys::Uint32Array::new(&ids).to_vec())
    }
}

/// A tokenizer as the parser sees it.
#[wasm_bindgen]
pub struct Vocabulary(haikuq_grammar::Vocabulary);

#[wasm_bindgen]
impl Vocabulary {
    /// `bytes` of all tokens, one after the other; `ends` are where each token's end.
    #[wasm_bindgen(constructor)]
    pub fn new(bytes: &[u8], ends: &[u32], size: u32, end_tokens: &[u32], encode: Function) -> Result<Vocabulary, JsError> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let tokens = starts.zip(ends).map(|(start, end)| bytes[start as usize..*end as usize].to_vec()).collect();
        let encode = OneThread(encode);
        let encode: Encode = Box::new(move |text| encode.encode(text));
        haikuq_grammar::Vocabulary::new(tokens, size as usize, end_tokens, encode).map(Self).map_err(thrown)
    }

    /// Compiles a response format, as JSON.
    pub fn matcher(&self, format: &str) -> Result<Matcher, JsError> {
        let request = serde_json::from_str(format).map_err(JsError::from)?;
        let format = Format::from_request(&request).map_err(thrown)?;
        let format = format.ok_or_else(|| JsError::new("text is no format"))?;
        Ok(Matcher { matcher: self.0.matcher(&format).map_err(thrown)?, complete: false })
    }
}

/// A format that follows one text.
#[wasm_bindgen]
pub struct Matcher {
    matcher: haikuq_grammar::Matcher,
    complete: bool,
}

#[wasm_bindgen]
impl Matcher {
    /// Takes in tokens of the text, and gives those that follow in any case.
    pub fn accept(&mut self, ids: &[u32]) -> Result<Vec<u32>, JsError> {
        let next = self.matcher.accept(ids).map_err(thrown)?;
        self.complete = next.complete;
        Ok(next.forced)
    }

    /// Whether nothing may follow.
    #[wasm_bindgen(getter)]
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// The tokens that may come next, as bits in so many words.
    pub fn allow(&mut self, words: u32) -> Result<Vec<u32>, JsError> {
        let mut mask = vec![0; words as usize];
        self.matcher.allow(&mut mask).map_err(thrown)?;
        Ok(mask)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn thrown(error: GrammarError) -> JsError {
    JsError::new(&error.to_string())
}
