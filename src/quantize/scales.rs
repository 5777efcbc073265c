//! Scales of groups: the ones with the least weighted squared error, found by trying all that may be.

use super::lanes::{Lanes, ROWS, Table};
use crate::accelerator::{Accelerator, AcceleratorError, ScaleCandidates, ScaleSearch};
use haikuq_format::E4M4;
use haikuq_format::scheme::ScaleType;
use half::f16;

/// Smallest and largest scale that is tried, as parts of the one with which the table just reaches the largest weight.
const RANGE: (f32, f32) = (0.52, 1.15);

/// Part of the candidates below those that are tried first: the best scale most often clips the largest weight a little.
const LIKELY: (usize, usize) = (11, 20);

/// Bounds are multiplied with this, so that what was rounded off them does not matter.
const ROUNDED: f32 = 0.999;

/// f16 scales that are tried.
const F16_CANDIDATES: usize = 24;

/// Which scales a tensor's groups can have: multiples of `unit` that the type holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScaleGrid {
    pub(super) kind: ScaleType,
    /// What a scale of 1 stands for: with e4m4 the tensor's own magnitude, which the codebook carries.
    pub(super) unit: f32,
}

impl ScaleGrid {
    /// The grid for weights of magnitude `largest` at most and a table that reaches `reach`.
    pub(super) fn new(kind: ScaleType, largest: f32, reach: f32) -> Self {
        let unit = match kind {
            ScaleType::F16 => 1.0,
            // The largest scale tried is 1.15 × largest / reach and must be at most 1.9375 units.
            ScaleType::E4M4 if largest > 0.0 => largest / reach / 1.5,
            ScaleType::E4M4 => 1.0,
        };
        Self { kind, unit }
    }

    /// The nearest scale that can be stored.
    fn nearest(self, scale: f32) -> f32 {
        match self.kind {
            ScaleType::F16 => f16::from_f32(scale).to_f32(),
            ScaleType::E4M4 => E4M4::from_f32(scale / self.unit).to_f32() * self.unit,
        }
    }

    /// Scales that are tried for a group.
    fn candidates(self) -> usize {
        match self.kind {
            ScaleType::F16 => F16_CANDIDATES,
            // Neighbouring bytes are 3 to 6 % apart, so all of them within the range are few.
            ScaleType::E4M4 => (16.0 * (RANGE.1 / RANGE.0).log2() + 2.5) as usize,
        }
    }

    /// All scales that can be stored, ascending: by bits, f16 up to infinity.
    fn storable(self) -> Vec<f32> {
        match self.kind {
            ScaleType::F16 => (0..=f16::INFINITY.to_bits()).map(|bits| f16::from_bits(bits).to_f32()).collect(),
            ScaleType::E4M4 => (0..=u8::MAX).map(|bits| E4M4::from_bits(bits).to_f32() * self.unit).collect(),
        }
    }

    /// The first candidate's byte, where all are neighbours, for a group whose exact fit is `fit`.
    fn first(self, fit: f32) -> u8 {
        E4M4::from_f32(fit * RANGE.0 / self.unit).to_bits()
    }

    /// Candidate `k` for each lane, whose exact fit is `fit` and first byte `first`.
    #[inline(always)]
    fn candidate(self, fit: &Lanes, first: &[u8; ROWS], k: usize) -> Lanes {
        let mut scale = [0.0; ROWS];
        for lane in 0..ROWS {
            scale[lane] = match self.kind {
                ScaleType::F16 => self.nearest(fit[lane] * f16_part(k)),
                ScaleType::E4M4 => E4M4::from_bits(first[lane].saturating_add(k as u8)).to_f32() * self.unit,
            };
        }
        scale
    }
}

/// The part of the exact fit that f16 candidate `k` is nearest to.
fn f16_part(k: usize) -> f32 {
    RANGE.0 + (RANGE.1 - RANGE.0) * k as f32 / (F16_CANDIDATES - 1) as f32
}

/// As [`search`], on the GPU: the scale of each group of `weights` `[rows, columns]`, row after row.
///
/// # Errors
/// If the accelerator has no room, failed or was lost.
pub(super) fn search_on(
    accelerator: &Accelerator,
    grid: ScaleGrid,
    table: &Table,
    group: usize,
    weights: &[f32],
    importance: &[f32],
) -> Result<Vec<f32>, AcceleratorError> {
    let (reach, parts): (f32, Vec<f32>) = (table.reach(), (0..F16_CANDIDATES).map(f16_part).collect());
    let known = |largest: f32| match grid.kind {
        ScaleType::F16 => largest / reach,
        ScaleType::E4M4 => f32::from(grid.first(largest / reach)),
    };
    let candidates = match grid.kind {
        ScaleType::F16 => ScaleCandidates::Parts(&parts),
        ScaleType::E4M4 => ScaleCandidates::Neighbours(grid.candidates()),
    };
    let (values, storable) = (table.values(), &grid.storable());
    accelerator.scales(weights, &ScaleSearch { values, group, importance, storable, known: &known, candidates })
}

