//! The three kernels of a gated delta net, one after the other, agree with their CPU twin, and go on from what they keep.

mod support;

use haikuq_format::layout::padded;
use haikuq_format::spec::{DeltaNet, GatedNorm};
use haikuq_runtime::kernels::delta_chunks;
use haikuq_runtime::kernels::delta_net::{self, CpuDeltaNet, DeltaConv, DeltaScan, MAX_DIM, RING, mixed_size};
use haikuq_runtime::kernels::gated_norm::{GateAndNormalize, GroupNorm};
use rstest::rstest;
use support::steps::{SEQUENCES, steps};
use support::{Random, assert_close, permutations, run};

#[rstest]
fn chunks_and_single_tokens_are_those_of_the_twin(
    #[values([1, 1, 4, 4], [2, 4, 20, 12], [3, 3, 68, 72], [1, 3, 12, 100], [1, 2, 128, 40], [1, 1, MAX_DIM, MAX_DIM])]
    sizes: [usize; 4],
    #[values(1, 2, 4, 16)] kernel_size: usize,
    #[values(false, true)] in_chunks: bool,
) {
    let [key_heads, value_heads, key_dim, value_dim] = sizes;
    let net = DeltaNet::new(key_heads, value_heads, key_dim, value_dim, kernel_size);
    let (x_pitch, mixed_pitch, y_pitch) = (padded(net.input_rows()), padded(mixed_size(&net)), padded(net.value_size()));
    let mut random = Random::new(11);
    let kernel = random.values(net.channels() * kernel_size);
    let (log_decay, step_bias, gain) = (random.values(value_heads), random.values(value_heads), random.values(value_dim));
    let epsilon = 1e-3;
    let twin = CpuDeltaNet { net, kernel: &kernel, log_decay: &log_decay, step_bias: &step_bias, gain: &gain, epsilon };
    for (name, gpu) in permutations() {
        // Numbers of a sequence that was there before.
        let mut expected_columns = random.values(SEQUENCES * RING * net.channels());
        let mut expected_states = random.values(SEQUENCES * net.state_size());
        let (columns, states) = (gpu.upload("columns", &expected_columns), gpu.upload("states", &expected_states));
        let [kernel, log_decay, step_bias, gain] =
            [&kernel, &log_decay, &step_bias, &gain].map(|values| gpu.upload("parameters", values));
        for (chunk, tokens) in steps() {
            let num_tokens = tokens.len() as u32;
            let x = random.rows(tokens.len(), net.input_rows(), x_pitch);
            let (x_buffer, tokens_buffer) = (gpu.upload("x", &x), gpu.upload("tokens", &tokens));
            let mixed = gpu.upload("mixed", &vec![7.0f32; tokens.len() * mixed_pitch]);
            // Idle rows and padding stay as they are.
            let y = gpu.upload("y", &vec![0.0f32; tokens.len() * y_pitch]);
            let conv = DeltaConv {
                num_tokens,
                net,
                chunk,
                x: (&x_buffer).into(),
                tokens: (&tokens_buffer).into(),
                columns: (&columns).into(),
                kernel: (&kernel).into(),
                log_decay: (&log_decay).into(),
                step_bias: (&step_bias).into(),
                y: (&mixed).into(),
            };
            let scan = DeltaScan {
                num_tokens,
                net,
                chunk,
                x: (&mixed).into(),
                tokens: (&tokens_buffer).into(),
                states: (&states).into(),
                y: (&y).into(),
            };
            let norm = GroupNorm { order: GatedNorm::BeforeGate, epsilon, gain: (&gain).into(), shared: true };
            let norm = GateAndNormalize {
                num_tokens,
                groups: value_heads,
                width: value_dim,
                norm: Some(norm),
                x: (&x_buffer).into(),
                x_columns: net.input_rows(),
                first_gate: net.channels(),
                y: (&y).into(),
            };
            let mut dispatches = conv.bind(&gpu).unwrap();
            let scratch = gpu.storage("scratch", delta_chunks::scratch_bytes(num_tokens, &net));
            match chunk && in_chunks && delta_chunks::works(&gpu.profile, &net) {
                true => dispatches.extend(delta_chunks::bind(&gpu, &scan, &(&scratch).into()).unwrap()),
                false => dispatches.push(scan.bind(&gpu).unwrap()),
            }
            dispatches.push(norm.bind(&gpu).unwrap());
            let found = run::<f32>(&gpu, &dispatches.iter().collect::<Vec<_>>(), &y, tokens.len() * y_pitch);
            let expected = delta_net::cpu(twin, chunk, &tokens, &x, &mut expected_columns, &mut expected_states);
            let when = format!("{name}, {num_tokens} tokens from {}", tokens[0].position);
            assert_close(&when, &found, &expected, 1e-4);
            let found = support::read::<f32>(&gpu, &columns, expected_columns.len()).unwrap();
            assert!(found == expected_columns, "columns kept, {when}");
            let found = support::read::<f32>(&gpu, &states, expected_states.len()).unwrap();
            assert_close(&format!("states, {when}"), &found, &expected_states, 1e-5);
        }
    }
}
