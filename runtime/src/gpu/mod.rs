//! Adapters, devices, shader permutations and dispatches: everything about wgpu that is not a kernel.

mod adapter;
#[cfg(target_arch = "wasm32")]
mod browser;
mod context;
mod dispatch;
mod error;
mod shader;

pub use adapter::{AdapterDescription, list_adapters};
pub use context::{Capabilities, Gpu, GpuOptions};
pub use dispatch::{Binding, Dispatch, Kernel, grid_1d};
pub use error::GpuError;
pub use shader::{ShaderError, preprocess};
