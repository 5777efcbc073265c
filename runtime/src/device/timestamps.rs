//! Timestamps: how long dispatches take on the GPU.

use super::{Gpu, GpuError};

/// What timestamps around passes say.
#[derive(Clone, Debug, PartialEq)]
pub struct PassTimes {
    /// GPU time of each pass.
    pub seconds: Vec<f64>,
    /// The longest time that lies a whole number of times between all of these timestamps: browsers round them.
    pub step_s: f64,
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

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

    /// How long each pass took, once everything submitted is done.
    ///
    /// # Errors
    /// [`GpuError`] if the device failed or was lost.
    pub async fn read(&self, gpu: &Gpu) -> Result<PassTimes, GpuError> {
        let period_s = f64::from(gpu.queue.get_timestamp_period()) * 1e-9;
        let ticks: Vec<u64> = gpu.read(&self.resolved, 0, self.count as usize).await?;
        let step = ticks.iter().fold(0, |step, t| gcd(step, t.abs_diff(ticks[0])));
        let seconds = ticks.chunks_exact(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period_s).collect();
        Ok(PassTimes { seconds, step_s: step as f64 * period_s })
    }
}
