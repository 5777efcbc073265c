//! Subgroups in browsers.
//!
//! wgpu's WebGPU backend does not know the feature `subgroups` and so never asks for it. A device has only what
//! `requestDevice` was asked for, hence the request itself is completed on its way to the browser.

use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen(inline_js = r"
let granted = false;
let restore = () => {};
export function ask() {
  granted = false;
  const prototype = globalThis.GPUAdapter?.prototype;
  if (!prototype) return;
  const original = prototype.requestDevice;
  restore = () => { prototype.requestDevice = original; };
  prototype.requestDevice = async function (descriptor = {}) {
    if (!this.features.has('subgroups')) return original.call(this, descriptor);
    const requiredFeatures = [...(descriptor.requiredFeatures ?? []), 'subgroups'];
    const device = await original.call(this, { ...descriptor, requiredFeatures });
    granted = true;
    return device;
  };
}
export function stop() { restore(); }
export function subgroups() { return granted; }
")]
extern "C" {
    fn ask();
    fn stop();
    fn subgroups() -> bool;
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
