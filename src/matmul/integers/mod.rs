//! Products of numbers that are rounded to 16-bit integers first, for where the last digits do not matter: calibration.
//!
//! A CPU multiplies and adds up 16-bit integers about twice as fast as f32. Each number is rounded to 12 bits beside its sign,
//! with a scale for 256 terms of a row, so that a product of normally distributed numbers is off by some 4e-4 of its
//! standard deviation: a third of what bf16 costs. Sums within a block are exact, and blocks are added in f32, one after the
//! other. So results depend neither on the number of threads nor on the kernel. Numbers that are not finite stay so.
//!
//! CPUs without a kernel compute in f32, as [`super::times`] and the others do.

mod kernel;
mod pack;

use super::tiles::{fill_lower_tiles, fill_tiles, mirror, scale, side};
use crate::zeros::zeros;
use faer::MatMut;
use kernel::Kernel;
use pack::{Packed, Source};
use rayon::prelude::*;

/// Terms that share a scale. Sums over them fit 32 bits: see [`LARGEST`].
const BLOCK: usize = 256;

/// Pairs of terms in a block, since instructions multiply two and two.
const PAIRS: usize = BLOCK / 2;

/// Largest magnitude of an integer: [`BLOCK`] times its square is below 2³¹.
const LARGEST: f32 = 2895.0;

/// Rows and columns of a tile of a product with weights.
const TILE: usize = 256;

/// Rows that are packed at a time for means of outer products.
const TERMS: usize = 4096;

/// A matrix of weights `[rows, columns]`, packed for products with many inputs.
pub struct PackedWeights {
    rows: Option<Packed>,
    columns: Option<Packed>,
}

impl PackedWeights {
    /// Packs the row-major `weight`; for [`PackedWeights::times`] too if there are `gradients` to go back.
    ///
    /// Not when they are first needed: threads that wait for a lock while others pack may be those that pack.
    ///
    /// # Panics
    /// If the length is no multiple of `columns`.
    pub fn new(weight: &[f32], columns: usize, gradients: bool) -> Self {
        assert!(weight.len().is_multiple_of(columns), "{} numbers in rows of {columns}", weight.len());
        let pack = |source: Source<'_>| Some(Packed::new(&source, Kernel::of_this_cpu()?.panel(), TILE));
        let columns_of = |weight| pack(Source::columns(weight, columns));
        Self { rows: pack(Source::rows(weight, columns)), columns: gradients.then(|| columns_of(weight)).flatten() }
    }

    /// `x` `[n, columns]` times `weight` `[rows, columns]`, which is packed, transposed: `[n, rows]`.
    ///
    /// # Panics
    /// If a length is no multiple of `columns`.
    pub fn times_transposed(&self, x: &[f32], weight: &[f32], columns: usize) -> Vec<f32> {
        let (Some(kernel), Some(packed)) = (Kernel::of_this_cpu(), &self.rows) else {
            return super::times_transposed(x, weight, columns);
        };
        let (n, rows) = (x.len() / columns, weight.len() / columns);
        assert_eq!((x.len(), weight.len()), (n * columns, rows * columns));
        product(kernel, x, packed, columns, rows)
    }

    /// `x` `[n, rows]` times `weight` `[rows, columns]`, which is packed: `[n, columns]`.
    ///
    /// # Panics
    /// If a length is no multiple of `rows`.
    pub fn times(&self, x: &[f32], weight: &[f32], rows: usize) -> Vec<f32> {
        let (Some(kernel), Some(packed)) = (Kernel::of_this_cpu(), &self.columns) else {
            return super::times(x, weight, rows);
        };
        let (n, columns) = (x.len() / rows, weight.len() / rows);
        assert_eq!((x.len(), weight.len()), (n * rows, rows * columns));
        product(kernel, x, packed, rows, columns)
    }
}

