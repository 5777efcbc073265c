//! Factorizations of symmetric matrices, in blocks that many threads share.

use crate::zeros::zeros;
use bytemuck::Zeroable;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{self as llt, LltRegularization};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::traits::RealField;
use faer::{Accum, MatMut, MatRef, Par, Spec};
use rayon::prelude::*;

/// f32 or f64.
pub trait Real: RealField + Copy + Default + From<f32> + Into<f64> + Zeroable {}

impl Real for f32 {}
impl Real for f64 {}

/// Columns that are factored at a time; rows and columns of the tiles that are updated for them.
const BLOCK: usize = 128;

/// Columns of an inverse that a thread solves for at a time.
const SOLVED: usize = 64;

/// The Cholesky factor: the lower triangular `M` with `M Mᵀ` the row-major symmetric `matrix` `[n, n]`, in its place. The
/// numbers above the diagonal stay as they are. `None` if the matrix is not positive definite, or has numbers that are not
/// finite.
///
/// # Panics
/// If `matrix` is no square of `n`.
pub fn cholesky<T: Real>(matrix: &mut [T], n: usize) -> Option<()> {
    assert_eq!(matrix.len(), n * n);
    let mut memory = MemBuffer::new(llt::cholesky_in_place_scratch::<T>(BLOCK, Par::Seq, Spec::default()));
    for first in (0..n).step_by(BLOCK) {
        let size = BLOCK.min(n - first);
        let (above, below) = matrix.split_at_mut((first + size) * n);
        let diagonal = MatMut::from_row_major_slice_mut(&mut above[first * n..], size, n).subcols_mut(first, size);
        let stack = MemStack::new(&mut memory);
        llt::cholesky_in_place(diagonal, LltRegularization::default(), Par::Seq, stack, Spec::default()).ok()?;
        let diagonal = MatRef::from_row_major_slice(&above[first * n..], size, n).subcols(first, size);
        // The panel below the diagonal block: X Mᵀ = A, so M Xᵀ = Aᵀ.
        below.par_chunks_mut(BLOCK * n).for_each(|rows| {
            let count = rows.len() / n;
            let panel = MatMut::from_row_major_slice_mut(rows, count, n).subcols_mut(first, size);
            solve_lower_triangular_in_place(diagonal, panel.transpose_mut(), Par::Seq);
        });
        // A copy, since each strip of rows is written and all of them are read.
        let panel: Vec<T> = below.par_chunks(n).flat_map_iter(|row| row[first..first + size].iter().copied()).collect();
        let panel = MatRef::from_row_major_slice(&panel, panel.len() / size, size);
        below.par_chunks_mut(BLOCK * n).enumerate().for_each(|(i, rows)| {
            let count = rows.len() / n;
            let a = panel.subrows(i * BLOCK, count);
            let strip = MatMut::from_row_major_slice_mut(rows, count, n).subcols_mut(first + size, i * BLOCK + count);
            strip.par_col_chunks_mut(BLOCK).enumerate().for_each(|(j, tile)| {
                let b = panel.subrows(j * BLOCK, tile.ncols());
                matmul(tile, Accum::Add, a, b.transpose(), T::from(-1.0), Par::Seq);
            });
        });
    }
    let diagonal = matrix.iter().step_by(n + 1);
    diagonal.map(|d| Into::<f64>::into(*d)).all(|d| d.is_finite() && d > 0.0).then_some(())
}

/// The transposed inverse of the lower triangular `lower` `[n, n]`, row-major: upper triangular, with zeros below.
/// Numbers of `lower` above its diagonal are not read.
///
/// # Panics
/// If `lower` is no square of `n`.
pub fn inverse_transposed<T: Real>(lower: &[T], n: usize) -> Vec<T> {
    assert_eq!(lower.len(), n * n);
    let lower = MatRef::from_row_major_slice(lower, n, n);
    let mut out: Vec<T> = zeros(n * n);
    out.par_chunks_mut(SOLVED * n).enumerate().for_each(|(i, rows)| {
        // Columns `first..` of the inverse are zero above row `first`.
        let (first, count) = (i * SOLVED, rows.len() / n);
        let height = n - first;
        let mut columns = vec![T::default(); height * count];
        (0..count).for_each(|c| columns[c * count + c] = T::from(1.0));
        let solved = MatMut::from_row_major_slice_mut(&mut columns, height, count);
        solve_lower_triangular_in_place(lower.submatrix(first, first, height, height), solved, Par::Seq);
        for (c, row) in rows.chunks_exact_mut(n).enumerate() {
            let column = columns[c..].iter().step_by(count);
            row[first..].iter_mut().zip(column).for_each(|(to, x)| *to = *x);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Symmetric and positive definite, of a size that no block divides.
    fn matrix(n: usize) -> Vec<f32> {
        let a: Vec<f32> = (0..n * n).map(|i| ((i * 7919) % 211) as f32 / 100.0 - 1.0).collect();
        let product = |r: usize, c: usize| (0..n).map(|k| a[r * n + k] * a[c * n + k]).sum::<f32>();
        (0..n * n).map(|i| product(i / n, i % n) + if i / n == i % n { n as f32 } else { 0.0 }).collect()
    }

    #[test]
    fn factor_and_inverse_are_those_of_the_definition() {
        let n = 300;
        let whole = matrix(n);
        let mut lower = whole.clone();
        cholesky(&mut lower, n).unwrap();
        let upper = inverse_transposed(&lower, n);
        for (r, c) in [(0, 0), (5, 3), (127, 128), (128, 127), (299, 0), (299, 299), (200, 131)] {
            let squared: f64 = (0..=r.min(c)).map(|k| f64::from(lower[r * n + k]) * f64::from(lower[c * n + k])).sum();
            assert!((squared - f64::from(whole[r * n + c])).abs() < 1e-6 * n as f64, "{r} {c}: {squared}");
            // M M⁻¹ = 1.
            let one: f64 = (0..=r).map(|k| f64::from(lower[r * n + k]) * f64::from(upper[c * n + k])).sum();
            assert!((one - f64::from(u8::from(r == c))).abs() < 1e-5, "{r} {c}: {one}");
        }
    }

    #[test]
    fn bytes_do_not_depend_on_the_number_of_threads() {
        let n = 300;
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut lower = matrix(n);
                cholesky(&mut lower, n).unwrap();
                (inverse_transposed(&lower, n), lower)
            })
        };
        assert!(with(1) == with(3));
    }

    #[test]
    fn what_is_not_positive_has_no_factor() {
        assert_eq!(cholesky(&mut [1.0f64, 2.0, 2.0, 1.0], 2), None);
        assert_eq!(cholesky(&mut [f32::NAN], 1), None);
    }
}
