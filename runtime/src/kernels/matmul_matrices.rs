//! Matrix times the activations of many tokens by cooperative matrices: products of f16, sums of f32.
//!
//! Activations are rounded to f16, each token after multiplication with a power of two that no value of it overflows, and
//! so are weights. The CPU twin is that of [`super::matvec`], to about 2^-11 of the root of the sum of squared products.

use super::activations::{Narrow, TiledKernel, narrow};
use super::candidate::{Candidate, Numerics};
use super::experts::ExpertTiles;
use super::project::Project;
use super::projection::Projection;
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Profile};
use crate::program::Phase;
use haikuq_format::scheme::Scheme;

super::shader!(MATMUL_MATRICES = "matmul_matrices");

/// Many tokens on a GPU with matrix units.
pub static CANDIDATE: Candidate<Project> = Candidate {
    name: "matmul_matrices",
    numerics: Numerics::Fast,
    can: |profile, shape| shape.phase == Phase::Prefill && !shape.norm && fits(profile, shape.scheme),
    fits: |profile, shape| !profile.software && shape.phase == Phase::Prefill && !shape.norm && fits(profile, shape.scheme),
    scratch: |_, shape| scratch_bytes(shape.columns, shape.tokens),
    bind: |gpu, job| MatmulMatrices { projection: job.projection.clone(), scratch: job.scratch.clone(), tile: None }.bind(gpu),
};

/// `y[t] = output(W x[t] + bias)` for any number of tokens.
#[derive(Clone, Debug)]
pub struct MatmulMatrices<'a> {
    /// Matrix, activations and output.
    pub projection: Projection<'a>,
    /// At least [`scratch_bytes`] for activations as f16.
    pub scratch: Binding<'a>,
    /// How the work is shared out, if not as is best; to measure and to test them all.
    pub tile: Option<Tile>,
}

/// How a workgroup shares out its work among subgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Subgroups of 32 rows each.
    pub row_bands: u32,
    /// Subgroups of `16 × blocks` tokens each.
    pub token_bands: u32,
    /// Subgroups with a share of the columns each.
    pub column_bands: u32,
    /// Matrices of 16 tokens that a subgroup has: 1, 2 or 4.
    pub blocks: u32,
}

impl Tile {
    /// For prompts: 128 rows × 128 tokens.
    pub const LARGE: Self = Self { row_bands: 4, token_bands: 2, column_bands: 1, blocks: 4 };
    /// For up to 64 tokens, and for small matrices: 64 rows × 64 tokens.
    pub const SMALL: Self = Self { row_bands: 2, token_bands: 1, column_bands: 4, blocks: 4 };
    /// For up to 32 tokens: 32 rows.
    pub const SMALLER: Self = Self { row_bands: 1, token_bands: 1, column_bands: 8, blocks: 2 };
    /// For up to 16 tokens: 32 rows.
    pub const SMALLEST: Self = Self { row_bands: 1, token_bands: 1, column_bands: 8, blocks: 1 };

    /// What is best for a matrix of `rows` rows.
    fn best(rows: usize, tokens: usize) -> Self {
        match tokens {
            0..=16 => Self::SMALLEST,
            17..=32 => Self::SMALLER,
            33..=64 => Self::SMALL,
            _ if rows.div_ceil(128) * tokens.div_ceil(128) < FILLING => Self::SMALL,
            _ => Self::LARGE,
        }
    }

    /// Units of 32 columns in a turn.
    fn depth(self) -> u32 {
        self.token_bands * self.column_bands
    }

    fn subgroups(self) -> u32 {
        self.row_bands * self.token_bands * self.column_bands
    }

    fn rows(self) -> u32 {
        32 * self.row_bands
    }

    pub(super) fn tokens(self) -> u32 {
        16 * self.blocks * self.token_bands
    }

    /// vec4s from row to row in workgroup memory.
    fn pitch(self) -> u32 {
        8 * self.depth() + 2
    }

    fn workgroup_memory(self) -> u32 {
        8 * self.pitch() * (self.rows() + self.tokens()) + 1024 * self.subgroups()
    }
}

/// Workgroups of the large tile from which on it is faster, on a GPU that runs 132 side by side.
const FILLING: usize = 80;

/// Bytes of workgroup memory that all tiles and a learned table fit into.
const MEMORY: u32 = 48 << 10;

/// Whether the device and the scheme allow it: f32 weights are always exact.
pub fn fits(profile: &Profile, scheme: Scheme) -> bool {
    let one_size = profile.subgroup_min_size == profile.subgroup_max_size;
    profile.f16
        && profile.subgroups
        && one_size
        && profile.subgroup_min_size == 32
        && profile.has_matrix(16, 16, 16)
        && profile.workgroup_memory >= MEMORY
        && profile.max_invocations >= 256
        && scheme != Scheme::F32
}

