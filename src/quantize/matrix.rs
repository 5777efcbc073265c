//! A whole matrix in a scheme, with what calibration says of its inputs: codebook, scales, codes, in this order.

use super::codebook::{self, block_scales};
use super::lanes::{Lanes, ROWS, Table, gather};
use super::scales::ScaleGrid;
use super::second_moment::{NotPositive, SecondMoment};
use super::{descent, gptq};
use haikuq_format::E4M4;
use haikuq_format::layout::{QuantizedRows, Scales, groups, padded};
use haikuq_format::scheme::{Bits, Codebook, Grouped, Offset, ScaleType};
use half::f16;
use rayon::prelude::*;

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
pub fn quantize_matrix(scheme: Grouped, weights: &[f32], moment: &SecondMoment) -> Result<QuantizedMatrix, NotPositive> {
    let columns = moment.columns();
    let importance = moment.diagonal();
    let fit = Fit::new(scheme, weights, columns, &importance);
    let order = moment.activation_order();
    let factor = moment.inverse_factor()?;
    Ok(fit.quantize(weights, |lanes, scales| {
        let mut codes = gptq::quantize(&fit.table, scheme.group, lanes, scales, &order, &factor);
        descent::improve(&fit.table, scheme.group, lanes, scales, moment, &mut codes, SWEEPS);
        codes
    }))
}

/// Quantizes a table whose rows are used one at a time, so that no error can be corrected elsewhere: each weight gets
/// the nearest code. `importance` is what a squared error costs, a column.
///
/// # Panics
/// As [`quantize_matrix`].
pub fn quantize_table(scheme: Grouped, weights: &[f32], columns: usize, importance: Option<&[f32]>) -> QuantizedMatrix {
    let alike = vec![1.0; columns];
    let fit = Fit::new(scheme, weights, columns, importance.unwrap_or(&alike));
    fit.quantize(weights, |lanes, scales| nearest(&fit.table, scheme.group, lanes, scales))
}

/// How much of the energy of `weights` nearest codes of `scheme` lose: `Σ importance (w − ŵ)² / Σ importance w²` over
/// the columns.
///
/// # Panics
/// As [`quantize_matrix`].
pub fn relative_error(scheme: Grouped, weights: &[f32], columns: usize, importance: &[f32]) -> f64 {
    let fit = Fit::new(scheme, weights, columns, importance);
    let quantized = fit.quantize(weights, |lanes, scales| nearest(&fit.table, scheme.group, lanes, scales));
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

    /// Scales by search, codes by `code` from a block's weights and scales.
    fn quantize(&self, weights: &[f32], code: impl Fn(&[Lanes], &[Lanes]) -> Vec<[u8; ROWS]> + Sync) -> QuantizedMatrix {
        let (scheme, columns, table) = (self.scheme, self.columns, &self.table);
        let rows = weights.len() / columns;
        let block = |block: usize| {
            let lanes = gather(weights, columns, block * ROWS);
            let scales = block_scales(self.grid, table, scheme.group, &lanes, self.importance);
            let codes = code(&lanes, &scales);
            (scales, codes)
        };
        let blocks: Vec<_> = (0..rows.div_ceil(ROWS)).into_par_iter().map(block).collect();
        let (width, per_row) = (padded(columns), groups(columns, scheme.group));
        let zero = table.nearest_code(&[0.0; ROWS]).1[0] as u8;
        let mut codes = vec![zero; rows * width];
        let mut scales = Vec::with_capacity(rows * per_row);
        for row in 0..rows {
            let (block_scales, block_codes) = &blocks[row / ROWS];
            for (c, column) in block_codes.iter().enumerate() {
                codes[row * width + c] = column[row % ROWS];
            }
            scales.extend(block_scales.iter().map(|s| s[row % ROWS]));
        }
        let (scales, codebook) = stored(scheme, table, self.grid, &scales);
        let levels = if codebook.is_empty() { table.values() } else { &codebook };
        let mut values = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            for c in 0..columns {
                values.push(scales.get(row * per_row + c / scheme.group) * levels[usize::from(codes[row * width + c])]);
            }
        }
        QuantizedMatrix { rows: QuantizedRows { codes, scales, codebook, ..QuantizedRows::default() }, values }
    }
}

/// The nearest codes.
#[multiversion::multiversion(targets("x86_64+avx+avx2"))]
fn nearest(table: &Table, group: usize, weights: &[Lanes], scales: &[Lanes]) -> Vec<[u8; ROWS]> {
    let code = |(c, column): (usize, &Lanes)| {
        let scale = &scales[c / group];
        let x = std::array::from_fn(|lane| if scale[lane] > 0.0 { column[lane] / scale[lane] } else { 0.0 });
        table.nearest_code(&x).1.map(|code| code as u8)
    };
    weights.iter().enumerate().map(code).collect()
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
