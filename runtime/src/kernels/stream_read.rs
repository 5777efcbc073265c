//! Reading memory and nothing else: the limit that decoding is measured against.

use crate::device::{Dispatch, Gpu, GpuError, Kernel};
use web_time::Instant;

super::shader!(STREAM_READ = "stream_read");

/// Workgroups of the dispatch: enough to fill any GPU.
const WORKGROUPS: u32 = 1024;

/// One pass over a buffer.
pub struct StreamRead<'a> {
    /// Words to read; a whole number of `vec4<u32>`.
    pub data: &'a crate::device::Buffer,
    /// A sum an invocation, [`StreamRead::SUMS`] words.
    pub sums: &'a crate::device::Buffer,
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

    /// Bytes a second at which the GPU reads a new buffer of `bytes`, which should be more than its caches hold.
    ///
    /// # Errors
    /// [`GpuError`].
    pub async fn measure(gpu: &Gpu, bytes: u64) -> Result<f64, GpuError> {
        /// Long enough that the time to submit and to hear of the end hardly counts.
        const ENOUGH_S: f64 = 0.05;
        let bytes = bytes.min(gpu.profile.max_binding).min(gpu.profile.max_buffer) & !15;
        let (data, sums) = (gpu.storage("stream", bytes), gpu.storage("sums", Self::SUMS as u64 * 4));
        let pass = StreamRead { data: &data, sums: &sums }.bind(gpu)?;
        let (mut passes, mut best) = (4, 0f64);
        // The first round compiles and warms up.
        for round in 0..6 {
            let started = Instant::now();
            gpu.run(&vec![&pass; passes]);
            gpu.finish().await?;
            let seconds = started.elapsed().as_secs_f64();
            if round == 1 {
                passes = (ENOUGH_S / seconds * passes as f64).ceil().clamp(4.0, 1000.0) as usize;
            } else if round > 1 {
                best = best.max(bytes as f64 * passes as f64 / seconds);
            }
        }
        // A browser would keep its memory until it collects garbage.
        data.destroy();
        Ok(best)
    }

    /// The CPU twin: the sum of all words, which the invocations' sums add up to (wrapping).
    pub fn cpu(data: &[u32]) -> u32 {
        data.iter().fold(0, |sum, w| sum.wrapping_add(*w))
    }
}
