//! The GPU as a helper of conversion: matrices in its memory, products with sums in f32, and what is made of these.
//!
//! Everything here has a twin on the processor and gives the same up to the order of sums: products and moments that of
//! [`crate::matmul`], [`LayerOnGpu`] that of [`crate::reference`], factors and codes those of [`crate::quantize`]. One
//! adapter and driver always give the same bits, since no sum depends on which part is done first. (Those of a conversion also
//! depend on how many windows the memory has room for.)
//!
//! Calls return when the work is asked for; [`Accelerator::finish`] and whatever brings numbers back wait for it.
//!
//! Memory is planned: each [`Matrix`] counts towards a limit, beyond which there is an error and no allocation. Callers go
//! on without an accelerator after any [`AcceleratorError`]: after a lost device or an allocation that the driver
//! refused, all that follows fails too.

mod attention;
mod error;
mod factor;
mod forward;
#[cfg(test)]
mod forward_tests;
mod hessian;
mod layer;
#[cfg(test)]
mod layer_tests;
mod matrix;
mod memory;
mod pending;
mod product;
mod rounding;
#[cfg(test)]
mod rounding_tests;
mod scales;
mod short_conv;
mod speed;
#[cfg(test)]
mod tests;
mod transfer;

pub use error::AcceleratorError;
pub use forward::HeadColumns;
pub use layer::LayerOnGpu;
pub use matrix::Matrix;
pub use rounding::Rounding;
pub use scales::{ScaleCandidates, ScaleSearch};

use haikuq_runtime::device::{AdapterDescription, Gpu, GpuOptions};
use memory::Memory;
use pending::Pending;
use product::Scratch;
use std::sync::Arc;
use transfer::Staging;

/// `shader!(NAME = "file")`: the shader file `file.wgsl` beside the file that says so.
macro_rules! shader {
    ($name:ident = $file:literal) => {
        static $name: haikuq_runtime::device::Shader = haikuq_runtime::device::Shader {
            name: concat!("accelerator/", $file),
            text: include_str!(concat!($file, ".wgsl")),
            imports: haikuq_runtime::kernels::shared,
        };
    };
}
use shader;

/// An open GPU that computes for the conversion.
pub struct Accelerator {
    gpu: Gpu,
    memory: Arc<Memory>,
    staging: Staging,
    scratch: Scratch,
    pending: Pending,
    /// Bytes of a buffer, at most.
    panel_bytes: u64,
}

impl std::fmt::Debug for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accelerator").field("adapter", &self.gpu.description).finish_non_exhaustive()
    }
}

impl Accelerator {
    /// Opens the adapter that `adapter` names by index or by part of its name, or else the fastest GPU. Matrices take at most
    /// `memory` bytes of it; where that is absent, four fifths of a graphics card's own memory, a quarter of what it shares with
    /// the processor, or [`Accelerator::DEFAULT_MEMORY`] where the driver does not tell.
    ///
    /// # Errors
    /// [`AcceleratorError::Software`] if there are only programs on the processor and none was named;
    /// [`AcceleratorError::Gpu`] if there is no adapter, none of that name, or it does not open.
    pub fn open(adapter: Option<&str>, memory: Option<u64>) -> Result<Self, AcceleratorError> {
        let gpu = Gpu::open_blocking(&GpuOptions::new(adapter.map(Into::into)))?;
        if adapter.is_none() && gpu.is_software() {
            return Err(AcceleratorError::Software { name: gpu.description.name });
        }
        let memory = Arc::new(Memory::new(memory.or_else(|| memory::of_device(&gpu)).unwrap_or(Self::DEFAULT_MEMORY)));
        let panel_bytes = gpu.profile.max_binding.min(gpu.profile.max_buffer);
        Ok(Self {
            gpu,
            memory,
            staging: Staging::default(),
            scratch: Scratch::default(),
            pending: Pending::default(),
            panel_bytes,
        })
    }

    /// Bytes that matrices take at most where nobody says how much memory there is.
    pub const DEFAULT_MEMORY: u64 = 2 << 30;

    /// The adapter.
    pub fn description(&self) -> &AdapterDescription {
        &self.gpu.description
    }

    /// Whether it is a program on the processor.
    pub fn is_software(&self) -> bool {
        self.gpu.is_software()
    }

    /// Bytes that matrices take now, and at most.
    pub fn memory(&self) -> (u64, u64) {
        (self.memory.used(), self.memory.limit())
    }

    /// Loses the device, as a driver that is reset does.
    #[cfg(test)]
    pub fn lose(&self) {
        self.gpu.device.destroy();
    }

    /// Waits until everything that was asked for is done.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if the device failed or was lost.
    pub fn finish(&self) -> Result<(), AcceleratorError> {
        self.flush();
        Ok(pollster::block_on(self.gpu.finish())?)
    }
}