/// Bytes of scratch memory for `tokens` tokens of `columns` values.
pub fn scratch_bytes(columns: usize, tokens: usize) -> u64 {
    Narrow::halves(columns, tokens).scratch()
}

impl MatmulMatrices<'_> {
    /// Activations to f16, then one dispatch a chunk of the matrix, in any order.
    ///
    /// # Errors
    /// [`GpuError::Validation`] if sizes do not fit together or the device is none for which it [`fits`],
    /// [`GpuError::Limit`] if a chunk is too large for the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let projection = &self.projection;
        projection.check()?;
        if !fits(&gpu.profile, projection.matrix.scheme) {
            let why = format!("no cooperative matrices for weights in {} on this device", projection.matrix.scheme);
            return Err(GpuError::Validation(why));
        }
        let narrowed = Narrow::halves(projection.matrix.columns, projection.tokens);
        let parts = narrowed.parts(&self.scratch)?;
        let mut dispatches = vec![narrow(gpu, projection, &parts, narrowed)?];
        let tile = self.tile.unwrap_or_else(|| Tile::best(projection.matrix.rows, projection.tokens));
        dispatches.extend(multiply(gpu, projection, &parts, narrowed, tile, None)?);
        Ok(dispatches)
    }
}

/// One dispatch a chunk of the matrix, in any order, for activations that have been narrowed to `parts`.
///
/// # Errors
/// [`GpuError::Limit`] if a chunk is too large for the device.
pub(super) fn multiply(
    gpu: &Gpu,
    projection: &Projection<'_>,
    parts: &[Binding<'_>; 2],
    narrowed: Narrow,
    tile: Tile,
    experts: Option<&ExpertTiles<'_>>,
) -> Result<Vec<Dispatch>, GpuError> {
    let mut flags = projection.flags(gpu);
    flags.extend([Flag::Matrices, Flag::Subgroups]);
    flags.extend((tile.blocks >= 2).then_some(Flag::Blocks2));
    flags.extend((tile.blocks >= 4).then_some(Flag::Blocks4));
    let invocations = 32 * tile.subgroups();
    let constants = [
        ("WORKGROUP", invocations),
        ("ROW_BANDS", tile.row_bands),
        ("TOKEN_BANDS", tile.token_bands),
        ("DEPTH", tile.depth()),
        ("PITCH", tile.pitch()),
        ("WEIGHTS", tile.rows() * tile.pitch()),
        ("TOKENS", tile.tokens() * tile.pitch()),
        ("RESULTS", 256 * tile.subgroups()),
        ("VECTORS", tile.tokens() * tile.depth() * 8 / invocations),
        ("INPUT_PITCH", 8 * narrowed.units as u32),
    ];
    debug_assert!(tile.workgroup_memory() + 128 <= MEMORY);
    let constants = constants.map(|(name, value)| (name, f64::from(value))).to_vec();
    TiledKernel { shader: &MATMUL_MATRICES, flags, constants, tile: [tile.rows(), tile.tokens()] }
        .bind(gpu, projection, parts, experts)
}

#[cfg(all(test, feature = "native"))]
mod tests {
    use super::*;
    use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};

    /// Software adapters have no such matrices. Without a GPU, naga at least validates the shader.
    #[test]
    fn the_shader_is_valid_in_every_scheme() {
        let schemes: [&[Flag]; 5] = [
            &[Flag::F16Weights],
            &[Flag::Grouped, Flag::Q4, Flag::F16, Flag::OffsetU4],
            &[Flag::Grouped, Flag::Q8, Flag::F16],
            &[Flag::Grouped, Flag::Q3, Flag::HighBits, Flag::F16, Flag::OffsetF16],
            &[Flag::Grouped, Flag::Q5, Flag::HighBits, Flag::ScaleE4m4, Flag::Learned, Flag::TableSubgroup, Flag::SubgroupLane],
        ];
        for scheme in schemes {
            for blocks in [&[][..], &[Flag::Blocks2], &[Flag::Blocks2, Flag::Blocks4]] {
                for experts in [&[Flag::Residual][..], &[Flag::Experts], &[Flag::Experts, Flag::Each]] {
                    let text = MATMUL_MATRICES.expand(&[scheme, blocks, experts, &[Flag::Matrices, Flag::Bias]].concat());
                    let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
                    let valid = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module);
                    valid.unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
                }
            }
        }
    }

    #[test]
    fn tiles_fit_into_memory() {
        for tile in [Tile::LARGE, Tile::SMALL, Tile::SMALLER, Tile::SMALLEST] {
            // A learned table and nothing else lies beside the tile.
            assert!(tile.workgroup_memory() + 128 <= MEMORY, "{tile:?}");
            assert!(32 * tile.subgroups() <= 256);
        }
    }
}
