//! `experts_matrices`: the products of [`matmul_matrices`] with the matrices of tokens' experts.

use super::activations::{Narrow, narrow};
use super::candidate::{Candidate, Numerics};
use super::experts::Tiled;
use super::matmul_matrices::{self, Tile, multiply};
use super::project_experts::{ExpertsJob, ExpertsShape, ProjectExperts};
use super::projection::Projection;
use crate::device::{Dispatch, Gpu, GpuError, Profile};
use crate::program::Phase;

/// Many tokens on a GPU with matrix units.
pub static CANDIDATE: Candidate<ProjectExperts> = Candidate {
    name: "experts_matrices",
    numerics: Numerics::Fast,
    can,
    // Where hardly two tokens have an expert in common, tiles are mostly empty.
    fits: |profile, shape| !profile.software && shape.pairs_of_expert() >= 2 && can(profile, shape),
    scratch: |_, shape| shape.groups_bytes() + halves(shape).scratch(),
    bind,
};

fn can(profile: &Profile, shape: &ExpertsShape) -> bool {
    shape.phase == Phase::Prefill && matmul_matrices::fits(profile, shape.scheme) && shape.has_buffers(profile)
}

fn halves(shape: &ExpertsShape) -> Narrow {
    Narrow::halves(shape.columns, shape.inputs())
}

/// As many tokens as an expert has on average.
fn tile(shape: &ExpertsShape) -> Tile {
    match shape.pairs_of_expert() {
        0..=11 => Tile::SMALLEST,
        12..=23 => Tile::SMALLER,
        24..=191 => Tile::SMALL,
        _ => Tile::LARGE,
    }
}

fn bind(gpu: &Gpu, job: &ExpertsJob<'_>) -> Result<Vec<Dispatch>, GpuError> {
    let (shape, (order, scratch)) = (job.shape, job.ordered());
    let narrowed = halves(&shape);
    let parts = narrowed.parts(&scratch)?;
    let tile = tile(&shape);
    let Tiled { each, tiles, sort, sum } = order.tiled(gpu, tile.tokens() as usize)?;
    let inputs = Projection { tokens: shape.inputs(), ..each.clone() };
    let mut dispatches = vec![sort, narrow(gpu, &inputs, &parts, narrowed)?];
    dispatches.extend(multiply(gpu, &each, &parts, narrowed, tile, Some(&tiles))?);
    dispatches.extend(sum);
    Ok(dispatches)
}
