//! [`peak`]: how fast this machine multiplies matrices.

use super::integers::product_for_peak;
use crate::timings::Step;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use std::time::{Duration, Instant};

/// Rows, columns and terms of the product that is timed: what fits a core's caches.
const SIZE: (usize, usize, usize) = (256, 256, 1024);

/// How long a thread multiplies in each way.
const TIME: Duration = Duration::from_millis(100);

/// Operations a second on all threads at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Of products in f32.
    pub floats: f64,
    /// Of products in integers, as [`super::integers`] computes them; where it has no kernel, of those in f32.
    pub integers: f64,
}

impl Peak {
    /// That of a step's products.
    pub fn of(self, step: Step) -> f64 {
        if step.is_in_integers() { self.integers } else { self.floats }
    }
}

/// The speeds of the threads of the current pool, measured in two tenths of a second.
#[expect(clippy::missing_panics_doc, reason = "a CPU keeps its kernels")]
pub fn peak() -> Peak {
    let (rows, columns, terms) = SIZE;
    let number = |i: usize| ((i * 7919) % 101) as f32 / 50.0 - 1.0;
    let numbers = |length: usize| (0..length).map(number).collect::<Vec<f32>>();
    let floats = on_all_threads(|| {
        let (a, b) = (numbers(rows * terms), numbers(columns * terms));
        move |out: &mut [f32]| {
            let a = MatRef::from_row_major_slice(&a, rows, terms);
            let b = MatRef::from_row_major_slice(&b, columns, terms).transpose();
            matmul(MatMut::from_row_major_slice_mut(out, rows, columns), Accum::Replace, a, b, 1.0, Par::Seq);
        }
    });
    let integers = || product_for_peak(&numbers(rows * terms), &numbers(columns * terms), terms);
    let integers = integers().map(|_| on_all_threads(|| integers().expect("a CPU keeps its kernels")));
    Peak { floats, integers: integers.unwrap_or(floats) }
}

/// Operations a second of what `prepare` gives each thread to do.
fn on_all_threads<P: FnMut(&mut [f32])>(prepare: impl Fn() -> P + Sync) -> f64 {
    let (rows, columns, terms) = SIZE;
    let speeds = rayon::broadcast(|_| {
        let (mut product, mut out) = (prepare(), vec![0.0; rows * columns]);
        product(&mut out);
        let (begin, mut done) = (Instant::now(), 0);
        while begin.elapsed() < TIME {
            product(&mut out);
            done += 1;
        }
        f64::from(done) * (2 * rows * columns * terms) as f64 / begin.elapsed().as_secs_f64()
    });
    speeds.into_par_iter().sum()
}
