//! Coordinate descent: codes that GPTQ chose are looked at again, each with all others as they are.
//!
//! With `D = W − Ŵ` the loss of a row is `D H Dᵀ`. Along one weight it is a parabola, least at
//! `ŵ_c + (D H)_c / H_cc`; the code nearest to that is taken. No step makes the loss larger.

use super::lanes::{Lanes, ROWS, Table};
use super::second_moment::SecondMoment;

/// Columns whose gradients are taken at once.
const BLOCK: usize = 64;

/// Improves `codes` of a block of rows in `sweeps` passes over its columns.
#[multiversion::multiversion(targets("x86_64+avx+avx2"))]
pub(super) fn improve(
    table: &Table,
    group: usize,
    weights: &[Lanes],
    scales: &[Lanes],
    moment: &SecondMoment,
    codes: &mut [[u8; ROWS]],
    sweeps: usize,
) {
    let n = weights.len();
    let mut stored: Vec<Lanes> = (0..n)
        .map(|c| std::array::from_fn(|lane| table.values()[usize::from(codes[c][lane])] * scales[c / group][lane]))
        .collect();
    let mut difference: Vec<Lanes> =
        weights.iter().zip(&stored).map(|(w, s)| std::array::from_fn(|lane| w[lane] - s[lane])).collect();
    let mut gradient = [[0.0f32; ROWS]; BLOCK];
    for _ in 0..sweeps {
        for first in (0..n).step_by(BLOCK) {
            let last = n.min(first + BLOCK);
            for c in first..last {
                let mut sum = [0.0f32; ROWS];
                for (column, &h) in difference.iter().zip(moment.row(c)) {
                    for lane in 0..ROWS {
                        sum[lane] += column[lane] * h;
                    }
                }
                gradient[c - first] = sum;
            }
            for c in first..last {
                let (scale, row) = (&scales[c / group], moment.row(c));
                let inverse = 1.0 / row[c];
                let mut x = [0.0f32; ROWS];
                for lane in 0..ROWS {
                    let target = stored[c][lane] + gradient[c - first][lane] * inverse;
                    x[lane] = if scale[lane] > 0.0 { target / scale[lane] } else { 0.0 };
                }
                let (value, code) = table.nearest_code(&x);
                codes[c] = code.map(|c| c as u8);
                let mut step = [0.0f32; ROWS];
                for lane in 0..ROWS {
                    let new = value[lane] * scale[lane];
                    step[lane] = new - stored[c][lane];
                    stored[c][lane] = new;
                    difference[c][lane] = weights[c][lane] - new;
                }
                for (gradient, &h) in gradient[..last - first].iter_mut().zip(&row[first..last]) {
                    for lane in 0..ROWS {
                        gradient[lane] -= step[lane] * h;
                    }
                }
            }
        }
    }
}
