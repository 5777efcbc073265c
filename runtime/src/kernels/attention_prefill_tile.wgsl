// Flash attention of many tokens at consecutive positions of one sequence, over the paged cache, in f32 and for any
// device.
//
// A workgroup takes a tile of rows (see attention_parts) and walks over tiles of 64 keys; an invocation (tx, ty) of
// 8 × LINES holds the scores of rows ty + LINES r and keys 4 tx + i and 32 + 4 tx + i, and of the output rows
// ty + LINES r and dimensions 32 c + 4 tx + i, both in registers. Queries and keys pass through workgroup memory 16 dimensions at a
// time, weights and values VALUE_KEYS keys at a time.

#import cache
#import attention_score
#import chunks
#import attention_parts

// Rows an invocation and keys a step: as many as registers and workgroup memory hold.
#ifdef CHUNKS_16
const ROWS: u32 = 2u;
const VALUE_KEYS: u32 = 4u;
#else
#ifdef CHUNKS_8
const ROWS: u32 = 2u;
const VALUE_KEYS: u32 = 8u;
#else
const ROWS: u32 = 4u;
const VALUE_KEYS: u32 = 16u;
#endif
#endif

const THREADS: u32 = 128u;
// Vectors that an invocation fetches at a time.
const FETCH_ROWS: u32 = TILE_ROWS * 4u / THREADS;
const FETCH_KEYS: u32 = TILE_KEYS * 4u / THREADS;
const FETCH_VALUES: u32 = VALUE_KEYS * CHUNKS * 8u / THREADS;
const LINES: u32 = THREADS / 8u;
const TILE_ROWS: u32 = LINES * ROWS;
const TILE_KEYS: u32 = 64u;
// vec4 from row to row of queries, weights and keys in workgroup memory: 4 and one more, against bank conflicts.
const STRIDE: u32 = 5u;

override HEADS: u32;
// vec4 from one token's queries or output to the next one's.
override PITCH: u32;
// Runs of four vec4 in a head.
override FOURS: u32 = (HEAD_DIM / 4u + 3u) / 4u;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
@group(0) @binding(3) var<storage, read> keys: array<Stored>;
@group(0) @binding(4) var<storage, read> values: array<Stored>;
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> partials: array<vec4<f32>>;
// .x: tokens of the step.
@group(0) @binding(7) var<uniform> size: vec4<u32>;

