//! A whole matrix in a scheme, with what calibration says of its inputs: codebook, scales, codes, in this order.

use super::codebook::{self, block_scales};
use super::descent::Descent;
use super::gptq;
use super::lanes::{Lanes, ROWS, Strip, Table, gather};
use super::scales::{ScaleGrid, search_on};
use super::second_moment::{NotPositive, SecondMoment};
use crate::accelerator::{Accelerator, AcceleratorError};
use haikuq_format::E4M4;
use haikuq_format::layout::{QuantizedRows, Scales, groups, padded};
use haikuq_format::scheme::{Bits, Codebook, Grouped, Offset, ScaleType};
use half::f16;
use rayon::prelude::*;
use std::time::Instant;

/// Passes of coordinate descent.
const SWEEPS: usize = 2;

/// A quantized matrix.
#[derive(Clone, Debug)]
pub struct QuantizedMatrix {
    /// What is stored of it.
    pub rows: QuantizedRows,
    /// What that stands for, row-major.
    pub values: Vec<f32>,
}

/// Whether calibrated quantization can serve `scheme`; search serves the others.
pub fn serves(scheme: Grouped) -> bool {
    scheme.offset == Offset::None && scheme.bits != Bits::B8
}

/// Quantizes `weights` `[rows, moment.columns()]` so that outputs for inputs of that second moment change little.
///
/// # Errors
/// If the second moment is not one of finite activations.
///
/// # Panics
/// If `weights` is no whole number of rows, or the scheme is none that [`serves`] names.
pub fn quantize_matrix(scheme: Grouped, weights: Vec<f32>, moment: &SecondMoment) -> Result<QuantizedMatrix, NotPositive> {
    let columns = moment.columns();
    let importance = moment.diagonal();
    let fit = Fit::new(scheme, &weights, columns, &importance);
    let factors = moment.factors()?;
    Ok(fit.quantize(weights, |weights, scales| {
        let (mut codes, errors) = gptq::quantize(&fit.table, scheme.group, weights, scales, factors);
        let descent = Descent { table: &fit.table, group: scheme.group, scales, moment };
        descent.improve(factors, &errors, &mut codes, SWEEPS);
        codes
    }))
}

/// What codes are chosen for.
#[derive(Clone, Copy, Debug)]
pub struct Levels<'a> {
    /// Values of the table, ascending.
    pub values: &'a [f32],
    /// Scales `[rows, groups]`.
    pub scales: &'a [f32],
    /// Passes of coordinate descent after GPTQ.
    pub sweeps: usize,
}

/// As [`quantize_matrix`], with `importance` the diagonal of the second moment. Scales are found on `gpu`; `codes` chooses codes
/// `[rows, columns]` for the weights and levels.
///
/// # Errors
/// Those of `gpu` and of `codes`.
///
/// # Panics
/// As [`quantize_matrix`], and if there are not as many codes as weights.
pub fn quantize_on(
    gpu: &Accelerator,
    scheme: Grouped,
    weights: Vec<f32>,
    importance: &[f32],
    codes: impl FnOnce(&[f32], Levels<'_>) -> Result<Vec<u8>, AcceleratorError>,
) -> Result<QuantizedMatrix, AcceleratorError> {
    let columns = importance.len();
    let fit = Fit::new(scheme, &weights, columns, importance);
    let scales = search_on(gpu, fit.grid, &fit.table, scheme.group, &weights, importance)?;
    let found = codes(&weights, Levels { values: fit.table.values(), scales: &scales, sweeps: SWEEPS })?;
    assert_eq!(found.len(), weights.len(), "a code a weight");
    let codes = match padded(columns) == columns {
        true => found,
        false => {
            let mut codes = fit.zero_codes(weights.len() / columns);
            let rows = codes.par_chunks_mut(padded(columns)).zip(found.par_chunks(columns));
            rows.for_each(|(to, from)| to[..columns].copy_from_slice(from));
            codes
        }
    };
    Ok(fit.stored(weights, codes, &scales))
}

/// Quantizes a table whose rows are used one at a time, so that no error can be corrected elsewhere: each weight gets
/// the nearest code. `importance` is what a squared error costs, a column.
///
/// # Panics
/// As [`quantize_matrix`].
pub fn quantize_table(scheme: Grouped, weights: &[f32], columns: usize, importance: Option<&[f32]>) -> QuantizedMatrix {
    let alike = vec![1.0; columns];
    let fit = Fit::new(scheme, weights, columns, importance.unwrap_or(&alike));
    fit.quantize(weights.to_vec(), |lanes, scales| nearest(&fit.table, scheme.group, lanes, scales))
}

/// Weights a second for which the threads of the current pool find scales and nearest codes of 4 bits, measured now.
pub fn rounding_speed() -> f64 {
    const COLUMNS: usize = 1024;
    let rows = 4 * ROWS * rayon::current_num_threads();
    let weights: Vec<f32> = (0..rows * COLUMNS).map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0).collect();
    let scheme = Grouped { bits: Bits::B4, group: 32, scale: ScaleType::E4M4, offset: Offset::None, codebook: Codebook::Uniform };
    let begin = Instant::now();
    let quantized = quantize_table(scheme, &weights, COLUMNS, None);
    quantized.values.len() as f64 / begin.elapsed().as_secs_f64()
}

