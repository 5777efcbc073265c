// A causal convolution of each channel over a step's rows, and over the columns that a sequence keeps of earlier ones. Needs `ring`,
// `kernel` [channels][SIZE], `state` with `slot(token, position, channel)`, and `column(t, channel)`, which goes into it.

override SIZE: u32;

#ifdef CONVOLVE
// Without a bias.
fn convolved(t: u32, token: vec4<u32>, channel: u32) -> f32 {
    var sum = 0.0;
    for (var j = 0u; j < SIZE; j++) {
        let back = SIZE - 1u - j;
        var u = 0.0;
        if back == 0u || (CHUNK && back <= t) {
            u = column(t - back, channel);
        } else if back <= token.y {
            u = state[slot(token, token.y - back, channel)];
        }
        sum += kernel[channel * SIZE + j] * u;
    }
    return sum;
}

fn silu(x: f32) -> f32 {
    return x / (1.0 + exp(-x));
}

fn softplus(x: f32) -> f32 {
    return max(x, 0.0) + log(1.0 + exp(-abs(x)));
}
#endif
