// Splits rows of queries, keys and values; normalizes and rotates queries and keys, or with NORM_AFTER_ROPE the other way
// round; writes queries to a buffer of their own and keys and values to the cache.
//
// An invocation makes four neighbouring dimensions of one head; a workgroup holds HEADS_AT_ONCE whole heads. Rows may lack values,
// which then are the keys before norm and rope, or both, and then nothing is written to the cache.

#import cache
#ifdef ROPE
#import sin_cos
#endif
#ifdef QUERY_SCALING
#import query_scaling
#endif

#ifdef WIDE_HEADS
const LANES: u32 = 128u;
#else
const LANES: u32 = 64u;
#endif

override HEADS: u32;
// What a row has behind its queries: keys and values (2), keys (1) or neither (0).
override OWN_KV: u32;
// f32 values from one token's row of q, k and v to the next one's.
override QKV_PITCH: u32;
// vec4 from one token's queries to the next one's.
override Q_PITCH: u32;
override HEADS_AT_ONCE: u32;
#ifdef ROPE
// Pairs that rotate: dimensions i and i + ROTATED.
override ROTATED: u32;
override FACTOR: f32;
#endif
#ifdef QK_NORM
// Whether all heads are normalized together; whether all heads have the same gains.
override WHOLE: bool;
override SHARED_GAINS: bool;
#endif
override EPSILON: f32 = 0.0;

@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
@group(0) @binding(3) var<storage, read_write> q: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> keys: array<Stored>;
@group(0) @binding(5) var<storage, read_write> values: array<Stored>;
#ifdef ROPE
@group(0) @binding(6) var<storage, read> inv_freq: array<f32>;
#endif
#ifdef QK_NORM
// Gains of q, gains of k; with BIAS then biases of q, biases of k.
@group(0) @binding(7) var<storage, read> norm: array<f32>;
#endif

var<workgroup> partial_sums: array<f32, LANES>;

// Sum of `x` over the invocations of a head.
fn head_sum(x: f32, local: u32) -> f32 {
    workgroupBarrier();
    partial_sums[local] = x;
    workgroupBarrier();
    let quads = HEAD_DIM / 4u;
    let first = local / quads * quads;
    var sum = 0.0;
    for (var i = 0u; i < quads; i++) {
        sum += partial_sums[min(first + i, LANES - 1u)];
    }
    return sum;
}

// What all dimensions of a head have in common.
struct Head {
    // First element in qkv.
    first: u32,
    mean: f32,
    scale: f32,
    // First gain and first bias in norm.
    gain: u32,
    bias: u32,
}

#ifdef QK_NORM
// `x`, which is dimension `d` of a head, after its normalization.
fn normalized(head: Head, d: u32, x: f32) -> f32 {
    if head.scale == 0.0 {
        return x;
    }
    let y = (x - head.mean) * head.scale * norm[head.gain + d];
#ifdef BIAS
    return y + norm[head.bias + d];
#else
    return y;
#endif
}
#endif

// Dimension `d` of a head before its rotation.
fn element(head: Head, d: u32) -> f32 {
    let x = qkv[head.first + d];
#ifdef QK_NORM
#ifdef NORM_AFTER_ROPE
    return x;
#else
    return normalized(head, d, x);
#endif
#else
    return x;
#endif
}

#ifdef ROPE
// `token` is (id, position, sequence, long).
fn rotated(head: Head, d: u32, token: vec4<u32>) -> f32 {
    let x = element(head, d);
    if d >= 2u * ROTATED {
        return x;
    }
    let upper = d >= ROTATED;
    let i = select(d, d - ROTATED, upper);
    let s = sin_cos(f32(token.y) * inv_freq[token.w * ROTATED + i]) * FACTOR;
    let partner = element(head, select(d + ROTATED, i, upper));
    return x * s.y + select(-partner, partner, upper) * s.x;
}
#endif

