//! [`Gpu`]: an open device with its queue, its profile and its memory.

use super::adapter::{self, AdapterDescription};
use super::pipelines::{Pipeline, Pipelines};
use super::profile::{MatrixShape, Profile, Vendor};
use super::{Flag, GpuError, Shader};
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex, PoisonError};

/// What to ask of a GPU.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GpuOptions {
    /// Index or part of the name of the adapter; the fastest kind where absent. Ignored in browsers.
    pub adapter: Option<String>,
    /// Behave as if the device had no `shader-f16`.
    pub without_f16: bool,
    /// Behave as if the device had no subgroups.
    pub without_subgroups: bool,
    /// Behave as if the device had no packed dot products of 8-bit integers.
    pub without_packed_dot: bool,
    /// Behave as if the device had no cooperative matrices.
    pub without_matrices: bool,
    /// Choose kernels on a program on the processor as on a GPU: to test these.
    pub software_as_hardware: bool,
    /// Ask for WebGPU's default limits alone, which every device has: what runs with them runs anywhere.
    pub default_limits: bool,
    /// Prefer the GPU that uses little power, where there is a choice.
    pub low_power: bool,
    /// In a browser: prefer the GPU that computes fast; which one else, the browser decides. Elsewhere that is the default.
    pub high_performance: bool,
}

impl GpuOptions {
    /// A GPU by name or index, everything else by default.
    pub fn new(adapter: Option<String>) -> Self {
        Self { adapter, ..Self::default() }
    }
}

/// An open device. Everything that a kernel needs of wgpu goes through here.
pub struct Gpu {
    /// The device, for calls that this type does not wrap.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// What kernels may use: all that the adapter offers, unless [`GpuOptions`] asked for less.
    pub profile: Profile,
    /// The adapter.
    pub description: AdapterDescription,
    pipelines: Pipelines,
    failure: Arc<Mutex<Option<GpuError>>>,
}

