//! Abilities of browsers that wgpu does not use.
//!
//! *Subgroups.* wgpu's WebGPU backend does not know the feature `subgroups` and so never asks for it. A device has only what
//! `requestDevice` was asked for, hence the request itself is completed on its way to the browser.
//!
//! *Compiling without waiting.* A pipeline that is asked for with `createComputePipelineAsync` is compiled on other threads,
//! and found again when wgpu asks for the same one, as long as it is kept.
//!
//! *The adapter of a page.* A page that has looked at an adapter wants the device of this one, and wgpu asks for another.

use wasm_bindgen::JsValue;
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
const ahead = new WeakMap();
export function compile_ahead(device, code, bindings, types, names, values) {
  const entries = types.split(' ').map((type, i) => ({ binding: bindings[i], visibility: GPUShaderStage.COMPUTE, buffer: { type } }));
  const layout = device.createPipelineLayout({ bindGroupLayouts: [device.createBindGroupLayout({ entries })] });
  const constants = Object.fromEntries(names.split(' ').filter(Boolean).map((name, i) => [name, values[i]]));
  const compute = { module: device.createShaderModule({ code }), entryPoint: 'main', constants };
  if (!ahead.has(device)) ahead.set(device, { kept: [], pending: new Set() });
  const { kept, pending } = ahead.get(device);
  // wgpu asks for the same pipeline later, and then reports its errors.
  const coming = device.createComputePipelineAsync({ layout, compute }).catch(() => undefined);
  const pipeline = coming.then((made) => (pending.delete(pipeline), made));
  pending.add(pipeline);
  kept.push(pipeline);
}
export async function compiling(device) {
  const pending = ahead.get(device)?.pending;
  if (pending?.size) await Promise.race(pending);
  return pending?.size ?? 0;
}
export function forget_compiled(device) { ahead.delete(device); }
let offered;
let replaced;
export function offer_adapter(adapter) { offered = adapter; }
export function lend_adapter() {
  if (!offered) return;
  const { gpu } = navigator;
  const adapter = offered;
  offered = undefined;
  replaced = Object.getOwnPropertyDescriptor(gpu, 'requestAdapter') ?? {};
  Object.defineProperty(gpu, 'requestAdapter', { configurable: true, value: async () => adapter });
}
export function take_adapter_back() {
  if (!replaced) return;
  delete navigator.gpu.requestAdapter;
  if (replaced.configurable) Object.defineProperty(navigator.gpu, 'requestAdapter', replaced);
  replaced = undefined;
}
export function packed_dot() { return !!globalThis.navigator?.gpu?.wgslLanguageFeatures?.has('packed_4x8_integer_dot_product'); }
")]
extern "C" {
    fn ask();
    fn stop();
    fn subgroups() -> bool;
    fn packed_dot() -> bool;
    #[wasm_bindgen(js_name = compile_ahead)]
    fn js_compile_ahead(device: &JsValue, code: &str, bindings: &[u32], types: &str, names: &str, values: &[f64]);
    #[wasm_bindgen(js_name = compiling)]
    async fn js_compiling(device: &JsValue) -> JsValue;
    #[wasm_bindgen(js_name = forget_compiled)]
    fn js_forget_compiled(device: &JsValue);
    /// The next device that is opened on this thread is requested from this `GPUAdapter`, without asking for another.
    pub fn offer_adapter(adapter: &JsValue);
    fn lend_adapter();
    fn take_adapter_back();
}

/// Begins to compile the pipeline of `text` with one group of bindings.
pub(super) fn compile_ahead(
    device: &wgpu::Device,
    text: &str,
    entries: &[wgpu::BindGroupLayoutEntry],
    constants: &[(&'static str, f64)],
) {
    let Some(device) = device.as_webgpu() else { return };
    let bindings: Vec<u32> = entries.iter().map(|entry| entry.binding).collect();
    let types: Vec<&str> = entries.iter().map(|entry| type_of(entry.ty)).collect();
    let (names, values): (Vec<&str>, Vec<f64>) = constants.iter().copied().unzip();
    js_compile_ahead(device.as_ref(), text, &bindings, &types.join(" "), &names.join(" "), &values);
}

/// How many of a device's pipelines that were begun are not compiled yet, once it is one less than before.
pub(super) async fn compiling(device: &wgpu::Device) -> usize {
    match device.as_webgpu() {
        Some(device) => js_compiling(device.as_ref()).await.as_f64().unwrap_or(0.0) as usize,
        None => 0,
    }
}

/// Those that were begun need not be kept any more.
pub(super) fn forget_compiled(device: &wgpu::Device) {
    if let Some(device) = device.as_webgpu() {
        js_forget_compiled(device.as_ref());
    }
}

/// `requestAdapter` gives the adapter that was offered, if any, until the result is dropped: within one turn of the thread,
/// so that nobody else sees it.
pub(super) struct Lent;

impl Drop for Lent {
    fn drop(&mut self) {
        take_adapter_back();
    }
}

pub(super) fn lend() -> Lent {
    lend_adapter();
    Lent
}

/// `GPUBufferBindingType`.
fn type_of(binding: wgpu::BindingType) -> &'static str {
    match binding {
        wgpu::BindingType::Buffer { ty: wgpu::BufferBindingType::Storage { read_only: true }, .. } => "read-only-storage",
        wgpu::BindingType::Buffer { ty: wgpu::BufferBindingType::Storage { read_only: false }, .. } => "storage",
        _ => "uniform",
    }
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
