//! A whole matrix in a scheme, with what calibration says of its inputs: codebook, scales, codes, in this order.

use super::codebook::{self, block_scales};
use super::descent::Descent;
use super::gptq;
use super::hessian::{Hessian, NotPositive};
use super::lanes::{Lanes, ROWS, Strip, Table, gather};
use super::scales::{ScaleGrid, search_on};
use crate::accelerator::{Accelerator, AcceleratorError, Matrix, Rounding};
use crate::zeros::zeros;
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

/// Quantizes `weights` `[rows, hessian.columns()]` so that outputs for inputs of that Hessian change little.
///
/// # Errors
/// If the Hessian is not one of finite activations.
///
/// # Panics
/// If `weights` is no whole number of rows, or the scheme is none that [`serves`] names.
pub fn quantize_matrix(scheme: Grouped, weights: Vec<f32>, hessian: &Hessian) -> Result<QuantizedMatrix, NotPositive> {
    let columns = hessian.columns();
    let importance = hessian.diagonal();
    Fit::new(scheme, &weights, columns, &importance).round(weights, hessian)
}

/// What matrices that are stored as one tensor have in common: the table of values, and the scales that there are.
#[derive(Clone, Debug)]
pub struct SharedFit {
    scheme: Grouped,
    table: Table,
    grid: ScaleGrid,
}

impl SharedFit {
    /// From a `sample` of their rows of `columns` weights, what a squared error of a column costs, and the largest weight that they may have.
    ///
    /// # Panics
    /// As [`quantize_matrix`].
    pub fn new(scheme: Grouped, sample: &[f32], columns: usize, importance: &[f32], largest: f32) -> Self {
        let Fit { table, .. } = Fit::new(scheme, sample, columns, importance);
        let grid = ScaleGrid::new(scheme.scale, largest, table.reach());
        Self { scheme, table, grid }
    }

    /// As [`quantize_matrix`], of one of the matrices.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// If `weights` is no whole number of rows.
    pub fn quantize(&self, weights: Vec<f32>, hessian: &Hessian) -> Result<QuantizedMatrix, NotPositive> {
        let (scheme, columns, importance) = (self.scheme, hessian.columns(), hessian.diagonal());
        Fit { scheme, columns, importance: &importance, table: self.table.clone(), grid: self.grid }.round(weights, hessian)
    }
}

/// As [`quantize_matrix`], on a GPU: `factor`, `order` and `hessian` are what [`Accelerator::round`] takes, `importance` is the
/// hessian's diagonal. Scales are the same; codes are where sums in another order round alike.
///
/// # Errors
/// If the accelerator has no room, failed or was lost.
///
/// # Panics
/// As [`quantize_matrix`].
pub fn quantize_matrix_on(
    accelerator: &Accelerator,
    scheme: Grouped,
    weights: Vec<f32>,
    importance: &[f32],
    (order, factor, hessian): (&[usize], &Matrix, &Matrix),
) -> Result<QuantizedMatrix, AcceleratorError> {
    let columns = importance.len();
    let fit = Fit::new(scheme, &weights, columns, importance);
    let scales = fit.scales_on(accelerator, &weights)?;
    let (values, group) = (fit.table.values(), scheme.group);
    let rounding = Rounding { values, group, scales: &scales, order, sweeps: SWEEPS };
    let mut codes = accelerator.round(&weights, &rounding, factor, hessian)?;
    let width = padded(columns);
    if width > columns {
        let mut wider = vec![fit.zero(); codes.len() / columns * width];
        let rows = wider.par_chunks_mut(width).zip(codes.par_chunks(columns));
        rows.for_each(|(to, from)| to[..columns].copy_from_slice(from));
        codes = wider;
    }
    Ok(fit.stored(weights, codes, &scales))
}

