//! Codes of the accelerator against a twin that does the same one number at a time.

use super::tests::{accelerator, assert_close, in_panels, numbers, row_bytes};
use super::{Accelerator, Rounding};
use crate::matmul;

/// A Hessian, the order in which its columns are fixed, and the factor of its inverse in that order.
struct Inputs {
    columns: usize,
    hessian: Vec<f32>,
    order: Vec<usize>,
    factor: Vec<f32>,
}

impl Inputs {
    fn new(columns: usize) -> Self {
        let (sources, mix) = (numbers(3 * columns * columns, 1), numbers(columns * columns, 2));
        let mut hessian = matmul::gram(&matmul::times(&sources, &mix, columns), columns);
        let mean = hessian.iter().step_by(columns + 1).sum::<f32>() / columns as f32;
        for (i, m) in hessian.iter_mut().enumerate() {
            *m = if i % (columns + 1) == 0 { *m + 0.01 * mean } else { 0.8 * *m };
        }
        let mut order: Vec<usize> = (0..columns).collect();
        order.sort_by(|&a, &b| hessian[b * (columns + 1)].total_cmp(&hessian[a * (columns + 1)]));
        let factor = inverse_factor(columns, |i, j| f64::from(hessian[order[i] * columns + order[j]]));
        Self { columns, hessian, order, factor }
    }
}

/// The lower `L` with `L Lᵀ` the inverse of `h`: with `J` the reversal of order and `J h J = M Mᵀ`, it is `J M⁻ᵀ J`.
fn inverse_factor(n: usize, h: impl Fn(usize, usize) -> f64) -> Vec<f32> {
    let mut m = vec![0.0f64; n * n];
    for i in 0..n {
        for j in 0..=i {
            let sum = h(n - 1 - i, n - 1 - j) - (0..j).map(|k| m[i * n + k] * m[j * n + k]).sum::<f64>();
            m[i * n + j] = if i == j { sum.sqrt() } else { sum / m[j * n + j] };
        }
    }
    let mut inverse = vec![0.0f64; n * n];
    for j in 0..n {
        for i in j..n {
            let sum = f64::from(u8::from(i == j)) - (j..i).map(|k| m[i * n + k] * inverse[k * n + j]).sum::<f64>();
            inverse[i * n + j] = sum / m[i * n + i];
        }
    }
    let at = |i: usize, j: usize| inverse[(n - 1 - j) * n + n - 1 - i] as f32;
    (0..n * n).map(|at_| if at_ % n <= at_ / n { at(at_ / n, at_ % n) } else { 0.0 }).collect()
}

fn nearest(values: &[f32], x: f32) -> usize {
    values.windows(2).filter(|pair| x > 0.5 * (pair[0] + pair[1])).count()
}

/// Codes of one row.
fn twin(weights: &[f32], scales: &[f32], rounding: &Rounding<'_>, inputs: &Inputs) -> Vec<u8> {
    let (n, values) = (inputs.columns, rounding.values);
    let ratio = |x: f32, scale: f32| if scale > 0.0 { x / scale } else { 0.0 };
    let scale = |c: usize| scales[c / rounding.group];
    let mut left: Vec<f32> = inputs.order.iter().map(|&c| weights[c]).collect();
    let mut codes = vec![0; n];
    for j in 0..n {
        let c = inputs.order[j];
        codes[c] = nearest(values, ratio(left[j], scale(c)));
        let error = (left[j] - values[codes[c]] * scale(c)) / inputs.factor[j * n + j];
        (j + 1..n).for_each(|k| left[k] -= error * inputs.factor[k * n + j]);
    }
    for c in (0..rounding.sweeps).flat_map(|_| 0..n) {
        let stored = |c: usize| values[codes[c]] * scale(c);
        let row = &inputs.hessian[c * n..(c + 1) * n];
        let gradient: f32 = (0..n).map(|k| (weights[k] - stored(k)) * row[k]).sum();
        codes[c] = nearest(values, ratio(stored(c) + gradient / row[c], scale(c)));
    }
    codes.iter().map(|c| *c as u8).collect()
}

