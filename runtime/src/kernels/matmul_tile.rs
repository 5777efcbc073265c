//! Matrix times the activations of many tokens in f32, by tiles in workgroup memory: what GPUs without integer products and
//! matrices run, and what is exact. The CPU twin is that of [`super::matvec`].

use super::candidate::{Candidate, Numerics};
use super::project::Project;
use super::projection::Projection;
use crate::device::{Dispatch, Flag, Gpu, GpuError, Kernel};
use crate::program::Phase;
use haikuq_format::scheme::{Codebook, Grouped, Scheme};

super::shader!(MATMUL_TILE = "matmul_tile");

/// Many tokens on a GPU, in f32.
pub static CANDIDATE: Candidate<Project> = Candidate {
    name: "matmul_tile",
    numerics: Numerics::Exact,
    can: |_, shape| shape.phase == Phase::Prefill && !shape.norm,
    fits: |profile, shape| !profile.software && shape.phase == Phase::Prefill && !shape.norm,
    scratch: Candidate::<Project>::NO_SCRATCH,
    bind: |gpu, job| MatmulTile { projection: job.projection.clone() }.bind(gpu),
};

/// Rows and tokens of a tile, as in `matmul_tile.wgsl`.
const ROWS: u32 = 128;
const TOKENS: u32 = 64;

/// `y[t] = output(W x[t] + bias)` for any number of tokens.
#[derive(Clone, Debug)]
pub struct MatmulTile<'a> {
    /// Matrix, activations and output.
    pub projection: Projection<'a>,
}

impl MatmulTile<'_> {
    /// One dispatch a chunk of the matrix, in any order.
    ///
    /// # Errors
    /// [`GpuError::Validation`] if sizes do not fit together, [`GpuError::Limit`] if a chunk is too large for the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let projection = &self.projection;
        projection.check()?;
        let mut flags = projection.flags_without_lookup();
        // As fast as a subgroup's registers here, and allowed everywhere.
        if matches!(projection.matrix.scheme, Scheme::Grouped(Grouped { codebook: Codebook::Learned, .. })) {
            flags.push(Flag::TableWorkgroup);
        }
        let constants = [("ACTIVATION", projection.mode.activation())];
        let bind = |chunk: &super::weights::GpuChunk| {
            let params = projection.params(gpu, chunk, 0.0);
            let bindings = projection.bindings(&params, chunk);
            let grid = [(chunk.rows as u32).div_ceil(ROWS), (projection.tokens as u32).div_ceil(TOKENS), 1];
            Kernel { shader: &MATMUL_TILE, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
        };
        projection.matrix.chunks.iter().map(bind).collect()
    }
}