/// How much of the energy of `weights` nearest codes of `scheme` lose: `Σ importance (w − ŵ)² / Σ importance w²` over
/// the columns.
///
/// # Panics
/// As [`quantize_matrix`].
pub fn relative_error(scheme: Grouped, weights: &[f32], columns: usize, importance: &[f32]) -> f64 {
    let fit = Fit::new(scheme, weights, columns, importance);
    let quantized = fit.quantize(weights.to_vec(), |lanes, scales| nearest(&fit.table, scheme.group, lanes, scales));
    let (mut error, mut energy) = (0.0, 0.0);
    for (row, stored) in weights.chunks_exact(columns).zip(quantized.values.chunks_exact(columns)) {
        for ((w, s), cost) in row.iter().zip(stored).zip(importance) {
            error += f64::from(cost * (w - s) * (w - s));
            energy += f64::from(cost * w * w);
        }
    }
    if energy > 0.0 { error / energy } else { 0.0 }
}

/// What a matrix's scales and codes are chosen by.
struct Fit<'a> {
    scheme: Grouped,
    columns: usize,
    importance: &'a [f32],
    table: Table,
    grid: ScaleGrid,
}

impl<'a> Fit<'a> {
    fn new(scheme: Grouped, weights: &[f32], columns: usize, importance: &'a [f32]) -> Self {
        assert!(serves(scheme) && weights.len().is_multiple_of(columns));
        let table = match scheme.codebook {
            Codebook::Uniform => codebook::uniform(scheme.bits),
            Codebook::Learned => codebook::learn(scheme, weights, columns, importance),
        };
        let largest = weights.iter().fold(0.0f32, |a, w| a.max(w.abs()));
        let grid = ScaleGrid::new(scheme.scale, largest, table.reach());
        Self { scheme, columns, importance, table, grid }
    }

    /// Scales by search, codes by `code` from a strip's weights and scales.
    fn quantize(&self, weights: Vec<f32>, code: impl Fn(&Strip, &Strip) -> Vec<[u8; ROWS]> + Sync) -> QuantizedMatrix {
        let (columns, rows) = (self.columns, weights.len() / self.columns);
        let (width, strip) = (padded(columns), strip_rows(rows));
        let (mut codes, mut scales) = (self.zero_codes(rows), self.no_scales(rows));
        let per_row = scales.len() / rows.max(1);
        let strips = codes.par_chunks_mut(strip * width).zip(scales.par_chunks_mut(strip * per_row)).enumerate();
        strips.for_each(|(i, (to_codes, to_scales))| {
            let blocks = to_codes.len().div_ceil(ROWS * width);
            let lanes: Vec<_> = (0..blocks).map(|block| gather(&weights, columns, i * strip + block * ROWS)).collect();
            let found = self.scales_of(&lanes, to_scales);
            let codes = code(&Strip::of(&lanes), &found);
            for (row, to) in to_codes.chunks_exact_mut(width).enumerate() {
                let of_row = codes[row / ROWS..].iter().step_by(blocks);
                to.iter_mut().zip(of_row).for_each(|(to, lanes)| *to = lanes[row % ROWS]);
            }
        });
        self.stored(weights, codes, &scales)
    }

