//! Subgroups in browsers.
//!
//! wgpu's WebGPU backend does not know the feature `subgroups` and so never asks for it. A device has only what
//! `requestDevice` was asked for, hence the request itself is completed on its way to the browser.

use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen(inline_js = r"
const prototype = globalThis.GPUAdapter?.prototype;
let original;
let asking = 0;
let granted = false;
async function requestDevice(descriptor = {}) {
  granted = this.features.has('subgroups');
  if (!granted) return original.call(this, descriptor);
  const requiredFeatures = [...(descriptor.requiredFeatures ?? []), 'subgroups'];
  return original.call(this, { ...descriptor, requiredFeatures });
}
export function ask() {
  if (!prototype || asking++ > 0) return;
  original = prototype.requestDevice;
  prototype.requestDevice = requestDevice;
}
export function stop() {
  if (prototype && --asking === 0) prototype.requestDevice = original;
}
export function subgroups() { return granted; }
export function packed_dot() { return !!globalThis.navigator?.gpu?.wgslLanguageFeatures?.has('packed_4x8_integer_dot_product'); }
")]
extern "C" {
    fn ask();
    fn stop();
    fn subgroups() -> bool;
    fn packed_dot() -> bool;
}

/// Ends what [`ask_for_subgroups`] began.
pub(super) struct Asked;

impl Drop for Asked {
    fn drop(&mut self) {
        stop();
    }
}

/// Until the result is dropped, devices that are requested get subgroups where their adapter has them.
pub(super) fn ask_for_subgroups() -> Asked {
    ask();
    Asked
}

/// Whether the last device requested got subgroups.
pub(super) fn subgroups_granted() -> bool {
    subgroups()
}

/// Whether shaders may call `dot4I8Packed`.
pub(super) fn has_packed_dot() -> bool {
    packed_dot()
}
