// The states of a gated delta net, a chunk of tokens at a time, from what `delta_chunk` made. A workgroup has COLUMNS columns of a
// head's state in its memory from the step's first token to the last.

#import delta_chunk

// f32 values from one token's row of y to the next one's.
override Y_PITCH: u32;
// Columns of a workgroup: 8 or 16.
override COLUMNS: u32;
// vec4 from column to column of the state: one more than there are, against bank conflicts.
override STRIDE: u32 = KEY_DIM / 4u + 1u;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
// (id, position, sequence, long)
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> made: array<vec4<f32>>;
// [sequences][VALUE_HEADS][KEY_DIM][VALUE_DIM]
@group(0) @binding(3) var<storage, read_write> states: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const WORKGROUP = 128u;
// Tokens between those of an invocation, of which it has two, and columns between those of one, of which it has up to two.
const TOKEN_STEP = 16u;
const COLUMN_STEP = 8u;

// [column][vec4 of dimensions]
var<workgroup> state: array<vec4<f32>, COLUMNS * STRIDE>;
// [token][column]: what corrections are made of, corrections, and these as they are left at the chunk's end.
var<workgroup> wanted: array<f32, CHUNK * COLUMNS>;
var<workgroup> corrections: array<f32, CHUNK * COLUMNS>;
var<workgroup> left: array<f32, CHUNK * COLUMNS>;
var<workgroup> logs: array<f32, CHUNK>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let head = group.y;
    let start = tokens[0];
    if start.z == IDLE {
        return;
    }
    let quads = KEY_DIM / 4u;
    let at = head_at(head);
    let first_column = group.x * COLUMNS;
    let of_head = (start.z * VALUE_HEADS + head) * KEY_DIM * VALUE_DIM;
    for (var n = index; n < COLUMNS * quads; n += WORKGROUP) {
        let column = n % COLUMNS;
        let d = n / COLUMNS;
        var s = vec4<f32>(0.0);
        if start.y > 0u && first_column + column < VALUE_DIM {
            let origin = of_head + 4u * d * VALUE_DIM + first_column + column;
            s = vec4<f32>(states[origin], states[origin + VALUE_DIM], states[origin + 2u * VALUE_DIM], states[origin + 3u * VALUE_DIM]);
        }
        state[column * STRIDE + d] = s;
    }
    let token = index / COLUMN_STEP;
    let column = index % COLUMN_STEP;

    for (var first = 0u; first < TOKENS; first += CHUNK) {
        if tokens[first].z == IDLE {
            break;
        }
        let chunk = first / CHUNK;
        if index < CHUNK {
            logs[index] = log_decay_up_to(first, index, at);
        }
        // Live tokens, the first of which is.
        var count = 1u;
        while count < CHUNK && is_live(first + count) {
            count++;
        }
        workgroupBarrier();

        // Sᵀk and Sᵀq of two tokens.
        var of_keys: array<f32, 4>;
        var of_queries: array<f32, 4>;
        let tile = tiles_of(chunk, at.key_head) + token;
        for (var d = 0u; d < quads; d++) {
            let k = tile + d * CHUNK;
            let q = k + quads * CHUNK;
            let k0 = made[k];
            let k1 = made[k + TOKEN_STEP];
            let q0 = made[q];
            let q1 = made[q + TOKEN_STEP];
            for (var e = 0u; e < COLUMNS / COLUMN_STEP; e++) {
                let s = state[(column + e * COLUMN_STEP) * STRIDE + d];
                of_keys[e] += dot(s, k0);
                of_keys[2u + e] += dot(s, k1);
                of_queries[e] += dot(s, q0);
                of_queries[2u + e] += dot(s, q1);
            }
        }
        for (var r = 0u; r < 2u; r++) {
            let i = token + r * TOKEN_STEP;
            for (var e = 0u; e < COLUMNS / COLUMN_STEP; e++) {
                let c = column + e * COLUMN_STEP;
                let v = number(first + i, at.value + min(first_column + c, VALUE_DIM - 1u));
                let rest = v - exp(logs[i]) * of_keys[2u * r + e];
                wanted[i * COLUMNS + c] = select(0.0, rest, is_live(first + i));
            }
        }
        workgroupBarrier();

        let matrices = matrices_of(chunk, head) + token * (CHUNK / 4u);
        var sums: array<f32, 4>;
        for (var j = 0u; j < CHUNK / 4u; j++) {
            let m0 = made[matrices + j];
            let m1 = made[matrices + TOKEN_STEP * (CHUNK / 4u) + j];
            for (var e = 0u; e < COLUMNS / COLUMN_STEP; e++) {
                let w = 4u * j * COLUMNS + column + e * COLUMN_STEP;
                let u = vec4<f32>(wanted[w], wanted[w + COLUMNS], wanted[w + 2u * COLUMNS], wanted[w + 3u * COLUMNS]);
                sums[e] += dot(m0, u);
                sums[2u + e] += dot(m1, u);
            }
        }
        for (var r = 0u; r < 2u; r++) {
            let i = token + r * TOKEN_STEP;
            for (var e = 0u; e < COLUMNS / COLUMN_STEP; e++) {
                let to = i * COLUMNS + column + e * COLUMN_STEP;
                corrections[to] = sums[2u * r + e];
                left[to] = exp(logs[CHUNK - 1u] - logs[i]) * sums[2u * r + e];
            }
        }
        workgroupBarrier();

        let weights = matrices + CHUNK * CHUNK / 4u;
        var outs: array<f32, 4>;
        for (var j = 0u; j < CHUNK / 4u; j++) {
            let m0 = made[weights + j];
            let m1 = made[weights + TOKEN_STEP * (CHUNK / 4u) + j];
            for (var e = 0u; e < COLUMNS / COLUMN_STEP; e++) {
                let w = 4u * j * COLUMNS + column + e * COLUMN_STEP;
                let u = vec4<f32>(
                    corrections[w],
                    corrections[w + COLUMNS],
                    corrections[w + 2u * COLUMNS],
                    corrections[w + 3u * COLUMNS],
                );
                outs[e] += dot(m0, u);
                outs[2u + e] += dot(m1, u);
            }
        }
        for (var r = 0u; r < 2u; r++) {
            let i = token + r * TOKEN_STEP;
            for (var e = 0u; e < COLUMNS / COLUMN_STEP; e++) {
                let c = first_column + column + e * COLUMN_STEP;
                if is_live(first + i) && c < VALUE_DIM {
                    y[(first + i) * Y_PITCH + head * VALUE_DIM + c] = exp(logs[i]) * of_queries[2u * r + e] + outs[2u * r + e];
                }
            }
        }

        // Neighbours have dimensions side by side; a quarter of the workgroup has every fourth column.
        let whole = exp(logs[CHUNK - 1u]);
        for (var d = index % 32u; d < quads; d += 32u) {
            var added: array<vec4<f32>, 4>;
            for (var j = 0u; j < CHUNK; j++) {
                let k = x[(first + min(j, count - 1u)) * X_PITCH + at.key + d];
                for (var e = 0u; e < COLUMNS / 4u; e++) {
                    added[e] += k * left[j * COLUMNS + index / 32u + 4u * e];
                }
            }
            for (var e = 0u; e < COLUMNS / 4u; e++) {
                let to = (index / 32u + 4u * e) * STRIDE + d;
                state[to] = whole * state[to] + added[e];
            }
        }
        workgroupBarrier();
    }

    for (var n = index; n < COLUMNS * quads; n += WORKGROUP) {
        let c = n % COLUMNS;
        let d = n / COLUMNS;
        if first_column + c < VALUE_DIM {
            let s = state[c * STRIDE + d];
            let to = of_head + 4u * d * VALUE_DIM + first_column + c;
            states[to] = s.x;
            states[to + VALUE_DIM] = s.y;
            states[to + 2u * VALUE_DIM] = s.z;
            states[to + 3u * VALUE_DIM] = s.w;
        }
    }
}
