//! How fast an adapter does the work of a conversion: `accelerator_bench [ADAPTER] [DIVISOR]`.
//!
//! Prints GB/s of transfers, and TFLOP/s of products, moments and rounding at the shapes of a layer of a 3B decoder (3072 wide,
//! 8192 inside, 40 windows of 512 tokens), or of sizes divided by `DIVISOR` for small adapters. The first run of each shape,
//! which compiles kernels and makes buffers, is not counted.

use haikuq::accelerator::{Accelerator, AcceleratorError, HeadColumns, Rounding};
use haikuq_format::spec::{Activation, Attention, Norm, NormKind};
use std::time::Instant;

fn main() -> Result<(), AcceleratorError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let accelerator = Accelerator::open(arguments.first().map(String::as_str), None)?;
    let divisor: usize = arguments.get(1).and_then(|d| d.parse().ok()).unwrap_or(1);
    let [tokens, hidden, inner] = [20480, 3072, 8192].map(|n| n / divisor);
    let description = accelerator.description();
    println!("{} ({}), {}", description.name, description.backend, description.driver);
    println!("memory: {:.1} GB at most", accelerator.memory().1 as f64 * 1e-9);

    for columns in [hidden, inner] {
        let values = numbers(tokens * columns);
        let gigabytes = (values.len() * 4) as f64 * 1e-9;
        let mut matrix = accelerator.zeros(tokens, columns)?;
        let up = time(&accelerator, || accelerator.write(&mut matrix, 0, &values))?;
        let mut out = vec![0.0; values.len()];
        let down = time(&accelerator, || accelerator.read(&matrix, 0, &mut out))?;
        println!("transfer {tokens} × {columns}: up {:.1} GB/s, down {:.1} GB/s", gigabytes / up, gigabytes / down);
        assert!(out == values);
    }
    {
        let (x, h) = (accelerator.upload(&numbers(tokens * hidden), hidden)?, numbers(tokens * inner));
        let h = accelerator.upload(&h, inner)?;
        let w = accelerator.upload(&numbers(inner * hidden), hidden)?;
        let flops = |a: usize, b: usize, c: usize| 2.0 * (a * b * c) as f64;
        let seconds = time(&accelerator, || accelerator.times_transposed(&x, &w).map(drop))?;
        print("x · wᵀ", [tokens, hidden, inner], flops(tokens, hidden, inner), seconds);
        let w = accelerator.upload(&numbers(hidden * inner), inner)?;
        let seconds = time(&accelerator, || accelerator.times_transposed(&h, &w).map(drop))?;
        print("x · wᵀ", [tokens, inner, hidden], flops(tokens, inner, hidden), seconds);
        let square = accelerator.gram(&h)?;
        let seconds = time(&accelerator, || accelerator.times(&w, &square).map(drop))?;
        print("x · y", [hidden, inner, inner], flops(hidden, inner, inner), seconds);
        let seconds = time(&accelerator, || accelerator.gram(&x).map(drop))?;
        print("hessian", [tokens, hidden, hidden], 0.5 * flops(tokens, hidden, hidden), seconds);
        let seconds = time(&accelerator, || accelerator.gram(&h).map(drop))?;
        print("hessian", [tokens, inner, inner], 0.5 * flops(tokens, inner, inner), seconds);
        let seconds = time(&accelerator, || accelerator.cross(&x, &h).map(drop))?;
        print("cross", [tokens, hidden, inner], flops(tokens, hidden, inner), seconds);
    }
    conversion(&accelerator, tokens, hidden, inner)?;
    layer(&accelerator, tokens, hidden, inner)?;
    factors(&accelerator, 2 * inner, hidden)?;
    factors(&accelerator, hidden, inner)?;
    for [rows, columns] in [[2 * inner, hidden], [hidden, inner], [hidden, hidden]] {
        let weights = numbers(rows * columns);
        let values: Vec<f32> = (-8..8).map(|c| c as f32 / 8.0).collect();
        let scales = vec![1.0; rows * columns.div_ceil(32)];
        let order: Vec<usize> = (0..columns).rev().collect();
        let identity: Vec<f32> = (0..columns * columns).map(|i| f32::from(u8::from(i % (columns + 1) == 0))).collect();
        let identity = accelerator.upload(&identity, columns)?;
        for sweeps in [0, 2] {
            let rounding = Rounding { values: &values, group: 32, scales: &scales, order: &order, sweeps };
            let seconds = time(&accelerator, || accelerator.round(&weights, &rounding, &identity, &identity).map(drop))?;
            let flops = (1 + 2 * sweeps) as f64 * (rows * columns * columns) as f64;
            print(&format!("rounding, {sweeps} sweeps"), [rows, columns, columns], flops, seconds);
        }
    }
    Ok(())
}

