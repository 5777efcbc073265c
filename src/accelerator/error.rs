//! What can go wrong with an accelerator.

use haikuq_runtime::device::GpuError;

/// Why the GPU cannot do what was asked. The processor can.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceleratorError {
    /// The GPU, its driver or its memory failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// There is no GPU but a program on the processor, which is slower than the processor itself.
    #[error("{name} is no GPU but a program on the processor; name it to use it nevertheless")]
    Software {
        /// The adapter's name.
        name: String,
    },
    /// A matrix would take more memory than was allowed.
    #[error(
        "{needed} bytes of GPU memory are needed beside {used} in use, and {limit} are allowed; allow more or use the processor"
    )]
    Memory {
        /// Bytes of the new matrix.
        needed: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        limit: u64,
    },
}
