//! A whole matrix in a scheme, with what calibration says of its inputs: codebook, scales, codes, in this order.

use super::codebook::{self, block_scales};
use super::lanes::{ROWS, Table, gather};
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
    assert!(serves(scheme) && weights.len().is_multiple_of(columns));
    let rows = weights.len() / columns;
    let importance = moment.diagonal();
    let table = match scheme.codebook {
        Codebook::Uniform => codebook::uniform(scheme.bits),
        Codebook::Learned => codebook::learn(scheme, weights, columns, &importance),
    };
    let largest = weights.iter().fold(0.0f32, |a, w| a.max(w.abs()));
    let grid = ScaleGrid::new(scheme.scale, largest, table.reach());
    let order = moment.activation_order();
    let factor = moment.inverse_factor(&order)?;
    let quantized = |block: usize| {
        let lanes = gather(weights, columns, block * ROWS);
        let scales = block_scales(grid, &table, scheme.group, &lanes, &importance);
        let mut codes = gptq::quantize(&table, scheme.group, &lanes, &scales, &order, &factor);
        descent::improve(&table, scheme.group, &lanes, &scales, moment, &mut codes, SWEEPS);
        (scales, codes)
    };
    let blocks: Vec<_> = (0..rows.div_ceil(ROWS)).into_par_iter().map(quantized).collect();
    let (width, per_row) = (padded(columns), groups(columns, scheme.group));
    let zero = table.nearest_code(&[0.0; ROWS]).1[0] as u8;
    let mut codes = vec![zero; rows * width];
    let mut scales = Vec::with_capacity(rows * per_row);
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        let (block_scales, block_codes) = &blocks[row / ROWS];
        let lane = row % ROWS;
        for (c, column) in block_codes.iter().enumerate() {
            codes[row * width + c] = column[lane];
        }
        scales.extend(block_scales.iter().map(|s| s[lane]));
    }
    let (scales, codebook) = stored(scheme, &table, grid, &scales);
    for row in 0..rows {
        for c in 0..columns {
            let scale = scales.get(row * per_row + c / scheme.group);
            let code = usize::from(codes[row * width + c]);
            values.push(scale * codebook.get(code).copied().unwrap_or_else(|| table.values()[code]));
        }
    }
    Ok(QuantizedMatrix { rows: QuantizedRows { codes, scales, codebook, ..QuantizedRows::default() }, values })
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
