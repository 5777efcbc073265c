//! Scales of groups: the ones with the least weighted squared error, found by trying all that may be.

use super::lanes::{Lanes, ROWS, Table};
use haikuq_format::E4M4;
use haikuq_format::scheme::ScaleType;
use half::f16;

/// Smallest and largest scale that is tried, as parts of the one with which the table just reaches the largest weight.
const RANGE: (f32, f32) = (0.52, 1.15);

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
    fn nearest(&self, scale: f32) -> f32 {
        match self.kind {
            ScaleType::F16 => f16::from_f32(scale).to_f32(),
            ScaleType::E4M4 => E4M4::from_f32(scale / self.unit).to_f32() * self.unit,
        }
    }

    /// Scales that are tried for a group.
    fn candidates(&self) -> usize {
        match self.kind {
            ScaleType::F16 => F16_CANDIDATES,
            // Neighbouring bytes are 3 to 6 % apart, so all of them within the range are few.
            ScaleType::E4M4 => (16.0 * (RANGE.1 / RANGE.0).log2() + 2.5) as usize,
        }
    }

    /// Candidate `k` for each lane, whose exact fit is `fit`.
    #[inline(always)]
    fn candidate(&self, fit: &Lanes, k: usize) -> Lanes {
        match self.kind {
            ScaleType::F16 => {
                let part = RANGE.0 + (RANGE.1 - RANGE.0) * k as f32 / (F16_CANDIDATES - 1) as f32;
                fit.map(|s| self.nearest(s * part))
            }
            ScaleType::E4M4 => fit.map(|s| {
                let first = E4M4::from_f32(s * RANGE.0 / self.unit).to_bits();
                E4M4::from_bits(first.saturating_add(k as u8)).to_f32() * self.unit
            }),
        }
    }
}

/// The scale of each lane's group: `weights` holds a column of [`ROWS`] rows a step, `importance` what a squared error
/// of that column costs.
#[inline(always)]
pub(super) fn search(grid: ScaleGrid, table: &Table, weights: &[Lanes], importance: &[f32]) -> Lanes {
    let mut largest = [0.0f32; ROWS];
    for column in weights {
        for lane in 0..ROWS {
            largest[lane] = if column[lane].abs() > largest[lane] { column[lane].abs() } else { largest[lane] };
        }
    }
    let fit = largest.map(|w| w / table.reach());
    let (mut best, mut least) = ([0.0f32; ROWS], [0.0f32; ROWS]);
    for (column, &cost) in weights.iter().zip(importance) {
        for lane in 0..ROWS {
            least[lane] += cost * column[lane] * column[lane];
        }
    }
    // No closure: it would be compiled by itself, for the narrowest vectors.
    for k in 0..grid.candidates() {
        let scale = grid.candidate(&fit, k);
        let inverse = scale.map(|s| if s > 0.0 { 1.0 / s } else { 0.0 });
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
            let better = error[lane] < least[lane];
            least[lane] = if better { error[lane] } else { least[lane] };
            best[lane] = if better { scale[lane] } else { best[lane] };
        }
    }
    best
}