impl Gpu {
    /// Opens a device with everything its adapter offers.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`], [`GpuError::NoSuchAdapter`] or [`GpuError::Device`].
    pub async fn open(options: &GpuOptions) -> Result<Self, GpuError> {
        let instance = adapter::instance();
        let (index, adapter) = adapter::choose(&instance, options).await?;
        let description = AdapterDescription::new(index, &adapter);
        let offered = adapter.features();
        let mut wanted = wgpu::Features::SHADER_F16
            | wgpu::Features::SUBGROUP
            | wgpu::Features::SUBGROUP_BARRIER
            | wgpu::Features::TIMESTAMP_QUERY;
        if !options.without_matrices {
            wanted |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        }
        let limits = if options.default_limits { wgpu::Limits::default() } else { adapter.limits() };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("haikuq"),
            required_features: offered & wanted,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            // SAFETY: of what is experimental, cooperative matrices alone are asked for, and only kernels of this crate use
            // them, each tested against its CPU twin; `without_matrices` turns them off.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        #[cfg(target_arch = "wasm32")]
        let _asked = super::browser::ask_for_subgroups();
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| GpuError::Device { adapter: description.name.clone(), why: e.to_string() })?;
        let failure = Arc::new(Mutex::new(None));
        let keep_first = |failure: &Arc<Mutex<Option<GpuError>>>| {
            let failure = failure.clone();
            move |error: GpuError| {
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                // The first error explains those that follow from it; but nothing comes back from a lost device.
                if failure.is_none() || matches!(error, GpuError::Lost(_)) {
                    *failure = Some(error);
                }
            }
        };
        let keep = keep_first(&failure);
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            keep(match e {
                wgpu::Error::OutOfMemory { source } => GpuError::OutOfMemory(source.to_string()),
                other => GpuError::Validation(with_causes(&other)),
            });
        }));
        let keep = keep_first(&failure);
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                keep(GpuError::Lost(message));
            }
        });
        #[cfg(target_arch = "wasm32")]
        let has_subgroups = super::browser::subgroups_granted();
        #[cfg(not(target_arch = "wasm32"))]
        let has_subgroups = offered.contains(wgpu::Features::SUBGROUP);
        let subgroups = has_subgroups && !options.without_subgroups;
        let profile = profile(&adapter, device.features(), &limits, subgroups, options);
        Ok(Self { device, queue, profile, description, pipelines: Pipelines::default(), failure })
    }

    /// [`Gpu::open`] on this thread.
    ///
    /// # Errors
    /// As there.
    #[cfg(feature = "native")]
    pub fn open_blocking(options: &GpuOptions) -> Result<Self, GpuError> {
        pollster::block_on(Self::open(options))
    }

    /// What tells this device from others whose kernels may take other times: the adapter, its driver, and a hash of the
    /// profile.
    pub fn key(&self) -> String {
        let AdapterDescription { name, backend, driver, ids: [vendor, device], .. } = &self.description;
        let profile = Sha256::digest(format!("{:?}", self.profile));
        let hash: String = profile[..8].iter().map(|b| format!("{b:02x}")).collect();
        format!("{name} ({backend}; {driver}; {vendor:04x}:{device:04x}; profile {hash})")
    }

    /// Whether the "GPU" is a program on the processor.
    pub fn is_software(&self) -> bool {
        self.profile.software
    }

    /// Fails if anything went wrong on the device since it was opened.
    ///
    /// # Errors
    /// That the device was lost, or else the first error that it reported.
    pub fn check(&self) -> Result<(), GpuError> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// The pipeline of `shader` with preprocessor `flags` and overridable `constants`, whose group 0 has the bindings of these
    /// numbers; compiled once.
    ///
    /// The flags `F16` and `SUBGROUPS` are dropped where the device lacks them, so kernels may always ask.
    pub(super) fn pipeline(
        &self,
        shader: &'static Shader,
        flags: &[Flag],
        constants: &[(&'static str, f64)],
        bindings: impl Iterator<Item = u32>,
    ) -> Pipeline {
        let allowed = |flag: &Flag| match flag {
            Flag::F16 => self.profile.f16,
            Flag::Subgroups => self.profile.subgroups,
            _ => true,
        };
        // In their one order, each once.
        let flags: Vec<_> = Flag::ALL.iter().copied().filter(|flag| flags.contains(flag) && allowed(flag)).collect();
        self.pipelines.get(&self.device, shader, flags, constants, bindings)
    }

    /// Waits for pipelines that a browser compiles while weights are loaded. Elsewhere, and afterwards, a kernel is compiled
    /// when it is first bound.
    ///
    /// # Errors
    /// [`GpuError`] if the device failed or was lost.
    pub async fn compiled(&self, progress: &mut (impl FnMut(usize, usize) + ?Sized)) -> Result<(), GpuError> {
        self.pipelines.compiled(&self.device, progress).await;
        self.check()
    }

    /// A new storage buffer of `bytes` (rounded up to 16), zeroed, that can be copied from and to.
    pub fn storage(&self, label: &str, bytes: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.max(16).next_multiple_of(16),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// A new storage buffer that holds `data`.
    pub fn upload<T: bytemuck::Pod>(&self, label: &str, data: &[T]) -> wgpu::Buffer {
        let bytes = bytemuck::cast_slice::<T, u8>(data);
        let buffer = self.storage(label, bytes.len() as u64);
        self.write(&buffer, 0, data);
        buffer
    }

    /// Writes `data` (a whole number of words) at byte `offset` of `buffer`.
    pub fn write<T: bytemuck::Pod>(&self, buffer: &wgpu::Buffer, offset: u64, data: &[T]) {
        self.queue.write_buffer(buffer, offset, bytemuck::cast_slice(data));
    }

    /// A uniform buffer that holds `params`.
    pub fn uniform<T: bytemuck::Pod>(&self, label: &str, params: &T) -> wgpu::Buffer {
        let bytes = bytemuck::bytes_of(params);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: (bytes.len() as u64).next_multiple_of(16),
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&buffer, 0, bytes);
        buffer
    }

    /// Waits until everything submitted so far is done, writes to buffers included.
    ///
    /// # Errors
    /// [`GpuError`] if the device failed or was lost.
    pub async fn finish(&self) -> Result<(), GpuError> {
        self.submit_writes().await
    }

    /// Submits the writes to buffers that there were so far, at once; the future waits until they are done.
    ///
    /// # Errors
    /// [`GpuError`], from the future, if the device failed or was lost.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn submit_writes(&self) -> impl Future<Output = Result<(), GpuError>> + '_ {
        let submission_index = Some(self.queue.submit([]));
        async move {
            let wait = wgpu::PollType::Wait { submission_index, timeout: None };
            self.device.poll(wait).map_err(|e| GpuError::Lost(e.to_string()))?;
            self.check()
        }
    }

    /// Submits the writes to buffers that there were so far, at once; the future waits until they are done.
    ///
    /// # Errors
    /// [`GpuError`], from the future, if the device failed or was lost.
    #[cfg(target_arch = "wasm32")]
    pub fn submit_writes(&self) -> impl Future<Output = Result<(), GpuError>> + '_ {
        self.queue.submit([]);
        let (sender, receiver) = futures_channel::oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        async move {
            // A lost device may never answer; `check` says so.
            let _ = receiver.await;
            self.check()
        }
    }

    /// Reads `words` 32-bit values from byte `offset` of `buffer` once all submitted work is done.
    ///
    /// # Errors
    /// [`GpuError`] if the device failed or was lost.
    pub async fn read<T: bytemuck::Pod>(&self, buffer: &wgpu::Buffer, offset: u64, count: usize) -> Result<Vec<T>, GpuError> {
        let bytes = (count * size_of::<T>()) as u64;
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: bytes.next_multiple_of(4).max(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, bytes.next_multiple_of(4));
        self.queue.submit([encoder.finish()]);
        self.map(&staging, count).await
    }

    /// Maps `staging` (usage `MAP_READ`), copies its first `count` values and unmaps it.
    ///
    /// # Errors
    /// [`GpuError`] if the device failed or was lost.
    pub async fn map<T: bytemuck::Pod>(&self, staging: &wgpu::Buffer, count: usize) -> Result<Vec<T>, GpuError> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        #[cfg(not(target_arch = "wasm32"))]
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| GpuError::Lost(e.to_string()))?;
        self.take_mapped(staging, receiver, count).await
    }

    /// Waits until a submission is done, and no longer. In browsers, where nothing can be waited for, it returns at once.
    ///
    /// # Errors
    /// [`GpuError::Lost`].
    pub fn wait_for(&self, submission: &wgpu::SubmissionIndex) -> Result<(), GpuError> {
        #[cfg(not(target_arch = "wasm32"))]
        {
            let submission_index = Some(submission.clone());
            let wait = wgpu::PollType::Wait { submission_index, timeout: None };
            self.device.poll(wait).map_err(|e| GpuError::Lost(e.to_string()))?;
        }
        #[cfg(target_arch = "wasm32")]
        let _ = submission;
        Ok(())
    }

    /// Copies the first `count` values of `staging`, which `mapped` says is mapped, and unmaps it.
    ///
    /// # Errors
    /// [`GpuError`] if the device failed or was lost.
    pub async fn take_mapped<T: bytemuck::Pod>(
        &self,
        staging: &wgpu::Buffer,
        mapped: futures_channel::oneshot::Receiver<Result<(), wgpu::BufferAsyncError>>,
        count: usize,
    ) -> Result<Vec<T>, GpuError> {
        let mapped = mapped.await;
        self.check()?;
        match mapped {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(GpuError::Lost(e.to_string())),
            Err(_) => return Err(GpuError::Lost("the device went away before memory was read back".into())),
        }
        let bytes = count * size_of::<T>();
        let view = staging.get_mapped_range(..).map_err(|e| GpuError::Validation(e.to_string()))?;
        let mut out = vec![T::zeroed(); count];
        bytemuck::cast_slice_mut::<T, u8>(&mut out).copy_from_slice(&view[..bytes]);
        drop(view);
        staging.unmap();
        Ok(out)
    }
}

