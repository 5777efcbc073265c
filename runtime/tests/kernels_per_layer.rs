//! `multiply` and `per_layer_inputs` agree with their CPU twins.

mod support;

use haikuq_format::layout::padded;
use haikuq_format::spec::{Activation, PerLayerEmbedding};
use haikuq_runtime::kernels::multiply::{self, Multiply, With};
use haikuq_runtime::kernels::per_layer_inputs::{self, PerLayerRows};
use support::{Random, assert_close, permutations, run};

#[test]
fn rows_are_multiplied_with_a_part_of_others_or_with_one_number() {
    let (tokens, columns) = (5, 37);
    let mut random = Random::new(4);
    // The second of three layers' numbers, and a factor for all.
    for (share, first, x_columns) in [(1, columns, 3 * columns), (columns, 0, 1)] {
        let x_pitch = if x_columns == 1 { 0 } else { padded(x_columns) };
        let x = random.rows(if x_pitch == 0 { 1 } else { tokens }, x_columns, padded(x_columns));
        let y = random.rows(tokens, columns, padded(columns));
        let mut expected = y.clone();
        for (t, y) in expected.chunks_exact_mut(padded(columns)).enumerate() {
            multiply::cpu(&mut y[..columns], &x[t * x_pitch + first..], share);
        }
        for (name, gpu) in permutations() {
            let (x, y) = (gpu.upload("x", &x), gpu.upload("y", &y));
            let (tokens, x, out) = (tokens as u32, (&x).into(), (&y).into());
            let kernel = Multiply { tokens, columns, share, first, x_pitch, with: With::Product, x, y: out };
            let found = run::<f32>(&gpu, &[&kernel.bind(&gpu).unwrap()], &y, expected.len());
            assert_close(name, &found, &expected, 1e-6);
        }
    }
}

#[test]
fn rows_are_copied_or_averaged() {
    let (tokens, columns) = (3, 41);
    let mut random = Random::new(5);
    let (x, y) = (random.rows(tokens, 3 * columns, padded(3 * columns)), random.rows(tokens, columns, padded(columns)));
    for (with, first) in [(With::Copy, columns), (With::Laurel, 0)] {
        let mut expected = y.clone();
        for (y, x) in expected.chunks_mut(padded(columns)).zip(x.chunks(padded(3 * columns))) {
            for (y, x) in y[..columns].iter_mut().zip(&x[first..]) {
                *y = if with == With::Copy { *x } else { (*y + x) / 2f32.sqrt() };
            }
        }
        for (name, gpu) in permutations() {
            let (x, y) = (gpu.upload("x", &x), gpu.upload("y", &y));
            let (tokens, x_pitch) = (tokens as u32, padded(3 * columns));
            let kernel = Multiply { tokens, columns, share: 1, first, x_pitch, with, x: (&x).into(), y: (&y).into() };
            let found = run::<f32>(&gpu, &[&kernel.bind(&gpu).unwrap()], &y, expected.len());
            assert_close(name, &found, &expected, 1e-6);
        }
    }
}

#[test]
fn numbers_for_each_layer_are_normalized_layer_by_layer() {
    for (layers, size) in [(3, 9), (2, 256), (5, 70)] {
        let (tokens, width) = (4, layers * size);
        let mut random = Random::new(size as u64);
        let mut spec = PerLayerEmbedding::new(size, Activation::Silu);
        (spec.projection_multiplier, spec.multiplier) = (-0.2, 0.7);
        let (gain, rows) = (random.values(size), random.rows(tokens, width, padded(width)));
        let x = random.rows(tokens, width, padded(width));
        let mut expected = x.clone();
        for (x, rows) in expected.chunks_exact_mut(padded(width)).zip(rows.chunks_exact(padded(width))) {
            per_layer_inputs::cpu(spec, 1e-3, &gain, &rows[..width], &mut x[..width]);
        }
        for (name, gpu) in permutations() {
            let (gain, rows, x) = (gpu.upload("gain", &gain), gpu.upload("rows", &rows), gpu.upload("x", &x));
            let (tokens, layers) = (tokens as u32, layers as u32);
            let kernel =
                PerLayerRows { tokens, layers, spec, epsilon: 1e-3, gain: (&gain).into(), rows: (&rows).into(), x: (&x).into() };
            let found = run::<f32>(&gpu, &[&kernel.bind(&gpu).unwrap()], &x, expected.len());
            assert_close(name, &found, &expected, 1e-6);
        }
    }
}
