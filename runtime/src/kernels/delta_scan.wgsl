// The states of a gated delta net: S = decay · S; S += k ⊗ beta (v − Sᵀk); y = Sᵀq, one token after the other. A column of a head's
// state stays in registers from its sequence's first token of the step to the last: LANES invocations have a part of it each. The
// time of a token is what there is to save, for each waits for the one before; so the next one's numbers are on their way meanwhile.

#import lane_sum

override KEY_HEADS: u32;
override VALUE_HEADS: u32;
override KEY_DIM: u32;
override VALUE_DIM: u32;
// vec4 from one token's row of x to the next one's; f32 from one of y to the next.
override X_PITCH: u32;
override Y_PITCH: u32;
// Tokens that follow each other in one sequence; the grid's z counts others.
override TOKENS: u32;

// Queries, keys, values, logarithms of decays, betas.
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
// (id, position, sequence, long)
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
// [sequences][VALUE_HEADS][KEY_DIM][VALUE_DIM]
@group(0) @binding(2) var<storage, read_write> states: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const IDLE = 0xffffffffu;
const WORKGROUP = 32u;
// Quarters of the widest key that one of a column's invocations has.
const MOST = 16u;

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
    // Those beyond the last column, and rows without a sequence, go along and write nothing.
    let live = own < VALUE_DIM && start.z != IDLE;
    let column = min(own, VALUE_DIM - 1u);
    let sequence = select(start.z, 0u, start.z == IDLE);
    // A column's invocations take quarters of the key in turn.
    let quads = KEY_DIM / 4u;
    let count = (quads + LANES - 1u) / LANES;
    let query = head / (VALUE_HEADS / KEY_HEADS) * quads;
    let key = KEY_HEADS * quads + query;
    let value = 2u * KEY_HEADS * KEY_DIM + head * VALUE_DIM + column;
    let decay_at = 2u * KEY_HEADS * KEY_DIM + VALUE_HEADS * VALUE_DIM + head;
    let beta_at = decay_at + VALUE_HEADS;
    let first = (sequence * VALUE_HEADS + head) * KEY_DIM * VALUE_DIM + column;
    var s: array<vec4<f32>, MOST>;
    var next_q: array<vec4<f32>, MOST>;
    var next_k: array<vec4<f32>, MOST>;
    let start_row = group.z * X_PITCH;
    for (var i = 0u; i < count; i++) {
        let quad = i * LANES + part;
        if quad < quads {
            if start.y > 0u {
                let at = first + 4u * quad * VALUE_DIM;
                s[i] = vec4<f32>(states[at], states[at + VALUE_DIM], states[at + 2u * VALUE_DIM], states[at + 3u * VALUE_DIM]);
            }
            next_q[i] = x[start_row + query + quad];
            next_k[i] = x[start_row + key + quad];
        }
    }
    var next_v = x[start_row + value / 4u][value % 4u];
    var next_decay = exp(x[start_row + decay_at / 4u][decay_at % 4u]);
    var next_beta = x[start_row + beta_at / 4u][beta_at % 4u];
    for (var step = 0u; step < TOKENS; step++) {
        let t = group.z + step;
        // An idle token changes nothing.
        let idle = tokens[t].z == IDLE;
        let q = next_q;
        let k = next_k;
        let v = next_v;
        let decay = select(next_decay, 1.0, idle);
        let beta = select(next_beta, 0.0, idle);
        let row = (group.z + min(step + 1u, TOKENS - 1u)) * X_PITCH;
        for (var i = 0u; i < count; i++) {
            let quad = i * LANES + part;
            if quad < quads {
                next_q[i] = x[row + query + quad];
                next_k[i] = x[row + key + quad];
            }
        }
        next_v = x[row + value / 4u][value % 4u];
        next_decay = exp(x[row + decay_at / 4u][decay_at % 4u]);
        next_beta = x[row + beta_at / 4u][beta_at % 4u];
        var remembered = 0.0;
        for (var i = 0u; i < count; i++) {
            s[i] *= decay;
            remembered += dot(s[i], k[i]);
        }
        let correction = beta * (v - lane_sum(remembered, index));
        var out = 0.0;
        for (var i = 0u; i < count; i++) {
            s[i] += correction * k[i];
            out += dot(s[i], q[i]);
        }
        out = lane_sum(out, index);
        if live && !idle && part == 0u {
            y[t * Y_PITCH + head * VALUE_DIM + column] = out;
        }
    }
    if live {
        for (var i = 0u; i < count; i++) {
            let quad = i * LANES + part;
            if quad < quads {
                let at = first + 4u * quad * VALUE_DIM;
                states[at] = s[i].x;
                states[at + VALUE_DIM] = s[i].y;
                states[at + 2u * VALUE_DIM] = s[i].z;
                states[at + 3u * VALUE_DIM] = s[i].w;
            }
        }
    }
}
