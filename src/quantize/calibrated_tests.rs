//! Statements about calibrated quantization: each step does what it is for.

use super::codebook::{self, block_scales};
use super::descent::Descent;
use super::gptq;
use super::hessian::Hessian;
use super::lanes::{ROWS, Strip, gather};
use super::matrix::{quantize_matrix, quantize_matrix_on, quantize_table, quantize_table_on};
use super::scales::ScaleGrid;
use crate::accelerator::Accelerator;
use haikuq_format::layout::{dequantize, pack_quantized};
use haikuq_format::scheme::{Grouped, Scheme};

fn grouped(text: &str) -> Grouped {
    match text.parse().unwrap() {
        Scheme::Grouped(g) => g,
        other => panic!("{other}"),
    }
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

/// Hessian of inputs that are mixtures of a few sources, some columns far larger than others.
fn correlated(columns: usize) -> Vec<f32> {
    let tokens = 4 * columns;
    let (sources, mix) = (numbers(tokens * columns, 1), numbers(columns * columns, 2));
    let mut inputs = crate::matmul::times(&sources, &mix, columns);
    for row in inputs.chunks_exact_mut(columns) {
        row.iter_mut().enumerate().for_each(|(c, x)| *x = (*x + 3.0 * row_mean(c)) * if c % 17 == 0 { 5.0 } else { 1.0 });
    }
    crate::matmul::gram(&inputs, columns)
}

fn row_mean(column: usize) -> f32 {
    (column as f32 * 0.37).sin()
}

/// `Σ_r D_r H D_rᵀ` with `D` the difference of two matrices and `H` `[columns, columns]`.
fn loss(a: &[f32], b: &[f32], h: &[f32]) -> f64 {
    let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let product = crate::matmul::times(&difference, h, h.len().isqrt());
    product.iter().zip(&difference).map(|(p, d)| f64::from(p * d)).sum()
}

#[test]
fn each_step_loses_less_than_the_one_before() {
    let (rows, columns) = (48, 96);
    let (weights, h) = (numbers(rows * columns, 7), correlated(columns));
    let hessian = Hessian::new(columns, h.clone());
    for text in ["q4/32:e4m4 learned", "q3/32:e4m4 learned", "q4/64 learned", "q4/32"] {
        let scheme = grouped(text);
        let diagonal: Vec<f32> = hessian.diagonal();
        let nearest = loss(&weights, &quantize_table(scheme, &weights, columns, Some(&diagonal)).values, &h);
        let calibrated = loss(&weights, &quantize_matrix(scheme, weights.clone(), &hessian).unwrap().values, &h);
        assert!(calibrated < 0.6 * nearest, "{text}: {calibrated} against {nearest}");
    }
    let error = |text| {
        let stored = quantize_table(grouped(text), &weights, columns, None).values;
        weights.iter().zip(&stored).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    assert!(error("q4/32 learned") < 0.95 * error("q4/32"), "a learned table serves a bell curve better than a uniform one");
}

#[test]
fn a_gpu_quantizes_as_the_processor_does() {
    let accelerator = Accelerator::open(Some("0"), None).expect("an adapter; run scripts/setup.sh to install software Vulkan");
    // The last group is not whole, and rows are padded.
    let (rows, columns) = (40, 84);
    let (weights, h) = (numbers(rows * columns, 7), correlated(columns));
    let hessian = Hessian::new(columns, h.clone());
    let (order, importance) = (hessian.activation_order(), hessian.diagonal());
    let shrunk: Vec<f32> = (0..columns).flat_map(|c| hessian.row(c).to_vec()).collect();
    let on_gpu = accelerator.upload(&shrunk, columns).unwrap();
    let factor = accelerator.inverse_factor(&on_gpu, &order).unwrap().unwrap();
    for text in ["q4/32:e4m4 learned", "q3/64 learned", "q5/32:e4m4 learned", "q4/32"] {
        let scheme = grouped(text);
        let (cpu, gpu) = (
            quantize_table(scheme, &weights, columns, Some(&importance)),
            quantize_table_on(&accelerator, scheme, &weights, columns, Some(&importance)).unwrap(),
        );
        assert!(cpu.rows == gpu.rows && cpu.values == gpu.values, "{text}: a table has the same bits");
        let cpu = quantize_matrix(scheme, weights.clone(), &hessian).unwrap();
        let by = (&order[..], &factor, &on_gpu);
        let gpu = quantize_matrix_on(&accelerator, scheme, weights.clone(), &importance, by).unwrap();
        assert!(cpu.rows.scales == gpu.rows.scales && cpu.rows.codebook == gpu.rows.codebook, "{text}");
        let (of_cpu, of_gpu) = (loss(&weights, &cpu.values, &h), loss(&weights, &gpu.values, &h));
        assert!((of_gpu / of_cpu - 1.0).abs() < 0.02, "{text}: {of_gpu} on the GPU, {of_cpu} on the processor");
    }
}

#[test]
fn descent_never_loses_more_than_gptq_alone() {
    let columns = 96;
    let weights = numbers(ROWS * columns, 3);
    let hessian = Hessian::new(columns, correlated(columns));
    // What both of them make small.
    let shrunk: Vec<f32> = (0..columns).flat_map(|c| hessian.row(c).to_vec()).collect();
    let scheme = grouped("q3/32 learned");
    let importance = hessian.diagonal();
    let table = codebook::learn(scheme, &weights, columns, &importance);
    let grid = ScaleGrid::new(scheme.scale, 6.0, table.reach());
    let lanes = gather(&weights, columns, 0);
    let scales = Strip::of(&[block_scales(grid, &table, scheme.group, &lanes, &importance, 1)]);
    let factors = hessian.factors().unwrap();
    let (found, errors) = gptq::quantize(&table, scheme.group, &Strip::of(&[lanes]), &scales, factors);
    let values = |codes: &[[u8; ROWS]]| -> Vec<f32> {
        (0..ROWS * columns)
            .map(|i| {
                let (lane, c) = (i / columns, i % columns);
                table.values()[usize::from(codes[c][lane])] * scales.lanes[c / scheme.group][lane]
            })
            .collect()
    };
    let mut last = loss(&weights, &values(&found), &shrunk);
    for sweep in 0..3 {
        let mut codes = found.clone();
        let descent = Descent { table: &table, group: scheme.group, scales: &scales, hessian: &hessian };
        descent.improve(factors, &errors, &mut codes, sweep + 1);
        let now = loss(&weights, &values(&codes), &shrunk);
        assert!(now <= last * 1.0001, "sweep {sweep}: {now} after {last}");
        last = now;
    }
}

#[test]
fn values_are_those_that_readers_of_the_package_get() {
    let (rows, columns) = (21, 100);
    let weights = numbers(rows * columns, 5);
    let hessian = Hessian::new(columns, correlated(columns));
    for text in ["q4/32:e4m4 learned", "q3/64:e4m4 learned", "q3/32 learned", "q4/128", "q3/32"] {
        let scheme = grouped(text);
        let matrix = quantize_matrix(scheme, weights.clone(), &hessian).unwrap();
        let planes = pack_quantized(scheme, rows, columns, &matrix.rows);
        let planes: Vec<_> = planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
        assert_eq!(dequantize(Scheme::Grouped(scheme), rows, columns, &planes), matrix.values, "{text}");
    }
}

#[test]
fn rows_far_apart_in_size_and_rows_of_zeros_are_served() {
    let columns = 64;
    let mut weights = numbers(4 * columns, 9);
    for (r, row) in weights.chunks_exact_mut(columns).enumerate() {
        row.iter_mut().for_each(|w| *w *= [1.0, 1e-3, 0.0, 30.0][r]);
    }
    let hessian = Hessian::new(columns, {
        let mut identity = vec![0.0; columns * columns];
        identity.iter_mut().step_by(columns + 1).for_each(|v| *v = 1.0);
        identity
    });
    let matrix = quantize_matrix(grouped("q4/32:e4m4 learned"), weights.clone(), &hessian).unwrap();
    for (r, (row, stored)) in weights.chunks_exact(columns).zip(matrix.values.chunks_exact(columns)).enumerate() {
        let error: f32 = row.iter().zip(stored).map(|(a, b)| (a - b).powi(2)).sum();
        let energy: f32 = row.iter().map(|a| a * a).sum();
        assert!(error <= 0.015 * energy, "row {r}: {error} of {energy}");
    }
}

#[test]
fn activations_that_are_not_finite_are_refused() {
    let mut values = vec![0.0; 32 * 32];
    values[5] = f32::NAN;
    let weights = numbers(32 * 4, 1);
    assert!(quantize_matrix(grouped("q4/32 learned"), weights, &Hessian::new(32, values)).is_err());
}

#[test]
fn rows_are_solved_against_the_hessian() {
    let columns = 40;
    let hessian = Hessian::new(columns, correlated(columns));
    let wanted = numbers(3 * columns, 4);
    let rows: Vec<f32> = (0..columns).flat_map(|c| hessian.row(c).to_vec()).collect();
    let mut y = crate::matmul::times(&wanted, &rows, columns);
    hessian.solve_rows(&mut y).unwrap();
    for (a, b) in wanted.iter().zip(&y) {
        assert!((a - b).abs() < 0.02, "{a} {b}");
    }
}
