// The states of a gated delta net, a chunk of tokens at a time, from what `delta_chunk` made. A workgroup has COLUMNS columns of a
// head's state in its memory from the step's first token to the last. Each chunk waits for the one before, so all that a chunk needs
// of memory is on its way while the one before it is computed.

#import delta_chunk

// f32 values from one token's row of y to the next one's.
override Y_PITCH: u32;
// vec4 from column to column of the state: one more than there are, against bank conflicts.
override STRIDE: u32 = KEY_DIM / 4u + 1u;
// vec4 of a chunk's keys and queries, and those that an invocation fetches.
override TILE: u32 = 2u * CHUNK * (KEY_DIM / 4u);
override FETCHES: u32 = (TILE + WORKGROUP - 1u) / WORKGROUP;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
// (id, position, sequence, long)
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> made: array<vec4<f32>>;
// [sequences][VALUE_HEADS][KEY_DIM][VALUE_DIM]
@group(0) @binding(3) var<storage, read_write> states: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const WORKGROUP = 256u;
const COLUMNS = 16u;
// An invocation has a token and two columns, COLUMN_STEP apart.
const COLUMN_STEP = 8u;
// Fetches of the widest keys.
const MOST_FETCHES = 8u;
// vec4 from one vec4 of dimensions to the next one's in the tile: one more than tokens, against bank conflicts.
const TILE_STRIDE = CHUNK + 1u;

// [column][vec4 of dimensions]
var<workgroup> state: array<vec4<f32>, COLUMNS * STRIDE>;
// Keys [vec4 of dimensions][token], then queries.
var<workgroup> tile: array<vec4<f32>, 2u * (KEY_DIM / 4u) * TILE_STRIDE>;
// [token][column]: what corrections are made of, then corrections.
var<workgroup> corrections: array<f32, CHUNK * COLUMNS>;
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
        let c = n % COLUMNS;
        let d = n / COLUMNS;
        var s = vec4<f32>(0.0);
        if start.y > 0u && first_column + c < VALUE_DIM {
            let origin = of_head + 4u * d * VALUE_DIM + first_column + c;
            s = vec4<f32>(states[origin], states[origin + VALUE_DIM], states[origin + 2u * VALUE_DIM], states[origin + 3u * VALUE_DIM]);
        }
        state[c * STRIDE + d] = s;
    }
    let i = index / COLUMN_STEP;
    let column = index % COLUMN_STEP;
    // Columns beyond the last go along and write nothing.
    let own = vec2<u32>(first_column + column, first_column + column + COLUMN_STEP);
    let inside = own < vec2<u32>(VALUE_DIM);
    let columns = min(own, vec2<u32>(VALUE_DIM - 1u)) + at.value;

    var next: array<vec4<f32>, MOST_FETCHES>;
    for (var n = 0u; n < FETCHES; n++) {
        next[n] = made[tiles_of(0u, at.key_head) + min(n * WORKGROUP + index, TILE - 1u)];
    }
    for (var first = 0u; first < TOKENS; first += CHUNK) {
        if tokens[first].z == IDLE {
            break;
        }
        let chunk = first / CHUNK;
        for (var n = 0u; n < FETCHES; n++) {
            let from_start = n * WORKGROUP + index;
            if from_start < TILE {
                tile[from_start / CHUNK * TILE_STRIDE + from_start % CHUNK] = next[n];
            }
        }
        let of_chunk = matrices_of(chunk, head);
        if index < CHUNK / 4u {
            let of_four = made[of_chunk + 2u * CHUNK * CHUNK / 4u + index];
            for (var n = 0u; n < 4u; n++) {
                logs[4u * index + n] = of_four[n];
            }
        }
        let following = min(chunk + 1u, (TOKENS - 1u) / CHUNK);
        for (var n = 0u; n < FETCHES; n++) {
            next[n] = made[tiles_of(following, at.key_head) + min(n * WORKGROUP + index, TILE - 1u)];
        }
        // A row of both matrices, and values.
        let matrices = of_chunk + i * (CHUNK / 4u);
        var inverse: array<vec4<f32>, 8>;
        var weights: array<vec4<f32>, 8>;
        for (var j = 0u; j < CHUNK / 4u; j++) {
            inverse[j] = made[matrices + j];
            weights[j] = made[matrices + CHUNK * CHUNK / 4u + j];
        }
        let live = is_live(first + i);
        let v = vec2<f32>(number(first + i, columns.x), number(first + i, columns.y));
        workgroupBarrier();

        // Sᵀk and Sᵀq.
        var of_key = vec2<f32>(0.0);
        var of_query = vec2<f32>(0.0);
        for (var d = 0u; d < quads; d++) {
            let k = tile[d * TILE_STRIDE + i];
            let q = tile[(quads + d) * TILE_STRIDE + i];
            let s0 = state[column * STRIDE + d];
            let s1 = state[(column + COLUMN_STEP) * STRIDE + d];
            of_key += vec2<f32>(dot(s0, k), dot(s1, k));
            of_query += vec2<f32>(dot(s0, q), dot(s1, q));
        }
        let decay = exp(logs[i]);
        let wanted = select(vec2<f32>(0.0), v - decay * of_key, live);
        let to = i * COLUMNS + column;
        corrections[to] = wanted.x;
        corrections[to + COLUMN_STEP] = wanted.y;
        workgroupBarrier();

        var correction = vec2<f32>(0.0);
        for (var j = 0u; j < CHUNK / 4u; j++) {
            correction += weighed(inverse[j], 4u * j, column);
        }
        workgroupBarrier();
        corrections[to] = correction.x;
        corrections[to + COLUMN_STEP] = correction.y;
        workgroupBarrier();

        var out = decay * of_query;
        for (var j = 0u; j < CHUNK / 4u; j++) {
            out += weighed(weights[j], 4u * j, column);
        }
        let row = (first + i) * Y_PITCH + head * VALUE_DIM;
        if live && inside.x {
            y[row + own.x] = out.x;
        }
        if live && inside.y {
            y[row + own.y] = out.y;
        }

        // Half of the workgroup: neighbours have dimensions side by side, and every fourth column.
        let whole = exp(logs[CHUNK - 1u]);
        if index < 128u {
            for (var d = index % 32u; d < quads; d += 32u) {
                var added: array<vec4<f32>, 4>;
                for (var j = 0u; j < CHUNK; j++) {
                    let k = exp(logs[CHUNK - 1u] - logs[j]) * tile[d * TILE_STRIDE + j];
                    for (var e = 0u; e < 4u; e++) {
                        added[e] += k * corrections[j * COLUMNS + index / 32u + 4u * e];
                    }
                }
                for (var e = 0u; e < 4u; e++) {
                    let at_column = (index / 32u + 4u * e) * STRIDE + d;
                    state[at_column] = whole * state[at_column] + added[e];
                }
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

// Four tokens' numbers of an invocation's two columns, from token `j` on, times four weights.
fn weighed(w: vec4<f32>, j: u32, column: u32) -> vec2<f32> {
    let a = j * COLUMNS + column;
    let b = a + COLUMN_STEP;
    return vec2<f32>(
        dot(w, vec4<f32>(corrections[a], corrections[a + COLUMNS], corrections[a + 2u * COLUMNS], corrections[a + 3u * COLUMNS])),
        dot(w, vec4<f32>(corrections[b], corrections[b + COLUMNS], corrections[b + 2u * COLUMNS], corrections[b + 3u * COLUMNS])),
    );
}
