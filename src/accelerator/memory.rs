//! [`Memory`]: how many bytes buffers take, and may take.
//!
//! Large buffers are slow to make, and the same sizes come again with every layer: those that are no longer used are kept
//! for the next matrix of their size, until others need the room.

use super::{Accelerator, AcceleratorError};
use bytemuck::Pod;
use haikuq_runtime::device::Gpu;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The account of a GPU's memory.
pub(super) struct Memory {
    limit: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: u64,
    /// Buffers that nothing uses, the oldest first, and their bytes.
    kept: Vec<wgpu::Buffer>,
    kept_bytes: u64,
}

impl Memory {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, state: Mutex::default() }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn used(&self) -> u64 {
        self.state().used
    }

    /// A buffer of `bytes` (rounded up to 16) and whether it is all zeros.
    ///
    /// # Errors
    /// [`AcceleratorError::Memory`] if fewer bytes are left.
    fn buffer(self: &Arc<Self>, accelerator: &Accelerator, label: &str, bytes: u64) -> Result<(Counted, bool), AcceleratorError> {
        let bytes = bytes.max(16).next_multiple_of(16);
        let mut state = self.state();
        let fits = state.used.checked_add(bytes).is_some_and(|sum| sum <= self.limit);
        if !fits {
            return Err(AcceleratorError::Memory { needed: bytes, used: state.used, limit: self.limit });
        }
        let found = state.kept.iter().position(|b| b.size() == bytes);
        let kept = found.map(|i| state.kept.remove(i));
        if kept.is_some() {
            state.kept_bytes -= bytes;
        }
        let mut dropped = false;
        if state.used + state.kept_bytes + bytes > self.limit {
            // Dispatches that are not submitted yet may use what goes.
            accelerator.flush();
        }
        while state.used + state.kept_bytes + bytes > self.limit {
            let oldest = state.kept.remove(0);
            state.kept_bytes -= oldest.size();
            oldest.destroy();
            dropped = true;
        }
        state.used += bytes;
        drop(state);
        if dropped {
            // A destroyed buffer gives its memory back when the work that uses it is done.
            pollster::block_on(accelerator.gpu.finish())?;
        }
        let is_new = kept.is_none();
        let buffer = kept.unwrap_or_else(|| accelerator.gpu.storage(label, bytes));
        Ok((Counted { buffer: Some(buffer), memory: self.clone() }, is_new))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accelerator {
    /// A buffer of `bytes` (rounded up to 16) that counts, and whether it is all zeros.
    ///
    /// # Errors
    /// [`AcceleratorError::Memory`] if fewer bytes are left.
    pub(super) fn buffer(&self, label: &str, bytes: u64) -> Result<(Counted, bool), AcceleratorError> {
        self.memory.buffer(self, label, bytes)
    }

    /// A buffer that counts and holds `data`.
    pub(super) fn counted<T: Pod>(&self, label: &str, data: &[T]) -> Result<Counted, AcceleratorError> {
        let (counted, _) = self.buffer(label, size_of_val(data) as u64)?;
        self.flush();
        self.gpu.write(counted.buffer(), 0, data);
        Ok(counted)
    }
}

/// A buffer that counts as used until it is dropped.
pub(super) struct Counted {
    /// There until it is dropped.
    buffer: Option<wgpu::Buffer>,
    memory: Arc<Memory>,
}

impl Counted {
    pub(super) fn buffer(&self) -> &wgpu::Buffer {
        self.buffer.as_ref().expect("taken by drop alone")
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let mut state = self.memory.state();
            state.used -= buffer.size();
            state.kept_bytes += buffer.size();
            state.kept.push(buffer);
        }
    }
}

/// Bytes of a device's memory that may be used, as far as Vulkan tells.
#[cfg(any(target_os = "linux", target_os = "windows"))]
pub(super) fn of_device(gpu: &Gpu) -> Option<u64> {
    // SAFETY: the device is only asked about, and not destroyed.
    let device = unsafe { gpu.device.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = device.shared_instance().raw_instance();
    // SAFETY: both handles are those of the open device.
    let properties = unsafe { instance.get_physical_device_memory_properties(device.raw_physical_device()) };
    let heaps = &properties.memory_heaps[..properties.memory_heap_count as usize];
    let of_device = heaps.iter().filter(|heap| heap.flags.as_raw() & 1 == 1).map(|heap| heap.size).max()?;
    Some(if gpu.description.kind == "DiscreteGpu" { of_device / 5 * 4 } else { of_device / 4 })
}

#[cfg(not(any(target_os = "linux", target_os = "windows")))]
pub(super) fn of_device(_: &Gpu) -> Option<u64> {
    None
}