#ifdef QK_NORM
// Dimension `d` of the head that begins at `first`, before its normalization.
fn unnormed(first: u32, d: u32, token: vec4<u32>) -> f32 {
#ifdef NORM_AFTER_ROPE
    var head: Head;
    head.first = first;
    return rotated(head, d, token);
#else
    return qkv[first + d];
#endif
}
#endif

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let quads = HEAD_DIM / 4u;
    let index = group.x * HEADS_AT_ONCE + local / quads;
    let quad = local % quads;
    let t = group.y;
    let token = tokens[t];
    // Invocations beyond the last head work on it again, and write nothing.
    let all_heads = HEADS + select(2u * KV_HEADS, 0u, OWN_KV == 0u);
    let live = local / quads < HEADS_AT_ONCE && index < all_heads;
    let h = min(index, all_heads - 1u);
    let is_value = h >= HEADS + KV_HEADS;

    var head: Head;
    head.first = t * QKV_PITCH + (h - select(0u, KV_HEADS, is_value && OWN_KV == 1u)) * HEAD_DIM;
#ifdef VALUE_NORM
    var own_squares = 0.0;
    for (var c = 0u; c < 4u; c++) {
        let x = qkv[head.first + 4u * quad + c];
        own_squares += x * x;
    }
    let value_scale = 1.0 / sqrt(head_sum(own_squares, local) / f32(HEAD_DIM) + EPSILON);
#endif
#ifdef QK_NORM
    let is_key = h >= HEADS;
    // The run of values that are normalized together: this head, or all heads of its kind.
    var run = head.first;
    var heads = 1u;
    if WHOLE {
        run = t * QKV_PITCH + select(0u, HEADS * HEAD_DIM, is_key);
        heads = select(HEADS, KV_HEADS, is_key);
    }
    let count = f32(heads * HEAD_DIM);
#ifdef LAYER
    var sum = 0.0;
    for (var i = 0u; i < heads; i++) {
        for (var c = 0u; c < 4u; c++) {
            sum += unnormed(run + i * HEAD_DIM, 4u * quad + c, token);
        }
    }
    head.mean = head_sum(sum, local) / count;
#endif
    var squares = 0.0;
    for (var i = 0u; i < heads; i++) {
        for (var c = 0u; c < 4u; c++) {
            let d = unnormed(run + i * HEAD_DIM, 4u * quad + c, token) - head.mean;
            squares += d * d;
        }
    }
    let scale = 1.0 / sqrt(head_sum(squares, local) / count + EPSILON);
    head.scale = select(scale, 0.0, is_value);
    let q_gains = select(HEADS * HEAD_DIM, HEAD_DIM, SHARED_GAINS);
    let k_gains = select(select(KV_HEADS * HEAD_DIM, HEAD_DIM, SHARED_GAINS), 0u, OWN_KV == 0u);
    let within = select(select(h, h - HEADS, is_key) * HEAD_DIM, 0u, SHARED_GAINS);
    head.gain = select(0u, q_gains, is_key) + within;
    head.bias = q_gains + k_gains + head.gain;
#endif
    if !live {
        return;
    }
    let d = 4u * quad;
    if h >= HEADS && token.z == IDLE {
        return;
    }
    var x: vec4<f32>;
    if is_value {
        x = vec4<f32>(qkv[head.first + d], qkv[head.first + d + 1u], qkv[head.first + d + 2u], qkv[head.first + d + 3u]);
#ifdef VALUE_NORM
        x *= value_scale;
#endif
    } else {
#ifdef ROPE
        x = vec4<f32>(
            rotated(head, d, token),
            rotated(head, d + 1u, token),
            rotated(head, d + 2u, token),
            rotated(head, d + 3u, token),
        );
#ifdef NORM_AFTER_ROPE
        x = vec4<f32>(
            normalized(head, d, x.x),
            normalized(head, d + 1u, x.y),
            normalized(head, d + 2u, x.z),
            normalized(head, d + 3u, x.w),
        );
#endif
#else
        x = vec4<f32>(element(head, d), element(head, d + 1u), element(head, d + 2u), element(head, d + 3u));
#endif
    }
    if h < HEADS {
#ifdef QUERY_SCALING
        x *= query_scale(token.y);
#endif
        q[t * Q_PITCH + h * quads + quad] = x;
        if h == HEADS - 1u {
            for (var i = HEADS * quads + quad; i < Q_PITCH; i += quads) {
                q[t * Q_PITCH + i] = vec4<f32>(0.0);
            }
        }
        return;
    }
    let page = pages[token.z * MAX_PAGES + token.y / PAGE];
    if h < HEADS + KV_HEADS {
        keys[cache_row(page, h - HEADS, token.y % PAGE) + quad] = narrow(x);
    } else {
        values[cache_row(page, h - HEADS - KV_HEADS, token.y % PAGE) + quad] = narrow(x);
    }
}
