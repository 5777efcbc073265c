//! Compiled pipelines, each made once.

use super::{Flag, Shader};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    shader: &'static str,
    flags: Vec<Flag>,
    constants: Vec<(&'static str, u64)>,
}

/// The pipelines of a device by file, flags (sorted, each once) and constants.
#[derive(Default)]
pub(super) struct Pipelines {
    compiled: Mutex<HashMap<Key, wgpu::ComputePipeline>>,
}

impl Pipelines {
    /// The pipeline of `shader`, compiled if it is the first time.
    pub(super) fn get(
        &self,
        device: &wgpu::Device,
        shader: &'static Shader,
        flags: Vec<Flag>,
        constants: &[(&'static str, f64)],
    ) -> wgpu::ComputePipeline {
        let key = Key { shader: shader.name, flags, constants: constants.iter().map(|(n, v)| (*n, v.to_bits())).collect() };
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = compiled.get(&key) {
            return pipeline.clone();
        }
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(shader.name),
            source: wgpu::ShaderSource::Wgsl(shader.expand(&key.flags).into()),
        };
        // SAFETY: kernels read and write within their bindings, whose sizes the host compares with all counts before it binds
        // them, and their loops end: no text of a shader comes from outside this crate. The checks, in particular a counter
        // in every loop, cost a GPU a good part of its speed. Where drivers keep accesses inside buffers, they still do.
        let module = unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader.name),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                // Kernels write workgroup memory before they read it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        compiled.insert(key, pipeline.clone());
        pipeline
    }
}