/// As [`super::times`]: `x` `[n, inner]` times `y` `[inner, columns]`.
///
/// # Panics
/// If a length is no multiple of `inner`.
pub fn times(x: &[f32], y: &[f32], inner: usize) -> Vec<f32> {
    let Some(kernel) = Kernel::of_this_cpu() else { return super::times(x, y, inner) };
    let columns = y.len() / inner;
    assert!(x.len().is_multiple_of(inner) && y.len() == inner * columns);
    product(kernel, x, &Packed::new(&Source::columns(y, columns), kernel.panel(), TILE), inner, columns)
}

/// `x` `[n, inner]` times what is packed: `[n, columns]`.
fn product(kernel: Kernel, x: &[f32], by: &Packed, inner: usize, columns: usize) -> Vec<f32> {
    let mut out = zeros(x.len() / inner * columns);
    out.par_chunks_mut(TILE * columns).zip(x.par_chunks(TILE * inner)).for_each(|(out, x)| {
        let x = Packed::new(&Source::rows(x, inner), kernel.panel(), TILE);
        let out = MatMut::from_row_major_slice_mut(out, x.len(), columns);
        out.par_col_chunks_mut(TILE).enumerate().for_each(|(j, out)| kernel.tile((&x, 0), (by, j), out));
    });
    out
}

/// Inputs of a matrix: rows that means of outer products are made of.
pub struct Inputs<'a> {
    x: &'a [f32],
    columns: usize,
    /// Some rows each, if this CPU has a kernel.
    packed: Vec<Packed>,
}

impl<'a> Inputs<'a> {
    /// The rows `x` `[n, columns]`.
    ///
    /// # Panics
    /// If the length is no multiple of `columns`.
    pub fn new(x: &'a [f32], columns: usize) -> Self {
        assert!(x.len().is_multiple_of(columns), "{} numbers in rows of {columns}", x.len());
        let pack = |kernel: Kernel| {
            let some = x.chunks(TERMS * columns);
            some.map(|x| Packed::new(&Source::columns(x, columns), kernel.panel(), side(columns))).collect()
        };
        Self { x, columns, packed: Kernel::of_this_cpu().map(pack).unwrap_or_default() }
    }

    fn rows(&self) -> usize {
        self.x.len() / self.columns
    }

    /// As [`super::gram`]: the mean of `x xᵀ`: `[columns, columns]`, exactly symmetric.
    pub fn gram(&self) -> Vec<f32> {
        let (Some(kernel), p) = (Kernel::of_this_cpu(), self.columns) else { return super::gram(self.x, self.columns) };
        let (mut out, side) = (zeros(p * p), side(p));
        for x in &self.packed {
            fill_lower_tiles(&mut out, p, side, |i, j, out| kernel.tile((x, i), (x, j), out));
        }
        scale(&mut out, self.rows());
        mirror(&mut out, p, side);
        out
    }

    /// As [`super::cross`]: the mean of `a xᵀ` for as many rows `a` `[n, p]`: `[p, columns]`.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn cross(&self, a: &[f32], p: usize) -> Vec<f32> {
        let (Some(kernel), q) = (Kernel::of_this_cpu(), self.columns) else { return super::cross(a, self.x, p, self.columns) };
        assert_eq!(a.len(), self.rows() * p);
        let mut out = zeros(p * q);
        for (a, x) in a.chunks(TERMS * p).zip(&self.packed) {
            let (a, side) = (Packed::new(&Source::columns(a, p), kernel.panel(), x.side()), x.side());
            fill_tiles(&mut out, q, side, |i, j, out| kernel.tile((&a, i), (x, j), out));
        }
        scale(&mut out, self.rows());
        out
    }
}

