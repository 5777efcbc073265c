// How split attention puts results together: those of the parts of a workgroup, and those of the splits of a sequence.
// Whoever imports this declares WORKGROUP and ROWS, the `output`, and with `partial_load` gives vec4s of the partial results:
// [token][head][split][1 + HEAD_DIM / 4], maximum, sum, 0, 0, then the weighted values.

override HEADS: u32;
override SPLITS: u32;
// Pages that a split takes at least, where there are as many.
override LEAST: u32;
// Subgroups, or runs of lanes of a head's width, whichever are more; and that for all ROWS.
override PARTS: u32;
override ALL_PARTS: u32;
// vec4 to put the values of all parts together in, and words of counters before the partial results.
override MERGED: u32;
override COUNTERS: u32;
// vec4 of ROWS heads that an invocation writes.
override MERGE_TURNS: u32 = (ROWS * HEAD_DIM / 4u + WORKGROUP - 1u) / WORKGROUP;

var<workgroup> merged: array<vec4<f32>, MERGED>;
var<workgroup> maxima: array<f32, ALL_PARTS>;
var<workgroup> totals: array<f32, ALL_PARTS>;

struct Shares {
    first_page: u32,
    // Pages of a split.
    pages: u32,
    splits: u32,
}

// How the pages that a token at `position` sees are dealt out.
fn shares_of(position: u32) -> Shares {
    let first_page = first_seen(position) / PAGE;
    let pages = position / PAGE + 1u - first_page;
    let share = max((pages + SPLITS - 1u) / SPLITS, min(LEAST, pages));
    return Shares(first_page, share, (pages + share - 1u) / share);
}

// Index of a split's result for a head in `partials`.
fn record_of(t: u32, head: u32, split: u32) -> u32 {
    return COUNTERS / 4u + ((t * HEADS + head) * SPLITS + split) * (HEAD_DIM / 4u + 1u);
}

fn largest_part(r: u32, parts: u32) -> f32 {
    var m = MASKED;
    for (var s = 0u; s < PARTS; s++) {
        if s >= parts {
            break;
        }
        m = max(m, maxima[r * PARTS + s]);
    }
    return m;
}

struct Merged { sum: f32, value: vec4<f32> }

// Four dimensions of a head, from `parts` whose values were brought to the maximum `m`.
fn merge(r: u32, quad: u32, m: f32, parts: u32) -> Merged {
    let quads = HEAD_DIM / 4u;
    var all: Merged;
    for (var s = 0u; s < PARTS; s++) {
        if s >= parts {
            break;
        }
        all.sum += totals[r * PARTS + s] * exp(maxima[r * PARTS + s] - m);
        all.value += merged[(r * PARTS + s) * quads + quad];
    }
    return all;
}

// Heads `head` to `head + rows - 1` of token `t` from all its splits. Each of `parts` runs of lanes puts a share of the splits
// together, four dimensions a lane.
fn combine(t: u32, head: u32, rows: u32, splits: u32, index: u32) {
    let quads = HEAD_DIM / 4u;
    let parts = WORKGROUP / quads;
    let part = index / quads;
    let quad = index % quads;
    var largest: array<f32, ROWS>;
    var sums: array<f32, ROWS>;
    var weighted: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        largest[r] = MASKED;
        sums[r] = 0.0;
        weighted[r] = vec4(0.0);
    }
    if part < parts {
        for (var n = 0u; n < SPLITS; n++) {
            let s = n * parts + part;
            if s >= splits {
                break;
            }
            var heads_of: array<vec2<f32>, ROWS>;
            var values_of: array<vec4<f32>, ROWS>;
            for (var r = 0u; r < ROWS; r++) {
                let record = record_of(t, head + min(r, rows - 1u), s);
                heads_of[r] = partial_load(record).xy;
                values_of[r] = partial_load(record + 1u + quad);
            }
            for (var r = 0u; r < ROWS; r++) {
                let of_split = heads_of[r];
                let m = max(largest[r], of_split.x);
                let decay = exp(largest[r] - m);
                let w = exp(of_split.x - m);
                largest[r] = m;
                sums[r] = fma(of_split.y, w, sums[r] * decay);
                weighted[r] = weighted[r] * decay + values_of[r] * w;
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
            merged[(r * PARTS + part) * quads + quad] = weighted[r] * exp(largest[r] - largest_part(r, parts));
        }
    }
    workgroupBarrier();
    for (var n = 0u; n < MERGE_TURNS; n++) {
        let i = n * WORKGROUP + index;
        if i >= rows * quads {
            break;
        }
        let r = i / quads;
        let m = largest_part(r, parts);
        let all = merge(r, i % quads, m, parts);
        output[t * PITCH + head * quads + i] = all.value / with_sink(all.sum, m, head + r);
    }
}
