// What comes out of a Mamba 2 mixer, for all chunks at once, from the states before them:
// y[i] = exp(g[i]) S C[i] + Σ exp(g[i] − g[j]) step[j] (C[i]·B[j]) x[j] over j ≤ i, + skip · x[i], where g is as in `mamba_chunk`. An
// invocation has two tokens and four inputs.

#import mamba_chunk

// f32 values from one token's row of y to the next one's.
override Y_PITCH: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
// (id, position, sequence, long)
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> made: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> skip: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const WORKGROUP = 256u;
// vec4 of B and of C that are in the workgroup's memory at once.
const BLOCK = 8u;
// One more than tokens, against bank conflicts.
const STRIDE = CHUNK + 1u;

// [vec4][token]
var<workgroup> b_tile: array<vec4<f32>, BLOCK * STRIDE>;
var<workgroup> c_tile: array<vec4<f32>, BLOCK * STRIDE>;
// [token][earlier token]
var<workgroup> weights: array<f32, CHUNK * STRIDE>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let head = group.y;
    let chunk = group.z;
    let first = chunk * CHUNK;
    if tokens[first].z == IDLE {
        return;
    }
    read_tokens(head, first, index);
    let quads = STATE_SIZE / 4u;
    let b_at = b_of(head);
    let c_at = b_at + GROUPS * quads;
    // Tokens i and i + 16, and inputs.
    let i = index % 16u;
    let inputs = HEAD_DIM / 4u;
    let own = group.x * 16u + index / 16u;
    let p = min(own, inputs - 1u);
    let state = state_of(chunk, head) + 4u * p * quads;
    // A token and four that come before it or not.
    let later = index / 8u;
    let earlier = index % 8u;
    var of_state: array<vec4<f32>, 2>;
    var dots: array<f32, 4>;
    for (var block = 0u; block < quads; block += BLOCK) {
        // BLOCK * CHUNK is WORKGROUP: one of each for an invocation.
        let fetched = block + index % BLOCK;
        let row = rows[index / BLOCK];
        let to = index % BLOCK * STRIDE + index / BLOCK;
        b_tile[to] = select(vec4<f32>(0.0), x[row + b_at + min(fetched, quads - 1u)], fetched < quads);
        c_tile[to] = select(vec4<f32>(0.0), x[row + c_at + min(fetched, quads - 1u)], fetched < quads);
        workgroupBarrier();
        for (var d = 0u; d < BLOCK; d++) {
            let c = c_tile[d * STRIDE + later];
            for (var n = 0u; n < 4u; n++) {
                dots[n] += dot(c, b_tile[d * STRIDE + earlier + 8u * n]);
            }
            let a = c_tile[d * STRIDE + i];
            let b = c_tile[d * STRIDE + i + 16u];
            let q = min(block + d, quads - 1u);
            for (var e = 0u; e < 4u; e++) {
                let s = made[state + e * quads + q];
                of_state[0][e] += dot(s, a);
                of_state[1][e] += dot(s, b);
            }
        }
        workgroupBarrier();
    }
    for (var n = 0u; n < 4u; n++) {
        let j = earlier + 8u * n;
        let weight = exp(min(logs[later] - logs[j], 0.0)) * steps[j] * dots[n];
        weights[later * STRIDE + j] = select(0.0, weight, j <= later);
    }
    workgroupBarrier();
    if own >= inputs {
        return;
    }
    let x_at = head * inputs + p;
    var out = array<vec4<f32>, 2>(exp(logs[i]) * of_state[0], exp(logs[i + 16u]) * of_state[1]);
    for (var j = 0u; j < CHUNK; j++) {
        let input = x[rows[j] + x_at];
        out[0] += weights[i * STRIDE + j] * input;
        out[1] += weights[(i + 16u) * STRIDE + j] * input;
    }
    for (var n = 0u; n < 2u; n++) {
        let token = i + 16u * n;
        let t = first + token;
        if t < TOKENS && tokens[min(t, TOKENS - 1u)].z != IDLE {
            let result = out[n] + skip[head] * x[rows[token] + x_at];
            let to = t * Y_PITCH + head * HEAD_DIM + 4u * p;
            for (var e = 0u; e < 4u; e++) {
                y[to + e] = result[e];
            }
        }
    }
}
