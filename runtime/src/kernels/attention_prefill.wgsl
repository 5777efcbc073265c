// Flash attention of many tokens at consecutive positions of one sequence, over the paged cache.
//
// A workgroup takes QUERIES queries of one head and walks over tiles of 32 keys; an invocation (tx, ty) of 8 × 8 holds
// the scores of queries ty + 8 r and keys 4 tx + j, and of the output queries ty + 8 r and dimensions
// 32 c + 4 tx .. + 3. Q, K and V pass through workgroup memory 32 dimensions at a time.

#import cache
#import attention_score
#import chunks

// Queries an invocation: as many as registers hold.
#ifdef CHUNKS_16
const ROWS: u32 = 2u;
#else
#ifdef CHUNKS_8
const ROWS: u32 = 4u;
#else
const ROWS: u32 = 8u;
#endif
#endif

const QUERIES: u32 = 8u * ROWS;
const KEYS: u32 = 32u;
// vec4 from row to row of a tile in workgroup memory: 8 and one more, against bank conflicts.
const STRIDE: u32 = 9u;

override HEADS: u32;
override GROUP: u32;
// vec4 from one token's queries or output to the next one's.
override PITCH: u32;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
@group(0) @binding(3) var<storage, read> keys: array<Stored>;
@group(0) @binding(4) var<storage, read> values: array<Stored>;
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;
// .x: tokens of the step. No pipeline constant, because every length of a prompt would compile a pipeline of its own.
@group(0) @binding(6) var<uniform> size: vec4<u32>;

