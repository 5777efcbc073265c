//! GPTQ: columns are rounded one after the other, and the error of each is corrected in those that follow.
//!
//! E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
//! Pre-trained Transformers", 2022, in the order of falling activations, with the groups left where they are: scales
//! are known before, so any order of columns may be taken.

use super::factors::Factors;
use super::lanes::{Lanes, ROWS, Strip, Table};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatRef, Par};

/// Columns between two products: the corrections that come from all columns before a block are one product.
const BLOCK: usize = 128;

/// Codes of a strip of rows, column by column in the order of the matrix, and the errors `E` in the order of fixing: what
/// each column lacked, over the diagonal of the factor `L`. The stored weights differ from `weights` by `E Lᵀ`.
///
/// `weights` and `scales` (by group) are in the matrix's own order.
pub(super) fn quantize(
    table: &Table,
    group: usize,
    weights: &Strip,
    scales: &Strip,
    factors: &Factors,
) -> (Vec<[u8; ROWS]>, Strip) {
    let (n, width, order) = (factors.order.len(), weights.width, &factors.order);
    let mut errors = Strip::zeros(n, width);
    let mut codes = vec![[0u8; ROWS]; n * width];
    for first in (0..n).step_by(BLOCK) {
        let columns = first..n.min(first + BLOCK);
        let lanes = order[columns.clone()].iter().flat_map(|&c| weights.column(c)).copied().collect();
        let mut left = Strip { width, lanes };
        if first > 0 {
            let by = factors.inverse().submatrix(first, 0, columns.len(), first);
            let out = left.matrix_mut(0..columns.len());
            matmul(out, Accum::Add, by, errors.matrix(0..first), -1.0, Par::Seq);
        }
        let diagonal = factors.inverse().submatrix(first, first, columns.len(), columns.len());
        for block in 0..width {
            fix(
                table,
                group,
                scales,
                &order[columns.clone()],
                diagonal,
                block,
                &left,
                &mut errors.lanes[first * width..],
                &mut codes,
            );
        }
    }
    (codes, errors)
}

/// Fixes the columns of one block of rows. `order` names these columns, `factor` is their part of `L`, `left` their
/// weights with all earlier corrections; `errors` is written from its start.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
#[expect(clippy::too_many_arguments, reason = "parts of strips that differ in their order")]
fn fix(
    table: &Table,
    group: usize,
    scales: &Strip,
    order: &[usize],
    factor: MatRef<'_, f32>,
    block: usize,
    left: &Strip,
    errors: &mut [Lanes],
    codes: &mut [[u8; ROWS]],
) {
    let width = left.width;
    let mut columns = [[0.0f32; ROWS]; BLOCK];
    for (j, column) in columns[..order.len()].iter_mut().enumerate() {
        *column = left.lanes[j * width + block];
    }
    for (j, &c) in order.iter().enumerate() {
        let scale = &scales.lanes[c / group * width + block];
        let mut x = columns[j];
        for lane in 0..ROWS {
            x[lane] = if scale[lane] > 0.0 { x[lane] / scale[lane] } else { 0.0 };
        }
        let (value, code) = table.nearest_code(&x);
        codes[c * width + block] = code.map(|c| c as u8);
        let diagonal = factor[(j, j)];
        let mut error = [0.0; ROWS];
        for lane in 0..ROWS {
            error[lane] = (columns[j][lane] - value[lane] * scale[lane]) / diagonal;
        }
        for k in j + 1..order.len() {
            let by = factor[(k, j)];
            for lane in 0..ROWS {
                columns[k][lane] -= error[lane] * by;
            }
        }
        errors[j * width + block] = error;
    }
}
