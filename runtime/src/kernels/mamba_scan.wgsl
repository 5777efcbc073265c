// The states of a Mamba 2 mixer: S = decay · S + step · x ⊗ B; y = S C + skip · x, one token after the other. A row of a head's state
// stays in registers from its sequence's first token of the step to the last: LANES invocations have a part of it each. The next
// token's numbers are on their way meanwhile.

#import lane_sum

override HEADS: u32;
override HEAD_DIM: u32;
override GROUPS: u32;
override STATE_SIZE: u32;
// vec4 from one token's row of x to the next one's; f32 from one of y to the next.
override X_PITCH: u32;
override Y_PITCH: u32;
// Tokens that follow each other in one sequence; the grid's z counts others.
override TOKENS: u32;

// Inputs, B, C, steps, decays.
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
// (id, position, sequence, long)
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> skip: array<f32>;
// [sequences][HEADS][HEAD_DIM][STATE_SIZE]
@group(0) @binding(3) var<storage, read_write> states: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const IDLE = 0xffffffffu;
const WORKGROUP = 32u;
// Quarters of the largest state's row that one of its invocations has.
const MOST = 16u;

fn number(row: u32, at: u32) -> f32 {
    return x[row + at / 4u][at % 4u];
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
#ifdef SUBGROUPS
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) subgroup_size: u32,
#endif
) {
#ifdef SUBGROUPS
    let index = subgroup * subgroup_size + lane;
#else
    let index = local;
#endif
    let own = group.x * (WORKGROUP / LANES) + index / LANES;
    let part = index % LANES;
    let head = group.y;
    let start = tokens[group.z];
    // Those beyond the last row, and rows without a sequence, go along and write nothing.
    let live = own < HEAD_DIM && start.z != IDLE;
    let channel = head * HEAD_DIM + min(own, HEAD_DIM - 1u);
    let sequence = select(start.z, 0u, start.z == IDLE);
    // A row's invocations take quarters in turn.
    let quads = STATE_SIZE / 4u;
    let count = (quads + LANES - 1u) / LANES;
    let b_at = HEADS * HEAD_DIM / 4u + head / (HEADS / GROUPS) * quads;
    let c_at = b_at + GROUPS * quads;
    let step_at = HEADS * HEAD_DIM + 2u * GROUPS * STATE_SIZE + head;
    let decay_at = step_at + HEADS;
    let first = (sequence * HEADS * HEAD_DIM + channel) * quads;
    let own_skip = skip[head];
    var s: array<vec4<f32>, MOST>;
    var next_b: array<vec4<f32>, MOST>;
    var next_c: array<vec4<f32>, MOST>;
    let start_row = group.z * X_PITCH;
    for (var i = 0u; i < count; i++) {
        let quad = i * LANES + part;
        if quad < quads {
            if start.y > 0u {
                s[i] = states[first + quad];
            }
            next_b[i] = x[start_row + b_at + quad];
            next_c[i] = x[start_row + c_at + quad];
        }
    }
    var next_x = number(start_row, channel);
    var next_step = number(start_row, step_at);
    var next_decay = number(start_row, decay_at);
    for (var step = 0u; step < TOKENS; step++) {
        let t = group.z + step;
        // An idle token changes nothing.
        let idle = tokens[t].z == IDLE;
        let input = next_x;
        let decay = select(next_decay, 1.0, idle);
        let added = select(next_step * input, 0.0, idle);
        let row = (group.z + min(step + 1u, TOKENS - 1u)) * X_PITCH;
        next_x = number(row, channel);
        next_step = number(row, step_at);
        next_decay = number(row, decay_at);
        var out = 0.0;
        for (var i = 0u; i < count; i++) {
            s[i] = decay * s[i] + added * next_b[i];
            out += dot(s[i], next_c[i]);
            let quad = i * LANES + part;
            if quad < quads {
                next_b[i] = x[row + b_at + quad];
                next_c[i] = x[row + c_at + quad];
            }
        }
        out = lane_sum(out, index);
        if live && !idle && part == 0u {
            y[t * Y_PITCH + channel] = out + own_skip * input;
        }
    }
    if live {
        for (var i = 0u; i < count; i++) {
            let quad = i * LANES + part;
            if quad < quads {
                states[first + quad] = s[i];
            }
        }
    }
}