/// The best scale of each lane's group among every `step`-th that may be. `weights` holds a column of [`ROWS`] rows a time,
/// `importance` the cost of a squared error in that column.
#[inline(always)]
pub(super) fn search(grid: ScaleGrid, table: &Table, weights: &[Lanes], importance: &[f32], step: usize) -> Lanes {
    // Of each lane's largest weight, what an error costs too.
    let (mut largest, mut its_cost) = ([0.0f32; ROWS], [0.0f32; ROWS]);
    let mut energy = [0.0f32; ROWS];
    for (column, &cost) in weights.iter().zip(importance) {
        for lane in 0..ROWS {
            let larger = column[lane].abs() > largest[lane];
            largest[lane] = if larger { column[lane].abs() } else { largest[lane] };
            its_cost[lane] = if larger { cost } else { its_cost[lane] };
            energy[lane] += cost * column[lane] * column[lane];
        }
    }
    let reach = table.reach();
    let (mut fit, mut first) = ([0.0f32; ROWS], [0u8; ROWS]);
    for lane in 0..ROWS {
        fit[lane] = largest[lane] / reach;
        first[lane] = grid.first(fit[lane]);
    }
    let (mut best, mut least) = ([0.0f32; ROWS], energy);
    // From the likely ones upwards and then downwards, until the largest weights alone lose more. Of equal ones the smallest
    // is taken. No closure: it would be compiled by itself, for the narrowest vectors.
    let (candidates, likely) = (grid.candidates(), grid.candidates() * LIKELY.0 / LIKELY.1);
    for k in (likely..candidates).step_by(step).chain((0..likely).rev().step_by(step)) {
        let scale = grid.candidate(&fit, &first, k);
        let is_below = k < likely;
        if is_below {
            let mut hopeless = true;
            for lane in 0..ROWS {
                let lacking = (largest[lane] - scale[lane] * reach).max(0.0);
                hopeless &= its_cost[lane] * lacking * lacking * ROUNDED > least[lane];
            }
            if hopeless {
                break;
            }
        }
        let mut inverse = [0.0f32; ROWS];
        for lane in 0..ROWS {
            inverse[lane] = if scale[lane] > 0.0 { 1.0 / scale[lane] } else { 0.0 };
        }
        let mut error = [0.0f32; ROWS];
        for (column, &cost) in weights.iter().zip(importance) {
            let mut x = *column;
            for lane in 0..ROWS {
                x[lane] *= inverse[lane];
            }
            let value = table.nearest(&x);
            for lane in 0..ROWS {
                let difference = column[lane] - value[lane] * scale[lane];
                error[lane] += cost * difference * difference;
            }
        }
        for lane in 0..ROWS {
            let better = error[lane] < least[lane] || (is_below && error[lane] == least[lane] && error[lane] < energy[lane]);
            least[lane] = if better { error[lane] } else { least[lane] };
            best[lane] = if better { scale[lane] } else { best[lane] };
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::codebook::{block_scales, uniform};
    use super::super::lanes::gather;
    use super::*;
    use haikuq_format::scheme::Bits;

    #[test]
    fn the_gpu_finds_the_same_scales() {
        let accelerator =
            Accelerator::open(Some("0"), None).expect("an adapter; run scripts/setup.sh to install software Vulkan");
        for (rows, columns, group, bits) in [(5, 70, 32, Bits::B3), (150, 256, 64, Bits::B4), (40, 96, 128, Bits::B5)] {
            let mut state = 1u64;
            let mut number = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            };
            // Groups of very different sizes, one of them zero.
            let mut weights: Vec<f32> =
                (0..rows * columns).map(|i| number().powi(3) * 0.1 / ((1 + i / columns % 7) as f32).powi(5)).collect();
            weights[..columns.min(group)].fill(0.0);
            let importance: Vec<f32> = (0..columns).map(|_| number().abs()).collect();
            let values = uniform(bits).values().iter().map(|v| v + 0.3 * v.abs().sqrt()).collect();
            let table = Table::new(values);
            for kind in [ScaleType::E4M4, ScaleType::F16] {
                let grid = ScaleGrid::new(kind, 0.1, table.reach());
                let found = search_on(&accelerator, grid, &table, group, &weights, &importance).unwrap();
                let groups = columns.div_ceil(group);
                for first in (0..rows).step_by(ROWS) {
                    let lanes = block_scales(grid, &table, group, &gather(&weights, columns, first), &importance, 1);
                    for (row, lane) in (first..rows.min(first + ROWS)).zip(0..) {
                        let twin: Vec<f32> = lanes.iter().map(|scales| scales[lane]).collect();
                        assert_eq!(found[row * groups..(row + 1) * groups], twin, "{kind:?} {bits:?}, row {row}");
                    }
                }
            }
        }
    }
}
