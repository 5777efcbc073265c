//! [`Pending`]: dispatches that wait to be submitted together, since a submission takes the processor longer than a small
//! kernel takes the GPU.
//!
//! Whatever else goes to the queue (writes, copies) is preceded by a [`Accelerator::flush`], so everything happens in the order
//! in which it was asked for.

use super::{Accelerator, AcceleratorError};
use bytemuck::Pod;
use haikuq_runtime::device::{Binding, Dispatch, Kernel, Shader};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Dispatches of a submission, at most, and bytes of their parameters.
const DISPATCHES: usize = 32;
const PARAMETERS: usize = 32 << 10;

/// Alignment of a uniform binding's offset that every device can do.
const ALIGNMENT: usize = 256;

/// Operations of a submission after which no other joins it. A driver takes a GPU away from whoever keeps it for seconds, and
/// a small one does 5e11 a second.
pub(super) const OPERATIONS: usize = 200_000_000_000;

/// Dispatches that were asked for, and their parameters.
#[derive(Default)]
pub(super) struct Pending(Mutex<State>);

#[derive(Default)]
struct State {
    dispatches: Vec<Dispatch>,
    operations: usize,
    parameters: Vec<u8>,
    /// Where the parameters go.
    buffer: Option<wgpu::Buffer>,
}

impl Accelerator {
    /// Asks for a dispatch of `shader` with `params` as binding 0.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if a binding or the grid is too large for the device.
    pub(super) fn run<P: Pod>(
        &self,
        shader: &'static Shader,
        constants: &[(&'static str, f64)],
        params: &P,
        bindings: &[(u32, Binding<'_>)],
        grid: [u32; 3],
    ) -> Result<(), AcceleratorError> {
        let mut state = self.pending();
        let size = size_of::<P>().next_multiple_of(16);
        if state.dispatches.len() >= DISPATCHES || state.parameters.len() + size > PARAMETERS {
            self.submit(&mut state);
        }
        let offset = state.parameters.len();
        let buffer = state.buffer.get_or_insert_with(|| {
            self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("parameters"),
                size: PARAMETERS as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        let params_at = Binding { buffer, offset: offset as u64, size: Some(size as u64) };
        let bindings: Vec<_> = [(0, params_at)].into_iter().chain(bindings.iter().cloned()).collect();
        let dispatch = Kernel { shader, flags: &[], constants, bindings: &bindings, grid }.bind(&self.gpu)?;
        state.dispatches.push(dispatch);
        state.parameters.extend_from_slice(bytemuck::bytes_of(params));
        state.parameters.resize((offset + size).next_multiple_of(ALIGNMENT), 0);
        Ok(())
    }

    /// Notes how many operations the last dispatch takes.
    pub(super) fn count(&self, operations: usize) {
        let mut state = self.pending();
        state.operations = state.operations.saturating_add(operations);
        if state.operations >= OPERATIONS {
            self.submit(&mut state);
        }
    }

    /// Submits what was asked for so far.
    pub(super) fn flush(&self) {
        self.submit(&mut self.pending());
    }

    fn submit(&self, state: &mut State) {
        if let Some(buffer) = state.buffer.as_ref().filter(|_| !state.dispatches.is_empty()) {
            // What an earlier submission reads of this buffer, it reads before.
            self.gpu.write(buffer, 0, &state.parameters);
            self.gpu.run(&state.dispatches.iter().collect::<Vec<_>>());
        }
        state.dispatches.clear();
        state.parameters.clear();
        state.operations = 0;
    }

    fn pending(&self) -> MutexGuard<'_, State> {
        self.pending.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
