//! Quantization: which scheme a tensor gets ([`Recipe`]), and the codes and scales that serve a scheme best.
//!
//! The scales of a group are searched for least squared error (`search.rs`). Every result is a function of the weights
//! and the scheme alone: the same on every CPU, with any number of threads.

mod allocate;
mod codebook;
mod descent;
mod equalize;
mod factors;
mod gptq;
mod hessian;
mod lanes;
mod matrix;
mod recipe;
mod scales;
mod search;

pub use allocate::{Allocation, allocate};
pub use equalize::Equalized;
pub use hessian::{Hessian, NotPositive, SHRINKAGE, activation_order};
pub use matrix::{
    QuantizedMatrix, SharedFit, quantize_matrix, quantize_matrix_on, quantize_table, quantize_table_on, relative_error,
    rounding_speed, serves,
};
pub use recipe::{Choice, Recipe, RecipeError};

use haikuq_format::layout::{PlaneBuffers, QuantizedRows, Scales, groups, pack_f16, pack_f32, pack_quantized, padded};
use haikuq_format::scheme::{Grouped, Offset, Scheme};
use half::f16;
use search::{Codes, Fit};

/// A block of whole rows in the form in which it is stored.
#[derive(Debug)]
pub struct StoredRows {
    /// Its planes, unpadded, in the order of [`haikuq_format::layout::plane_sizes`].
    pub planes: PlaneBuffers,
    /// `Σ(stored − original)²`.
    pub squared_error: f64,
    /// `Σ original²`.
    pub squared_norm: f64,
}

/// A weight that a scheme cannot hold.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("row {row}, column {column} is {value:e}, beyond the {limit:e} that {scheme} can hold")]
pub struct TooLarge {
    /// Row within the block.
    pub row: usize,
    /// Column.
    pub column: usize,
    /// The weight.
    pub value: f32,
    /// Largest magnitude that the scheme is given.
    pub limit: f32,
    /// The scheme.
    pub scheme: Scheme,
}

/// Quantizes and packs `values.len() / columns` rows of finite weights.
///
/// # Errors
/// If a weight is too large for the f16 numbers of `scheme`.
///
/// # Panics
/// If `values` is no whole number of rows, or the scheme has a learned codebook (a [`Recipe`] refuses those).
pub fn store_rows(scheme: Scheme, columns: usize, values: &[f32]) -> Result<StoredRows, TooLarge> {
    assert!(columns > 0 && values.len().is_multiple_of(columns), "{} weights in rows of {columns}", values.len());
    let rows = values.len() / columns;
    let limit = match scheme {
        Scheme::F32 => f32::MAX,
        Scheme::F16 => f16::MAX.to_f32(),
        Scheme::Grouped(g) => Codes::of(g).largest_weight(),
    };
    if let Some(i) = values.iter().position(|w| w.abs() > limit) {
        return Err(TooLarge { row: i / columns, column: i % columns, value: values[i], limit, scheme });
    }
    let squared_norm = values.chunks_exact(columns).map(row_norm).sum();
    let (planes, squared_error) = match scheme {
        Scheme::F32 => (pack_f32(rows, columns, values), 0.0),
        Scheme::F16 => (pack_f16(rows, columns, values), values.iter().map(|&w| rounding_error(w)).sum()),
        Scheme::Grouped(g) => {
            let (block, error) = quantize(g, rows, columns, values);
            (pack_quantized(g, rows, columns, &block), error)
        }
    };
    Ok(StoredRows { planes, squared_error, squared_norm })
}

/// Chooses codes, scales and offsets for rows of weights; also returns the sum of squared errors.
fn quantize(scheme: Grouped, rows: usize, columns: usize, values: &[f32]) -> (QuantizedRows, f64) {
    let (width, per_row) = (padded(columns), groups(columns, scheme.group));
    let mut block = QuantizedRows { codes: vec![0; rows * width], ..QuantizedRows::default() };
    let mut fits = vec![Fit::default(); rows * per_row];
    let row_fits = fits.chunks_exact_mut(per_row);
    for ((row, codes), fits) in values.chunks_exact(columns).zip(block.codes.chunks_exact_mut(width)).zip(row_fits) {
        quantize_row(Codes::of(scheme), scheme.group, row, codes, fits);
    }
    block.scales = Scales::F16(fits.iter().map(|f| f.scale).collect());
    match scheme.offset {
        Offset::None => {}
        Offset::U4 => block.zero_points = fits.iter().map(|f| f.zero_point).collect(),
        Offset::F16 => block.offsets = fits.iter().map(|f| f.offset).collect(),
    }
    let error = fits.iter().map(|f| f64::from(f.error)).sum();
    (block, error)
}

/// One row, group by group, compiled again for wider vectors. Without fused multiply-add, which would round
/// differently, all give the same bits.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
fn quantize_row(kind: Codes, group: usize, row: &[f32], codes: &mut [u8], fits: &mut [Fit]) {
    for ((weights, codes), fit) in row.chunks(group).zip(codes.chunks_mut(group)).zip(fits) {
        *fit = search::quantize_group(kind, weights, codes);
    }
}

/// `Σ w²` of a row: eight running sums in f32 over at most 1024 weights, then f64.
fn row_norm(row: &[f32]) -> f64 {
    let part = |weights: &[f32]| {
        let mut lanes = [0.0f32; 8];
        for eight in weights.chunks(8) {
            for (sum, w) in lanes.iter_mut().zip(eight) {
                *sum += w * w;
            }
        }
        lanes.iter().map(|&x| f64::from(x)).sum::<f64>()
    };
    row.chunks(1024).map(part).sum()
}

fn rounding_error(w: f32) -> f64 {
    f64::from(w - f16::from_f32(w).to_f32()).powi(2)
}

#[cfg(test)]
mod calibrated_tests;
#[cfg(test)]
mod tests;
