//! The haikuq runtime: opens a package and generates text on wgpu, natively and in the browser.
//!
//! * [`gpu`]: adapters, devices, shader permutations, dispatches;
//! * [`kernels`]: one WGSL file a kernel, with its host side and its CPU twin beside it;
//!
//! The runtime knows packages only: no checkpoints, no model families, no quantization.

pub mod gpu;
pub mod kernels;
