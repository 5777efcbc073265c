// Flash decoding: one new token a sequence against its cached keys and values.
//
// A workgroup takes one token, ROWS query heads of one key/value head (they share every load of K and V) and one of SPLITS
// runs of pages. TEAM neighbouring lanes of a subgroup share a key and hold eight dimensions each; they take KEYS keys and
// values at a time, all on their way together, and keep a softmax of their own. Teams meet at the end.
//
// Splits leave their maximum, sum and weighted values in `partials`, which `attention_split_combine` puts together. With
// LAST_COMBINES the last one of a token and key/value head to get there, by a counter, does so. It sets the counter back to
// zero, and reads atomically what other workgroups wrote.

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
// More rounds than any run of keys takes.
const MANY: u32 = 0x10000u;

// Query heads a key/value head, and runs of ROWS of them.
override GROUP: u32;
override BLOCKS: u32;
// vec4 from one token's queries or output to the next one's.
override PITCH: u32;
override TEAM: u32;
override TEAM_LOG2: u32;
override WORKGROUP: u32;

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
// COUNTERS words, with LAST_COMBINES [token][GROUP.y] of them in use; then the records of `attention_merge`.
#ifdef LAST_COMBINES
@group(0) @binding(6) var<storage, read_write> partials: array<atomic<u32>>;

fn partial_load(i: u32) -> vec4<f32> {
    let words =
        vec4(atomicLoad(&partials[4u * i]), atomicLoad(&partials[4u * i + 1u]), atomicLoad(&partials[4u * i + 2u]), atomicLoad(&partials[4u * i + 3u]));
    return bitcast<vec4<f32>>(words);
}

fn partial_store(i: u32, value: vec4<f32>) {
    let words = bitcast<vec4<u32>>(value);
    atomicStore(&partials[4u * i], words.x);
    atomicStore(&partials[4u * i + 1u], words.y);
    atomicStore(&partials[4u * i + 2u], words.z);
    atomicStore(&partials[4u * i + 3u], words.w);
}
#else
@group(0) @binding(6) var<storage, read_write> partials: array<vec4<f32>>;

fn partial_load(i: u32) -> vec4<f32> {
    return partials[i];
}

fn partial_store(i: u32, value: vec4<f32>) {
    partials[i] = value;
}
#endif

#ifdef LAST_COMBINES
var<workgroup> is_last: u32;
#endif

#import attention_merge

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
    let last_page = token.y / PAGE;
    let shares = shares_of(token.y);
    let splits = shares.splits;
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
    let run_begin = (shares.first_page + split * shares.pages) * PAGE;
    let to = min(run_begin + shares.pages * PAGE, end);
    var page = pages[token.z * MAX_PAGES + min((run_begin + team * KEYS) / PAGE, last_page)];
    // Loops count to a constant, as in `matvec_int8`.
    let rounds = (to - run_begin + stride - 1u) / stride;
    for (var round = 0u; round < MANY; round++) {
        if round >= rounds {
            break;
        }
        let key = run_begin + round * stride + team * KEYS;
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
        for (var n = 0u; n < TEAM_LOG2; n++) {
            for (var i = 0u; i < KEYS * ROWS; i++) {
                scores[i] += subgroupShuffleXor(scores[i], TEAM >> (n + 1u));
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
    for (var n = 0u; n < 7u; n++) {
        let distance = TEAM << n;
        if distance >= subgroup_size {
            break;
        }
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
    for (var n = 0u; n < MERGE_TURNS; n++) {
        let i = n * WORKGROUP + index;
        if i >= rows * quads {
            break;
        }
        let r = i / quads;
        let quad = i % quads;
        let m = largest_part(r, subgroups);
        let all = merge(r, quad, m, subgroups);
        if splits == 1u {
            output[t * PITCH + head * quads + i] = all.value / with_sink(all.sum, m, head + r);
        } else {
            let record = record_of(t, head + r, split);
            partial_store(record + 1u + quad, all.value);
            if quad == 0u {
                partial_store(record, vec4(m, all.sum, 0.0, 0.0));
            }
        }
    }
#ifdef LAST_COMBINES
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
    combine(t, head, rows, splits, index);
#endif
}
