//! `short_conv` agrees with its CPU twin, and goes on from the columns that it keeps.

mod support;

use haikuq_format::layout::padded;
use haikuq_format::spec::ShortConv;
use haikuq_runtime::kernels::attention::Token;
use haikuq_runtime::kernels::short_conv::{self, ConvolveTokens, RING};
use rstest::rstest;
use support::{Random, assert_close, permutations, run};

fn token(sequence: u32, position: usize) -> Token {
    Token { id: 0, position: position as u32, sequence, long: 0 }
}

#[rstest]
fn convolutions_of_chunks_and_of_single_tokens_are_those_of_the_twin(
    #[values(1, 3, 7)] kernel_size: usize,
    #[values(20, 64, 97)] channels: usize,
    #[values(false, true)] biased: bool,
) {
    let mut conv = ShortConv::new(channels, kernel_size);
    conv.bias = biased;
    let (pitch, x_pitch) = (padded(channels), padded(3 * channels));
    let mut random = Random::new(7);
    let (kernel, bias) = (random.values(channels * kernel_size), random.values(channels));
    let bias_of = |bias: &[f32]| if biased { bias.to_vec() } else { Vec::new() };
    let mut filled = (0..40).map(|position| token(1, position)).collect::<Vec<_>>();
    filled.resize(64, Token::IDLE);
    let longer = |first: usize| (first..first + 32).map(|position| token(1, position)).collect::<Vec<_>>();
    // A chunk that ends early, a whole one, then one token each of two sequences (one of them new) and an idle row.
    let steps =
        [(true, filled), (true, longer(40)), (false, vec![token(1, 72), token(0, 0), Token::IDLE]), (false, vec![token(1, 73)])];
    for (name, gpu) in permutations() {
        let mut expected_state = vec![0.0; 2 * RING * channels];
        let state = gpu.upload("state", &expected_state);
        let (kernel_buffer, bias_buffer) = (gpu.upload("kernel", &kernel), gpu.upload("bias", &bias));
        for (chunk, tokens) in &steps {
            let x = random.rows(tokens.len(), 3 * channels, x_pitch);
            let (x_buffer, tokens_buffer) = (gpu.upload("x", &x), gpu.upload("tokens", tokens));
            // Not zero before, so that padding shows what the kernel wrote.
            let y = gpu.upload("y", &vec![7.0f32; tokens.len() * pitch]);
            let kernel_of_step = ConvolveTokens {
                num_tokens: tokens.len() as u32,
                conv,
                chunk: *chunk,
                x: (&x_buffer).into(),
                tokens: (&tokens_buffer).into(),
                state: (&state).into(),
                kernel: (&kernel_buffer).into(),
                bias: biased.then(|| (&bias_buffer).into()),
                y: (&y).into(),
            };
            let dispatches = kernel_of_step.bind(&gpu).unwrap();
            let found = run::<f32>(&gpu, &dispatches.iter().collect::<Vec<_>>(), &y, tokens.len() * pitch);
            let expected = short_conv::cpu(conv, *chunk, tokens, &x, &kernel, &bias_of(&bias), &mut expected_state);
            assert_close(&format!("{name}, {} tokens", tokens.len()), &found, &expected, 1e-5);
            let found = pollster::block_on(gpu.read::<f32>(&state, 0, expected_state.len())).unwrap();
            assert_close(&format!("{name}, kept after {} tokens", tokens.len()), &found, &expected_state, 1e-6);
        }
    }
}
