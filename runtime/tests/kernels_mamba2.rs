//! The three kernels of a Mamba 2 mixer, one after the other, agree with their CPU twin, and go on from what they keep.

mod support;

use haikuq_format::layout::padded;
use haikuq_format::spec::{GatedNorm, Mamba2};
use haikuq_runtime::kernels::gated_norm::{GateAndNormalize, GroupNorm};
use haikuq_runtime::kernels::mamba_chunks;
use haikuq_runtime::kernels::mamba2::{self, CpuMamba2, MAX_STATE, MambaConv, MambaScan, RING, mixed_size};
use rstest::rstest;
use support::steps::{SEQUENCES, steps};
use support::{Random, assert_close, permutations, run};

/// Each norm, with a bias and limits of steps where there is none.
fn mixer([heads, head_dim, groups, state_size]: [usize; 4], kernel_size: usize, norm: Option<GatedNorm>) -> Mamba2 {
    let mut mamba = Mamba2::new(heads, head_dim, groups, state_size, kernel_size);
    mamba.norm = norm;
    if norm.is_none() {
        (mamba.conv_bias, mamba.min_step, mamba.max_step) = (true, 0.5, Some(0.9));
    }
    mamba
}

#[rstest]
fn chunks_and_single_tokens_are_those_of_the_twin(
    #[values([1, 4, 1, 4], [6, 12, 2, 20], [5, 20, 5, 68], [3, 100, 1, 16], [2, 8, 1, MAX_STATE])] sizes: [usize; 4],
    #[values(1, 4, 16)] kernel_size: usize,
    #[values(None, Some(GatedNorm::AfterGate), Some(GatedNorm::BeforeGate))] norm: Option<GatedNorm>,
    #[values(false, true)] in_chunks: bool,
) {
    let mamba = mixer(sizes, kernel_size, norm);
    let (heads, groups, inner) = (mamba.num_heads, mamba.num_groups, mamba.inner_size());
    let (x_pitch, mixed_pitch, y_pitch) = (padded(mamba.input_rows()), padded(mixed_size(&mamba)), padded(inner));
    let mut random = Random::new(11);
    let kernel = random.values(mamba.channels() * kernel_size);
    let bias = if mamba.conv_bias { random.values(mamba.channels()) } else { Vec::new() };
    let [log_decay, step_bias, skip] = [(); 3].map(|()| random.values(heads));
    let gain = random.values(inner);
    let epsilon = 1e-3;
    let twin = CpuMamba2 {
        mamba,
        kernel: &kernel,
        bias: &bias,
        log_decay: &log_decay,
        step_bias: &step_bias,
        skip: &skip,
        gain: &gain,
        epsilon,
    };
    for (name, gpu) in permutations() {
        // Numbers of a sequence that was there before.
        let mut expected_columns = random.values(SEQUENCES * RING * mamba.channels());
        let mut expected_states = random.values(SEQUENCES * mamba.states_size());
        let (columns, states) = (gpu.upload("columns", &expected_columns), gpu.upload("states", &expected_states));
        let [kernel, log_decay, step_bias, skip, gain] =
            [&kernel, &log_decay, &step_bias, &skip, &gain].map(|values| gpu.upload("parameters", values));
        let bias = mamba.conv_bias.then(|| gpu.upload("bias", &bias));
        for (chunk, tokens) in steps() {
            let num_tokens = tokens.len() as u32;
            let x = random.rows(tokens.len(), mamba.input_rows(), x_pitch);
            let (x_buffer, tokens_buffer) = (gpu.upload("x", &x), gpu.upload("tokens", &tokens));
            let mixed = gpu.upload("mixed", &vec![7.0f32; tokens.len() * mixed_pitch]);
            // Idle rows and padding stay as they are.
            let y = gpu.upload("y", &vec![0.0f32; tokens.len() * y_pitch]);
            let conv = MambaConv {
                num_tokens,
                mamba,
                chunk,
                x: (&x_buffer).into(),
                tokens: (&tokens_buffer).into(),
                columns: (&columns).into(),
                kernel: (&kernel).into(),
                bias: bias.as_ref().map(Into::into),
                log_decay: (&log_decay).into(),
                step_bias: (&step_bias).into(),
                y: (&mixed).into(),
            };
            let scan = MambaScan {
                num_tokens,
                mamba,
                chunk,
                x: (&mixed).into(),
                tokens: (&tokens_buffer).into(),
                skip: (&skip).into(),
                states: (&states).into(),
                y: (&y).into(),
            };
            let norm = GateAndNormalize {
                num_tokens,
                groups,
                width: inner / groups,
                norm: mamba.norm.map(|order| GroupNorm { order, epsilon, gain: (&gain).into(), shared: false }),
                x: (&x_buffer).into(),
                x_columns: mamba.input_rows(),
                first_gate: 0,
                y: (&y).into(),
            };
            let mut dispatches = conv.bind(&gpu).unwrap();
            let scratch = gpu.storage("scratch", mamba_chunks::scratch_bytes(num_tokens, &mamba));
            match chunk && in_chunks && mamba_chunks::works(&mamba) {
                true => dispatches.extend(mamba_chunks::bind(&gpu, &scan, &(&scratch).into()).unwrap()),
                false => dispatches.push(scan.bind(&gpu).unwrap()),
            }
            dispatches.push(norm.bind(&gpu).unwrap());
            let found = run::<f32>(&gpu, &dispatches.iter().collect::<Vec<_>>(), &y, tokens.len() * y_pitch);
            let expected = mamba2::cpu(twin, chunk, &tokens, &x, &mut expected_columns, &mut expected_states);
            let when = format!("{name}, {num_tokens} tokens from {}", tokens[0].position);
            assert_close(&when, &found, &expected, 1e-4);
            let found = support::read::<f32>(&gpu, &columns, expected_columns.len()).unwrap();
            assert!(found == expected_columns, "columns kept, {when}");
            let found = support::read::<f32>(&gpu, &states, expected_states.len()).unwrap();
            assert_close(&format!("states, {when}"), &found, &expected_states, 1e-5);
        }
    }
}
