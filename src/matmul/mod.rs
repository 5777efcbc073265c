//! Products of row-major f32 matrices, on faer, which has kernels for the widest vectors a CPU has.
//!
//! Work is cut into parts by its size alone, and each part is one thread's: the result does not depend on how many
//! threads there are.

pub mod integers;
mod moments;
mod peak;
mod tiles;
mod triangle;

pub use moments::{cross, gram};
pub use peak::{Peak, peak};
pub use triangle::{Real, cholesky, inverse_transposed};

use crate::zeros::zeros;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Rows and columns of a part.
const ROWS: usize = 256;
const COLUMNS: usize = 256;

/// `x` `[n, columns]` times `weight` `[rows, columns]` transposed: `[n, rows]`.
///
/// # Panics
/// If a length is no multiple of `columns`.
pub fn times_transposed(x: &[f32], weight: &[f32], columns: usize) -> Vec<f32> {
    let (n, rows) = (x.len() / columns, weight.len() / columns);
    assert_eq!((x.len(), weight.len()), (n * columns, rows * columns));
    let weight = MatRef::from_row_major_slice(weight, rows, columns);
    product(x, weight.transpose(), columns, rows)
}

/// `x` `[n, inner]` times `y` `[inner, columns]`: `[n, columns]`.
///
/// # Panics
/// If a length is no multiple of `inner`.
pub fn times(x: &[f32], y: &[f32], inner: usize) -> Vec<f32> {
    let columns = y.len() / inner;
    product(x, MatRef::from_row_major_slice(y, inner, columns), inner, columns)
}

fn product(x: &[f32], y: MatRef<'_, f32>, inner: usize, columns: usize) -> Vec<f32> {
    let n = x.len() / inner;
    let mut out = zeros(n * columns);
    out.par_chunks_mut(ROWS * columns).zip(x.par_chunks(ROWS * inner)).for_each(|(out, x)| {
        let rows = x.len() / inner;
        let x = MatRef::from_row_major_slice(x, rows, inner);
        let out = MatMut::from_row_major_slice_mut(out, rows, columns);
        out.par_col_chunks_mut(COLUMNS).enumerate().for_each(|(i, out)| {
            let y = y.subcols(i * COLUMNS, out.ncols());
            matmul(out, Accum::Replace, x, y, 1.0, Par::Seq);
        });
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_definition() {
        let number = |i: usize| ((i * 7919) % 101) as f32 / 50.0 - 1.0;
        let (n, p, q) = (5000, 7, 5);
        let a: Vec<f32> = (0..n * p).map(number).collect();
        let b: Vec<f32> = (0..n * q).map(|i| number(i + 3)).collect();
        let w: Vec<f32> = (0..q * p).map(|i| number(i + 11)).collect();
        let close = |x: f32, y: f64| assert!((f64::from(x) - y).abs() < 1e-4, "{x} {y}");
        let dot = |f: &dyn Fn(usize) -> (f32, f32), n: usize| (0..n).map(|i| f64::from(f(i).0) * f64::from(f(i).1)).sum::<f64>();
        let y = times_transposed(&a, &w, p);
        let z = times(&y, &w, q);
        close(y[4321 * q + 2], dot(&|i| (a[4321 * p + i], w[2 * p + i]), p));
        close(z[4321 * p + 3], dot(&|i| (y[4321 * q + i], w[i * p + 3]), q));
        close(cross(&a, &b, p, q)[4 * q + 1], dot(&|i| (a[i * p + 4], b[i * q + 1]), n) / n as f64);
        let hessian = gram(&a, p);
        for (r, c) in [(4, 1), (1, 4), (2, 2)] {
            close(hessian[r * p + c], dot(&|i| (a[i * p + r], a[i * p + c]), n) / n as f64);
        }
    }
}