/// One tile of a product `a` times `b` transposed, rows of `terms` terms each, if this CPU has a kernel.
pub(super) fn product_for_peak(a: &[f32], b: &[f32], terms: usize) -> Option<impl FnMut(&mut [f32]) + use<>> {
    let kernel = Kernel::of_this_cpu()?;
    let a = Packed::new(&Source::rows(a, terms), kernel.panel(), TILE);
    let b = Packed::new(&Source::rows(b, terms), kernel.panel(), TILE);
    Some(move |out: &mut [f32]| {
        let out = MatMut::from_row_major_slice_mut(out, a.len(), b.len());
        kernel.tile((&a, 0), (&b, 0), out);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use haikuq_runtime::sampling::uniform;

    /// Roughly normal numbers.
    fn numbers(length: usize, seed: u64) -> Vec<f32> {
        (0..length as u64).map(|i| (0..4).map(|j| uniform(seed, 4 * i + j) - 0.5).sum::<f32>()).collect()
    }

    /// Root mean square of the difference, over that of `y`.
    fn error(x: &[f32], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len());
        let energy = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
        (energy(&mut x.iter().zip(y).map(|(x, y)| x - y)) / energy(&mut y.iter().copied())).sqrt()
    }

    #[test]
    fn products_are_close_to_those_in_f32() {
        // Sizes that fill no tile, panel, block or pair; and single rows.
        for (n, inner, rows) in [(1, 1, 1), (3, 7, 5), (300, 515, 273), (257, 256, 33), (40, 1031, 300)] {
            let (x, w) = (numbers(n * inner, 1), numbers(rows * inner, 2));
            let weights = PackedWeights::new(&w, inner, true);
            let forward = weights.times_transposed(&x, &w, inner);
            assert!(error(&forward, &super::super::times_transposed(&x, &w, inner)) < 1e-3, "{n} {inner} {rows}");
            let back = weights.times(&forward, &w, rows);
            assert!(error(&back, &super::super::times(&forward, &w, rows)) < 1e-3, "{n} {inner} {rows}");
            assert!(back == times(&forward, &w, rows));
        }
    }

    #[test]
    fn means_of_outer_products_are_close_to_those_in_f32() {
        for (n, p, q) in [(1, 1, 2), (700, 130, 70), (4400, 33, 290), (300, 1100, 5)] {
            let (a, b) = (numbers(n * p, 3), numbers(n * q, 4));
            let hessian = Inputs::new(&a, p).gram();
            assert!(error(&hessian, &super::super::gram(&a, p)) < 1e-3, "{n} {p}");
            assert!((0..p * p).all(|i| hessian[i] == hessian[i % p * p + i / p]));
            assert!(error(&Inputs::new(&b, q).cross(&a, p), &super::super::cross(&a, &b, p, q)) < 1e-3, "{n} {p} {q}");
        }
    }

    #[test]
    fn all_kernels_and_numbers_of_threads_give_the_same_bits() {
        let (x, w) = (numbers(300 * 515, 1), numbers(273 * 515, 2));
        let with = |kernel: Kernel, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let by = Packed::new(&Source::rows(&w, 515), kernel.panel(), TILE);
                product(kernel, &x, &by, 515, 273).iter().map(|y| y.to_bits()).collect::<Vec<_>>()
            })
        };
        let plain = with(Kernel::plain(), 1);
        let numbers: Vec<f32> = plain.iter().map(|bits| f32::from_bits(*bits)).collect();
        assert!(error(&numbers, &super::super::times_transposed(&x, &w, 515)) < 1e-3);
        for kernel in Kernel::all_of_this_cpu() {
            assert!(with(kernel, 1) == plain && with(kernel, 3) == plain, "{kernel:?}");
        }
    }

    #[test]
    fn extremes_neither_overflow_nor_hide_what_is_not_finite() {
        // All products of the largest magnitudes.
        let (x, w) = (vec![-3.0e20; 512], vec![2.0e-20; 512]);
        let times_transposed =
            |x: &[f32], w: &[f32], columns| PackedWeights::new(w, columns, false).times_transposed(x, w, columns);
        let y = times_transposed(&x, &w, 512);
        assert!((y[0] + 6.0 * 512.0).abs() < 0.01, "{y:?}");
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = numbers(2 * 300, 5);
            x[37] = broken;
            let y = times_transposed(&x, &numbers(300, 6), 300);
            assert!(!y[0].is_finite() && y[1].is_finite(), "{broken}: {y:?}");
            let hessian = Inputs::new(&x, 300).gram();
            assert!(!hessian[37 * 300 + 37].is_finite() && hessian[0].is_finite());
        }
        let tiny = times_transposed(&[1e-39, 0.0], &[1.0, 1.0], 2);
        assert!(tiny[0].abs() < 1e-38);
    }
}
