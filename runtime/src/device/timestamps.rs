//! Timestamps: how long dispatches take on the GPU.

use super::{Gpu, GpuError};

/// A set of timestamps to be written in a command buffer and read back.
pub struct Timestamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    count: u32,
}

impl Timestamps {
    /// Most timestamps of a set.
    pub const MAX: u32 = wgpu::QUERY_SET_MAX_QUERIES;

    /// Room for `count` timestamps, or nothing where the device has none.
    pub fn new(gpu: &Gpu, count: u32) -> Option<Self> {
        if !gpu.profile.timestamps || count > Self::MAX {
            return None;
        }
        let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: u64::from(count) * 8,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Some(Self { queries, resolved, count })
    }

    /// A pass that writes timestamps `first` at its beginning and `first + 1` at its end.
    pub fn pass<'e>(&self, encoder: &'e mut wgpu::CommandEncoder, first: u32) -> wgpu::ComputePass<'e> {
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.queries,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            }),
        })
    }

    /// Adds to `encoder` what makes the timestamps readable.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..self.count, &self.resolved, 0);
    }

    /// The timestamps in nanoseconds, once everything submitted is done.
    ///
    /// # Errors
    /// [`GpuError`] if the device failed or was lost.
    pub async fn read(&self, gpu: &Gpu) -> Result<Vec<f64>, GpuError> {
        let period = f64::from(gpu.queue.get_timestamp_period());
        let ticks: Vec<u64> = gpu.read(&self.resolved, 0, self.count as usize).await?;
        Ok(ticks.into_iter().map(|t| t as f64 * period).collect())
    }
}
