//! GPTQ: columns are rounded one after the other, and what rounding did wrong is made good in those that follow.
//!
//! E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
//! Pre-trained Transformers", 2022, in the order of falling activations, with the groups left where they are: scales
//! are known before, so any order of columns may be taken.

use super::lanes::{Lanes, ROWS, Table};

/// Columns that are corrected at once: the corrections of later columns are gathered and made together.
const BLOCK: usize = 64;

/// Codes of a block of rows, column by column in the order of the matrix.
///
/// `weights` and `scales` (by group) are in the matrix's own order; `order` is that of fixing, and `factor` the
/// [`super::second_moment::SecondMoment::inverse_factor`] for it.
#[multiversion::multiversion(targets("x86_64+avx+avx2"))]
pub(super) fn quantize(
    table: &Table,
    group: usize,
    weights: &[Lanes],
    scales: &[Lanes],
    order: &[usize],
    factor: &[f32],
) -> Vec<[u8; ROWS]> {
    let n = order.len();
    let mut left: Vec<Lanes> = order.iter().map(|&c| weights[c]).collect();
    let mut codes = vec![[0u8; ROWS]; n];
    let mut errors = [[0.0f32; ROWS]; BLOCK];
    for first in (0..n).step_by(BLOCK) {
        let last = n.min(first + BLOCK);
        for j in first..last {
            let scale = &scales[order[j] / group];
            let mut x = left[j];
            for lane in 0..ROWS {
                x[lane] = if scale[lane] > 0.0 { x[lane] / scale[lane] } else { 0.0 };
            }
            let (value, code) = table.nearest_code(&x);
            codes[order[j]] = code.map(|c| c as u8);
            let diagonal = factor[j * n + j];
            let error = &mut errors[j - first];
            for lane in 0..ROWS {
                error[lane] = (left[j][lane] - value[lane] * scale[lane]) / diagonal;
            }
            for k in j + 1..last {
                let by = factor[k * n + j];
                for lane in 0..ROWS {
                    left[k][lane] -= error[lane] * by;
                }
            }
        }
        for k in last..n {
            let mut column = left[k];
            for (error, &by) in errors[..last - first].iter().zip(&factor[k * n + first..k * n + last]) {
                for lane in 0..ROWS {
                    column[lane] -= error[lane] * by;
                }
            }
            left[k] = column;
        }
    }
    codes
}
