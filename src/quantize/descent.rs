//! Coordinate descent: codes that GPTQ chose are looked at again, each with all others as they are.
//!
//! With `D = W − Ŵ` the loss of a row is `D H Dᵀ`. Along one weight it is a parabola, least at
//! `ŵ_c + (D H)_c / H_cc`; the code nearest to that is taken. No step makes the loss larger.
//!
//! GPTQ leaves `D = E Lᵀ` with `L Lᵀ = H⁻¹`, so `D H = E L⁻¹` is the product of a triangle. Few codes change, so that
//! afterwards each change is added by itself, to a block of columns at the time at which that is visited.

use super::factors::Factors;
use super::hessian::Hessian;
use super::lanes::{Lanes, ROWS, Strip, Table};
use faer::linalg::matmul::matmul;
use faer::{Accum, Par};

/// Columns whose gradients are brought up to date at once.
const BLOCK: usize = 128;

/// A weight that got another code.
#[derive(Clone, Copy)]
struct Change {
    column: usize,
    row: usize,
    /// New value less old value.
    step: f32,
}

/// What descent needs to know of a strip of rows.
pub(super) struct Descent<'a> {
    pub(super) table: &'a Table,
    pub(super) group: usize,
    pub(super) scales: &'a Strip,
    pub(super) hessian: &'a Hessian,
}

impl Descent<'_> {
    /// Improves `codes` in `sweeps` passes over the columns; `errors` are those of [`super::gptq::quantize`].
    pub(super) fn improve(&self, factors: &Factors, errors: &Strip, codes: &mut [[u8; ROWS]], sweeps: usize) {
        let n = factors.order.len();
        let mut gradient = gradient(factors, errors);
        let (mut before, mut now) = (Vec::new(), Vec::new());
        for _ in 0..sweeps {
            for first in (0..n).step_by(BLOCK) {
                let last = n.min(first + BLOCK);
                // Since the last visit: later columns in the pass before, earlier ones in this pass.
                let later = before.partition_point(|c: &Change| c.column < last);
                self.catch_up(&mut gradient, first..last, &before[later..], &now);
                for block in 0..gradient.width {
                    self.visit(&mut gradient, block, first..last, codes, &mut now);
                }
                // The next pass finds them in the order of columns.
                let start = now.partition_point(|c: &Change| c.column < first);
                now[start..].sort_by_key(|c| (c.column, c.row));
            }
            before = std::mem::take(&mut now);
        }
    }

    /// Adds to the gradients of some columns what `before` and `now` changed in others.
    fn catch_up(&self, gradient: &mut Strip, columns: std::ops::Range<usize>, before: &[Change], now: &[Change]) {
        if before.is_empty() && now.is_empty() {
            return;
        }
        // Row by row, since each change is one of a row.
        let (rows, count) = (gradient.width * ROWS, columns.len());
        let of_columns = &mut gradient.lanes[columns.start * gradient.width..columns.end * gradient.width];
        let of_columns = of_columns.as_flattened_mut();
        let mut by_row = vec![0.0f32; rows * count];
        for (c, column) in of_columns.chunks_exact(rows).enumerate() {
            column.iter().enumerate().for_each(|(r, g)| by_row[r * count + c] = *g);
        }
        for change in before.iter().chain(now) {
            let h = &self.hessian.row(change.column)[columns.clone()];
            subtract(&mut by_row[change.row * count..][..count], h, change.step);
        }
        for (c, column) in of_columns.chunks_exact_mut(rows).enumerate() {
            column.iter_mut().enumerate().for_each(|(r, g)| *g = by_row[r * count + c]);
        }
    }

    /// Looks at the columns of one block of rows, whose gradients are up to date, and adds what changes to `changes`.
    fn visit(
        &self,
        gradient: &mut Strip,
        block: usize,
        columns: std::ops::Range<usize>,
        codes: &mut [[u8; ROWS]],
        changes: &mut Vec<Change>,
    ) {
        let width = gradient.width;
        let mut local = [[0.0f32; ROWS]; BLOCK];
        for (c, local) in columns.clone().zip(&mut local) {
            *local = gradient.lanes[c * width + block];
        }
        for c in columns.clone() {
            let row = &self.hessian.row(c)[columns.clone()];
            let (scale, at) = (&self.scales.lanes[c / self.group * width + block], c - columns.start);
            let step = step(self.table, scale, 1.0 / row[at], &local[at], &mut codes[c * width + block]);
            if step == [0.0; ROWS] {
                continue;
            }
            spread(&mut local[..columns.len()], row, &step);
            let changed = step.iter().enumerate().filter(|(_, step)| **step != 0.0);
            changes.extend(changed.map(|(lane, &step)| Change { column: c, row: block * ROWS + lane, step }));
        }
        for (c, local) in columns.zip(&local) {
            gradient.lanes[c * width + block] = *local;
        }
    }
}

/// `D H` in the order of the matrix, from the errors in that of the factors.
fn gradient(factors: &Factors, errors: &Strip) -> Strip {
    let (n, width) = (factors.order.len(), errors.width);
    let mut gradient = Strip::zeros(n, width);
    let mut part = Strip::zeros(BLOCK, width);
    for first in (0..n).step_by(BLOCK) {
        let count = BLOCK.min(n - first);
        let upper = factors.upper().submatrix(first, first, count, n - first);
        matmul(part.matrix_mut(0..count), Accum::Replace, upper, errors.matrix(first..n), 1.0, Par::Seq);
        for (j, &c) in factors.order[first..first + count].iter().enumerate() {
            gradient.lanes[c * width..(c + 1) * width].copy_from_slice(part.column(j));
        }
    }
    gradient
}

/// Takes the best code of a column for each lane, given gradients and the inverse of `H_cc`; returns by how much the values
/// change.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
fn step(table: &Table, scale: &Lanes, inverse: f32, gradient: &Lanes, codes: &mut [u8; ROWS]) -> Lanes {
    let stored: Lanes = std::array::from_fn(|lane| table.values()[usize::from(codes[lane])] * scale[lane]);
    let mut x = [0.0f32; ROWS];
    for lane in 0..ROWS {
        let target = stored[lane] + gradient[lane] * inverse;
        x[lane] = if scale[lane] > 0.0 { target / scale[lane] } else { 0.0 };
    }
    let (value, code) = table.nearest_code(&x);
    *codes = code.map(|c| c as u8);
    std::array::from_fn(|lane| value[lane] * scale[lane] - stored[lane])
}

/// Subtracts a column's step, times its row of the Hessian, from the gradients of the columns around it.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
fn spread(gradient: &mut [Lanes], row: &[f32], step: &Lanes) {
    for (gradient, &h) in gradient.iter_mut().zip(row) {
        for lane in 0..ROWS {
            gradient[lane] -= step[lane] * h;
        }
    }
}

/// `gradient -= step × h`.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
fn subtract(gradient: &mut [f32], h: &[f32], step: f32) {
    gradient.iter_mut().zip(h).for_each(|(g, h)| *g -= step * h);
}
