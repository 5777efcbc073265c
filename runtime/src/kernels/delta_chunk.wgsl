// What the tokens of a chunk do to each other in a gated delta net, for all chunks at once; `delta_chunks` takes states through them.
//
// Let S be the state before the chunk, g[i] the sum of the logarithms of decays up to token i, and u the corrections, so that
// S[i] = exp(g[i]) S + Σ exp(g[i] − g[j]) k[j] ⊗ u[j] over j ≤ i. Then (I + L) u = β (v − exp(g) Sᵀk), where
// L[i][j] = β[i] exp(g[i] − g[j]) k[i]·k[j] for j < i. This kernel makes (I + L)⁻¹ β and the weights exp(g[i] − g[j]) q[i]·k[j] of
// u[j] in the output of token i, and lays out keys and queries so that neighbouring invocations find them side by side. One
// workgroup a value head and chunk.

#import delta_chunk

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
// (id, position, sequence, long)
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> made: array<vec4<f32>>;

const WORKGROUP = 128u;
// Invocations of a token, and tokens that each of them meets it with.
const LANES = 4u;
const OTHERS = 8u;

// Logarithms of decays, and their sums up to each token.
var<workgroup> own_logs: array<f32, CHUNK>;
var<workgroup> logs: array<f32, CHUNK>;
// [token][earlier token]
var<workgroup> lower: array<f32, CHUNK * CHUNK>;
var<workgroup> inverse: array<f32, CHUNK * CHUNK>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let head = group.x;
    let chunk = group.y;
    let first = chunk * CHUNK;
    if tokens[first].z == IDLE {
        return;
    }
    let quads = KEY_DIM / 4u;
    let at = head_at(head);
    let i = index / LANES;
    let part = index % LANES;
    if index < CHUNK {
        own_logs[index] = select(0.0, number(first + index, at.log_decay), is_live(first + index));
    }
    workgroupBarrier();
    if index < CHUNK {
        var sum = 0.0;
        for (var j = 0u; j < CHUNK; j++) {
            sum += select(0.0, own_logs[j], j <= index);
        }
        logs[index] = sum;
    }

    // Idle tokens have keys of zero.
    let row = (first + i) * X_PITCH;
    let live = is_live(first + i);
    var keys: array<f32, OTHERS>;
    var queries: array<f32, OTHERS>;
    var others: array<u32, OTHERS>;
    for (var n = 0u; n < OTHERS; n++) {
        let other = first + n * LANES + part;
        // Rows of idle tokens are not written by anybody: another stands for them, and counts for nothing.
        others[n] = select(first, other, is_live(other)) * X_PITCH + at.key;
    }
    let tile = tiles_of(chunk, at.key_head);
    for (var d = 0u; d < quads; d++) {
        var k = vec4<f32>(0.0);
        var q = vec4<f32>(0.0);
        if live {
            k = x[row + at.key + d];
            q = x[row + at.query + d];
        }
        if part == 0u && head % (VALUE_HEADS / KEY_HEADS) == 0u {
            made[tile + d * CHUNK + i] = k;
            made[tile + (quads + d) * CHUNK + i] = q;
        }
        for (var n = 0u; n < OTHERS; n++) {
            let other = x[others[n] + d];
            keys[n] += dot(k, other);
            queries[n] += dot(q, other);
        }
    }
    workgroupBarrier();
    let beta = select(0.0, number(first + i, at.beta), live);
    let weights = matrices_of(chunk, head);
    for (var n = 0u; n < OTHERS; n++) {
        let j = n * LANES + part;
        let decay = exp(min(logs[i] - logs[j], 0.0));
        lower[i * CHUNK + j] = select(0.0, beta * decay * keys[n], j < i);
        inverse[i * CHUNK + j] = select(0.0, decay * queries[n], j <= i && live);
    }
    workgroupBarrier();
    if index < CHUNK / 4u {
        let w = 4u * index;
        made[weights + 2u * CHUNK * CHUNK / 4u + index] = vec4<f32>(logs[w], logs[w + 1u], logs[w + 2u], logs[w + 3u]);
    }
    for (var n = index; n < CHUNK * CHUNK / 4u; n += WORKGROUP) {
        let w = 4u * n;
        made[weights + CHUNK * CHUNK / 4u + n] = vec4<f32>(inverse[w], inverse[w + 1u], inverse[w + 2u], inverse[w + 3u]);
    }
    workgroupBarrier();
    // By forward substitution, a column an invocation.
    if index < CHUNK {
        for (var r = 0u; r < CHUNK; r++) {
            var sum = select(0.0, 1.0, r == index);
            for (var j = 0u; j < r; j++) {
                sum -= lower[r * CHUNK + j] * inverse[j * CHUNK + index];
            }
            inverse[r * CHUNK + index] = sum;
        }
        let own = select(0.0, number(first + index, at.beta), is_live(first + index));
        for (var r = 0u; r < CHUNK; r++) {
            inverse[r * CHUNK + index] *= own;
        }
    }
    workgroupBarrier();
    for (var n = index; n < CHUNK * CHUNK / 4u; n += WORKGROUP) {
        let w = 4u * n;
        made[weights + n] = vec4<f32>(inverse[w], inverse[w + 1u], inverse[w + 2u], inverse[w + 3u]);
    }
}