/// `Σ (w − ŵ) H (w − ŵ)ᵀ` over the rows.
fn loss(weights: &[f32], codes: &[u8], rounding: &Rounding<'_>, inputs: &Inputs) -> f64 {
    let (n, groups) = (inputs.columns, inputs.columns.div_ceil(rounding.group));
    let stored = |i: usize| rounding.values[usize::from(codes[i])] * rounding.scales[i / n * groups + i % n / rounding.group];
    let difference: Vec<f32> = weights.iter().enumerate().map(|(i, w)| w - stored(i)).collect();
    let product = matmul::times(&difference, &inputs.hessian, n);
    product.iter().zip(&difference).map(|(p, d)| f64::from(p * d)).sum()
}

fn check(accelerator: &Accelerator, rows: usize, columns: usize, group: usize, values: &[f32]) {
    let inputs = Inputs::new(columns);
    let weights = numbers(rows * columns, 3);
    let groups = columns.div_ceil(group);
    let reach = values.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    // Some group is empty: its scale is zero.
    let scales: Vec<f32> = (0..rows * groups).map(|i| if i == 1 { 0.0 } else { (0.8 + 0.01 * (i % 7) as f32) / reach }).collect();
    let factor = accelerator.upload(&inputs.factor, columns).unwrap();
    let hessian = accelerator.upload(&inputs.hessian, columns).unwrap();
    for sweeps in [0, 2] {
        let rounding = Rounding { values, group, scales: &scales, order: &inputs.order, sweeps };
        let codes = accelerator.round(&weights, &rounding, &factor, &hessian).unwrap();
        let rows = weights.chunks(columns).zip(scales.chunks(groups));
        let twin: Vec<u8> = rows.flat_map(|(w, s)| twin(w, s, &rounding, &inputs)).collect();
        let name = format!("{columns} columns, {} levels, {sweeps} sweeps", values.len());
        // Sums in another order now and then decide a tie in another way, and what follows from it in the row.
        let same = codes.iter().zip(&twin).filter(|(a, b)| a == b).count();
        assert!(same as f64 > 0.97 * codes.len() as f64, "{name}: {same} of {} codes", codes.len());
        let (a, b) = (loss(&weights, &codes, &rounding, &inputs), loss(&weights, &twin, &rounding, &inputs));
        assert!((a - b).abs() < 0.01 * b, "{name}: {a} against {b}");
    }
}

#[test]
fn codes_are_those_of_the_processor() {
    let uniform: Vec<f32> = (-8..8).map(|c| c as f32).collect();
    let learned = [-1.0, -0.6, -0.33, -0.1, 0.1, 0.3, 0.61, 1.0];
    let fine: Vec<f32> = (0..32).map(|c| ((c as f32 - 15.5) / 15.5).powi(3)).collect();
    let mut accelerator = accelerator();
    check(&accelerator, 37, 300, 32, &uniform);
    check(&accelerator, 16, 128, 64, &learned);
    check(&accelerator, 3, 37, 32, &fine);
    check(in_panels(128 * row_bytes(300), &mut accelerator), 150, 300, 32, &learned);
}

#[test]
fn factors_and_solutions_are_those_of_the_processor() {
    let accelerator = accelerator();
    // Blocks are of 64 columns, panels of 256.
    for columns in [1, 40, 64, 130, 300] {
        let inputs = Inputs::new(columns);
        let hessian = accelerator.upload(&inputs.hessian, columns).unwrap();
        let factor = accelerator.inverse_factor(&hessian, &inputs.order).unwrap().unwrap();
        let name = format!("{columns} columns");
        assert_close(&name, &accelerator.download(&factor).unwrap(), &inputs.factor, 1e-4);
        let wanted = numbers(5 * columns, 9);
        let rows = accelerator.upload(&matmul::times(&wanted, &inputs.hessian, columns), columns).unwrap();
        let solved = accelerator.solve_rows(&rows, &factor, &inputs.order).unwrap();
        assert_close(&name, &accelerator.download(&solved).unwrap(), &wanted, 1e-3);
    }
    let mut hessian = Inputs::new(100).hessian;
    hessian[77 * 101] = f32::NAN;
    let hessian = accelerator.upload(&hessian, 100).unwrap();
    assert!(accelerator.inverse_factor(&hessian, &(0..100).collect::<Vec<_>>()).unwrap().is_none());
}
