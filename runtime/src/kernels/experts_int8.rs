//! `experts_int8`: the products of [`matmul_int8`] with the matrices of tokens' experts.

use super::activations::{Narrow, quantize};
use super::candidate::{Candidate, Numerics};
use super::experts::Tiled;
use super::matmul_int8::{self, Tile, multiply};
use super::matvec_int8::is_as_fine;
use super::project_experts::{ExpertsJob, ExpertsShape, ProjectExperts};
use super::projection::Projection;
use crate::device::{Dispatch, Gpu, GpuError, Profile};
use crate::program::Phase;

/// Many tokens on a GPU with packed dot products.
pub static CANDIDATE: Candidate<ProjectExperts> = Candidate {
    name: "experts_int8",
    numerics: Numerics::Fast,
    can,
    // Where hardly two tokens have an expert in common, tiles are mostly empty.
    fits: |profile, shape| !profile.software && shape.pairs_of_expert() >= 2 && can(profile, shape),
    scratch: |_, shape| shape.groups_bytes() + narrow(shape).scratch(),
    bind,
};

fn can(profile: &Profile, shape: &ExpertsShape) -> bool {
    let known = matmul_int8::fits(profile, shape.scheme) && !is_as_fine(shape.scheme);
    shape.phase == Phase::Prefill && known && shape.has_buffers(profile)
}

fn narrow(shape: &ExpertsShape) -> Narrow {
    Narrow::bytes(shape.columns, shape.inputs())
}

/// As many tokens an invocation as an expert has on average.
fn tile(shape: &ExpertsShape) -> Tile {
    match shape.pairs_of_expert() {
        0..=11 => Tile { bands: 4, columns: 1 },
        12..=23 => Tile { bands: 2, columns: 2 },
        24..=95 => Tile { bands: 1, columns: 4 },
        _ => Tile { bands: 1, columns: 8 },
    }
}

fn bind(gpu: &Gpu, job: &ExpertsJob<'_>) -> Result<Vec<Dispatch>, GpuError> {
    let (shape, (order, scratch)) = (job.shape, job.ordered());
    let quantized = narrow(&shape);
    let parts = quantized.parts(&scratch)?;
    let tile = tile(&shape);
    let Tiled { each, tiles, sort, sum } = order.tiled(gpu, tile.tokens() as usize)?;
    let inputs = Projection { tokens: shape.inputs(), ..each.clone() };
    let mut dispatches = vec![sort, quantize(gpu, &inputs, &parts, quantized)?];
    dispatches.extend(multiply(gpu, &each, &parts, quantized, tile, Some(&tiles))?);
    dispatches.extend(sum);
    Ok(dispatches)
}
