//! A kernel bound to its buffers, ready to be encoded any number of times.

use super::pipelines::Pipeline;
use super::{Flag, Gpu, GpuError, Shader};

/// A buffer, or a part of one, bound to a shader.
#[derive(Clone, Debug)]
pub struct Binding<'a> {
    /// The buffer.
    pub buffer: &'a wgpu::Buffer,
    /// First byte; a multiple of 256.
    pub offset: u64,
    /// Bytes, or all to the end.
    pub size: Option<u64>,
}

impl<'a> From<&'a wgpu::Buffer> for Binding<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Self {
        Self { buffer, offset: 0, size: None }
    }
}

/// One dispatch: pipeline, bindings (group 0) and grid.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The kernel's name.
    pub kernel: &'static str,
    pipeline: Pipeline,
    bindings: wgpu::BindGroup,
    /// Workgroups in x, y and z.
    pub grid: [u32; 3],
}

/// What makes a [`Dispatch`]: a kernel's file, its permutation, its bindings by number.
pub struct Kernel<'a> {
    /// The file.
    pub shader: &'static Shader,
    /// Preprocessor flags.
    pub flags: &'a [Flag],
    /// Pipeline-overridable constants.
    pub constants: &'a [(&'static str, f64)],
    /// Bindings of group 0, by number.
    pub bindings: &'a [(u32, Binding<'a>)],
    /// Workgroups in x, y and z.
    pub grid: [u32; 3],
}

impl Kernel<'_> {
    /// Compiles (once) and binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if a binding or the grid is too large for the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        for (_, binding) in self.bindings {
            let bytes = binding.size.unwrap_or_else(|| binding.buffer.size() - binding.offset);
            let available = gpu.profile.max_binding;
            if bytes > available {
                let what = format!("a binding of kernel {}", self.shader.name);
                return Err(GpuError::Limit { what, needed: bytes, limit: "maxStorageBufferBindingSize", available });
            }
        }
        let available = gpu.profile.max_workgroups;
        if let Some(&n) = self.grid.iter().find(|n| **n > available) {
            let (what, limit) = (format!("the grid of kernel {}", self.shader.name), "maxComputeWorkgroupsPerDimension");
            return Err(GpuError::Limit { what, needed: n.into(), limit, available: available.into() });
        }
        let pipeline = gpu.pipeline(self.shader, self.flags, self.constants, self.bindings.iter().map(|(n, _)| *n));
        let entries: Vec<_> = self
            .bindings
            .iter()
            .map(|(number, b)| wgpu::BindGroupEntry {
                binding: *number,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: b.buffer,
                    offset: b.offset,
                    size: b.size.and_then(std::num::NonZeroU64::new),
                }),
            })
            .collect();
        let bindings = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(self.shader.name),
            layout: pipeline.layout(),
            entries: &entries,
        });
        Ok(Dispatch { kernel: self.shader.name, pipeline, bindings, grid: self.grid })
    }
}

impl Dispatch {
    /// Adds this dispatch to a compute pass.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(self.pipeline.compiled());
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

impl Gpu {
    /// Submits `dispatches` in order, in one compute pass.
    pub fn run(&self, dispatches: &[&Dispatch]) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for dispatch in dispatches {
            dispatch.encode(&mut pass);
        }
        drop(pass);
        self.queue.submit([encoder.finish()]);
    }
}

/// A grid for `n` workgroups that never exceeds 65,535 in a dimension; the kernel computes its number as
/// `workgroup_id.y * num_workgroups.x + workgroup_id.x` and leaves when it is `n` or more.
pub fn grid_1d(n: u32) -> [u32; 3] {
    const MAX: u32 = 65_535;
    if n <= MAX { [n, 1, 1] } else { [MAX, n.div_ceil(MAX), 1] }
}