var<workgroup> shared_parts: Parts;
// Queries [row][vec4 of dimensions], then weights [row][vec4 of keys].
var<workgroup> left: array<vec4<f32>, TILE_ROWS * STRIDE>;
// Keys, key k in row k / 32 * 32 + k % 4 * 8 + k % 32 / 4 so that invocations read neighbouring rows; then values
// [key][vec4 of dimensions].
var<workgroup> right: array<vec4<f32>, 512>;
// [row][tx]
var<workgroup> exchange: array<f32, TILE_ROWS * 8u>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) num_groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let quads = HEAD_DIM / 4u;
    let tx = local % 8u;
    let ty = local / 8u;
    let kv_head = group.y;
    let num_rows = size.x * GROUP;
    // The last rows see the most keys: they start first.
    let first_row = (num_groups.x - 1u - group.x) * TILE_ROWS;
    let count = min(TILE_ROWS, num_rows - first_row);
    let first = first_row / GROUP;
    let last = (first_row + count - 1u) / GROUP;
    let token = tokens[first];
    if kv_head == KV_HEADS - 1u && group.z == 0u {
        // Fewer than 8 vectors a token.
        for (var i = local; i < (last + 1u - first) * 8u; i += THREADS) {
            if HEADS * quads + i % 8u < PITCH {
                output[(first + i / 8u) * PITCH + HEADS * quads + i % 8u] = vec4<f32>(0.0);
            }
        }
    }
    if token.z == IDLE {
        if group.z == 0u {
            for (var i = local; i < count * quads; i += THREADS) {
                let row = first_row + i / quads;
                output[row / GROUP * PITCH + (kv_head * GROUP + row % GROUP) * quads + i % quads] = vec4<f32>(0.0);
            }
        }
        return;
    }
    // The same for all invocations, which naga sees only in what comes from workgroup memory.
    if local == 0u {
        shared_parts = parts_of(token.y, tokens[last_live(first, last)].y, TILE_KEYS);
    }
    let parts = workgroupUniformLoad(&shared_parts);
    if group.z >= parts.count {
        return;
    }
    let key_begin = parts.begin + group.z * parts.share;
    let key_end = min(key_begin + parts.share, parts.end);

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

    // Staging goes by vectors: four neighbouring invocations read a row's 16 dimensions. They fetch the vectors that are
    // staged next before they work on those that are staged.
    let part = local % 4u;
    let line = local / 4u;
    var starts: array<u32, FETCH_ROWS>;
    var fetched_rows: array<vec4<f32>, FETCH_ROWS>;
    var fetched_keys: array<Stored, FETCH_KEYS>;
    var fetched_values: array<Stored, FETCH_VALUES>;
    var at = cache_row(pages[token.z * MAX_PAGES + key_begin / PAGE], kv_head, key_begin % PAGE);
    for (var j = 0u; j < FETCH_ROWS; j++) {
        let row = first_row + min(line + j * (THREADS / 4u), count - 1u);
        starts[j] = row / GROUP * PITCH + (kv_head * GROUP + row % GROUP) * quads + part;
        if part < quads {
            fetched_rows[j] = q[starts[j]];
        }
    }
    for (var j = 0u; j < FETCH_KEYS; j++) {
        let k = line + j * (THREADS / 4u);
        if part < quads && key_begin + k < key_end {
            fetched_keys[j] = keys[at + k * quads + part];
        }
    }

    // Loops count to a constant: browsers add a counter of their own to others.
    for (var round = 0u; round < 0x1000000u; round++) {
        let key = key_begin + round * TILE_KEYS;
        if key >= key_end {
            break;
        }
        let filled = min(TILE_KEYS, key_end - key);

        var scores: array<vec4<f32>, ROWS * 2u>;
        for (var i = 0u; i < ROWS * 2u; i++) {
            scores[i] = vec4<f32>(0.0);
        }
        for (var four = 0u; four < FOURS; four++) {
            let quad = four * 4u;
            workgroupBarrier();
            for (var j = 0u; j < FETCH_ROWS; j++) {
                left[(line + j * (THREADS / 4u)) * STRIDE + part] = fetched_rows[j] * SCALE;
            }
            for (var j = 0u; j < FETCH_KEYS; j++) {
                let k = line + j * (THREADS / 4u);
                right[(k / 32u * 32u + k % 4u * 8u + k % 32u / 4u) * STRIDE + part] = widen(fetched_keys[j]);
            }
            workgroupBarrier();
            if quad + 4u < quads {
                let next = quad + 4u + part;
                for (var j = 0u; j < FETCH_ROWS; j++) {
                    fetched_rows[j] = vec4<f32>(0.0);
                    if next < quads {
                        fetched_rows[j] = q[starts[j] + quad + 4u];
                    }
                }
                for (var j = 0u; j < FETCH_KEYS; j++) {
                    let k = line + j * (THREADS / 4u);
                    fetched_keys[j] = Stored();
                    if next < quads && k < filled {
                        fetched_keys[j] = keys[at + k * quads + next];
                    }
                }
            } else {
                for (var j = 0u; j < FETCH_VALUES; j++) {
                    let i = local + j * THREADS;
                    let k = i / (CHUNKS * 8u);
                    let x = i % (CHUNKS * 8u);
                    fetched_values[j] = Stored();
                    if x < quads && k < filled {
                        fetched_values[j] = values[at + k * quads + x];
                    }
                }
            }
            for (var d = 0u; d < 4u; d++) {
                for (var h = 0u; h < 2u; h++) {
                    let base = (32u * h + tx) * STRIDE + d;
                    let k0 = right[base];
                    let k1 = right[base + 8u * STRIDE];
                    let k2 = right[base + 16u * STRIDE];
                    let k3 = right[base + 24u * STRIDE];
                    for (var r = 0u; r < ROWS; r++) {
                        let x = left[(ty + LINES * r) * STRIDE + d];
                        var s = scores[r * 2u + h];
                        s.x = fma(x.x, k0.x, fma(x.y, k0.y, fma(x.z, k0.z, fma(x.w, k0.w, s.x))));
                        s.y = fma(x.x, k1.x, fma(x.y, k1.y, fma(x.z, k1.z, fma(x.w, k1.w, s.y))));
                        s.z = fma(x.x, k2.x, fma(x.y, k2.y, fma(x.z, k2.z, fma(x.w, k2.w, s.z))));
                        s.w = fma(x.x, k3.x, fma(x.y, k3.y, fma(x.z, k3.z, fma(x.w, k3.w, s.w))));
                        scores[r * 2u + h] = s;
                    }
                }
            }
        }

        let at0 = vec4<u32>(key + 4u * tx) + vec4<u32>(0u, 1u, 2u, 3u);
        let at1 = at0 + vec4<u32>(32u);
        for (var r = 0u; r < ROWS; r++) {
            let p = token.y + (first_row + ty + LINES * r) / GROUP - first;
            let position = vec4<u32>(p);
            let begin = vec4<u32>(first_seen(p));
            var s0 = scores[r * 2u];
            var s1 = scores[r * 2u + 1u];
            if SOFTCAP != 0.0 {
                s0 = vec4<f32>(soft_cap(s0.x), soft_cap(s0.y), soft_cap(s0.z), soft_cap(s0.w));
                s1 = vec4<f32>(soft_cap(s1.x), soft_cap(s1.y), soft_cap(s1.z), soft_cap(s1.w));
            }
            s0 = select(vec4<f32>(MASKED), s0, (at0 <= position) & (at0 >= begin));
            s1 = select(vec4<f32>(MASKED), s1, (at1 <= position) & (at1 >= begin));
            scores[r * 2u] = s0;
            scores[r * 2u + 1u] = s1;
            let m = max(max(s0.xy, s0.zw), max(s1.xy, s1.zw));
            exchange[(ty + LINES * r) * 8u + tx] = max(m.x, m.y);
        }
        workgroupBarrier();
        for (var r = 0u; r < ROWS; r++) {
            var m = largest[r];
            for (var i = 0u; i < 8u; i++) {
                m = max(m, exchange[(ty + LINES * r) * 8u + i]);
            }
            let decay = exp(largest[r] - m);
            largest[r] = m;
            // Where nothing has been seen yet, m is MASKED too, and the difference says nothing.
            let w0 = select(vec4<f32>(0.0), exp(scores[r * 2u] - m), scores[r * 2u] > vec4<f32>(MASKED));
            let w1 = select(vec4<f32>(0.0), exp(scores[r * 2u + 1u] - m), scores[r * 2u + 1u] > vec4<f32>(MASKED));
            let w = w0 + w1;
            sums[r] = sums[r] * decay + (w.x + w.y) + (w.z + w.w);
            scores[r * 2u] = w0;
            scores[r * 2u + 1u] = w1;
            for (var c = 0u; c < CHUNKS; c++) {
                result[c * ROWS + r] *= decay;
            }
        }

        for (var run = 0u; run < TILE_KEYS / VALUE_KEYS; run++) {
            let v = run * VALUE_KEYS;
            workgroupBarrier();
            if tx * 4u / VALUE_KEYS == v % 32u / VALUE_KEYS {
                for (var r = 0u; r < ROWS; r++) {
                    left[(ty + LINES * r) * STRIDE + tx % (VALUE_KEYS / 4u)] = select(scores[r * 2u], scores[r * 2u + 1u], v >= 32u);
                }
            }
            for (var j = 0u; j < FETCH_VALUES; j++) {
                right[local + j * THREADS] = widen(fetched_values[j]);
            }
            workgroupBarrier();
            if v + VALUE_KEYS < TILE_KEYS {
                for (var j = 0u; j < FETCH_VALUES; j++) {
                    let i = local + j * THREADS;
                    let k = v + VALUE_KEYS + i / (CHUNKS * 8u);
                    let x = i % (CHUNKS * 8u);
                    fetched_values[j] = Stored();
                    if x < quads && k < filled {
                        fetched_values[j] = values[at + k * quads + x];
                    }
                }
            } else if key + TILE_KEYS < key_end {
                let next = key + TILE_KEYS;
                at = cache_row(pages[token.z * MAX_PAGES + next / PAGE], kv_head, next % PAGE);
                for (var j = 0u; j < FETCH_ROWS; j++) {
                    fetched_rows[j] = vec4<f32>(0.0);
                    if part < quads {
                        fetched_rows[j] = q[starts[j]];
                    }
                }
                for (var j = 0u; j < FETCH_KEYS; j++) {
                    let k = line + j * (THREADS / 4u);
                    fetched_keys[j] = Stored();
                    if part < quads && next + k < key_end {
                        fetched_keys[j] = keys[at + k * quads + part];
                    }
                }
            }
            for (var k = 0u; k < VALUE_KEYS / 4u; k++) {
                for (var c = 0u; c < CHUNKS; c++) {
                    let base = (4u * k * CHUNKS + c) * 8u + tx;
                    let v0 = right[base];
                    let v1 = right[base + CHUNKS * 8u];
                    let v2 = right[base + CHUNKS * 16u];
                    let v3 = right[base + CHUNKS * 24u];
                    for (var r = 0u; r < ROWS; r++) {
                        let w = left[(ty + LINES * r) * STRIDE + k];
                        var y = result[c * ROWS + r];
                        y = fma(vec4<f32>(w.x), v0, y);
                        y = fma(vec4<f32>(w.y), v1, y);
                        y = fma(vec4<f32>(w.z), v2, y);
                        y = fma(vec4<f32>(w.w), v3, y);
                        result[c * ROWS + r] = y;
                    }
                }
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        exchange[(ty + LINES * r) * 8u + tx] = sums[r];
    }
    workgroupBarrier();
    let whole = parts.count == 1u;
    for (var r = 0u; r < ROWS; r++) {
        let row = ty + LINES * r;
        if row >= count {
            continue;
        }
        var sum = 0.0;
        for (var i = 0u; i < 8u; i++) {
            sum += exchange[row * 8u + i];
        }
        let t = (first_row + row) / GROUP;
        let head = kv_head * GROUP + (first_row + row) % GROUP;
        let all = with_sink(sum, largest[r], head);
        let live = tokens[t].z != IDLE;
        let to = t * PITCH + head * quads;
        let record = record_of(group.z, kv_head, first_row + row, num_rows);
        if !whole && tx == 0u {
            partials[record] = vec4<f32>(largest[r], sum, 0.0, 0.0);
        }
        for (var c = 0u; c < CHUNKS; c++) {
            let quad = c * 8u + tx;
            if quad < quads {
                if whole {
                    output[to + quad] = select(vec4<f32>(0.0), result[c * ROWS + r] / all, live);
                } else {
                    partials[record + 1u + quad] = result[c * ROWS + r];
                }
            }
        }
    }
}
