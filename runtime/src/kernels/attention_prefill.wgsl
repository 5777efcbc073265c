// Flash attention of many tokens at consecutive positions of one sequence, over the paged cache.
//
// A workgroup takes 32 queries of one head and walks over tiles of 32 keys; an invocation (tx, ty) of 8 × 8 holds the
// scores of rows ty + 8 i and keys 4 tx + j, and of the output rows ty + 8 i and columns 32 c + 4 tx .. + 3. Q, K and
// V pass through workgroup memory 32 dimensions at a time.

#import cache
#import attention_score

#ifdef CHUNKS_2
const CHUNKS: u32 = 2u;
#else
#ifdef CHUNKS_3
const CHUNKS: u32 = 3u;
#else
#ifdef CHUNKS_4
const CHUNKS: u32 = 4u;
#else
#ifdef CHUNKS_8
const CHUNKS: u32 = 8u;
#else
const CHUNKS: u32 = 1u;
#endif
#endif
#endif
#endif

const TILE: u32 = 32u;
// vec4 from row to row of a tile in workgroup memory: 8 and one more, against bank conflicts.
const STRIDE: u32 = 9u;

override TOKENS: u32;
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

// [row][vec4 of dimensions]
var<workgroup> queries: array<vec4<f32>, TILE * STRIDE>;
// Keys, key k in row k % 4 * 8 + k / 4 so that invocations read neighbouring rows; or values, in order.
var<workgroup> tile: array<vec4<f32>, TILE * STRIDE>;
// [row][vec4 of keys]
var<workgroup> weights: array<vec4<f32>, TILE * STRIDE>;
// [row][tx]
var<workgroup> exchange: array<f32, TILE * 8u>;

fn largest_of(row: u32) -> f32 {
    var m = exchange[row * 8u];
    for (var i = 1u; i < 8u; i++) {
        m = max(m, exchange[row * 8u + i]);
    }
    return m;
}

