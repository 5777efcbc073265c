//! What can go wrong with a GPU.

/// An error of the GPU, its driver or its memory.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// No adapter at all.
    #[error("no GPU adapter was found; install a driver, or software Vulkan (Debian and Ubuntu: mesa-vulkan-drivers)")]
    NoAdapter,
    /// No adapter fits the name or index that was asked for.
    #[error("no GPU adapter matches {wanted:?}; there are: {available}")]
    NoSuchAdapter {
        /// What was asked for.
        wanted: String,
        /// What exists, one line.
        available: String,
    },
    /// The device could not be opened.
    #[error("the GPU {adapter} could not be opened: {why}")]
    Device {
        /// The adapter's name.
        adapter: String,
        /// The driver's words.
        why: String,
    },
    /// Too little GPU memory.
    #[error("out of GPU memory: {0}")]
    OutOfMemory(String),
    /// The device is gone (driver reset, unplugged, suspended tab).
    #[error("the GPU device was lost: {0}")]
    Lost(String),
    /// A limit of the device is too small.
    #[error("{what} needs {needed}, but the GPU's {limit} is {available}")]
    Limit {
        /// What needs it.
        what: String,
        /// The number needed.
        needed: u64,
        /// The limit's WebGPU name.
        limit: &'static str,
        /// The limit's value.
        available: u64,
    },
    /// wgpu refused a call or a shader: a defect of haikuq or of the driver.
    #[error("GPU validation: {0}")]
    Validation(String),
}
