//! Activations in fewer bits, once before a projection whose kernel multiplies them many times.

use super::experts::ExpertTiles;
use super::projection::Projection;
use super::weights::GpuChunk;
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel, Shader};
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

/// A kernel that multiplies such activations by tiles of rows and tokens.
pub(super) struct TiledKernel {
    pub shader: &'static Shader,
    /// Those of the projection, and of the kernel.
    pub flags: Vec<Flag>,
    /// Those of the kernel.
    pub constants: Vec<(&'static str, f64)>,
    /// Rows and tokens of a tile.
    pub tile: [u32; 2],
}

impl TiledKernel {
    /// One dispatch a chunk of the matrix, in any order, for the activations in `parts`: of all tokens, or of experts' tiles.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if a chunk is too large for the device.
    pub fn bind(
        mut self,
        gpu: &Gpu,
        projection: &Projection<'_>,
        parts: &[Binding<'_>; 2],
        experts: Option<&ExpertTiles<'_>>,
    ) -> Result<Vec<Dispatch>, GpuError> {
        self.constants.push(("ACTIVATION", projection.mode.activation()));
        if let Some(tiles) = experts {
            self.flags.push(Flag::Experts);
            self.flags.extend(tiles.each_has_input.then_some(Flag::Each));
            self.constants.extend(&tiles.constants);
        }
        let Self { shader, flags, constants, tile: [rows, tokens] } = self;
        let bind = |chunk: &GpuChunk| {
            let params = projection.params(gpu, chunk, 0.0);
            let mut bindings = projection.bindings(&params, chunk);
            bindings.retain(|(number, _)| *number != 1);
            bindings.extend([(1, parts[0].clone()), (9, parts[1].clone())]);
            bindings.extend(experts.map(|tiles| (7, tiles.groups.clone())));
            let all = || (chunk.rows as u32, (projection.tokens as u32).div_ceil(tokens));
            let (all_rows, tiles) = experts.map_or_else(all, |tiles| (tiles.rows, tiles.number));
            let grid = [all_rows.div_ceil(rows), tiles, 1];
            Kernel { shader, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
        };
        projection.matrix.chunks.iter().map(bind).collect()
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
