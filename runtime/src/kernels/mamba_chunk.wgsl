// What the tokens of a chunk add to the states of a Mamba 2 mixer, Σ exp(g[last] − g[j]) step[j] x[j] ⊗ B[j], where g[j] is the sum of
// the logarithms of decays up to token j; for all chunks at once. Without what was there before: `mamba_carry` adds that. An
// invocation has four inputs and eight numbers of B.

#import mamba_chunk

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
// (id, position, sequence, long)
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> made: array<vec4<f32>>;

const WORKGROUP = 128u;

var<workgroup> weights: array<f32, CHUNK>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let head = group.y;
    let chunk = group.z;
    let first = chunk * CHUNK;
    if tokens[first].z == IDLE {
        return;
    }
    read_tokens(head, first, index);
    if index < CHUNK {
        weights[index] = exp(logs[CHUNK - 1u] - logs[index]) * steps[index];
    }
    workgroupBarrier();
    if group.x == 0u && index == 0u {
        made[decay_of(chunk, head)] = vec4<f32>(exp(logs[CHUNK - 1u]));
    }
    let quads = STATE_SIZE / 4u;
    let pairs = (quads + 1u) / 2u;
    let item = group.x * WORKGROUP + index;
    let p = item / pairs;
    if p >= HEAD_DIM / 4u {
        return;
    }
    let q = item % pairs * 2u;
    let other = min(q + 1u, quads - 1u);
    let x_at = head * (HEAD_DIM / 4u) + p;
    let b_at = b_of(head);
    var sums: array<vec4<f32>, 8>;
    for (var j = 0u; j < CHUNK; j++) {
        let row = rows[j];
        let input = weights[j] * x[row + x_at];
        let b = x[row + b_at + q];
        let c = x[row + b_at + other];
        for (var e = 0u; e < 4u; e++) {
            sums[e] += input[e] * b;
            sums[4u + e] += input[e] * c;
        }
    }
    let to = state_of(chunk, head) + 4u * p * quads;
    for (var e = 0u; e < 4u; e++) {
        made[to + e * quads + q] = sums[e];
        made[to + e * quads + other] = select(sums[e], sums[4u + e], other > q);
    }
}
