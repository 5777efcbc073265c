//! Activations in fewer bits, once before a projection whose kernel multiplies them many times.

use super::projection::Projection;
#[cfg(not(target_arch = "wasm32"))]
use crate::device::Flag;
use crate::device::{Binding, Dispatch, Gpu, GpuError, Kernel};
use bytemuck::{Pod, Zeroable};
use haikuq_format::layout::{UNIT, padded};

#[cfg(not(target_arch = "wasm32"))]
super::shader!(NARROW = "narrow_activations");
super::shader!(QUANTIZE = "quantize_activations");

/// Units of 32 columns to whose multiple rows are filled up with zeros: as many as a kernel reads in a turn.
const TURN: usize = 8;

/// Where activations in fewer bits lie in scratch memory: values first, then scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Narrow {
    /// Units of 32 columns of a token, zeros at the end included.
    pub units: usize,
    tokens: usize,
    unit_bytes: u64,
    scale_bytes: u64,
}

impl Narrow {
    /// f16 values and one scale a token.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn halves(columns: usize, tokens: usize) -> Self {
        Self::new(columns, tokens, 2 * UNIT as u64, 4 * tokens as u64)
    }

    /// 8-bit values, and a scale and a sum a unit.
    pub fn bytes(columns: usize, tokens: usize) -> Self {
        let scales = (padded(columns) / UNIT).next_multiple_of(TURN) * tokens;
        Self::new(columns, tokens, UNIT as u64, 8 * scales as u64)
    }

    fn new(columns: usize, tokens: usize, unit_bytes: u64, scale_bytes: u64) -> Self {
        let units = (padded(columns) / UNIT).next_multiple_of(TURN);
        Self { units, tokens, unit_bytes, scale_bytes }
    }

    /// Bytes of scratch memory.
    pub fn scratch(&self) -> u64 {
        haikuq_format::align(self.value_bytes()) + haikuq_format::align(self.scale_bytes)
    }

    fn value_bytes(&self) -> u64 {
        (self.tokens * self.units) as u64 * self.unit_bytes
    }

    /// The values and the scales as parts of `scratch`.
    pub fn parts<'a>(&self, scratch: &Binding<'a>) -> Result<[Binding<'a>; 2], GpuError> {
        let available = scratch.size.unwrap_or_else(|| scratch.buffer.size().saturating_sub(scratch.offset));
        if available < self.scratch() {
            let why =
                format!("a projection with {} tokens needs {} bytes of scratch, not {available}", self.tokens, self.scratch());
            return Err(GpuError::Validation(why));
        }
        let part = |offset, bytes| Binding { buffer: scratch.buffer, offset: scratch.offset + offset, size: Some(bytes) };
        Ok([part(0, self.value_bytes()), part(haikuq_format::align(self.value_bytes()), self.scale_bytes)])
    }
}

/// Of both shaders.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    pub(super) filled: u32,
    pub(super) input_stride: u32,
    pub(super) pitch: u32,
    pub(super) tokens: u32,
}

#[cfg(not(target_arch = "wasm32"))]
/// The input of `projection` as f16, each token multiplied by a power of two; scales undo that.
pub(super) fn narrow(gpu: &Gpu, projection: &Projection<'_>, parts: &[Binding<'_>; 2], to: Narrow) -> Result<Dispatch, GpuError> {
    let params = params(projection, 8, to.units);
    let uniform = gpu.uniform("narrow activations", &params);
    let bindings = bindings(&uniform, projection, parts);
    let grid = [params.tokens, 1, 1];
    Kernel { shader: &NARROW, flags: &[Flag::F16], constants: &[], bindings: &bindings, grid }.bind(gpu)
}

/// The input of `projection` as 8-bit integers in blocks of 32.
pub(super) fn quantize(
    gpu: &Gpu,
    projection: &Projection<'_>,
    parts: &[Binding<'_>; 2],
    to: Narrow,
) -> Result<Dispatch, GpuError> {
    let params = params(projection, 1, to.units);
    let uniform = gpu.uniform("quantize activations", &params);
    let bindings = bindings(&uniform, projection, parts);
    let grid = [params.pitch.div_ceil(64), params.tokens, 1];
    Kernel { shader: &QUANTIZE, flags: &[], constants: &[], bindings: &bindings, grid }.bind(gpu)
}

fn params(projection: &Projection<'_>, parts_of_unit: usize, units: usize) -> Params {
    Params {
        filled: (padded(projection.matrix.columns) / UNIT * parts_of_unit) as u32,
        input_stride: (projection.input_stride / 4) as u32,
        pitch: (units * parts_of_unit) as u32,
        tokens: projection.tokens as u32,
    }
}

fn bindings<'b>(uniform: &'b wgpu::Buffer, projection: &'b Projection<'_>, parts: &[Binding<'b>; 2]) -> [(u32, Binding<'b>); 4] {
    [(0, uniform.into()), (1, projection.input.clone()), (2, parts[0].clone()), (3, parts[1].clone())]
}
