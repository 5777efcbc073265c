//! Means of outer products over many rows: Hessians and what two streams of rows have in common.

use super::tiles::{fill_lower_tiles, fill_tiles, mirror, scale, side};
use crate::zeros::zeros;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatRef, Par};
use rayon::prelude::*;

/// Rows that are transposed at a time. Sums over so many are made in one go.
const TERMS: usize = 4096;

/// Numbers between two rows: rows a power of two apart would share a few lines of each cache.
const GAP: usize = 16;

/// Rows that are transposed by one thread.
const STRIP: usize = 64;

/// The mean of `x xᵀ` over the rows `x` of `[n, p]`: `[p, p]`, exactly symmetric.
///
/// # Panics
/// If the length is no multiple of `p`.
pub fn gram(x: &[f32], p: usize) -> Vec<f32> {
    assert!(x.len().is_multiple_of(p), "{} numbers in rows of {p}", x.len());
    let (n, side) = (x.len() / p, side(p));
    let mut out = zeros(p * p);
    for x in x.chunks(TERMS * p) {
        let (terms, x) = (x.len() / p, transposed(x, p));
        fill_lower_tiles(&mut out, p, side, |i, j, out| {
            let (a, b) = (panel(&x, i * side, out.nrows(), terms), panel(&x, j * side, out.ncols(), terms));
            matmul(out, Accum::Add, a, b.transpose(), 1.0, Par::Seq);
        });
    }
    scale(&mut out, n);
    mirror(&mut out, p, side);
    out
}

/// The mean of `a bᵀ` over the rows of `a` `[n, p]` and `b` `[n, q]`: `[p, q]`.
///
/// # Panics
/// If `a` and `b` have different numbers of rows.
pub fn cross(a: &[f32], b: &[f32], p: usize, q: usize) -> Vec<f32> {
    let n = a.len() / p;
    assert_eq!((a.len(), b.len()), (n * p, n * q));
    let side = side(p.min(q));
    let mut out = zeros(p * q);
    for (a, b) in a.chunks(TERMS * p).zip(b.chunks(TERMS * q)) {
        let (terms, a, b) = (a.len() / p, transposed(a, p), transposed(b, q));
        fill_tiles(&mut out, q, side, |i, j, out| {
            let (a, b) = (panel(&a, i * side, out.nrows(), terms), panel(&b, j * side, out.ncols(), terms));
            matmul(out, Accum::Add, a, b.transpose(), 1.0, Par::Seq);
        });
    }
    scale(&mut out, n);
    out
}

/// Rows `first..first + rows` of what [`transposed`] made, with `columns` columns.
fn panel(x: &[f32], first: usize, rows: usize, columns: usize) -> MatRef<'_, f32> {
    let stride = columns + GAP;
    MatRef::from_row_major_slice_with_stride(&x[first * stride..(first + rows) * stride], rows, columns, stride)
}

/// `x` `[n, p]` as `[p, n]`, with a gap after each row: products read whole rows, where columns of a wide matrix would be a
/// page apart.
fn transposed(x: &[f32], p: usize) -> Vec<f32> {
    let n = x.len() / p;
    let mut out = zeros(p * (n + GAP));
    out.par_chunks_mut(STRIP * (n + GAP)).enumerate().for_each(|(strip, out)| {
        let first = strip * STRIP;
        for (start, rows) in x.chunks(16 * p).enumerate() {
            for (c, out) in out.chunks_exact_mut(n + GAP).enumerate() {
                let to = &mut out[start * 16..][..rows.len() / p];
                to.iter_mut().zip(rows[first + c..].iter().step_by(p)).for_each(|(to, x)| *to = *x);
            }
        }
    });
    out
}
