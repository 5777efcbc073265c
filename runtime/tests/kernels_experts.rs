//! The kernels of mixtures of experts agree with their CPU twins.

mod support;
mod weights;

use haikuq_format::layout::padded;
use haikuq_format::spec::{Activation, Experts, Scores};
use haikuq_runtime::device::GpuError;
use haikuq_runtime::kernels::candidate::{Candidate, Numerics};
use haikuq_runtime::kernels::experts::{ChooseExperts, Cpu, MatvecExperts, choose_cpu, cpu, routing_pitch};
use haikuq_runtime::kernels::project_experts::{ExpertsJob, ExpertsShape, ProjectExperts};
use haikuq_runtime::kernels::projection::{Output, Projection};
use haikuq_runtime::kernels::tables;
use haikuq_runtime::program::Phase;
use rstest::rstest;
use support::{Random, assert_close, gpu, permutations, run};
use weights::{matrix, scheme};

/// Routing as the kernel writes it.
fn packed(chosen: &[Vec<(usize, f32)>], active: usize) -> Vec<[u32; 2]> {
    let pitch = routing_pitch(active);
    let mut routing = vec![[u32::MAX; 2]; chosen.len() * pitch];
    for (row, chosen) in routing.chunks_exact_mut(pitch).zip(chosen) {
        row.iter_mut().zip(chosen).for_each(|(pair, (expert, weight))| *pair = [*expert as u32, weight.to_bits()]);
    }
    routing
}

#[rstest]
fn the_chosen_are_those_of_the_twin(
    #[values((1, 1), (5, 2), (8, 8), (64, 8), (130, 6))] (num_experts, num_active): (usize, usize),
    #[values((Scores::Softmax, false), (Scores::Sigmoid, false), (Scores::Sigmoid, true))] (scores, biased): (Scores, bool),
    #[values(false, true)] normalized: bool,
    #[values((0, false), (1, true), (3, false), (70, true))] (shared, gated): (usize, bool),
) {
    let mut experts = Experts::new(num_experts + shared, num_active + shared, scores);
    (experts.shared, experts.shared_gate) = (shared, gated);
    let (num_routed, num_experts, num_active) = (num_experts, experts.router_rows(), num_active + shared);
    (experts.normalized, experts.selection_bias, experts.scale) = (normalized, biased, 1.3);
    experts.epsilon = if normalized && scores == Scores::Sigmoid { 1e-3 } else { 0.0 };
    let (tokens, pitch, mut random) = (5, padded(num_experts), Random::new(3));
    let mut logits = random.rows(tokens, num_experts, pitch);
    logits.iter_mut().for_each(|l| *l *= 4.0);
    // All alike: those that come first. Very far apart: nothing overflows.
    logits[pitch..pitch + num_experts].fill(0.5);
    (0..num_experts).for_each(|e| logits[2 * pitch + e] = 300.0 - 250.0 * e as f32);
    let bias = random.values(num_routed);
    for (name, gpu) in permutations() {
        let (logits_buffer, bias_buffer) = (gpu.upload("logits", &logits), gpu.upload("bias", &bias));
        let count = 2 * tokens * routing_pitch(num_active);
        let routing = gpu.upload("routing", &vec![u32::MAX; count]);
        let kernel = ChooseExperts {
            tokens: tokens as u32,
            experts,
            logits: (&logits_buffer).into(),
            selection_bias: biased.then(|| (&bias_buffer).into()),
            routing: (&routing).into(),
        };
        let found: Vec<u32> = run(&gpu, &[&kernel.bind(&gpu).unwrap()], &routing, count);
        for (token, found) in found.chunks_exact(count / tokens).enumerate() {
            let logits = &logits[token * pitch..token * pitch + num_experts];
            let expected = choose_cpu(&experts, logits, biased.then_some(&bias[..]));
            let ids: Vec<usize> = found[..2 * num_active].chunks_exact(2).map(|pair| pair[0] as usize).collect();
            assert_eq!(ids, expected.iter().map(|(e, _)| *e).collect::<Vec<_>>(), "{name}, token {token}");
            let weights: Vec<f32> = found[..2 * num_active].chunks_exact(2).map(|pair| f32::from_bits(pair[1])).collect();
            let expected: Vec<f32> = expected.iter().map(|(_, weight)| *weight).collect();
            assert_close(&format!("{name}, weights of token {token}"), &weights, &expected, 1e-5);
            assert!(found[2 * num_active..].iter().all(|word| *word == u32::MAX), "{name}: nothing else is written");
        }
    }
}

/// As in `kernels_matmul.rs`.
fn tolerance(candidate: &Candidate<ProjectExperts>) -> f32 {
    match candidate.name {
        _ if candidate.numerics == Numerics::Exact => 2e-5,
        "experts_matrices" => 6.0 * 1e-3,
        _ => 6.0 * 1.6e-2,
    }
}

