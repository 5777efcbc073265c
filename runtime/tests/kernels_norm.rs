//! `norm` agrees with its CPU twin.

mod support;

use haikuq_format::layout::padded;
use haikuq_format::spec::{Norm, NormKind};
use haikuq_runtime::kernels::norm::{self, NormRows};
use rstest::rstest;
use support::{Random, assert_close, permutations, run};

#[rstest]
fn rows_of_any_width_are_normalized_and_padding_stays_zero(
    #[values(NormKind::Rms, NormKind::Layer, NormKind::LayerNoBias)] kind: NormKind,
    #[values(1, 5, 32, 100, 288, 577, 2050, 4500)] columns: usize,
    #[values(None, Some(0.3))] residual: Option<f32>,
) {
    let norm = Norm { kind, epsilon: 1e-5 };
    let (tokens, pitch) = (3, padded(columns));
    let mut random = Random::new(columns as u64);
    let mut x = random.rows(tokens, columns, pitch);
    // One row far from zero, where a variance from squares would cancel.
    x[pitch..pitch + columns].iter_mut().for_each(|x| *x = *x * 3.0 + 20.0);
    let (gain, bias) = (random.values(columns), random.values(columns));
    for (name, gpu) in permutations() {
        let (x_buffer, gain_buffer, bias_buffer) = (gpu.upload("x", &x), gpu.upload("gain", &gain), gpu.upload("bias", &bias));
        // Not zero before, so that padding shows what the kernel wrote; a residual's padding is zero and stays so.
        let before: Vec<f32> =
            (0..tokens * pitch).map(|i| if residual.is_none() || i % pitch < columns { 7.0 } else { 0.0 }).collect();
        let (y, scale) = (gpu.upload("y", &before), gpu.upload("scale", &[0.3f32]));
        let kernel = NormRows {
            tokens: tokens as u32,
            columns: columns as u32,
            norm,
            x: (&x_buffer).into(),
            gain: (&gain_buffer).into(),
            bias: Some((&bias_buffer).into()),
            residual,
            scale: residual.map(|_| (&scale).into()),
            y: (&y).into(),
        };
        let found = run::<f32>(&gpu, &[&kernel.bind(&gpu).unwrap()], &y, tokens * pitch);
        for t in 0..tokens {
            let mut expected = norm::cpu(norm, &x[t * pitch..][..columns], &gain, &bias);
            if let Some(multiplier) = residual {
                expected.iter_mut().for_each(|y| *y = 0.3 * (7.0 + multiplier * *y));
            }
            let row = &found[t * pitch..][..pitch];
            // Sums of at most 2050 f32 in a tree: a few units in the last place, of values around 20 for row 1.
            assert_close(&format!("{name}, row {t}"), &row[..columns], &expected, 2e-5);
            assert!(row[columns..].iter().all(|y| *y == 0.0), "{name}: padding of row {t} is not zero");
        }
    }
}

#[test]
fn a_layer_norm_that_lacks_its_bias_is_refused() {
    let gpu = support::gpu();
    let buffer = gpu.storage("rows", 128);
    let all = || (&buffer).into();
    let norm = Norm { kind: NormKind::Layer, epsilon: 1e-5 };
    let kernel =
        NormRows { tokens: 1, columns: 32, norm, x: all(), gain: all(), bias: None, residual: None, scale: None, y: all() };
    assert!(kernel.bind(&gpu).unwrap_err().to_string().contains("bias"));
}
