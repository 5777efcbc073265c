//! [`Memory`]: how many bytes buffers take, and may take.

use super::AcceleratorError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The account of a GPU's memory.
pub(super) struct Memory {
    limit: u64,
    used: AtomicU64,
}

impl Memory {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `needed` bytes until what is returned is dropped.
    ///
    /// # Errors
    /// [`AcceleratorError::Memory`] if fewer are left.
    pub(super) fn take(self: &Arc<Self>, needed: u64) -> Result<Taken, AcceleratorError> {
        let room = |used: u64| used.checked_add(needed).filter(|sum| *sum <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            Ok(_) => Ok(Taken { bytes: needed, memory: self.clone() }),
            Err(used) => Err(AcceleratorError::Memory { needed, used, limit: self.limit }),
        }
    }
}

/// Bytes that are in use.
pub(super) struct Taken {
    bytes: u64,
    memory: Arc<Memory>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A buffer that counts.
pub(super) struct Counted {
    pub(super) buffer: wgpu::Buffer,
    _taken: Taken,
}

impl Counted {
    pub(super) fn new(buffer: wgpu::Buffer, taken: Taken) -> Self {
        Self { buffer, _taken: taken }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // At once, when the submissions that use it are done: the next matrix may need the room.
        self.buffer.destroy();
    }
}