    fn no_scales(&self, rows: usize) -> Vec<f32> {
        vec![0.0; rows * groups(self.columns, self.scheme.group)]
    }

    /// The codes nearest to zero, as padding has them.
    fn zero_codes(&self, rows: usize) -> Vec<u8> {
        vec![self.table.nearest_code(&[0.0; ROWS]).1[0] as u8; rows * padded(self.columns)]
    }

    /// Scales of blocks of rows, which are written to `to` too, row after row.
    fn scales_of(&self, blocks: &[Vec<Lanes>], to: &mut [f32]) -> Strip {
        let of_block = |lanes: &Vec<Lanes>| block_scales(self.grid, &self.table, self.scheme.group, lanes, self.importance);
        let found = Strip::of(&blocks.iter().map(of_block).collect::<Vec<_>>());
        for (row, to) in to.chunks_exact_mut(groups(self.columns, self.scheme.group)).enumerate() {
            let of_row = found.lanes[row / ROWS..].iter().step_by(blocks.len());
            to.iter_mut().zip(of_row).for_each(|(to, lanes)| *to = lanes[row % ROWS]);
        }
        found
    }

    /// Codes (rows padded) and scales as they are stored. Values take the place of `weights`.
    fn stored(&self, mut weights: Vec<f32>, codes: Vec<u8>, scales: &[f32]) -> QuantizedMatrix {
        let (scheme, columns) = (self.scheme, self.columns);
        let (width, per_row) = (padded(columns), groups(columns, scheme.group));
        let (scales, codebook) = stored(scheme, &self.table, self.grid, scales);
        let levels = if codebook.is_empty() { self.table.values() } else { &codebook };
        weights.par_chunks_mut(columns).zip(codes.par_chunks(width)).enumerate().for_each(|(row, (values, codes))| {
            for (g, (values, codes)) in values.chunks_mut(scheme.group).zip(codes.chunks(scheme.group)).enumerate() {
                let scale = scales.get(row * per_row + g);
                values.iter_mut().zip(codes).for_each(|(v, code)| *v = scale * levels[usize::from(*code)]);
            }
        });
        QuantizedMatrix { rows: QuantizedRows { codes, scales, codebook, ..QuantizedRows::default() }, values: weights }
    }
}

/// Rows that one thread quantizes at a time: enough for products to be fast, and few enough that all threads have some.
/// They follow from the number of rows alone, for products of other sizes have other sums.
pub(super) fn strip_rows(rows: usize) -> usize {
    rows.div_ceil(32).next_multiple_of(ROWS).clamp(4 * ROWS, 16 * ROWS)
}

/// The nearest codes.
#[multiversion::multiversion(targets("x86_64+avx+avx2"))]
fn nearest(table: &Table, group: usize, weights: &Strip, scales: &Strip) -> Vec<[u8; ROWS]> {
    let width = weights.width;
    let code = |(i, column): (usize, &Lanes)| {
        let scale = &scales.lanes[i / width / group * width + i % width];
        let x = std::array::from_fn(|lane| if scale[lane] > 0.0 { column[lane] / scale[lane] } else { 0.0 });
        table.nearest_code(&x).1.map(|code| code as u8)
    };
    weights.lanes.iter().enumerate().map(code).collect()
}

/// Scales as they are stored, and the codebook, which takes in the unit that they are multiples of.
fn stored(scheme: Grouped, table: &Table, grid: ScaleGrid, scales: &[f32]) -> (Scales, Vec<f32>) {
    let codebook = match scheme.codebook {
        Codebook::Uniform => Vec::new(),
        Codebook::Learned => table.values().iter().map(|v| v * grid.unit).collect(),
    };
    let scales = match scheme.scale {
        ScaleType::F16 => Scales::F16(scales.iter().map(|&s| f16::from_f32(s)).collect()),
        ScaleType::E4M4 => Scales::E4M4(scales.iter().map(|&s| E4M4::from_f32(s / grid.unit)).collect()),
    };
    (scales, codebook)
}
