//! [`Factors`]: triangles that undo a Hessian.

use crate::matmul::{Real, cholesky, inverse_transposed};
use crate::zeros::zeros;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a triangle in a product: of the zeros beside it, at most so many columns are read.
const BLOCK: usize = 128;

/// Numbers between two rows: rows a power of two apart would share a few lines of each cache.
const GAP: usize = 16;

/// Triangular factors of a Hessian `H` `[n, n]` whose rows and columns are taken in some order: `L Lᵀ = H⁻¹`.
#[derive(Clone, Debug)]
pub(super) struct Factors {
    /// Place in the factors to column of the matrix.
    pub(super) order: Vec<usize>,
    inverse: Vec<f32>,
    upper: Vec<f32>,
}

impl Factors {
    /// Factors the row-major `values` `[n, n]` in the order `order`: in f32, or else in f64. `None` if they are not positive
    /// definite, or not finite.
    pub(super) fn new(values: &[f32], order: Vec<usize>) -> Option<Self> {
        let (inverse, upper) = triangles::<f32>(values, &order).or_else(|| triangles::<f64>(values, &order))?;
        Some(Self { order, inverse, upper })
    }

    fn matrix<'a>(&self, values: &'a [f32]) -> MatRef<'a, f32> {
        let n = self.order.len();
        MatRef::from_row_major_slice_with_stride(values, n, n, n + GAP)
    }

    /// `L`, lower triangular.
    pub(super) fn inverse(&self) -> MatRef<'_, f32> {
        self.matrix(&self.inverse)
    }

    /// `L x` for `x` `[n, columns]`, row-major, as `out` is.
    pub(super) fn times_inverse(&self, x: &[f32], out: &mut [f32]) {
        self.in_blocks(x, out, |first, end| (self.inverse().submatrix(first, 0, end - first, end), 0..end));
    }

    /// `Lᵀ x` for `x` `[n, columns]`, row-major, as `out` is.
    pub(super) fn times_inverse_transposed(&self, x: &[f32], out: &mut [f32]) {
        let n = self.order.len();
        self.in_blocks(x, out, |first, end| {
            (self.inverse().submatrix(first, first, n - first, end - first).transpose(), first..n)
        });
    }

    /// Block by block of rows of `out`, the part of a triangle that `part` gives for it times the rows of `x` that go with it.
    fn in_blocks<'a>(&'a self, x: &[f32], out: &mut [f32], part: impl Fn(usize, usize) -> (MatRef<'a, f32>, Range<usize>)) {
        let columns = x.len() / self.order.len();
        for (i, out) in out.chunks_mut(BLOCK * columns).enumerate() {
            let count = out.len() / columns;
            let (by, rows) = part(i * BLOCK, i * BLOCK + count);
            let x = MatRef::from_row_major_slice(&x[rows.start * columns..rows.end * columns], rows.len(), columns);
            matmul(MatMut::from_row_major_slice_mut(out, count, columns), Accum::Replace, by, x, 1.0, Par::Seq);
        }
    }

    /// `L⁻ᵀ`, upper triangular.
    pub(super) fn upper(&self) -> MatRef<'_, f32> {
        self.matrix(&self.upper)
    }
}

/// `L` and `L⁻ᵀ`, with a gap after each row.
///
/// With `J` the reversal of order and `J H J = M Mᵀ`, `L` is `J M⁻ᵀ J` and `L⁻ᵀ` is `J M J`: one factorization and one
/// inverse of a triangle instead of an inverse of H.
fn triangles<T: Real>(values: &[f32], order: &[usize]) -> Option<(Vec<f32>, Vec<f32>)> {
    let n = order.len();
    let mut lower: Vec<T> = zeros(n * n);
    lower.par_chunks_mut(n).enumerate().for_each(|(i, to)| {
        let from = &values[order[n - 1 - i] * n..][..n];
        to.iter_mut().zip(order.iter().rev()).for_each(|(to, &c)| *to = T::from(from[c]));
    });
    cholesky(&mut lower, n)?;
    let inverse = inverse_transposed(&lower, n);
    if !inverse.par_chunks(n).all(|row| row.iter().all(|v| number(*v).is_finite())) {
        return None;
    }
    Some((reversed(&inverse, n, |i| 0..i + 1), reversed(&lower, n, |i| i..n)))
}

/// As f32, which f32 goes through unchanged.
fn number<T: Real>(x: T) -> f32 {
    Into::<f64>::into(x) as f32
}

/// Rows and columns of `from` `[n, n]` in reversed order, with a gap after each row. Only what stands in `columns` of row
/// `i` is taken over.
fn reversed<T: Real>(from: &[T], n: usize, columns: impl Fn(usize) -> Range<usize> + Sync) -> Vec<f32> {
    let mut out = zeros(n * (n + GAP));
    out.par_chunks_mut(n + GAP).enumerate().for_each(|(i, to)| {
        let (range, from) = (columns(i), &from[(n - 1 - i) * n..][..n]);
        let from = from.iter().rev().skip(range.start);
        to[range].iter_mut().zip(from).for_each(|(to, x)| *to = number(*x));
    });
    out
}