// Queries [query][vec4 of dimensions], then weights [query][vec4 of keys].
var<workgroup> rows: array<vec4<f32>, QUERIES * STRIDE>;
// Keys, key k in row k % 4 * 8 + k / 4 so that invocations read neighbouring rows; then values, in order.
var<workgroup> tile: array<vec4<f32>, KEYS * STRIDE>;
// [query][tx]
var<workgroup> exchange: array<f32, QUERIES * 8u>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) num_groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let quads = HEAD_DIM / 4u;
    let tx = local % 8u;
    let ty = local / 8u;
    let head = group.y;
    let kv_head = head / GROUP;
    // The last queries see the most keys: they start first.
    let first = (num_groups.x - 1u - group.x) * QUERIES;
    let count = min(QUERIES, size.x - first);
    let token = tokens[first];
    if head == HEADS - 1u {
        // Fewer than 8 vectors a row.
        for (var i = local; i < count * 8u; i += 64u) {
            if HEADS * quads + i % 8u < PITCH {
                output[(first + i / 8u) * PITCH + HEADS * quads + i % 8u] = vec4<f32>(0.0);
            }
        }
    }
    if token.z == IDLE {
        for (var i = local; i < count * quads; i += 64u) {
            output[(first + i / quads) * PITCH + head * quads + i % quads] = vec4<f32>(0.0);
        }
        return;
    }
    let key_end = token.y + count;

    var largest: array<f32, ROWS>;
    // Of this invocation's keys alone, until the end.
    var sums: array<f32, ROWS>;
    var result: array<vec4<f32>, ROWS * CHUNKS>;
    for (var r = 0u; r < ROWS; r++) {
        largest[r] = MASKED;
        sums[r] = 0.0;
    }
    for (var i = 0u; i < ROWS * CHUNKS; i++) {
        result[i] = vec4<f32>(0.0);
    }

    for (var key = first_seen(token.y) / KEYS * KEYS; key < key_end; key += KEYS) {
        let page = pages[token.z * MAX_PAGES + key / PAGE];
        let tile_row = cache_row(page, kv_head, key % PAGE);

        var scores: array<vec4<f32>, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            scores[r] = vec4<f32>(0.0);
        }
        for (var c = 0u; c < CHUNKS; c++) {
            workgroupBarrier();
            let quad = c * 8u + tx;
            for (var row = ty; row < QUERIES; row += 8u) {
                var x = vec4<f32>(0.0);
                if quad < quads && row < count {
                    x = q[(first + row) * PITCH + head * quads + quad] * SCALE;
                }
                rows[row * STRIDE + tx] = x;
            }
            for (var row = ty; row < KEYS; row += 8u) {
                var k = vec4<f32>(0.0);
                if quad < quads && key + row < key_end {
                    k = widen(keys[tile_row + row * quads + quad]);
                }
                tile[(row % 4u * 8u + row / 4u) * STRIDE + tx] = k;
            }
            workgroupBarrier();
            for (var d = 0u; d < 8u; d++) {
                let k0 = tile[tx * STRIDE + d];
                let k1 = tile[(tx + 8u) * STRIDE + d];
                let k2 = tile[(tx + 16u) * STRIDE + d];
                let k3 = tile[(tx + 24u) * STRIDE + d];
                for (var r = 0u; r < ROWS; r++) {
                    let x = rows[(ty + 8u * r) * STRIDE + d];
                    scores[r] += vec4<f32>(dot(x, k0), dot(x, k1), dot(x, k2), dot(x, k3));
                }
            }
        }

        let at = vec4<u32>(key + 4u * tx) + vec4<u32>(0u, 1u, 2u, 3u);
        for (var r = 0u; r < ROWS; r++) {
            let position = token.y + ty + 8u * r;
            let seen = (at <= vec4<u32>(position)) & (at >= vec4<u32>(first_seen(position)));
            let s = scores[r];
            scores[r] = select(vec4<f32>(MASKED), vec4<f32>(soft_cap(s.x), soft_cap(s.y), soft_cap(s.z), soft_cap(s.w)), seen);
            let m = max(scores[r].xy, scores[r].zw);
            exchange[(ty + 8u * r) * 8u + tx] = max(m.x, m.y);
        }
        workgroupBarrier();
        var decay: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            var m = largest[r];
            for (var i = 0u; i < 8u; i++) {
                m = max(m, exchange[(ty + 8u * r) * 8u + i]);
            }
            decay[r] = exp(largest[r] - m);
            largest[r] = m;
            // Where nothing has been seen yet, m is MASKED too, and the difference says nothing.
            let w = select(vec4<f32>(0.0), exp(scores[r] - m), scores[r] > vec4<f32>(MASKED));
            sums[r] = sums[r] * decay[r] + (w.x + w.y) + (w.z + w.w);
            rows[(ty + 8u * r) * STRIDE + tx] = w;
        }

        for (var c = 0u; c < CHUNKS; c++) {
            workgroupBarrier();
            let quad = c * 8u + tx;
            for (var row = ty; row < KEYS; row += 8u) {
                var v = vec4<f32>(0.0);
                if quad < quads && key + row < key_end {
                    v = widen(values[tile_row + row * quads + quad]);
                }
                tile[row * STRIDE + tx] = v;
            }
            workgroupBarrier();
            for (var r = 0u; r < ROWS; r++) {
                result[c * ROWS + r] *= decay[r];
            }
            for (var k = 0u; k < 8u; k++) {
                let v0 = tile[4u * k * STRIDE + tx];
                let v1 = tile[(4u * k + 1u) * STRIDE + tx];
                let v2 = tile[(4u * k + 2u) * STRIDE + tx];
                let v3 = tile[(4u * k + 3u) * STRIDE + tx];
                for (var r = 0u; r < ROWS; r++) {
                    let w = rows[(ty + 8u * r) * STRIDE + k];
                    result[c * ROWS + r] += w.x * v0 + w.y * v1 + w.z * v2 + w.w * v3;
                }
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        exchange[(ty + 8u * r) * 8u + tx] = sums[r];
    }
    workgroupBarrier();
    for (var r = 0u; r < ROWS; r++) {
        let row = ty + 8u * r;
        if row >= count {
            continue;
        }
        var sum = 0.0;
        for (var i = 0u; i < 8u; i++) {
            sum += exchange[row * 8u + i];
        }
        sum = with_sink(sum, largest[r], head);
        let live = tokens[first + row].z != IDLE;
        for (var c = 0u; c < CHUNKS; c++) {
            let quad = c * 8u + tx;
            if quad < quads {
                let y = select(vec4<f32>(0.0), result[c * ROWS + r] / sum, live);
                output[(first + row) * PITCH + head * quads + quad] = y;
            }
        }
    }
}
