//! A device and everything about wgpu that is not a kernel: opening one, its profile, shader permutations, pipelines,
//! dispatches and timestamps. Nothing here knows a kernel.
//!
//! This is the only place whose public signatures have types of wgpu: [`Gpu`] for hosts that share their device, buffers for
//! kernels. [`wgpu`] is the version that they are of. All other places take [`Buffer`] and [`Queue`] from here.

mod adapter;
#[cfg(target_arch = "wasm32")]
mod browser;
mod dispatch;
mod error;
mod flag;
mod gpu;
mod pipelines;
mod profile;
mod shader;
mod timestamps;

pub use adapter::{AdapterDescription, list_adapters};
#[cfg(target_arch = "wasm32")]
pub use browser::offer_adapter;
pub use dispatch::{Binding, Dispatch, Kernel, grid_1d};
pub use error::GpuError;
pub use flag::Flag;
pub use gpu::{Gpu, GpuOptions};
pub use profile::{MatrixShape, Profile, Vendor};
pub use shader::{Shader, ShaderError, preprocess};
pub use timestamps::{PassTimes, Timestamps};
pub use wgpu::{self, Buffer, Queue};
