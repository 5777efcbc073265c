//! Matrix times the activations of many tokens by packed dot products of 8-bit integers.
//!
//! Activations are rounded to 127ths of the largest in each block of 32. Codes of evenly spaced weights are integers as they
//! are; the values of a learned table are rounded to 127ths of its largest. The CPU twin is that of [`super::matvec`].

use super::activations::{Narrow, TiledKernel, quantize};
use super::candidate::{Candidate, Numerics};
use super::experts::ExpertTiles;
use super::matvec_int8::is_as_fine;
use super::project::{Project, ProjectShape};
use super::projection::Projection;
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Profile};
use crate::program::Phase;
use haikuq_format::scheme::Scheme;

super::shader!(MATMUL_INT8 = "matmul_int8");

/// Many tokens on a GPU with packed dot products.
pub static CANDIDATE: Candidate<Project> = Candidate {
    name: "matmul_int8",
    numerics: Numerics::Fast,
    can,
    fits: |profile, shape| !profile.software && can(profile, shape),
    scratch: |_, shape| scratch_bytes(shape.columns, shape.tokens),
    bind: |gpu, job| MatmulInt8 { projection: job.projection.clone(), scratch: job.scratch.clone(), tile: None }.bind(gpu),
};

fn can(profile: &Profile, shape: &ProjectShape) -> bool {
    shape.phase == Phase::Prefill && !shape.norm && !is_as_fine(shape.scheme) && fits(profile, shape.scheme)
}

/// `y[t] = output(W x[t] + bias)` for any number of tokens.
#[derive(Clone, Debug)]
pub struct MatmulInt8<'a> {
    /// Matrix, activations and output.
    pub projection: Projection<'a>,
    /// At least [`scratch_bytes`] for quantized activations.
    pub scratch: Binding<'a>,
    /// How the work is shared out, if not as is best; to measure and to test them all.
    pub tile: Option<Tile>,
}

/// How a workgroup shares out its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Parts of the columns: 1, 2 or 4. There are `64 / bands` rows.
    pub bands: u32,
    /// Tokens of an invocation: 1, 2, 4 or 8, `bands × columns` at most 8. A workgroup has 16 times as many.
    pub columns: u32,
}

impl Tile {
    /// Tokens of a workgroup.
    pub(super) fn tokens(self) -> u32 {
        16 * self.columns
    }

    /// What is best for a matrix of `rows` rows: many tokens an invocation where that leaves enough workgroups, or else bands,
    /// which make more of them.
    fn best(rows: usize, tokens: usize) -> Self {
        let columns = tokens.div_ceil(16).next_power_of_two().min(8);
        let enough = rows.div_ceil(64) * tokens.div_ceil(16 * columns) >= FILLING;
        match tokens {
            17.. if enough => Self { bands: 1, columns: columns as u32 },
            ..=32 => Self { bands: 4, columns: 1 },
            33..=64 => Self { bands: 4, columns: 2 },
            _ => Self { bands: 2, columns: 2 },
        }
    }
}

/// Workgroups from which on bands do not pay, on a GPU that runs 264 side by side.
const FILLING: usize = 128;

/// Invocations of a workgroup.
const WORKGROUP: u32 = 256;

/// Whether the device and the scheme allow it: codes with scales, and packed dot products.
pub fn fits(profile: &Profile, scheme: Scheme) -> bool {
    profile.packed_dot && matches!(scheme, Scheme::Grouped(_))
}

/// Bytes of scratch memory for `tokens` tokens of `columns` values.
pub fn scratch_bytes(columns: usize, tokens: usize) -> u64 {
    Narrow::bytes(columns, tokens).scratch()
}

impl MatmulInt8<'_> {
    /// Activations to integers, then one dispatch a chunk of the matrix, in any order.
    ///
    /// # Errors
    /// [`GpuError::Validation`] if sizes do not fit together or the device or the scheme is none for which it [`fits`],
    /// [`GpuError::Limit`] if a chunk is too large for the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let projection = &self.projection;
        projection.check()?;
        if !fits(&gpu.profile, projection.matrix.scheme) {
            let why = format!("no integer products for weights in {} on this device", projection.matrix.scheme);
            return Err(GpuError::Validation(why));
        }
        let quantized = Narrow::bytes(projection.matrix.columns, projection.tokens);
        let parts = quantized.parts(&self.scratch)?;
        let mut dispatches = vec![quantize(gpu, projection, &parts, quantized)?];
        let tile = self.tile.unwrap_or_else(|| Tile::best(projection.matrix.rows, projection.tokens));
        dispatches.extend(multiply(gpu, projection, &parts, quantized, tile, None)?);
        Ok(dispatches)
    }
}

/// One dispatch a chunk of the matrix, in any order, for activations that have been quantized to `parts`.
///
/// # Errors
/// [`GpuError::Limit`] if a chunk is too large for the device.
pub(super) fn multiply(
    gpu: &Gpu,
    projection: &Projection<'_>,
    parts: &[Binding<'_>; 2],
    quantized: Narrow,
    tile: Tile,
    experts: Option<&ExpertTiles<'_>>,
) -> Result<Vec<Dispatch>, GpuError> {
    let Tile { bands, columns } = tile;
    let mut flags = projection.flags_without_lookup();
    let accumulators = [(2, Flag::Columns2), (4, Flag::Columns4), (8, Flag::Columns8)];
    flags.extend(accumulators.iter().filter(|(least, _)| columns >= *least).map(|(_, flag)| *flag));
    let tokens = tile.tokens();
    let constants = [
        ("BANDS", bands),
        ("TILE_TOKENS", tokens),
        ("TOKENS", 2 * bands * tokens),
        ("TOKEN_SCALES", bands * tokens),
        ("PARTIAL", if bands > 1 { WORKGROUP } else { 1 }),
        ("INPUT_PITCH", quantized.units as u32),
    ];
    let constants = constants.map(|(name, value)| (name, f64::from(value))).to_vec();
    TiledKernel { shader: &MATMUL_INT8, flags, constants, tile: [64 / bands, tokens] }.bind(gpu, projection, parts, experts)
}
