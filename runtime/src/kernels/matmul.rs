//! Matrix times the activations of many tokens: prefill. The CPU twin is that of [`super::matvec`].

use super::projection::Projection;
use crate::device::{Dispatch, Flag, Gpu, GpuError, Kernel};

super::shader!(MATMUL = "matmul");

/// Tokens of a tile, as in `matmul.wgsl`.
const TILE_TOKENS: u32 = 16;

/// Invocations of a workgroup, each with four rows.
const WORKGROUP: u32 = 64;

/// `y[t] = output(W x[t] + bias)` for any number of tokens.
#[derive(Clone, Debug)]
pub struct Matmul<'a> {
    /// Matrix, activations and output.
    pub projection: Projection<'a>,
}

impl Matmul<'_> {
    /// One dispatch a chunk of the matrix, in any order.
    ///
    /// # Errors
    /// [`GpuError::Validation`] if sizes do not fit together, [`GpuError::Limit`] if a chunk is too large for the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let projection = &self.projection;
        projection.check()?;
        let mut flags = projection.flags(gpu);
        if gpu.is_software() && gpu.profile.subgroups {
            flags.extend([Flag::Subgroups, Flag::SubgroupLane, Flag::Broadcast]);
            flags.extend((gpu.profile.subgroup_min_size >= 8).then_some(Flag::Broadcast8));
        }
        let constants = [("WORKGROUP", f64::from(WORKGROUP)), ("ACTIVATION", projection.mode.activation())];
        let bind = |chunk: &super::weights::GpuChunk| {
            let params = projection.params(gpu, chunk, 0.0);
            let bindings = projection.bindings(&params, chunk);
            let grid = [(chunk.rows as u32).div_ceil(4 * WORKGROUP), (projection.tokens as u32).div_ceil(TILE_TOKENS), 1];
            Kernel { shader: &MATMUL, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
        };
        projection.matrix.chunks.iter().map(bind).collect()
    }
}
