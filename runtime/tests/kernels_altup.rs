//! `altup`, `stream_ends` and `cut_gates` agree with their CPU twins.

mod support;

use haikuq_format::layout::padded;
use haikuq_format::spec::{Activation, AltUp};
use haikuq_runtime::kernels::altup::{self, End, EndStream, StreamRows, UpdateStreams};
use haikuq_runtime::kernels::cut_gates::{self, CutGates};
use support::{Random, assert_close, permutations, read, run};

const TOKENS: usize = 3;

#[test]
fn streams_are_guessed_and_corrected() {
    for (n, columns, active, correct, scaled) in [
        (4, 70, 0, false, false),
        (8, 300, 5, false, false),
        (2, 33, 1, true, true),
        (8, 520, 0, true, false),
        (3, 64, 2, true, true),
    ] {
        let mut spec = AltUp::new(n);
        spec.active = active;
        let (pitch, streams_pitch) = (padded(columns), padded(n * columns));
        let mut random = Random::new(columns as u64);
        let (gain, scale) = (random.values(columns), random.values(columns));
        // Routed numbers that are neither 0 nor 1.
        let router: Vec<f32> = random.values(n * columns).iter().map(|x| x * columns as f32 / 9.0).collect();
        let coefficients = random.values(if correct { n * n } else { n * n * n });
        let (x, y) = (random.rows(TOKENS, n * columns, streams_pitch), random.rows(TOKENS, columns, pitch));
        let (mut streams, mut hidden) = (x.clone(), y.clone());
        for (x, y) in streams.chunks_mut(streams_pitch).zip(hidden.chunks_mut(pitch)) {
            let (x, y) = (&mut x[..n * columns], &mut y[..columns]);
            altup::cpu(spec, 1e-3, [&gain, &router, &coefficients], correct, scaled.then_some(&scale), x, y);
        }
        for (name, gpu) in permutations() {
            let [gain, router, coefficients, scale] =
                [&gain, &router, &coefficients, &scale].map(|values| gpu.upload("parameters", values));
            let (x, y) = (gpu.upload("streams", &x), gpu.upload("hidden", &y));
            let rows = StreamRows { tokens: TOKENS as u32, columns, spec, streams: (&x).into(), hidden: (&y).into() };
            let kernel = UpdateStreams {
                rows,
                correct,
                epsilon: 1e-3,
                gain: (&gain).into(),
                router: (&router).into(),
                coefficients: (&coefficients).into(),
                scale: scaled.then(|| (&scale).into()),
            };
            let found = run::<f32>(&gpu, &[&kernel.bind(&gpu).unwrap()], &x, streams.len());
            assert_close(&format!("{name}, {n} streams of {columns}"), &found, &streams, 1e-5);
            let found = read::<f32>(&gpu, &y, hidden.len()).unwrap();
            assert_close(&format!("{name}, {n} streams of {columns}, the active one"), &found, &hidden, 1e-5);
        }
    }
}

#[test]
fn streams_begin_and_end_as_large_as_others() {
    for (n, columns) in [(4, 70), (2, 33), (3, 600)] {
        let spec = AltUp::new(n);
        let (pitch, streams_pitch) = (padded(columns), padded(n * columns));
        for end in [End::First(1), End::First(n - 1), End::Last(1), End::Last(n - 1), End::Add] {
            let mut random = Random::new(columns as u64);
            let mut row = random.rows(TOKENS, columns, pitch);
            // Smaller than rows are taken for.
            row[pitch..2 * pitch].iter_mut().for_each(|x| *x *= 1e-4);
            let (x, y) = (random.rows(TOKENS, n * columns, streams_pitch), random.rows(TOKENS, columns, pitch));
            let (mut streams, mut hidden) = (x.clone(), y.clone());
            for (t, row) in row.chunks(pitch).enumerate() {
                let (x, y) = (&mut streams[t * streams_pitch..][..n * columns], &mut hidden[t * pitch..][..columns]);
                altup::cpu_end(end, 0.7, &row[..columns], x, y);
            }
            for (name, gpu) in permutations() {
                let (row, x, y) = (gpu.upload("row", &row), gpu.upload("streams", &x), gpu.upload("hidden", &y));
                let rows = StreamRows { tokens: TOKENS as u32, columns, spec, streams: (&x).into(), hidden: (&y).into() };
                let kernel = EndStream { rows, end, multiplier: 0.7, x: (&row).into() };
                let found = run::<f32>(&gpu, &[&kernel.bind(&gpu).unwrap()], &x, streams.len());
                assert_close(&format!("{name}, {end:?}"), &found, &streams, 1e-5);
                let found = read::<f32>(&gpu, &y, hidden.len()).unwrap();
                assert_close(&format!("{name}, {end:?}, hidden"), &found, &hidden, 1e-5);
            }
        }
    }
}

#[test]
fn gates_are_cut_off_by_their_mean_and_deviation() {
    for (width, activation, cutoff) in
        [(37, Activation::GeluTanh, 1.2), (600, Activation::Silu, -0.3), (64, Activation::Relu2, 0.0)]
    {
        let (x_pitch, pitch) = (padded(2 * width), padded(width));
        let mut random = Random::new(width as u64);
        let mut x = random.rows(TOKENS, 2 * width, x_pitch);
        // Far from zero, where a variance from squares would cancel.
        x[..2 * width].iter_mut().step_by(2).for_each(|gate| *gate += 30.0);
        let mut expected = vec![0.0; TOKENS * pitch];
        for (y, x) in expected.chunks_mut(pitch).zip(x.chunks(x_pitch)) {
            y[..width].copy_from_slice(&cut_gates::cpu(activation, cutoff, &x[..2 * width]));
        }
        for (name, gpu) in permutations() {
            let (x, y) = (gpu.upload("x", &x), gpu.upload("y", &vec![0.0f32; expected.len()]));
            let tokens = TOKENS as u32;
            let kernel = CutGates { tokens, width, cutoff, activation, x: (&x).into(), y: (&y).into() };
            let found = run::<f32>(&gpu, &[&kernel.bind(&gpu).unwrap()], &y, expected.len());
            assert_close(&format!("{name}, {width} gates"), &found, &expected, 1e-5);
        }
    }
}
