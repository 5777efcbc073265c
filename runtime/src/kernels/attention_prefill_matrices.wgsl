// Flash attention of many tokens at consecutive positions of one sequence, over the paged f16 cache, with cooperative
// matrices: f16 products, f32 sums.
//
// A workgroup takes a tile of 64 rows (see attention_parts) and walks over tiles of 32 keys, which pass through
// workgroup memory with their values. A subgroup of 32 has 16 rows to itself: their queries and sums of values stay
// in matrices all the way. Scores go through workgroup memory, where two lanes share a row, and come back as f16
// weights.
//
// Heads of more than 256 dimensions (HEAD_HALVES) are too much for the registers of one subgroup: two share 16 rows, each with one half
// of the dimensions. Each adds the other's scores to its own, and computes the same weights. Tiles have half as many rows and keys.
//
// A weight is exp(score − reference). The reference is the row's largest score when it was last set, and is set anew
// only when scores rise by more than SLACK above it: then the sums, which are matrices, take a trip through workgroup
// memory to be scaled. Weights reach e^SLACK, far from the end of f16; the result does not depend on the reference.

#import cache
#import attention_score
#import chunks
#import attention_parts

// vec4 in a head, at most.
const QUADS: u32 = 8u * CHUNKS;
// Pieces of 16 dimensions in the widest head. Pieces that a head does not have are never touched and take no registers.
const PIECES: u32 = 16u;

#ifdef HEAD_HALVES
const TILE_ROWS: u32 = 32u;
const TILE_KEYS: u32 = 16u;
// Subgroups that share rows.
const SHARES: u32 = 2u;
#else
const TILE_ROWS: u32 = 64u;
const TILE_KEYS: u32 = 32u;
const SHARES: u32 = 1u;
#endif
// vec4 of keys, and of values, that an invocation fetches for a tile.
const FETCH: u32 = TILE_KEYS * QUADS / 256u;
const SLACK: f32 = 8.0;
// vec4 from row to row of scores and of weights: two more than there are, against bank conflicts.
const SCORE_STRIDE: u32 = TILE_KEYS / 4u + 2u;
// vec4 of scores that a lane has of its row.
const OWN_SCORES: u32 = TILE_KEYS / 8u;

override HEADS: u32;
// vec4 from one token's queries or output to the next one's.
override PITCH: u32;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
// Eight f16 each: wide reads are worth more than the conversion that naga asks for.
@group(0) @binding(3) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> partials: array<vec4<f32>>;
// .x: tokens of the step.
@group(0) @binding(7) var<uniform> size: vec4<u32>;

var<workgroup> shared_parts: Parts;
// Queries; then keys, and after them values. Rows are HEAD_DIM / 4 + 2 vec4 apart.
var<workgroup> tile: array<vec4<f16>, TILE_ROWS * (QUADS + 2u)>;
// Without the padding of the last row: with it, heads of 256 would not fit into 48 KiB.
var<workgroup> scores: array<vec4<f32>, 64u * SCORE_STRIDE - 2u>;
var<workgroup> weights: array<vec4<f16>, 64u * SCORE_STRIDE - 2u>;

// The functions below take one matrix, and are called for each by its number: drivers keep the matrices of an array in
// registers only where all indices are known, and do not unroll loops with barriers.

// A subgroup's 16 rows of 16 sums, each row times its lanes' `decay`.
fn scaled(sums: coop_mat16x16<f32, C>, own: u32, row: u32, half: u32, decay: f32) -> coop_mat16x16<f32, C> {
    subgroupBarrier();
    coopStoreT(sums, &scores[own * SCORE_STRIDE], SCORE_STRIDE);
    subgroupBarrier();
    scores[row * SCORE_STRIDE + half] *= decay;
    scores[row * SCORE_STRIDE + half + 2u] *= decay;
    subgroupBarrier();
    return coopLoadT<coop_mat16x16<f32, C>>(&scores[own * SCORE_STRIDE], SCORE_STRIDE);
}

// Where the lanes of a row write.
struct Target {
    // Whether there is such a row.
    inside: bool,
    // Whether it is written to `output`, or else to `partials`.
    whole: bool,
    // Index of its first vec4 there.
    at: u32,
    // What sums are multiplied by; 0 for idle tokens, whatever their sums are.
    factor: f32,
}

