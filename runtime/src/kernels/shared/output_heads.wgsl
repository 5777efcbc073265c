// What becomes of the sums of four neighbouring dimensions of a query, key or value head for one token: bias, rotation, scaling, and
// writing to the queries or the cache. The kernel declares `params` as in `projection.wgsl`, for a matrix of one chunk.
//
// Rows are computed in such an order that fours which rotate together are neighbours: of each head the fours 0 and ROTATED,
// 4 and ROTATED + 4, and so on, then those that do not rotate.

#import cache
#ifdef ROPE
#import sin_cos
#endif
#ifdef QUERY_SCALING
#import query_scaling
#endif

override HEADS: u32;
// vec4 from one token's queries to the next one's.
override Q_PITCH: u32;
#ifdef ROPE
// Pairs that rotate, a multiple of 4: dimensions i and i + ROTATED.
override ROTATED: u32;
override FACTOR: f32;
#endif

@group(0) @binding(2) var<storage, read_write> q: array<vec4<f32>>;
#ifdef BIAS
@group(0) @binding(8) var<storage, read> bias: array<vec4<f32>>;
#endif
@group(0) @binding(9) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(10) var<storage, read> pages: array<u32>;
@group(0) @binding(11) var<storage, read_write> keys: array<Stored>;
@group(0) @binding(12) var<storage, read_write> values: array<Stored>;
#ifdef ROPE
@group(0) @binding(13) var<storage, read> inv_freq: array<vec4<f32>>;
#endif

// The row at a place of the order.
fn heads_row(place: u32) -> u32 {
#ifdef ROPE
    let d = place % HEAD_DIM;
    if d < 2u * ROTATED {
        return place - d + (d >> 3u) * 4u + ((d >> 2u) & 1u) * ROTATED + (d & 3u);
    }
#endif
    return place;
}

fn biased_four(row: u32, sum: vec4<f32>) -> vec4<f32> {
#ifdef BIAS
    return sum + bias[row >> 2u];
#else
    return sum;
#endif
}

// Places `place` to `place + 3`, a multiple of 4; `partner` has the sums at `place ^ 4`, which a rotation needs.
fn write_heads(t: u32, place: u32, sum: vec4<f32>, partner: vec4<f32>) {
    if place >= params.rows {
        return;
    }
    let token = tokens[t];
    let row = heads_row(place);
    let head = row / HEAD_DIM;
    let d = row % HEAD_DIM;
    var x = biased_four(row, sum);
#ifdef ROPE
    if head < HEADS + KV_HEADS && d < 2u * ROTATED {
        let upper = d >= ROTATED;
        let i = select(d, d - ROTATED, upper);
        let y = biased_four(heads_row(place ^ 4u), partner);
        let angles = f32(token.y) * inv_freq[(token.w * ROTATED + i) >> 2u];
        let a = sin_cos(angles.x);
        let b = sin_cos(angles.y);
        let c = sin_cos(angles.z);
        let e = sin_cos(angles.w);
        let sine = vec4(a.x, b.x, c.x, e.x) * FACTOR;
        let cosine = vec4(a.y, b.y, c.y, e.y) * FACTOR;
        x = x * cosine + select(-y, y, upper) * sine;
    }
#endif
    if head < HEADS {
#ifdef QUERY_SCALING
        x *= query_scale(token.y);
#endif
        q[t * Q_PITCH + (row >> 2u)] = x;
        let quads = HEADS * HEAD_DIM / 4u;
        for (var i = quads + (row >> 2u); i < Q_PITCH; i += quads) {
            q[t * Q_PITCH + i] = vec4(0.0);
        }
        return;
    }
    if token.z == IDLE {
        return;
    }
    let page = pages[token.z * MAX_PAGES + token.y / PAGE];
    if head < HEADS + KV_HEADS {
        keys[cache_row(page, head - HEADS, token.y % PAGE) + d / 4u] = narrow(x);
    } else {
        values[cache_row(page, head - HEADS - KV_HEADS, token.y % PAGE) + d / 4u] = narrow(x);
    }
}
