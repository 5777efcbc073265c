//! Learned codebooks: the table of values that serves a tensor's weights best, by Lloyd's algorithm.
//!
//! Scales and table are found in turn on a sample of rows: scales by [`super::scales::search`] for the table at hand,
//! then the table's values as weighted means of the weights that they stand for. S. Lloyd, "Least squares quantization
//! in PCM", 1982.

use super::lanes::{Lanes, ROWS, Table, gather};
use super::scales::{ScaleGrid, search};
use haikuq_format::scheme::{Bits, Grouped};
use rayon::prelude::*;

/// Weights that the table is learned from, at most.
const SAMPLE: usize = 1 << 18;

/// Groups of a block's columns that a thread takes at a time.
const GROUPS: usize = 16;

/// Turns of scales and table.
const TURNS: usize = 6;

/// In all turns but the last, one of so many scales is tried.
const COARSE: usize = 2;

/// Means taken in a turn.
const MEANS: usize = 3;

/// Where learning starts: evenly spaced quantiles of the normal distribution, which weights resemble, scaled so that
/// the largest magnitude is one.
fn start(bits: Bits) -> Vec<f32> {
    let n = bits.levels();
    let quantile = |i: u32| normal_quantile((f64::from(i) + 0.5) / f64::from(n)) as f32;
    let reach = quantile(n - 1);
    (0..n).map(|i| quantile(i) / reach).collect()
}

/// Inverse of the normal distribution function, by P. J. Acklam's rational approximation (relative error 1.2e-9).
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 5] =
        [-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2, 6.680131188771972e1, -1.328068155288572e1];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 4] = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416];
    let polynomial = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |q: f64| polynomial(&C, q) / (polynomial(&D, q) * q + 1.0);
    if p < 0.02425 {
        tail((-2.0 * p.ln()).sqrt())
    } else if p > 1.0 - 0.02425 {
        -tail((-2.0 * (1.0 - p).ln()).sqrt())
    } else {
        let (q, r) = (p - 0.5, (p - 0.5) * (p - 0.5));
        q * polynomial(&A, r) / (polynomial(&B, r) * r + 1.0)
    }
}

/// The table of evenly spaced values that an `offset: none` scheme without a codebook has.
pub(super) fn uniform(bits: Bits) -> Table {
    let n = bits.levels() as i32;
    Table::new((0..n).map(|c| (c - n / 2) as f32).collect())
}

/// Learns the table for `weights` `[rows, columns]`, whose squared errors cost `importance` a column. Its largest
/// magnitude is one.
pub(super) fn learn(scheme: Grouped, weights: &[f32], columns: usize, importance: &[f32]) -> Table {
    let rows = weights.len() / columns;
    let blocks = rows.div_ceil(ROWS);
    let wanted = (SAMPLE / (columns * ROWS)).clamp(1, blocks);
    let sample: Vec<Vec<Lanes>> =
        (0..wanted).into_par_iter().map(|i| gather(weights, columns, i * blocks / wanted * ROWS)).collect();
    let largest = sample.iter().flatten().flatten().fold(0.0f32, |a, w| a.max(w.abs()));
    let mut table = Table::new(start(scheme.bits));
    for turn in 0..TURNS {
        // Only what the last turn finds is kept.
        let step = if turn + 1 < TURNS { COARSE } else { 1 };
        let grid = ScaleGrid::new(scheme.scale, largest, table.reach());
        // Long rows leave few blocks, so threads share them.
        let part = scheme.group * GROUPS;
        let scales_of = |(block, cost): (&[Lanes], &[f32])| block_scales(grid, &table, scheme.group, block, cost, step);
        let scales: Vec<Vec<Lanes>> = sample
            .par_iter()
            .map(|block| block.par_chunks(part).zip(importance.par_chunks(part)).flat_map_iter(scales_of).collect())
            .collect();
        for _ in 0..MEANS {
            let blocks: Vec<Vec<(f64, f64)>> = sample
                .par_iter()
                .zip(&scales)
                .map(|(block, scales)| {
                    let parts = block.par_chunks(part).zip(scales.par_chunks(GROUPS)).zip(importance.par_chunks(part));
                    let terms: Vec<Vec<Terms>> =
                        parts.map(|((block, scales), cost)| terms(&table, scheme.group, block, scales, cost)).collect();
                    sums(table.values().len(), terms.iter().flatten())
                })
                .collect();
            let mut total = vec![(0.0f64, 0.0f64); table.values().len()];
            for block in &blocks {
                for (sum, part) in total.iter_mut().zip(block) {
                    sum.0 += part.0;
                    sum.1 += part.1;
                }
            }
            let mut values: Vec<f32> = total
                .iter()
                .zip(table.values())
                .map(|(&(sum, weight), &old)| if weight > 0.0 { (sum / weight) as f32 } else { old })
                .collect();
            values.sort_by(f32::total_cmp);
            table = Table::new(values);
        }
        let reach = table.reach();
        if reach > 0.0 {
            table = Table::new(table.values().iter().map(|v| v / reach).collect());
        }
    }
    table
}

/// The scales of a block of rows, group after group, of every `step`-th that may be.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
pub(super) fn block_scales(
    grid: ScaleGrid,
    table: &Table,
    group: usize,
    block: &[Lanes],
    importance: &[f32],
    step: usize,
) -> Vec<Lanes> {
    block.chunks(group).zip(importance.chunks(group)).map(|(w, cost)| search(grid, table, w, cost, step)).collect()
}

/// What the weights of a column add to the sums of their nearest values.
struct Terms {
    codes: [i32; ROWS],
    /// A weight over its scale, times what that weighs.
    weighted: [f64; ROWS],
    weights: [f64; ROWS],
}

/// The terms of each column.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
fn terms(table: &Table, group: usize, block: &[Lanes], scales: &[Lanes], importance: &[f32]) -> Vec<Terms> {
    let mut all = Vec::with_capacity(block.len());
    for (c, (column, &cost)) in block.iter().zip(importance).enumerate() {
        let scale = &scales[c / group];
        let mut x = *column;
        for lane in 0..ROWS {
            x[lane] = if scale[lane] > 0.0 { x[lane] / scale[lane] } else { 0.0 };
        }
        let (_, codes) = table.nearest_code(&x);
        let (mut weighted, mut weights) = ([0.0; ROWS], [0.0; ROWS]);
        for lane in 0..ROWS {
            weights[lane] = f64::from(cost * scale[lane] * scale[lane]);
            weighted[lane] = weights[lane] * f64::from(x[lane]);
        }
        all.push(Terms { codes, weighted, weights });
    }
    all
}

/// For each value of the table: the weighted sum of the weights (over their scales) that it is nearest to, and of what
/// they weigh. Terms are added in the order of columns.
fn sums<'a>(levels: usize, terms: impl Iterator<Item = &'a Terms>) -> Vec<(f64, f64)> {
    let mut sums = vec![(0.0f64, 0.0f64); levels];
    for Terms { codes, weighted, weights } in terms {
        for lane in 0..ROWS {
            let sum = &mut sums[codes[lane] as usize];
            sum.0 += weighted[lane];
            sum.1 += weights[lane];
        }
    }
    sums
}
