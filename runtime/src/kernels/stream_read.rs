//! Reading memory and nothing else: the limit that decoding is measured against.

use crate::device::{Dispatch, Gpu, GpuError, Kernel};

super::shader!(STREAM_READ = "stream_read");

/// Workgroups of the dispatch: enough to fill any GPU.
const WORKGROUPS: u32 = 1024;

/// One pass over a buffer.
pub struct StreamRead<'a> {
    /// Words to read; a whole number of `vec4<u32>`.
    pub data: &'a wgpu::Buffer,
    /// A sum an invocation, [`StreamRead::SUMS`] words.
    pub sums: &'a wgpu::Buffer,
}

impl StreamRead<'_> {
    /// Words of [`StreamRead::sums`].
    pub const SUMS: usize = WORKGROUPS as usize * 256;

    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if `data` cannot be bound.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let constants = [("VECTORS", (self.data.size() / 16) as f64)];
        let bindings = [(0, self.data.into()), (1, self.sums.into())];
        Kernel { shader: &STREAM_READ, flags: &[], constants: &constants, bindings: &bindings, grid: [WORKGROUPS, 1, 1] }
            .bind(gpu)
    }

    /// The CPU twin: the sum of all words, which the invocations' sums add up to (wrapping).
    pub fn cpu(data: &[u32]) -> u32 {
        data.iter().fold(0, |sum, w| sum.wrapping_add(*w))
    }
}
