// Flash decoding in one dispatch: one new token a sequence against its cached keys and values.
//
// A workgroup takes one token, ROWS query heads of one key/value head (they share every load of K and V) and one of SPLITS
// runs of pages. TEAM neighbouring lanes of a subgroup share a key and hold eight dimensions each; they take KEYS keys and
// values at a time, all on their way together, and keep a softmax of their own. Teams meet at the end.
//
// Splits leave their maximum, sum and weighted values in `partials`. The last one of a token and key/value head to get
// there, by a counter, puts them together; it sets the counter back to zero. What is read of other workgroups is atomic.

#import cache
#import attention_score

#ifdef ROWS_4
const ROWS: u32 = 4u;
#else
#ifdef ROWS_3
const ROWS: u32 = 3u;
#else
#ifdef ROWS_2
const ROWS: u32 = 2u;
#else
const ROWS: u32 = 1u;
#endif
#endif
#endif
const KEYS: u32 = 4u;

// Query heads a key/value head, and runs of ROWS of them.
override GROUP: u32;
override BLOCKS: u32;
override HEADS: u32;
// vec4 from one token's queries or output to the next one's.
override PITCH: u32;
override SPLITS: u32;
// Pages that a split takes at least, where there are as many.
override LEAST: u32;
override TEAM: u32;
override WORKGROUP: u32;
// Subgroups, or runs of lanes of a head's width, whichever are more; and that for all ROWS.
override PARTS: u32;
override ALL_PARTS: u32;
// vec4 to put the values of all parts together in, and words of counters before the partial results.
override MERGED: u32;
override COUNTERS: u32;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
#ifdef CACHE_F16
alias Raw = vec4<u32>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> values: array<vec4<u32>>;
#else
alias Raw = mat2x4<f32>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> values: array<vec4<f32>>;
#endif
// [token][PITCH]
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;
// Counters [token][GROUP.y]; then [token][head][split][4 + HEAD_DIM] as bits: maximum, sum, 0, 0, weighted values.
@group(0) @binding(6) var<storage, read_write> partials: array<atomic<u32>>;

var<workgroup> merged: array<vec4<f32>, MERGED>;
var<workgroup> maxima: array<f32, ALL_PARTS>;
var<workgroup> totals: array<f32, ALL_PARTS>;
var<workgroup> is_last: u32;

// Dimensions `8 × lane` to `8 × lane + 7` of a key or value.
fn load_key(row: u32, lane: u32) -> Raw {
#ifdef CACHE_F16
    return keys[row / 2u + lane];
#else
    return mat2x4(keys[row + 2u * lane], keys[row + 2u * lane + 1u]);
#endif
}

fn load_value(row: u32, lane: u32) -> Raw {
#ifdef CACHE_F16
    return values[row / 2u + lane];
#else
    return mat2x4(values[row + 2u * lane], values[row + 2u * lane + 1u]);
#endif
}

