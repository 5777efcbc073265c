//! [`JsSource`]: a package's files as JavaScript hands them over.

use haikuq_runtime::package::source::check_file_name;
use haikuq_runtime::package::{ByteSource, HeldFile, SourceError, SourceFuture};
use js_sys::Uint8Array;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsCast, JsValue};

#[wasm_bindgen]
extern "C" {
    /// `Source` of `web/src/engine/engine.ts`.
    #[wasm_bindgen(typescript_type = "import('../engine.js').Source")]
    pub type Source;

    #[wasm_bindgen(method, catch)]
    async fn read(this: &Source, file: &str, start: f64, end: f64) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    async fn hold(this: &Source, file: &str) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    async fn refresh(this: &Source, file: &str) -> Result<JsValue, JsValue>;
}

#[wasm_bindgen]
extern "C" {
    /// `HeldFile` of `web/src/engine/engine.ts`.
    type Held;

    #[wasm_bindgen(method, getter)]
    fn bytes(this: &Held) -> Uint8Array;

    #[wasm_bindgen(method, getter)]
    fn sha256(this: &Held) -> Uint8Array;

    #[wasm_bindgen(method)]
    fn upload(this: &Held, queue: &JsValue, buffer: &JsValue, to: f64, start: f64, end: f64);

    #[wasm_bindgen(method)]
    fn release(this: &Held);
}

/// A file that JavaScript holds: its bytes never come into WebAssembly's memory.
struct JsHeld(Held);

impl HeldFile for JsHeld {
    fn bytes(&self) -> u64 {
        self.0.bytes().length().into()
    }

    fn sha256(&self) -> [u8; 32] {
        // A digest of another length is no right one either.
        self.0.sha256().to_vec().try_into().unwrap_or_default()
    }

    fn copy(&self, range: Range<u64>) -> Vec<u8> {
        self.0.bytes().subarray(range.start as u32, range.end as u32).to_vec()
    }

    fn upload(&self, queue: &wgpu::Queue, buffer: &wgpu::Buffer, to: u64, range: Range<u64>) {
        // There is no other backend in a browser's build.
        if let (Some(queue), Some(buffer)) = (queue.as_webgpu(), buffer.as_webgpu()) {
            self.0.upload(queue.as_ref(), buffer.as_ref(), to as f64, range.start as f64, range.end as f64);
        }
    }
}

impl Drop for JsHeld {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// What a source threw last; the caller of the engine gets it unchanged.
pub type LastError = Rc<RefCell<Option<JsValue>>>;

pub struct JsSource {
    pub source: Source,
    pub last_error: LastError,
}

impl JsSource {
    fn failed(&self, file: &str, error: JsValue) -> SourceError {
        let why = error.dyn_ref::<js_sys::Error>().map_or_else(|| format!("{error:?}"), |e| String::from(e.message()));
        self.last_error.replace(Some(error));
        SourceError::Read { file: file.into(), place: "its source".into(), why }
    }
}

impl ByteSource for JsSource {
    fn read<'a>(&'a self, file: &'a str, range: Range<u64>) -> SourceFuture<'a, Result<Vec<u8>, SourceError>> {
        Box::pin(async move {
            check_file_name(file)?;
            let read = self.source.read(file, range.start as f64, range.end as f64).await;
            let bytes = read.map_err(|e| self.failed(file, e))?;
            match bytes.dyn_into::<Uint8Array>() {
                Ok(bytes) => Ok(bytes.to_vec()),
                Err(other) => Err(self.failed(file, other)),
            }
        })
    }

    fn hold<'a>(&'a self, file: &'a str) -> SourceFuture<'a, Result<Option<Box<dyn HeldFile>>, SourceError>> {
        Box::pin(async move {
            let held = self.source.hold(file).await.map_err(|e| self.failed(file, e))?;
            if held.is_undefined() {
                return Ok(None);
            }
            Ok(Some(Box::new(JsHeld(held.unchecked_into())) as Box<dyn HeldFile>))
        })
    }

    fn refresh<'a>(&'a self, file: &'a str) -> SourceFuture<'a, Result<bool, SourceError>> {
        Box::pin(async move {
            let refreshed = self.source.refresh(file).await.map_err(|e| self.failed(file, e))?;
            Ok(refreshed.is_truthy())
        })
    }
}
