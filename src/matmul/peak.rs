//! [`peak`]: how fast this machine multiplies matrices.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use std::time::{Duration, Instant};

/// Rows, columns and terms of the product that is timed: what fits a core's caches.
const SIZE: (usize, usize, usize) = (256, 256, 1024);

/// How long a thread multiplies.
const TIME: Duration = Duration::from_millis(100);

/// Operations a second of f32 products on all threads of the current pool at once, measured in a tenth of a second.
pub fn peak() -> f64 {
    let (rows, columns, terms) = SIZE;
    let speeds = rayon::broadcast(|_| {
        let number = |i: usize| ((i * 7919) % 101) as f32 / 50.0 - 1.0;
        let a: Vec<f32> = (0..rows * terms).map(number).collect();
        let b: Vec<f32> = (0..columns * terms).map(number).collect();
        let mut out = vec![0.0; rows * columns];
        let mut product = || {
            let a = MatRef::from_row_major_slice(&a, rows, terms);
            let b = MatRef::from_row_major_slice(&b, columns, terms).transpose();
            matmul(MatMut::from_row_major_slice_mut(&mut out, rows, columns), Accum::Replace, a, b, 1.0, Par::Seq);
        };
        product();
        let (begin, mut done) = (Instant::now(), 0);
        while begin.elapsed() < TIME {
            product();
            done += 1;
        }
        f64::from(done) * (2 * rows * columns * terms) as f64 / begin.elapsed().as_secs_f64()
    });
    speeds.into_par_iter().sum()
}