/// As [`quantize_table`], with scales that a GPU finds: the same bits.
///
/// # Errors
/// If the accelerator has no room, failed or was lost.
///
/// # Panics
/// As [`quantize_matrix`].
pub fn quantize_table_on(
    accelerator: &Accelerator,
    scheme: Grouped,
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
) -> Result<QuantizedMatrix, AcceleratorError> {
    let alike = vec![1.0; columns];
    let fit = Fit::new(scheme, weights, columns, importance.unwrap_or(&alike));
    let scales = fit.scales_on(accelerator, weights)?;
    let (width, per_row) = (padded(columns), groups(columns, scheme.group));
    let mut codes = vec![fit.zero(); weights.len() / columns * width];
    let rows = codes.par_chunks_mut(width).zip(weights.par_chunks(columns)).zip(scales.par_chunks(per_row));
    rows.for_each(|((codes, weights), scales)| nearest_in_row(&fit.table, scheme.group, weights, scales, codes));
    Ok(fit.stored(weights.to_vec(), codes, &scales))
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
    let mut scheme = Grouped::new(Bits::B4, 32);
    scheme.scale = ScaleType::E4M4;
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
        let of_part = |part: &[f32]| part.iter().fold(0.0f32, |a, w| a.max(w.abs()));
        let largest = weights.par_chunks(1 << 16).map(of_part).reduce(|| 0.0, f32::max);
        let grid = ScaleGrid::new(scheme.scale, largest, table.reach());
        Self { scheme, columns, importance, table, grid }
    }

    /// With codes by GPTQ and coordinate descent.
    fn round(&self, weights: Vec<f32>, hessian: &Hessian) -> Result<QuantizedMatrix, NotPositive> {
        let (factors, group) = (hessian.factors()?, self.scheme.group);
        Ok(self.quantize(weights, |weights, scales| {
            let (mut codes, errors) = gptq::quantize(&self.table, group, weights, scales, factors);
            let descent = Descent { table: &self.table, group, scales, hessian };
            descent.improve(factors, &errors, &mut codes, SWEEPS);
            codes
        }))
    }

    /// The code of zero, which pads rows.
    fn zero(&self) -> u8 {
        self.table.nearest_code(&[0.0; ROWS]).1[0] as u8
    }

    /// Scales by search, codes by `code` from a strip's weights and scales.
    fn quantize(&self, weights: Vec<f32>, code: impl Fn(&Strip, &Strip) -> Vec<[u8; ROWS]> + Sync) -> QuantizedMatrix {
        let (scheme, columns, table) = (self.scheme, self.columns, &self.table);
        let (rows, zero) = (weights.len() / columns, self.zero());
        let (width, per_row, strip) = (padded(columns), groups(columns, scheme.group), strip_rows(rows));
        let (mut codes, mut scales) = (zeros::<u8>(rows * width), zeros(rows * per_row));
        let strips = codes.par_chunks_mut(strip * width).zip(scales.par_chunks_mut(strip * per_row)).enumerate();
        strips.for_each(|(i, (to_codes, to_scales))| {
            let blocks = to_codes.len().div_ceil(ROWS * width);
            let lanes: Vec<_> = (0..blocks).map(|block| gather(&weights, columns, i * strip + block * ROWS)).collect();
            let found: Vec<_> =
                lanes.iter().map(|lanes| block_scales(self.grid, table, scheme.group, lanes, self.importance, 1)).collect();
            let found = Strip::of(&found);
            let codes = code(&Strip::of(&lanes), &found);
            for (row, to) in to_codes.chunks_exact_mut(width).enumerate() {
                let of_row = codes[row / ROWS..].iter().step_by(blocks);
                to.iter_mut().zip(of_row).for_each(|(to, lanes)| *to = lanes[row % ROWS]);
                to[columns..].fill(zero);
            }
            for (row, to) in to_scales.chunks_exact_mut(per_row).enumerate() {
                let of_row = found.lanes[row / ROWS..].iter().step_by(blocks);
                to.iter_mut().zip(of_row).for_each(|(to, lanes)| *to = lanes[row % ROWS]);
            }
        });
        self.stored(weights, codes, &scales)
    }

    /// The scales that a GPU finds.
    fn scales_on(&self, accelerator: &Accelerator, weights: &[f32]) -> Result<Vec<f32>, AcceleratorError> {
        search_on(accelerator, self.grid, &self.table, self.scheme.group, weights, self.importance)
    }

    /// The matrix with `codes` `[rows, padded columns]` and `scales` `[rows, groups]`.
    fn stored(&self, mut weights: Vec<f32>, codes: Vec<u8>, scales: &[f32]) -> QuantizedMatrix {
        let (scheme, columns, table) = (self.scheme, self.columns, &self.table);
        let (width, per_row) = (padded(columns), groups(columns, scheme.group));
        let (scales, codebook) = stored(scheme, table, self.grid, scales);
        let levels = if codebook.is_empty() { table.values() } else { &codebook };
        // Values take the place of weights.
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
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
fn nearest(table: &Table, group: usize, weights: &Strip, scales: &Strip) -> Vec<[u8; ROWS]> {
    let width = weights.width;
    let code = |(i, column): (usize, &Lanes)| {
        let scale = &scales.lanes[i / width / group * width + i % width];
        let x = std::array::from_fn(|lane| if scale[lane] > 0.0 { column[lane] / scale[lane] } else { 0.0 });
        table.nearest_code(&x).1.map(|code| code as u8)
    };
    weights.lanes.iter().enumerate().map(code).collect()
}

/// The nearest codes of one row.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
fn nearest_in_row(table: &Table, group: usize, weights: &[f32], scales: &[f32], codes: &mut [u8]) {
    for ((weights, codes), &scale) in weights.chunks(group).zip(codes.chunks_mut(group)).zip(scales) {
        for (weights, codes) in weights.chunks(ROWS).zip(codes.chunks_mut(ROWS)) {
            let mut x = [0.0; ROWS];
            if scale > 0.0 {
                x.iter_mut().zip(weights).for_each(|(x, w)| *x = w / scale);
            }
            let (_, nearest) = table.nearest_code(&x);
            codes.iter_mut().zip(nearest).take(weights.len()).for_each(|(code, nearest)| *code = nearest as u8);
        }
    }
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