// Writes a subgroup's 16 rows of the 16 sums of piece `p`.
fn write(sums: coop_mat16x16<f32, C>, p: u32, own: u32, row: u32, half: u32, to: Target) {
    subgroupBarrier();
    coopStoreT(sums, &scores[own * SCORE_STRIDE], SCORE_STRIDE);
    subgroupBarrier();
    for (var j = half; j < 4u; j += 2u) {
        let y = select(vec4<f32>(0.0), scores[row * SCORE_STRIDE + j] * to.factor, to.factor != 0.0);
        if to.inside && to.whole {
            output[to.at + 4u * p + j] = y;
        } else if to.inside {
            partials[to.at + 4u * p + j] = y;
        }
    }
}

fn halves(x: vec2<u32>) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(x.x), unpack2x16float(x.y)));
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) num_groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let quads = HEAD_DIM / 4u;
    // Of this subgroup.
    let pieces = HEAD_DIM / (16u * SHARES);
    let stride = quads + 2u;
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
        for (var i = local; i < (last + 1u - first) * 8u; i += 128u) {
            if HEADS * quads + i % 8u < PITCH {
                output[(first + i / 8u) * PITCH + HEADS * quads + i % 8u] = vec4<f32>(0.0);
            }
        }
    }
    if token.z == IDLE {
        if group.z == 0u {
            for (var i = local; i < count * quads; i += 128u) {
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

    for (var i = local; i < TILE_ROWS * quads; i += 128u) {
        let row = first_row + i / quads;
        var x = vec4<f32>(0.0);
        if i / quads < count {
            x = q[row / GROUP * PITCH + (kv_head * GROUP + row % GROUP) * quads + i % quads] * SCALE;
        }
        tile[i / quads * stride + i % quads] = narrow(x);
    }
    workgroupBarrier();

    // Keys and values are fetched a tile ahead. A page is read beyond its last key, but no such key is used.
    var k: array<vec4<u32>, FETCH>;
    var v: array<vec4<u32>, FETCH>;
    {
        let page = pages[token.z * MAX_PAGES + key_begin / PAGE];
        let at = cache_row(page, kv_head, key_begin % PAGE);
        for (var j = 0u; j < FETCH; j++) {
            let i = min(local + 128u * j, TILE_KEYS * quads / 2u - 1u);
            k[j] = keys[at / 2u + i];
            v[j] = values[at / 2u + i];
        }
    }

    // This subgroup's rows of scores, and the one that this lane shares with its neighbour; then its row of the tile, and its first
    // vec4 of the dimensions.
    let own = local / 32u * 16u;
    let half = local % 2u;
    let row = own + local % 32u / 2u;
    let tile_row = local / (32u * SHARES) * 16u + local % 32u / 2u;
    let quad = local / 32u % SHARES * (4u * pieces);
    let position = token.y + (first_row + tile_row) / GROUP - first;
    let row_first_seen = first_seen(position);
    // Keys that all rows of the tile see lie between these.
    let common_begin = first_seen(token.y + last - first);

    var query: array<coop_mat16x16<f16, A>, PIECES>;
    var sums: array<coop_mat16x16<f32, C>, PIECES>;
    for (var p = 0u; p < pieces; p++) {
        query[p] = coopLoadT<coop_mat16x16<f16, A>>(&tile[local / (32u * SHARES) * 16u * stride + quad + 4u * p], stride);
        sums[p] = coop_mat16x16<f32, C>();
    }
    var reference = MASKED;
    // Of this lane's half of the row.
    var total = 0.0;

    for (var key = key_begin; key < key_end; key += TILE_KEYS) {
        let filled = min(TILE_KEYS, key_end - key) * quads / 2u;
        workgroupBarrier();
        for (var j = 0u; j < FETCH; j++) {
            let i = local + 128u * j;
            if i < TILE_KEYS * quads / 2u {
                let to = i / (quads / 2u) * stride + i % (quads / 2u) * 2u;
                let kk = select(vec4<u32>(0u), k[j], i < filled);
                let vv = select(vec4<u32>(0u), v[j], i < filled);
                tile[to] = halves(kk.xy);
                tile[to + 1u] = halves(kk.zw);
                tile[TILE_KEYS * stride + to] = halves(vv.xy);
                tile[TILE_KEYS * stride + to + 1u] = halves(vv.zw);
            }
        }
        workgroupBarrier();
        {
            // The last tile again after the last one.
            let next = min(key + TILE_KEYS, key_end - 1u) / TILE_KEYS * TILE_KEYS;
            let page = pages[token.z * MAX_PAGES + next / PAGE];
            let at = cache_row(page, kv_head, next % PAGE);
            for (var j = 0u; j < FETCH; j++) {
                let i = min(local + 128u * j, TILE_KEYS * quads / 2u - 1u);
                k[j] = keys[at / 2u + i];
                v[j] = values[at / 2u + i];
            }
        }

        var s0 = coop_mat16x16<f32, C>();
#ifdef HEAD_HALVES
        for (var p = 0u; p < pieces; p++) {
            s0 = coopMultiplyAdd(query[p], coopLoad<coop_mat16x16<f16, B>>(&tile[quad + 4u * p], stride), s0);
        }
        coopStoreT(s0, &scores[own * SCORE_STRIDE], SCORE_STRIDE);
        workgroupBarrier();
#else
        var s1 = coop_mat16x16<f32, C>();
        for (var p = 0u; p < pieces; p++) {
            s0 = coopMultiplyAdd(query[p], coopLoad<coop_mat16x16<f16, B>>(&tile[4u * p], stride), s0);
            s1 = coopMultiplyAdd(query[p], coopLoad<coop_mat16x16<f16, B>>(&tile[16u * stride + 4u * p], stride), s1);
        }
        coopStoreT(s0, &scores[own * SCORE_STRIDE], SCORE_STRIDE);
        coopStoreT(s1, &scores[own * SCORE_STRIDE + 4u], SCORE_STRIDE);
        subgroupBarrier();
#endif

        var s: array<vec4<f32>, OWN_SCORES>;
        for (var j = 0u; j < OWN_SCORES; j++) {
            s[j] = scores[row * SCORE_STRIDE + 2u * j + half];
#ifdef HEAD_HALVES
            // In the same order for both, so that they agree to the last bit.
            let other = scores[(row ^ 16u) * SCORE_STRIDE + 2u * j + half];
            s[j] = select(other + s[j], s[j] + other, (row & 16u) == 0u);
#endif
            if SOFTCAP != 0.0 {
                s[j] = vec4<f32>(soft_cap(s[j].x), soft_cap(s[j].y), soft_cap(s[j].z), soft_cap(s[j].w));
            }
        }
#ifdef HEAD_HALVES
        // Both have read before one of them writes over its scores.
        workgroupBarrier();
#endif
        if key + TILE_KEYS - 1u > token.y || key < common_begin {
            for (var j = 0u; j < OWN_SCORES; j++) {
                let at = vec4<u32>(key + 4u * (2u * j + half)) + vec4<u32>(0u, 1u, 2u, 3u);
                let seen = (at <= vec4<u32>(position)) & (at >= vec4<u32>(row_first_seen));
                s[j] = select(vec4<f32>(MASKED), s[j], seen);
            }
        }
        var m4 = max(s[0], s[1]);
#ifndef HEAD_HALVES
        m4 = max(m4, max(s[2], s[3]));
#endif
        var m = max(max(m4.x, m4.y), max(m4.z, m4.w));
        m = max(m, subgroupShuffleXor(m, 1u));
        // A loop that runs once at most, because naga has no notion of a condition that is the same for a subgroup.
        loop {
            if !subgroupAny(m > reference + SLACK) {
                break;
            }
            let raised = max(m, reference);
            let decay = exp(reference - raised);
            reference = raised;
            total *= decay;
            if key == key_begin {
                break;
            }
            sums[0] = scaled(sums[0], own, row, half, decay);
            if pieces > 1u {
                sums[1] = scaled(sums[1], own, row, half, decay);
            }
            if pieces > 2u {
                sums[2] = scaled(sums[2], own, row, half, decay);
            }
            if pieces > 3u {
                sums[3] = scaled(sums[3], own, row, half, decay);
            }
            if pieces > 4u {
                sums[4] = scaled(sums[4], own, row, half, decay);
            }
            if pieces > 5u {
                sums[5] = scaled(sums[5], own, row, half, decay);
            }
            if pieces > 6u {
                sums[6] = scaled(sums[6], own, row, half, decay);
            }
            if pieces > 7u {
                sums[7] = scaled(sums[7], own, row, half, decay);
            }
            if pieces > 8u {
                sums[8] = scaled(sums[8], own, row, half, decay);
            }
            if pieces > 9u {
                sums[9] = scaled(sums[9], own, row, half, decay);
            }
            if pieces > 10u {
                sums[10] = scaled(sums[10], own, row, half, decay);
            }
            if pieces > 11u {
                sums[11] = scaled(sums[11], own, row, half, decay);
            }
            if pieces > 12u {
                sums[12] = scaled(sums[12], own, row, half, decay);
            }
            if pieces > 13u {
                sums[13] = scaled(sums[13], own, row, half, decay);
            }
            if pieces > 14u {
                sums[14] = scaled(sums[14], own, row, half, decay);
            }
            if pieces > 15u {
                sums[15] = scaled(sums[15], own, row, half, decay);
            }
            break;
        }
        for (var j = 0u; j < OWN_SCORES; j++) {
            // Where nothing has been seen yet, the reference is MASKED too, and the difference says nothing.
            let w = vec4<f16>(select(vec4<f32>(0.0), exp(s[j] - reference), s[j] > vec4<f32>(MASKED)));
            weights[row * SCORE_STRIDE + 2u * j + half] = w;
            // The sum is that of the weights as they are multiplied.
            let rounded = vec4<f32>(w);
            total += (rounded.x + rounded.y) + (rounded.z + rounded.w);
        }
        subgroupBarrier();
        let w0 = coopLoadT<coop_mat16x16<f16, A>>(&weights[own * SCORE_STRIDE], SCORE_STRIDE);
#ifdef HEAD_HALVES
        for (var p = 0u; p < pieces; p++) {
            let v0 = coopLoadT<coop_mat16x16<f16, B>>(&tile[TILE_KEYS * stride + quad + 4u * p], stride);
            sums[p] = coopMultiplyAdd(w0, v0, sums[p]);
        }
#else
        let w1 = coopLoadT<coop_mat16x16<f16, A>>(&weights[own * SCORE_STRIDE + 4u], SCORE_STRIDE);
        for (var p = 0u; p < pieces; p++) {
            let v0 = coopLoadT<coop_mat16x16<f16, B>>(&tile[TILE_KEYS * stride + 4u * p], stride);
            let v1 = coopLoadT<coop_mat16x16<f16, B>>(&tile[(TILE_KEYS + 16u) * stride + 4u * p], stride);
            sums[p] = coopMultiplyAdd(w1, v1, coopMultiplyAdd(w0, v0, sums[p]));
        }
#endif
    }

    total += subgroupShuffleXor(total, 1u);
    let t = min((first_row + tile_row) / GROUP, last);
    var to: Target;
    to.inside = tile_row < count;
    to.whole = parts.count == 1u;
    if to.whole {
        let head = kv_head * GROUP + (first_row + tile_row) % GROUP;
        to.at = t * PITCH + head * quads + quad;
        to.factor = select(0.0, 1.0 / with_sink(total, reference, head), tokens[t].z != IDLE);
    } else {
        let record = record_of(group.z, kv_head, first_row + tile_row, num_rows);
        to.at = record + 1u + quad;
        to.factor = 1.0;
        if to.inside && half == 0u && quad == 0u {
            partials[record] = vec4<f32>(reference, total, 0.0, 0.0);
        }
    }
    write(sums[0], 0u, own, row, half, to);
    if pieces > 1u {
        write(sums[1], 1u, own, row, half, to);
    }
    if pieces > 2u {
        write(sums[2], 2u, own, row, half, to);
    }
    if pieces > 3u {
        write(sums[3], 3u, own, row, half, to);
    }
    if pieces > 4u {
        write(sums[4], 4u, own, row, half, to);
    }
    if pieces > 5u {
        write(sums[5], 5u, own, row, half, to);
    }
    if pieces > 6u {
        write(sums[6], 6u, own, row, half, to);
    }
    if pieces > 7u {
        write(sums[7], 7u, own, row, half, to);
    }
    if pieces > 8u {
        write(sums[8], 8u, own, row, half, to);
    }
    if pieces > 9u {
        write(sums[9], 9u, own, row, half, to);
    }
    if pieces > 10u {
        write(sums[10], 10u, own, row, half, to);
    }
    if pieces > 11u {
        write(sums[11], 11u, own, row, half, to);
    }
    if pieces > 12u {
        write(sums[12], 12u, own, row, half, to);
    }
    if pieces > 13u {
        write(sums[13], 13u, own, row, half, to);
    }
    if pieces > 14u {
        write(sums[14], 14u, own, row, half, to);
    }
    if pieces > 15u {
        write(sums[15], 15u, own, row, half, to);
    }
}
