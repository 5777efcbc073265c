// A gated short convolution: rows of x are b, c and x of a token, side by side; y = c · (bias + Σ kernel[j] · u[t − SIZE + 1 + j])
// with u = b · x. A sequence keeps its last columns of u in a ring: position p in slot p % RING.
//
// CONVOLVE writes y, STORE the columns that are kept. A step that has many tokens of one sequence does one after the other, since
// some tokens read the columns that others replace.

#import ring
#import convolution

override CHANNELS: u32;
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
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
#endif

fn column(t: u32, channel: u32) -> f32 {
    return x[t * X_PITCH + channel] * x[t * X_PITCH + 2u * CHANNELS + channel];
}

fn slot(token: vec4<u32>, position: u32, channel: u32) -> u32 {
    return ring_slot(token, position) * CHANNELS + channel;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let channel = id.x;
    let t = id.y;
    let token = tokens[t];
#ifdef CONVOLVE
    if channel < Y_PITCH {
        var out = 0.0;
        if channel < CHANNELS && token.z != IDLE {
            var sum = convolved(t, token, channel);
#ifdef BIAS
            sum += bias[channel];
#endif
            out = x[t * X_PITCH + CHANNELS + channel] * sum;
        }
        y[t * Y_PITCH + channel] = out;
    }
#endif
#ifdef STORE
    if channel < CHANNELS && is_kept(t) {
        state[slot(token, token.y, channel)] = column(t, channel);
    }
#endif
}