fn sum_of(row: u32) -> f32 {
    var s = exchange[row * 8u];
    for (var i = 1u; i < 8u; i++) {
        s += exchange[row * 8u + i];
    }
    return s;
}

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
    let first = (num_groups.x - 1u - group.x) * TILE;
    let count = min(TILE, TOKENS - first);
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
    let position = vec4<u32>(token.y + ty) + vec4<u32>(0u, 8u, 16u, 24u);
    let seen_from = vec4<u32>(first_seen(position.x), first_seen(position.y), first_seen(position.z), first_seen(position.w));

    // Rows ty, ty + 8, ty + 16 and ty + 24. `sums` covers this invocation's keys alone until the end.
    var largest = vec4<f32>(MASKED);
    var sums = vec4<f32>(0.0);
    var result: array<vec4<f32>, 4u * CHUNKS>;
    for (var i = 0u; i < 4u * CHUNKS; i++) {
        result[i] = vec4<f32>(0.0);
    }

    for (var key = first_seen(token.y) / TILE * TILE; key < key_end; key += TILE) {
        let page = pages[token.z * MAX_PAGES + key / PAGE];
        let tile_row = cache_row(page, kv_head, key % PAGE);

        var s0 = vec4<f32>(0.0);
        var s1 = vec4<f32>(0.0);
        var s2 = vec4<f32>(0.0);
        var s3 = vec4<f32>(0.0);
        for (var c = 0u; c < CHUNKS; c++) {
            workgroupBarrier();
            for (var i = local; i < TILE * 8u; i += 64u) {
                let row = i / 8u;
                let quad = c * 8u + i % 8u;
                var x = vec4<f32>(0.0);
                var k = vec4<f32>(0.0);
                if quad < quads {
                    if row < count {
                        x = q[(first + row) * PITCH + head * quads + quad] * SCALE;
                    }
                    if key + row < key_end {
                        k = widen(keys[tile_row + row * quads + quad]);
                    }
                }
                queries[row * STRIDE + i % 8u] = x;
                tile[(row % 4u * 8u + row / 4u) * STRIDE + i % 8u] = k;
            }
            workgroupBarrier();
            for (var d = 0u; d < 8u; d++) {
                let k0 = tile[tx * STRIDE + d];
                let k1 = tile[(tx + 8u) * STRIDE + d];
                let k2 = tile[(tx + 16u) * STRIDE + d];
                let k3 = tile[(tx + 24u) * STRIDE + d];
                let q0 = queries[ty * STRIDE + d];
                let q1 = queries[(ty + 8u) * STRIDE + d];
                let q2 = queries[(ty + 16u) * STRIDE + d];
                let q3 = queries[(ty + 24u) * STRIDE + d];
                s0 += vec4<f32>(dot(q0, k0), dot(q0, k1), dot(q0, k2), dot(q0, k3));
                s1 += vec4<f32>(dot(q1, k0), dot(q1, k1), dot(q1, k2), dot(q1, k3));
                s2 += vec4<f32>(dot(q2, k0), dot(q2, k1), dot(q2, k2), dot(q2, k3));
                s3 += vec4<f32>(dot(q3, k0), dot(q3, k1), dot(q3, k2), dot(q3, k3));
            }
        }

        // Rows of scores as columns of arrays, so that the rest is a loop.
        var scores = array<vec4<f32>, 4>(s0, s1, s2, s3);
        var seen: array<vec4<bool>, 4>;
        let at = vec4<u32>(key + 4u * tx) + vec4<u32>(0u, 1u, 2u, 3u);
        for (var i = 0u; i < 4u; i++) {
            seen[i] = (at <= vec4<u32>(position[i])) & (at >= vec4<u32>(seen_from[i]));
            let s = scores[i];
            scores[i] = select(vec4<f32>(MASKED), vec4<f32>(soft_cap(s.x), soft_cap(s.y), soft_cap(s.z), soft_cap(s.w)), seen[i]);
            let m = max(scores[i].xy, scores[i].zw);
            exchange[(ty + 8u * i) * 8u + tx] = max(m.x, m.y);
        }
        workgroupBarrier();
        let new_largest = max(
            largest,
            vec4<f32>(largest_of(ty), largest_of(ty + 8u), largest_of(ty + 16u), largest_of(ty + 24u)),
        );
        let decay = exp(largest - new_largest);
        largest = new_largest;
        for (var i = 0u; i < 4u; i++) {
            let w = select(vec4<f32>(0.0), exp(scores[i] - largest[i]), seen[i]);
            weights[(ty + 8u * i) * STRIDE + tx] = w;
            sums[i] = sums[i] * decay[i] + (w.x + w.y) + (w.z + w.w);
        }

        for (var c = 0u; c < CHUNKS; c++) {
            workgroupBarrier();
            for (var i = local; i < TILE * 8u; i += 64u) {
                let row = i / 8u;
                let quad = c * 8u + i % 8u;
                var v = vec4<f32>(0.0);
                if quad < quads && key + row < key_end {
                    v = widen(values[tile_row + row * quads + quad]);
                }
                tile[row * STRIDE + i % 8u] = v;
            }
            workgroupBarrier();
            var r0 = result[4u * c] * decay.x;
            var r1 = result[4u * c + 1u] * decay.y;
            var r2 = result[4u * c + 2u] * decay.z;
            var r3 = result[4u * c + 3u] * decay.w;
            for (var k = 0u; k < 8u; k++) {
                let v0 = tile[4u * k * STRIDE + tx];
                let v1 = tile[(4u * k + 1u) * STRIDE + tx];
                let v2 = tile[(4u * k + 2u) * STRIDE + tx];
                let v3 = tile[(4u * k + 3u) * STRIDE + tx];
                let w0 = weights[ty * STRIDE + k];
                let w1 = weights[(ty + 8u) * STRIDE + k];
                let w2 = weights[(ty + 16u) * STRIDE + k];
                let w3 = weights[(ty + 24u) * STRIDE + k];
                r0 += w0.x * v0 + w0.y * v1 + w0.z * v2 + w0.w * v3;
                r1 += w1.x * v0 + w1.y * v1 + w1.z * v2 + w1.w * v3;
                r2 += w2.x * v0 + w2.y * v1 + w2.z * v2 + w2.w * v3;
                r3 += w3.x * v0 + w3.y * v1 + w3.z * v2 + w3.w * v3;
            }
            result[4u * c] = r0;
            result[4u * c + 1u] = r1;
            result[4u * c + 2u] = r2;
            result[4u * c + 3u] = r3;
        }
    }

    for (var i = 0u; i < 4u; i++) {
        exchange[(ty + 8u * i) * 8u + tx] = sums[i];
    }
    workgroupBarrier();
    for (var i = 0u; i < 4u; i++) {
        let row = ty + 8u * i;
        if row >= count {
            continue;
        }
        let live = tokens[first + row].z != IDLE;
        let scale = 1.0 / sum_of(row);
        for (var c = 0u; c < CHUNKS; c++) {
            let quad = c * 8u + tx;
            if quad < quads {
                let y = select(vec4<f32>(0.0), result[4u * c + i] * scale, live);
                output[(first + row) * PITCH + head * quads + quad] = y;
            }
        }
    }
}
