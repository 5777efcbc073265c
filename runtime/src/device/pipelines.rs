//! Compiled pipelines, each made once.
//!
//! A browser compiles a pipeline that is asked for at once on the thread that also takes writes to buffers, one after the
//! other. While weights are on their way it is asked for all of them without waiting instead ([`super::browser`]): then
//! it compiles on other threads, and gives the same pipelines at once when they are asked for again. It knows them again by
//! their layout, which is therefore never left to it.

use super::{Flag, Shader};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    shader: &'static str,
    flags: Vec<Flag>,
    constants: Vec<(&'static str, u64)>,
}

/// The pipelines of a device by file, flags (sorted, each once) and constants.
pub(super) struct Pipelines {
    known: Mutex<HashMap<Key, Pipeline>>,
    /// Whether compiling goes on while others are bound.
    ahead: AtomicBool,
}

/// A pipeline that was or will be compiled.
#[derive(Clone, Debug)]
pub(super) struct Pipeline(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    name: &'static str,
    text: String,
    constants: Vec<(&'static str, f64)>,
    layout: wgpu::BindGroupLayout,
    compiled: OnceLock<wgpu::ComputePipeline>,
}

impl Default for Pipelines {
    fn default() -> Self {
        Self { known: Mutex::default(), ahead: AtomicBool::new(cfg!(target_arch = "wasm32")) }
    }
}

impl Pipelines {
    /// The pipeline of `shader`, whose group 0 has the bindings of these numbers.
    pub(super) fn get(
        &self,
        device: &wgpu::Device,
        shader: &'static Shader,
        flags: Vec<Flag>,
        constants: &[(&'static str, f64)],
        bindings: impl Iterator<Item = u32>,
    ) -> Pipeline {
        let key = Key { shader: shader.name, flags, constants: constants.iter().map(|(n, v)| (*n, v.to_bits())).collect() };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = known.get(&key) {
            return pipeline.clone();
        }
        let text = shader.expand(&key.flags);
        let entries: Vec<_> = bindings.map(|number| layout_entry(shader.name, &text, number)).collect();
        let pipeline = Pipeline(Arc::new(Inner {
            device: device.clone(),
            name: shader.name,
            constants: constants.to_vec(),
            layout: device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(shader.name), entries: &entries }),
            text,
            compiled: OnceLock::new(),
        }));
        if self.ahead.load(Ordering::Relaxed) {
            #[cfg(target_arch = "wasm32")]
            super::browser::compile_ahead(device, &pipeline.0.text, &entries, constants);
        } else {
            pipeline.compiled();
        }
        known.insert(key, pipeline.clone());
        pipeline
    }

    /// Resolves when all pipelines are compiled, and tells how many of how many are. From now on those that are new are
    /// compiled when they are first bound.
    #[cfg_attr(not(target_arch = "wasm32"), allow(clippy::unused_async, reason = "only browsers compile meanwhile"))]
    pub(super) async fn compiled(&self, device: &wgpu::Device, progress: &mut (impl FnMut(usize, usize) + ?Sized)) {
        if !self.ahead.swap(false, Ordering::Relaxed) {
            return;
        }
        let known: Vec<_> = self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        #[cfg(target_arch = "wasm32")]
        {
            progress(0, known.len());
            let mut left = known.len();
            while left > 0 {
                left = super::browser::compiling(device).await.min(left);
                progress(known.len() - left, known.len());
            }
        }
        #[cfg(not(target_arch = "wasm32"))]
        let _ = (device, progress);
        for pipeline in known {
            pipeline.compiled();
        }
        #[cfg(target_arch = "wasm32")]
        super::browser::forget_compiled(device);
    }
}

impl Pipeline {
    /// The layout of group 0.
    pub(super) fn layout(&self) -> &wgpu::BindGroupLayout {
        &self.0.layout
    }

    /// The pipeline itself.
    pub(super) fn compiled(&self) -> &wgpu::ComputePipeline {
        let Inner { device, name, text, constants, layout, compiled } = &*self.0;
        compiled.get_or_init(|| {
            let source = wgpu::ShaderSource::Wgsl(text.into());
            let descriptor = wgpu::ShaderModuleDescriptor { label: Some(name), source };
            // SAFETY: kernels read and write within their bindings, whose sizes the host compares with all counts before it
            // binds them, and their loops end: no text of a shader comes from outside this crate. The checks, in particular
            // a counter in every loop, cost a GPU a good part of its speed. Where drivers keep accesses inside buffers, they
            // still do.
            let module = unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(name),
                bind_group_layouts: &[Some(layout)],
                immediate_size: 0,
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants,
                    // Kernels write workgroup memory before they read it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        })
    }
}

/// The layout of binding `number` of group 0, from its declaration: `@group(0) @binding(N) var<storage, read> name: …`.
///
/// # Panics
/// If the text declares no such buffer: a defect that every kernel's test finds.
fn layout_entry(shader: &str, text: &str, number: u32) -> wgpu::BindGroupLayoutEntry {
    let declared = text.split_once(&format!("@binding({number})"));
    let space = declared.and_then(|(_, rest)| rest.trim_start().strip_prefix("var<")?.split_once('>'));
    let space: Option<String> = space.map(|(space, _)| space.split_whitespace().collect());
    let ty = match space.as_deref() {
        Some("uniform") => wgpu::BufferBindingType::Uniform,
        Some("storage" | "storage,read") => wgpu::BufferBindingType::Storage { read_only: true },
        Some("storage,read_write") => wgpu::BufferBindingType::Storage { read_only: false },
        other => panic!("{shader}.wgsl declares no buffer for binding {number} ({other:?})"),
    };
    wgpu::BindGroupLayoutEntry {
        binding: number,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_read_from_declarations() {
        let text = "@group(0) @binding(0) var<uniform> a: A;\n@group(0) @binding(1) var<storage, read> b: array<u32>;\n\
                    @group(0) @binding(12)\n  var<storage,read_write> c: array<u32>;\n@group(0) @binding(3) var<storage> d: array<u32>;";
        let buffer = |number| match layout_entry("test", text, number).ty {
            wgpu::BindingType::Buffer { ty, .. } => ty,
            other => panic!("{other:?}"),
        };
        assert_eq!(buffer(0), wgpu::BufferBindingType::Uniform);
        assert_eq!(buffer(1), wgpu::BufferBindingType::Storage { read_only: true });
        assert_eq!(buffer(12), wgpu::BufferBindingType::Storage { read_only: false });
        assert_eq!(buffer(3), wgpu::BufferBindingType::Storage { read_only: true });
    }

    #[test]
    #[should_panic(expected = "test.wgsl declares no buffer for binding 2")]
    fn a_binding_that_is_not_declared_is_a_defect() {
        layout_entry("test", "@group(0) @binding(0) var<uniform> a: A;", 2);
    }
}