/// What a layer of 24 heads, 8 of keys and values, does beside products.
fn layer(accelerator: &Accelerator, tokens: usize, hidden: usize, inner: usize) -> Result<(), AcceleratorError> {
    let mut attention = Attention::new(24, 8, hidden / 24);
    attention.window = Some(512);
    let qkv = accelerator.upload(&numbers(tokens * attention.qkv_size()), attention.qkv_size())?;
    if accelerator.can_attend(&attention, tokens / 512, 512) {
        let seconds = time(accelerator, || accelerator.attend(&qkv, &attention, &[], 512).map(drop))?;
        let flops = 2.0 * (tokens * 512 * hidden) as f64;
        print("attention", [tokens, 512, hidden], flops, seconds);
    }
    drop(qkv);
    let mut x = accelerator.upload(&numbers(tokens * hidden), hidden)?;
    let (norm, gain) = (Norm { kind: NormKind::Rms, epsilon: 1e-5 }, numbers(hidden));
    let row = HeadColumns { first: 0, heads: 1, width: hidden };
    let seconds = time(accelerator, || accelerator.norm(&mut x, row, norm, &gain, None))?;
    println!("norm {tokens} × {hidden}: {:.2} ms", seconds * 1e3);
    let gate_up = accelerator.upload(&numbers(tokens * 2 * inner), 2 * inner)?;
    let seconds = time(accelerator, || accelerator.activate(&gate_up, Activation::Silu, true).map(drop))?;
    println!("gate {tokens} × {inner}: {:.2} ms", seconds * 1e3);
    Ok(())
}

/// All that the matrices of a layer take, scales and tables apart, which are the processor's: products of both streams, moments,
/// corrections, factors and codes, and the way there and back.
fn conversion(accelerator: &Accelerator, tokens: usize, hidden: usize, inner: usize) -> Result<(), AcceleratorError> {
    let kv = hidden / 3;
    for [rows, columns] in [[hidden + 2 * kv, hidden], [hidden, hidden], [2 * inner, hidden], [hidden, inner]] {
        let weights = numbers(rows * columns);
        let x = numbers(tokens * columns);
        let (original, stored) = (accelerator.upload(&x, columns)?, accelerator.upload(&x, columns)?);
        drop(x);
        let values: Vec<f32> = (-8..8).map(|c| c as f32 / 8.0).collect();
        let scales = vec![1.0; rows * columns.div_ceil(32)];
        let mut corrected = vec![0.0; rows * columns];
        let seconds = time(accelerator, || {
            let mut w = accelerator.upload(&weights, columns)?;
            drop(accelerator.times_transposed(&original, &w)?);
            let mut hessian = accelerator.gram(&stored)?;
            let diagonal = accelerator.diagonal(&hessian)?;
            let mut order: Vec<usize> = (0..columns).collect();
            order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
            accelerator.shrink(&mut hessian, 0.2, &vec![0.1; columns])?;
            let factor = accelerator.inverse_factor(&hessian, &order)?.expect("it has more on its diagonal than beside it");
            let mut shift = accelerator.copy(&original)?;
            accelerator.combine(&mut shift, 0.5, &stored, -0.5)?;
            let correction = match 2 * rows < columns {
                true => accelerator.cross(&accelerator.times_transposed(&shift, &w)?, &stored)?,
                false => accelerator.times(&w, &accelerator.cross(&shift, &stored)?)?,
            };
            drop(shift);
            accelerator.combine(&mut w, 1.0, &accelerator.solve_rows(&correction, &factor, &order)?, 1.0)?;
            accelerator.read(&w, 0, &mut corrected)?;
            let rounding = Rounding { values: &values, group: 32, scales: &scales, order: &order, sweeps: 2 };
            let codes = accelerator.round(&corrected, &rounding, &factor, &hessian)?;
            assert_eq!(codes.len(), weights.len());
            accelerator.write(&mut w, 0, &corrected)?;
            accelerator.times_transposed(&stored, &w).map(drop)
        })?;
        println!("conversion of a matrix {rows} × {columns}, {tokens} tokens: {:.1} ms", seconds * 1e3);
    }
    Ok(())
}

/// The factor of a Hessian, and solutions with it.
fn factors(accelerator: &Accelerator, rows: usize, columns: usize) -> Result<(), AcceleratorError> {
    if !accelerator.can_factor(columns) {
        return Ok(());
    }
    let mut hessian: Vec<f32> = numbers(columns * columns).iter().map(|x| 0.1 * x).collect();
    for r in 0..columns {
        hessian[r * columns + r] = columns as f32;
        (0..r).for_each(|c| hessian[r * columns + c] = hessian[c * columns + r]);
    }
    let (hessian, order) = (accelerator.upload(&hessian, columns)?, (0..columns).collect::<Vec<_>>());
    let seconds = time(accelerator, || {
        let factor = accelerator.inverse_factor(&hessian, &order)?;
        assert!(factor.is_some());
        Ok(())
    })?;
    print("inverse factor", [columns; 3], 2.0 / 3.0 * (columns as f64).powi(3), seconds);
    let factor = accelerator.inverse_factor(&hessian, &order)?.expect("it has large numbers on its diagonal");
    let y = accelerator.upload(&numbers(rows * columns), columns)?;
    let seconds = time(accelerator, || accelerator.solve_rows(&y, &factor, &order).map(drop))?;
    print("solutions", [rows, columns, columns], 4.0 * (rows * columns * columns) as f64, seconds);
    Ok(())
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

/// Seconds of `work`, the least of three after a first that does not count.
fn time(accelerator: &Accelerator, mut work: impl FnMut() -> Result<(), AcceleratorError>) -> Result<f64, AcceleratorError> {
    let mut least = f64::INFINITY;
    for run in 0..4 {
        let begin = Instant::now();
        work()?;
        accelerator.finish()?;
        if run > 0 {
            least = least.min(begin.elapsed().as_secs_f64());
        }
    }
    Ok(least)
}

fn print(what: &str, [a, b, c]: [usize; 3], operations: f64, seconds: f64) {
    println!("{what} {a} × {b} × {c}: {:.1} ms, {:.2} TFLOP/s", seconds * 1e3, operations / seconds * 1e-12);
}
