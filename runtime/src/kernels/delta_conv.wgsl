// What a gated delta net does before its states: queries, keys and values go through a convolution and SiLU, queries and keys
// are divided by their lengths; decays and betas are made. One workgroup a head and token.
//
// A row of x is queries, keys, values, output gates, b, a; a row of y queries, keys, values, logarithms of decays, betas. A sequence keeps its
// last columns of queries, keys and values in a ring: position p in slot p % RING. CONVOLVE writes y, STORE the columns that are
// kept. A step that has many tokens of one sequence does one after the other, since some tokens read the columns that others
// replace.

#import ring
#import convolution

override KEY_HEADS: u32;
override VALUE_HEADS: u32;
override KEY_DIM: u32;
override VALUE_DIM: u32;
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
// [channels][SIZE]
@group(0) @binding(3) var<storage, read> kernel: array<f32>;
@group(0) @binding(4) var<storage, read> log_decay: array<f32>;
@group(0) @binding(5) var<storage, read> step_bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
#endif

const WORKGROUP = 64u;

var<workgroup> partial_sums: array<f32, 64>;

fn channels() -> u32 {
    return 2u * KEY_HEADS * KEY_DIM + VALUE_HEADS * VALUE_DIM;
}

fn slot(token: vec4<u32>, position: u32, channel: u32) -> u32 {
    return ring_slot(token, position) * channels() + channel;
}

fn column(t: u32, channel: u32) -> f32 {
    return x[t * X_PITCH + channel];
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let t = group.y;
    let token = tokens[t];
    let is_value = group.x >= 2u * KEY_HEADS;
    let value_head = group.x - 2u * KEY_HEADS;
    let width = select(KEY_DIM, VALUE_DIM, is_value);
    let first = select(group.x * KEY_DIM, 2u * KEY_HEADS * KEY_DIM + value_head * VALUE_DIM, is_value);
    if token.z == IDLE {
        return;
    }
#ifdef CONVOLVE
    var values: array<f32, 4>;
    var squares = 0.0;
    for (var i = 0u; i < 4u; i++) {
        let d = i * WORKGROUP + local;
        if d < width {
            values[i] = silu(convolved(t, token, first + d));
            squares += values[i] * values[i];
        }
    }
    partial_sums[local] = squares;
    workgroupBarrier();
    var length = 0.0;
    for (var i = 0u; i < WORKGROUP; i++) {
        length += partial_sums[i];
    }
    var scale = 1.0 / sqrt(length + 1e-6);
    if is_value {
        scale = 1.0;
    } else if group.x < KEY_HEADS {
        scale /= sqrt(f32(KEY_DIM));
    }
    for (var i = 0u; i < 4u; i++) {
        let d = i * WORKGROUP + local;
        if d < width {
            y[t * Y_PITCH + first + d] = values[i] * scale;
        }
    }
    if is_value && local == 0u {
        let b = t * X_PITCH + channels() + VALUE_HEADS * VALUE_DIM + value_head;
        let decay = t * Y_PITCH + channels() + value_head;
        y[decay] = -exp(log_decay[value_head]) * softplus(x[b + VALUE_HEADS] + step_bias[value_head]);
        y[decay + VALUE_HEADS] = 1.0 / (1.0 + exp(-x[b]));
    }
#endif
#ifdef STORE
    if is_kept(t) {
        for (var d = local; d < width; d += WORKGROUP) {
            state[slot(token, token.y, first + d)] = column(t, first + d);
        }
    }
#endif
}