/// An error's text and that of its causes which it does not quote itself; naga's reasons lie deep.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(line.trim()) {
            text = format!("{}: {line}", text.trim_end());
        }
        cause = error.source();
    }
    text
}

fn profile(
    adapter: &wgpu::Adapter,
    features: wgpu::Features,
    limits: &wgpu::Limits,
    subgroups: bool,
    options: &GpuOptions,
) -> Profile {
    let info = adapter.get_info();
    let (subgroup_min_size, subgroup_max_size) =
        if subgroups { (info.subgroup_min_size.max(1), info.subgroup_max_size.max(1)) } else { (1, 1) };
    let half_to_float = |p: &wgpu::CooperativeMatrixProperties| {
        p.ab_type == wgpu::CooperativeScalarType::F16 && p.cr_type == wgpu::CooperativeScalarType::F32
    };
    let shape = |p: wgpu::CooperativeMatrixProperties| MatrixShape { m: p.m_size, n: p.n_size, k: p.k_size };
    let f16 = features.contains(wgpu::Features::SHADER_F16) && !options.without_f16;
    let matrices = f16 && features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) && !options.without_matrices;
    let properties = if matrices { adapter.cooperative_matrix_properties() } else { Vec::new() };
    let software = adapter::is_software(&info) && !options.software_as_hardware;
    Profile {
        vendor: Vendor::new(info.vendor, &info.name),
        backend: format!("{:?}", info.backend),
        software,
        f16,
        subgroups,
        subgroup_barriers: subgroups && features.contains(wgpu::Features::SUBGROUP_BARRIER),
        subgroup_min_size,
        subgroup_max_size,
        packed_dot: has_packed_dot() && !options.without_packed_dot,
        matrices: properties.into_iter().filter(half_to_float).map(shape).collect(),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        offset_alignment: limits.min_storage_buffer_offset_alignment,
        workgroup_memory: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        max_workgroups: limits.max_compute_workgroups_per_dimension,
    }
}

/// naga writes the instruction where the driver has it, and the same in several instructions elsewhere.
#[cfg(not(target_arch = "wasm32"))]
fn has_packed_dot() -> bool {
    true
}

#[cfg(target_arch = "wasm32")]
use super::browser::has_packed_dot;