#[rstest]
fn products_are_those_of_the_twin(
    #[values("f32", "f16", "q8/64", "q4/32+u4", "q3/32", "q5/32:e4m4 learned")] name_of_scheme: &str,
    #[values((1, false), (3, false), (2, true), (37, true), (190, true))] (tokens, many): (usize, bool),
    #[values(40, 600)] columns: usize,
    #[values(false, true)] biased: bool,
) {
    let (num_experts, active, rows) = (5, 2, 24);
    let modes = [
        Output::Glu(Activation::Silu),
        Output::Glu(Activation::ClampedSwiglu),
        Output::Activate(Activation::Gelu),
        Output::Store,
        Output::Residual { multiplier: 0.6 },
    ];
    for (name, gpu) in permutations() {
        let mut random = Random::new(11);
        // Chunks of 40 rows begin and end within an expert.
        let chunks = [40, 40, 40];
        let (matrix, weights) = matrix(&gpu, scheme(name_of_scheme), &chunks, columns, &mut weights::Random::new(11));
        let bias = random.values(num_experts * rows);
        let chosen: Vec<Vec<(usize, f32)>> = (0..tokens)
            .map(|_| {
                let ids = random.permutation(num_experts);
                ids[..active].iter().map(|e| (*e as usize, random.value())).collect()
            })
            .collect();
        let routing = gpu.upload("routing", &packed(&chosen, active));
        let bias_buffer = gpu.upload("bias", &bias);
        for mode in modes {
            let combine = matches!(mode, Output::Store | Output::Residual { .. });
            let each = if combine { active } else { 1 };
            let input = random.rows(tokens * each, columns, padded(columns));
            let (width, outputs) = (mode.width(rows), if combine { tokens } else { tokens * active });
            let before = random.rows(outputs, width, padded(width));
            let (input_buffer, output) = (gpu.upload("x", &input), gpu.upload("y", &before));
            let projection = Projection {
                matrix: &matrix,
                input: (&input_buffer).into(),
                input_stride: padded(columns),
                output: (&output).into(),
                output_stride: padded(rows),
                tokens,
                bias: biased.then(|| (&bias_buffer).into()),
                mode,
                times: None,
            };
            let phase = if many { Phase::Prefill } else { Phase::Decode };
            let shape = ExpertsShape {
                rows,
                columns,
                tokens,
                phase,
                num_experts,
                active,
                scheme: scheme(name_of_scheme),
                output: mode,
                bias: biased,
            };
            let sums = gpu.storage("each", shape.each_bytes());
            let bias = biased.then_some(&bias[..]);
            let per = outputs / tokens;
            let rows_of = |values: &[f32], width: usize, first: usize, count: usize| -> Vec<f32> {
                (first..first + count).flat_map(|i| values[i * padded(width)..][..width].to_vec()).collect()
            };
            for candidate in tables::PROJECT_EXPERTS.iter().filter(|c| (c.can)(&gpu.profile, &shape)) {
                let output = gpu.upload("y", &before);
                let bytes = (candidate.scratch)(&gpu.profile, &shape);
                // What lay in scratch before must not matter.
                let scratch = gpu.upload("scratch", &vec![u32::MAX; bytes as usize / 4 + 1]);
                let projection = Projection { output: (&output).into(), ..projection.clone() };
                let product = MatvecExperts { projection, num_experts, active, routing: (&routing).into() };
                let job = ExpertsJob { shape, product, scratch: (&scratch).into(), each: (&sums).into() };
                let dispatches = (candidate.bind)(&gpu, &job).unwrap();
                let found = run::<f32>(&gpu, &dispatches.iter().collect::<Vec<_>>(), &output, before.len());
                for (token, chosen) in chosen.iter().enumerate() {
                    let x = rows_of(&input, columns, token * each, each);
                    let mut expected = rows_of(&before, width, token * per, per);
                    cpu(&Cpu { weights: &weights, columns, bias, num_experts, chosen, mode }, &x, &mut expected);
                    let found = rows_of(&found, width, token * per, per);
                    let what = format!("{name}, {}, {mode:?}, token {token}", candidate.name);
                    assert_close(&what, &found, &expected, tolerance(candidate));
                }
            }
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let gpu = gpu();
    let buffer = gpu.upload("zeros", &vec![0.0f32; 4096]);
    let refused = |chunk_rows: &[usize], num_experts: usize| {
        let (matrix, _) = matrix(&gpu, scheme("f32"), chunk_rows, 32, &mut weights::Random::new(1));
        let binding = || (&buffer).into();
        let (input, output, routing) = (binding(), binding(), binding());
        let projection = Projection {
            matrix: &matrix,
            input,
            input_stride: 32,
            output,
            output_stride: 32,
            tokens: 1,
            bias: None,
            mode: Output::Store,
            times: None,
        };
        match (MatvecExperts { projection, num_experts, active: 2, routing }).bind(&gpu) {
            Err(GpuError::Validation(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&[24], 5), "24 rows of 5 experts");
    assert_eq!(refused(&[30], 5), "30 rows of 5 experts");
    assert_eq!(refused(&[22, 18], 5), "a chunk of experts begins at row 22");
}