fn eight(x: Raw) -> mat2x4<f32> {
#ifdef CACHE_F16
    return mat2x4(widen_packed(x.xy), widen_packed(x.zw));
#else
    return x;
#endif
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32,
        @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let quads = HEAD_DIM / 4u;
    let index = subgroup * subgroup_size + lane;
    let split = group.x;
    let kv_head = group.y / BLOCKS;
    let first_row = group.y % BLOCKS * ROWS;
    let rows = min(ROWS, GROUP - first_row);
    let head = kv_head * GROUP + first_row;
    let t = group.z;
    let token = tokens[t];

    let begin = first_seen(token.y);
    let end = token.y + 1u;
    let first_page = begin / PAGE;
    let last_page = token.y / PAGE;
    let num_pages = last_page + 1u - first_page;
    let share = max((num_pages + SPLITS - 1u) / SPLITS, min(LEAST, num_pages));
    let splits = (num_pages + share - 1u) / share;
    if split == 0u && group.y == 0u {
        for (var i = HEADS * quads + index; i < PITCH; i += WORKGROUP) {
            output[t * PITCH + i] = vec4(0.0);
        }
    }
    if token.z == IDLE || split >= splits {
        if split == 0u {
            for (var i = index; i < rows * quads; i += WORKGROUP) {
                output[t * PITCH + head * quads + i] = vec4(0.0);
            }
        }
        return;
    }

    let own = lane & (TEAM - 1u);
    // Lanes beyond the head's dimensions read the first ones and multiply them with zero.
    let real = own * 8u < HEAD_DIM;
    let at = select(0u, own, real);
    var queries: array<mat2x4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let start = t * PITCH + (head + min(r, rows - 1u)) * quads + at * 2u;
        let scale = select(0.0, SCALE, real);
        queries[r] = mat2x4(q[start] * scale, q[start + 1u] * scale);
    }
    var largest: array<f32, ROWS>;
    var sums: array<f32, ROWS>;
    var weighted: array<mat2x4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        largest[r] = MASKED;
        sums[r] = 0.0;
        weighted[r] = mat2x4<f32>();
    }

    let team = index / TEAM;
    let stride = WORKGROUP / TEAM * KEYS;
    let run_begin = (first_page + split * share) * PAGE;
    let to = min(run_begin + share * PAGE, end);
    var page = pages[token.z * MAX_PAGES + min((run_begin + team * KEYS) / PAGE, last_page)];
    for (var base = run_begin; base < to; base += stride) {
        let key = base + team * KEYS;
        let row = cache_row(page, kv_head, key % PAGE);
        var k: array<Raw, KEYS>;
        var v: array<Raw, KEYS>;
        for (var j = 0u; j < KEYS; j++) {
            k[j] = load_key(row + j * quads, at);
        }
        for (var j = 0u; j < KEYS; j++) {
            v[j] = load_value(row + j * quads, at);
        }
        page = pages[token.z * MAX_PAGES + min((key + stride) / PAGE, last_page)];

        var scores: array<f32, KEYS * ROWS>;
        for (var j = 0u; j < KEYS; j++) {
            let wide = eight(k[j]);
            for (var r = 0u; r < ROWS; r++) {
                scores[j * ROWS + r] = dot(queries[r][0], wide[0]) + dot(queries[r][1], wide[1]);
            }
        }
        for (var distance = TEAM / 2u; distance > 0u; distance /= 2u) {
            for (var i = 0u; i < KEYS * ROWS; i++) {
                scores[i] += subgroupShuffleXor(scores[i], distance);
            }
        }
        for (var r = 0u; r < ROWS; r++) {
            var m = largest[r];
            for (var j = 0u; j < KEYS; j++) {
                let seen = key + j >= begin && key + j < to;
                scores[j * ROWS + r] = select(MASKED, soft_cap(scores[j * ROWS + r]), seen);
                m = max(m, scores[j * ROWS + r]);
            }
            let decay = exp(largest[r] - m);
            largest[r] = m;
            sums[r] *= decay;
            weighted[r] *= decay;
            for (var j = 0u; j < KEYS; j++) {
                let score = scores[j * ROWS + r];
                let w = select(0.0, exp(score - m), score > MASKED);
                scores[j * ROWS + r] = w;
                sums[r] += w;
            }
        }
        for (var j = 0u; j < KEYS; j++) {
            let wide = eight(v[j]);
            for (var r = 0u; r < ROWS; r++) {
                weighted[r] += wide * scores[j * ROWS + r];
            }
        }
    }

    // Teams of a subgroup.
    for (var distance = TEAM; distance < subgroup_size; distance *= 2u) {
        for (var r = 0u; r < ROWS; r++) {
            let m = max(largest[r], subgroupShuffleXor(largest[r], distance));
            let decay = exp(largest[r] - m);
            largest[r] = m;
            let sum = sums[r] * decay;
            sums[r] = sum + subgroupShuffleXor(sum, distance);
            let low = weighted[r][0] * decay;
            let high = weighted[r][1] * decay;
            weighted[r] = mat2x4(low + subgroupShuffleXor(low, distance), high + subgroupShuffleXor(high, distance));
        }
    }
    // Subgroups.
    if lane == 0u {
        for (var r = 0u; r < ROWS; r++) {
            maxima[r * PARTS + subgroup] = largest[r];
            totals[r * PARTS + subgroup] = sums[r];
        }
    }
    workgroupBarrier();
    if lane < TEAM && real {
        for (var r = 0u; r < ROWS; r++) {
            let decay = exp(largest[r] - largest_part(r, subgroups));
            let to_merge = (r * PARTS + subgroup) * quads + at * 2u;
            merged[to_merge] = weighted[r][0] * decay;
            merged[to_merge + 1u] = weighted[r][1] * decay;
        }
    }
    workgroupBarrier();
    let record_words = HEAD_DIM + 4u;
    for (var i = index; i < rows * quads; i += WORKGROUP) {
        let r = i / quads;
        let quad = i % quads;
        let m = largest_part(r, subgroups);
        let all = merge(r, quad, m, subgroups);
        if splits == 1u {
            output[t * PITCH + head * quads + i] = all.value / all.sum;
        } else {
            let record = COUNTERS + ((t * HEADS + head + r) * SPLITS + split) * record_words;
            let bits = bitcast<vec4<u32>>(all.value);
            atomicStore(&partials[record + 4u + quad * 4u], bits.x);
            atomicStore(&partials[record + 5u + quad * 4u], bits.y);
            atomicStore(&partials[record + 6u + quad * 4u], bits.z);
            atomicStore(&partials[record + 7u + quad * 4u], bits.w);
            if quad == 0u {
                atomicStore(&partials[record], bitcast<u32>(m));
                atomicStore(&partials[record + 1u], bitcast<u32>(all.sum));
            }
        }
    }
    if splits == 1u {
        return;
    }

    storageBarrier();
    if index == 0u {
        let counter = t * groups.y + group.y;
        let before = atomicAdd(&partials[counter], 1u);
        is_last = select(0u, 1u, before + 1u == splits);
        if before + 1u == splits {
            atomicStore(&partials[counter], 0u);
        }
    }
    workgroupBarrier();
    if workgroupUniformLoad(&is_last) == 0u {
        return;
    }
    storageBarrier();
    // Each of `parts` runs of lanes puts a share of the splits together, four dimensions a lane.
    let parts = WORKGROUP / quads;
    let part = index / quads;
    let quad = index % quads;
    for (var r = 0u; r < ROWS; r++) {
        largest[r] = MASKED;
        sums[r] = 0.0;
        weighted[r] = mat2x4<f32>();
    }
    if part < parts {
        for (var s = part; s < splits; s += parts) {
            var heads_of: array<vec2<u32>, ROWS>;
            var bits: array<vec4<u32>, ROWS>;
            for (var r = 0u; r < ROWS; r++) {
                let record = COUNTERS + ((t * HEADS + head + min(r, rows - 1u)) * SPLITS + s) * record_words;
                heads_of[r] = vec2(atomicLoad(&partials[record]), atomicLoad(&partials[record + 1u]));
                let first = record + 4u + quad * 4u;
                bits[r] = vec4(
                    atomicLoad(&partials[first]),
                    atomicLoad(&partials[first + 1u]),
                    atomicLoad(&partials[first + 2u]),
                    atomicLoad(&partials[first + 3u]),
                );
            }
            for (var r = 0u; r < ROWS; r++) {
                let of_split = bitcast<vec2<f32>>(heads_of[r]);
                let m = max(largest[r], of_split.x);
                let decay = exp(largest[r] - m);
                let w = exp(of_split.x - m);
                largest[r] = m;
                sums[r] = fma(of_split.y, w, sums[r] * decay);
                weighted[r][0] = weighted[r][0] * decay + bitcast<vec4<f32>>(bits[r]) * w;
            }
        }
        if quad == 0u {
            for (var r = 0u; r < ROWS; r++) {
                maxima[r * PARTS + part] = largest[r];
                totals[r * PARTS + part] = sums[r];
            }
        }
    }
    workgroupBarrier();
    if part < parts {
        for (var r = 0u; r < ROWS; r++) {
            merged[(r * PARTS + part) * quads + quad] = weighted[r][0] * exp(largest[r] - largest_part(r, parts));
        }
    }
    workgroupBarrier();
    for (var i = index; i < rows * quads; i += WORKGROUP) {
        let r = i / quads;
        let all = merge(r, i % quads, largest_part(r, parts), parts);
        output[t * PITCH + head * quads + i] = all.value / all.sum;
    }
}

fn largest_part(r: u32, parts: u32) -> f32 {
    var m = MASKED;
    for (var s = 0u; s < parts; s++) {
        m = max(m, maxima[r * PARTS + s]);
    }
    return m;
}

struct Merged { sum: f32, value: vec4<f32> }

// Four dimensions of a head, from `parts` whose values were brought to the maximum `m`.
fn merge(r: u32, quad: u32, m: f32, parts: u32) -> Merged {
    let quads = HEAD_DIM / 4u;
    var all: Merged;
    for (var s = 0u; s < parts; s++) {
        all.sum += totals[r * PARTS + s] * exp(maxima[r * PARTS + s] - m);
        all.value += merged[(r * PARTS + s) * quads + quad];
    }
    return all;
}
