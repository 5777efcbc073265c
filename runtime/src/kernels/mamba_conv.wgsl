// What a Mamba 2 mixer does before its states: inputs, B and C go through a convolution and SiLU; steps and decays are made. An
// invocation has a channel of a token, or a head's step.
//
// A row of x is gates, inputs, B, C, steps; a row of y inputs, B, C, steps, decays. A sequence keeps its last columns of inputs, B
// and C in a ring: position p in slot p % RING. CONVOLVE writes y, STORE the columns that are kept. A step that has many tokens of one
// sequence does one after the other, since some tokens read the columns that others replace.

#import ring
#import convolution

override CHANNELS: u32;
override HEADS: u32;
// Where the channels begin in a row of x.
override FIRST: u32;
override MIN_STEP: f32;
override MAX_STEP: f32;
// f32 values from one token's row to the next one's.
override X_PITCH: u32;
override Y_PITCH: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
// (id, position, sequence, long)
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
#ifdef STORE
@group(0) @binding(2) var<storage, read_write> state: array<f32>;
#else
@group(0) @binding(2) var<storage, read> state: array<f32>;
#endif
#ifdef CONVOLVE
// [CHANNELS][SIZE]
@group(0) @binding(3) var<storage, read> kernel: array<f32>;
#ifdef BIAS
@group(0) @binding(4) var<storage, read> bias: array<f32>;
#endif
@group(0) @binding(5) var<storage, read> log_decay: array<f32>;
@group(0) @binding(6) var<storage, read> step_bias: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;
#endif

fn column(t: u32, channel: u32) -> f32 {
    return x[t * X_PITCH + FIRST + channel];
}

fn slot(token: vec4<u32>, position: u32, channel: u32) -> u32 {
    return ring_slot(token, position) * CHANNELS + channel;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let channel = id.x;
    let t = id.y;
    let token = tokens[t];
    if token.z == IDLE {
        return;
    }
#ifdef CONVOLVE
    if channel < CHANNELS {
        var sum = convolved(t, token, channel);
#ifdef BIAS
        sum += bias[channel];
#endif
        y[t * Y_PITCH + channel] = silu(sum);
    } else if channel < CHANNELS + HEADS {
        let head = channel - CHANNELS;
        let step = clamp(softplus(column(t, channel) + step_bias[head]), MIN_STEP, MAX_STEP);
        y[t * Y_PITCH + channel] = step;
        y[t * Y_PITCH + channel + HEADS] = exp(-exp(log_decay[head]) * step);
    }
#endif
#ifdef STORE
    if channel < CHANNELS && is_kept(t) {
        state[slot(token, token.y, channel)] = column(t, channel);
    }
#endif
}
