//! Which GPUs there are, and which one is used.

use super::{GpuError, GpuOptions};
use serde::Serialize;

/// One adapter, in words and numbers.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterDescription {
    /// Position in the list of adapters; `--adapter` takes it.
    pub index: usize,
    /// The device's name.
    pub name: String,
    /// Vulkan, Metal, Dx12 or BrowserWebGpu.
    pub backend: String,
    /// DiscreteGpu, IntegratedGpu, VirtualGpu, Cpu or Other.
    pub kind: String,
    /// Driver name and version.
    pub driver: String,
    /// Vendor and device, as PCI has them; 0 where a browser does not tell.
    pub ids: [u32; 2],
    /// Whether it is a program on the processor.
    pub software: bool,
    /// Whether shaders may use f16.
    pub shader_f16: bool,
    /// Whether shaders may use subgroups, and their smallest and largest size.
    pub subgroups: Option<(u32, u32)>,
    /// Largest storage binding in bytes.
    pub max_storage_binding: u64,
    /// Largest buffer in bytes.
    pub max_buffer: u64,
    /// Storage buffers a shader stage may bind.
    pub max_storage_buffers: u32,
    /// Alignment of storage binding offsets in bytes.
    pub offset_alignment: u32,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
}

impl AdapterDescription {
    pub(super) fn new(index: usize, adapter: &wgpu::Adapter) -> Self {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        Self {
            index,
            ids: [info.vendor, info.device],
            software: is_software(&info),
            name: info.name,
            backend: format!("{:?}", info.backend),
            kind: format!("{:?}", info.device_type),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            shader_f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features.contains(wgpu::Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size)),
            max_storage_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            offset_alignment: limits.min_storage_buffer_offset_alignment,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
        }
    }
}

/// By its kind, or by its name where a browser does not tell the kind.
pub(super) fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_lowercase();
    info.device_type == wgpu::DeviceType::Cpu || ["swiftshader", "llvmpipe"].iter().any(|known| name.contains(known))
}

/// Every adapter, in the order in which the driver lists them.
pub async fn list_adapters() -> Vec<AdapterDescription> {
    let adapters = instance().enumerate_adapters(wgpu::Backends::all()).await;
    adapters.iter().enumerate().map(|(i, a)| AdapterDescription::new(i, a)).collect()
}

pub(super) fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle())
}

/// The adapter that `wanted` names by index or by part of its name, or else the fastest kind there is: discrete,
/// integrated, virtual, other, software.
#[cfg(not(target_arch = "wasm32"))]
pub(super) async fn choose(instance: &wgpu::Instance, options: &GpuOptions) -> Result<(usize, wgpu::Adapter), GpuError> {
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    if adapters.is_empty() {
        return Err(GpuError::NoAdapter);
    }
    let index = match options.adapter.as_deref() {
        None => {
            let rank = |a: &wgpu::Adapter| match a.get_info().device_type {
                wgpu::DeviceType::IntegratedGpu if options.low_power => 0,
                wgpu::DeviceType::DiscreteGpu => 1,
                wgpu::DeviceType::IntegratedGpu => 2,
                wgpu::DeviceType::VirtualGpu => 3,
                wgpu::DeviceType::Other => 4,
                wgpu::DeviceType::Cpu => 5,
            };
            adapters.iter().enumerate().min_by_key(|(i, a)| (rank(a), *i)).map_or(0, |(i, _)| i)
        }
        Some(wanted) => {
            let by_name = |a: &wgpu::Adapter| a.get_info().name.to_lowercase().contains(&wanted.to_lowercase());
            let found = match wanted.parse::<usize>() {
                Ok(i) => Some(i).filter(|i| *i < adapters.len()),
                Err(_) => adapters.iter().position(by_name),
            };
            found.ok_or_else(|| GpuError::NoSuchAdapter {
                wanted: wanted.into(),
                available: adapters
                    .iter()
                    .enumerate()
                    .map(|(i, a)| format!("{i}: {}", a.get_info().name))
                    .collect::<Vec<_>>()
                    .join(", "),
            })?
        }
    };
    Ok((index, adapters.swap_remove(index)))
}

/// The browser's adapter; which one that is, the browser decides.
#[cfg(target_arch = "wasm32")]
pub(super) async fn choose(instance: &wgpu::Instance, options: &GpuOptions) -> Result<(usize, wgpu::Adapter), GpuError> {
    let power_preference = match options {
        GpuOptions { low_power: true, .. } => wgpu::PowerPreference::LowPower,
        GpuOptions { high_performance: true, .. } => wgpu::PowerPreference::HighPerformance,
        _ => wgpu::PowerPreference::None,
    };
    let options = wgpu::RequestAdapterOptions { power_preference, ..Default::default() };
    let lent = super::browser::lend();
    let request = instance.request_adapter(&options);
    drop(lent);
    request.await.map(|a| (0, a)).map_err(|_| GpuError::NoAdapter)
}
