// Flash decoding: one new token a sequence against its cached keys and values.
//
// A workgroup takes one token, ROWS query heads of one key/value head (they share every load of K and V) and one of
// SPLITS runs of pages. Each page: an invocation a key computes the scores, the softmax's running maximum is brought
// up to date, and then an invocation takes four dimensions of every PARTS-th value. Without DIRECT the split's
// maximum, sum and weighted values go to attention_combine. WIDE needs CACHE_F16 and a HEAD_DIM of whole eights.

#import cache
#import attention_score

#ifdef ROWS_8
const ROWS: u32 = 8u;
#else
#ifdef ROWS_4
const ROWS: u32 = 4u;
#else
#ifdef ROWS_2
const ROWS: u32 = 2u;
#else
const ROWS: u32 = 1u;
#endif
#endif
#endif

// Invocations: a vector of a value each.
#ifdef WIDE_HEADS
const LANES: u32 = 128u;
#else
const LANES: u32 = 64u;
#endif

// Query heads a key/value head, and runs of ROWS of them.
override GROUP: u32;
override BLOCKS: u32;
override HEADS: u32;
// vec4 from one token's queries or output to the next one's.
override PITCH: u32;
override SPLITS: u32;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
#ifdef WIDE
// An invocation walks along its key, so that wide loads count. (Values are read side by side.)
@group(0) @binding(3) var<storage, read> keys: array<vec4<u32>>;
#else
@group(0) @binding(3) var<storage, read> keys: array<Stored>;
#endif
@group(0) @binding(4) var<storage, read> values: array<Stored>;
// DIRECT: [token][PITCH]. Else [token][head][split][1 + HEAD_DIM / 4]: (maximum, sum, 0, 0), then weighted values.
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;

// Queries [ROWS][HEAD_DIM / 4] at first, weighted values [ROWS][LANES] in the end.
var<workgroup> vectors: array<vec4<f32>, ROWS * LANES>;
// Scores, then weights [ROWS][PAGE]; in the end sums of weights [ROWS][LANES].
var<workgroup> weights: array<f32, ROWS * LANES>;
var<workgroup> maxima: array<f32, ROWS * 8u>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let quads = HEAD_DIM / 4u;
    let parts = LANES / quads;
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
    let num_pages = token.y / PAGE + 1u - first_page;
    let share = (num_pages + SPLITS - 1u) / SPLITS;
    let page_begin = first_page + split * share;
    let page_end = min(page_begin + share, first_page + num_pages);

#ifdef DIRECT
    if group.y == 0u && local < PITCH - HEADS * quads {
        output[t * PITCH + HEADS * quads + local] = vec4<f32>(0.0);
    }
    if token.z == IDLE {
        for (var i = local; i < rows * quads; i += LANES) {
            output[t * PITCH + head * quads + i] = vec4<f32>(0.0);
        }
        return;
    }
#else
    if token.z == IDLE || page_begin >= page_end {
        return;
    }
#endif

    for (var i = local; i < ROWS * quads; i += LANES) {
        vectors[i] = q[t * PITCH + (head + min(i / quads, rows - 1u)) * quads + i % quads] * SCALE;
    }
    workgroupBarrier();

    var largest: array<f32, ROWS>;
    var sums: array<f32, ROWS>;
    var sum_values: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        largest[r] = MASKED;
        sums[r] = 0.0;
        sum_values[r] = vec4<f32>(0.0);
    }
    let quad = local % quads;
    let part = local / quads;

    for (var p = page_begin; p < page_end; p++) {
        let page = pages[token.z * MAX_PAGES + p];
        let key_begin = max(begin, p * PAGE) - p * PAGE;
        let key_end = min(end - p * PAGE, PAGE);
        let seen = local >= key_begin && local < key_end;

        var scores: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            scores[r] = 0.0;
        }
        if seen {
            let row = cache_row(page, kv_head, local);
#ifdef WIDE
            for (var i = 0u; i < quads; i += 2u) {
                let both = keys[(row + i) / 2u];
                let low = widen_packed(both.xy);
                let high = widen_packed(both.zw);
                for (var r = 0u; r < ROWS; r++) {
                    scores[r] += dot(vectors[r * quads + i], low) + dot(vectors[r * quads + i + 1u], high);
                }
            }
#else
            for (var i = 0u; i < quads; i++) {
                let key = widen(keys[row + i]);
                for (var r = 0u; r < ROWS; r++) {
                    scores[r] += dot(vectors[r * quads + i], key);
                }
            }
#endif
        }
        for (var r = 0u; r < ROWS; r++) {
            scores[r] = select(MASKED, soft_cap(scores[r]), seen);
            if local < PAGE {
                weights[r * PAGE + local] = scores[r];
            }
        }
        workgroupBarrier();
        if local < ROWS * 8u {
            var m = MASKED;
            for (var i = 0u; i < 8u; i++) {
                m = max(m, weights[local * 8u + i]);
            }
            maxima[local] = m;
        }
        workgroupBarrier();
        for (var r = 0u; r < ROWS; r++) {
            var m = largest[r];
            for (var i = 0u; i < 8u; i++) {
                m = max(m, maxima[r * 8u + i]);
            }
            let decay = exp(largest[r] - m);
            largest[r] = m;
            sums[r] *= decay;
            sum_values[r] *= decay;
            if local < PAGE {
                weights[r * PAGE + local] = select(0.0, exp(scores[r] - m), seen);
            }
        }
        workgroupBarrier();
        if part < parts {
            let row = cache_row(page, kv_head, 0u) + quad;
            for (var i = key_begin + part; i < key_end; i += parts) {
                let value = widen(values[row + i * quads]);
                for (var r = 0u; r < ROWS; r++) {
                    let w = weights[r * PAGE + i];
                    sums[r] += w;
                    sum_values[r] += w * value;
                }
            }
        }
        workgroupBarrier();
    }

    for (var r = 0u; r < ROWS; r++) {
        vectors[r * LANES + local] = sum_values[r];
        weights[r * LANES + local] = sums[r];
        if local == 0u {
            maxima[r] = largest[r];
        }
    }
    workgroupBarrier();
    for (var i = local; i < rows * quads; i += LANES) {
        let r = i / quads;
        var sum = 0.0;
        var value = vec4<f32>(0.0);
        for (var k = 0u; k < parts; k++) {
            sum += weights[r * LANES + k * quads + i % quads];
            value += vectors[r * LANES + k * quads + i % quads];
        }
#ifdef DIRECT
        output[t * PITCH + head * quads + i] = value / with_sink(sum, maxima[r], head + r);
#else
        let record = ((t * HEADS + head + r) * SPLITS + split) * (quads + 1u);
        output[record + 1u + i % quads] = value;
        if i % quads == 0u {
            output[record] = vec4<f32>(maxima[r], sum, 0.0, 0.0);
        }
#endif
    }
}
