// y = W x for the one to eight tokens of a decode step. A workgroup computes four rows: its invocations share out the
// octets of the columns and read each weight once for all tokens. Each token's arithmetic is the same whatever the
// other tokens are, down to the order of additions.
//
// With NORM, x stands for RMSNorm(x): the norm is one factor a token, so the sums are taken over `x × gain`, the
// squares of x beside them, and the factor comes in at the end.
//
// COLUMNS_2, COLUMNS_4 and COLUMNS_8 (each includes those before it) say for how many tokens there are accumulators.

#import projection
#import octet
#import output

override WORKGROUP: u32 = 64u;

@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
#ifdef NORM
@group(0) @binding(7) var<storage, read> gain: array<vec4<f32>>;
#endif

var<private> sums: array<vec4<f32>, 8>;
var<private> squares: array<f32, 8>;

// Eight columns of four rows as they are packed.
struct Packed {
    a: Octet,
    b: Octet,
    c: Octet,
    d: Octet,
    scale: vec4<f32>,
    shift: vec4<f32>,
}

// The same unpacked: `low[k]` and `high[k]` hold weight k and 4 + k of each row.
struct Weights {
    low: mat4x4<f32>,
    high: mat4x4<f32>,
    scale: vec4<f32>,
    shift: vec4<f32>,
}

fn load(row: u32, i: u32) -> Packed {
    // Rows beyond the chunk's are read as its last one and never written.
    let last = params.rows - 1u;
    var packed: Packed;
    packed.a = octet_load(row, i);
    packed.b = octet_load(min(row + 1u, last), i);
    packed.c = octet_load(min(row + 2u, last), i);
    packed.d = octet_load(min(row + 3u, last), i);
#ifdef GROUPED
    let affine = four_affine(row, last, i >> (params.group_units_log2 + 2u));
    packed.scale = affine[0];
    packed.shift = affine[1];
#endif
    return packed;
}

fn unpack(packed: Packed) -> Weights {
    let a = octet_values(packed.a);
    let b = octet_values(packed.b);
    let c = octet_values(packed.c);
    let d = octet_values(packed.d);
    let low = transpose(mat4x4(a[0], b[0], c[0], d[0]));
    let high = transpose(mat4x4(a[1], b[1], c[1], d[1]));
    return Weights(low, high, packed.scale, packed.shift);
}

// Adds eight columns, or zero if they are not the invocation's `own`.
fn accumulate(token: u32, weights: Weights, i: u32, own: bool) {
    let at = min(token, params.tokens - 1u) * params.input_stride + i * 2u;
    var x = select(vec4(0.0), input[at], own);
    var z = select(vec4(0.0), input[at + 1u], own);
#ifdef NORM
    var square = squares[token];
    square = fma(x.x, x.x, square);
    square = fma(x.y, x.y, square);
    square = fma(x.z, x.z, square);
    square = fma(x.w, x.w, square);
    square = fma(z.x, z.x, square);
    square = fma(z.y, z.y, square);
    square = fma(z.z, z.z, square);
    square = fma(z.w, z.w, square);
    squares[token] = square;
    x *= gain[i * 2u];
    z *= gain[i * 2u + 1u];
#endif
#ifdef GROUPED
    var sum = weights.low[0] * x.x;
#else
    var sum = fma(weights.low[0], vec4(x.x), sums[token]);
#endif
    sum = fma(weights.low[1], vec4(x.y), sum);
    sum = fma(weights.low[2], vec4(x.z), sum);
    sum = fma(weights.low[3], vec4(x.w), sum);
    sum = fma(weights.high[0], vec4(z.x), sum);
    sum = fma(weights.high[1], vec4(z.y), sum);
    sum = fma(weights.high[2], vec4(z.z), sum);
    sum = fma(weights.high[3], vec4(z.w), sum);
#ifdef GROUPED
#ifdef LEARNED
    sums[token] = fma(weights.scale, sum, sums[token]);
#else
    let total = ((x.x + x.y) + (x.z + x.w)) + ((z.x + z.y) + (z.z + z.w));
    sums[token] = fma(weights.scale, sum, fma(weights.shift, vec4(total), sums[token]));
#endif
#else
    sums[token] = sum;
#endif
}

// The same for all tokens.
fn accumulate_tokens(weights: Weights, i: u32, own: bool) {
    accumulate(0u, weights, i, own);
#ifdef COLUMNS_2
    accumulate(1u, weights, i, own);
#endif
#ifdef COLUMNS_4
    accumulate(2u, weights, i, own);
    accumulate(3u, weights, i, own);
#endif
#ifdef COLUMNS_8
    accumulate(4u, weights, i, own);
    accumulate(5u, weights, i, own);
    accumulate(6u, weights, i, own);
    accumulate(7u, weights, i, own);
#endif
}

fn finish(token: u32, row: u32, sum: vec4<f32>, square: f32) {
    var result = sum;
#ifdef NORM
    // Not inverseSqrt, which may be approximate.
    result *= 1.0 / sqrt(square / params.columns + params.epsilon);
#endif
    write_rows(token, row, result);
}

#ifdef SUBGROUPS
// Subgroups that a workgroup has at most, and that number for each token there are accumulators for. No larger than need
// be: browsers set workgroup memory to zero each time, and a GPU runs as many workgroups as have room.
override MAX_SUBGROUPS: u32;
override SLOTS: u32;
var<workgroup> subgroup_sums: array<vec4<f32>, SLOTS>;
#ifdef NORM
var<workgroup> subgroup_squares: array<f32, SLOTS>;
#endif

fn reduce(token: u32, subgroup: u32, elected: bool) {
    let sum = subgroupAdd(sums[token]);
#ifdef NORM
    let square = subgroupAdd(squares[token]);
#endif
    if elected {
        subgroup_sums[token * MAX_SUBGROUPS + subgroup] = sum;
#ifdef NORM
        subgroup_squares[token * MAX_SUBGROUPS + subgroup] = square;
#endif
    }
}
#else
var<workgroup> lane_sums: array<vec4<f32>, WORKGROUP>;
var<workgroup> lane_squares: array<f32, WORKGROUP>;
var<private> own_sum: vec4<f32>;
var<private> own_square: f32;

// Adds up a token's sums over the workgroup, in a tree, and leaves the result with the invocation of its number.
fn reduce(token: u32, lane: u32) {
    workgroupBarrier();
    lane_sums[lane] = sums[token];
    lane_squares[lane] = squares[token];
    for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width {
            lane_sums[lane] += lane_sums[lane + width];
            lane_squares[lane] += lane_squares[lane + width];
        }
    }
    workgroupBarrier();
    if lane == token {
        own_sum = lane_sums[0];
        own_square = lane_squares[0];
    }
}
#endif

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
#ifdef SUBGROUPS
        @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32,
        @builtin(subgroup_invocation_id) subgroup_lane: u32,
#endif
        @builtin(local_invocation_index) lane: u32) {
    let row = (workgroup.y * workgroups.x + workgroup.x) * 4u;
    if row >= params.rows {
        return;
    }
    let octets = params.units * 4u;
#ifdef GROUPED
    // While a round is computed, the codes of the next one are on their way. All invocations take part in every round:
    // those that have no columns left in the last one add zero. A branch there, or a bound that differs between them,
    // costs a GPU up to a quarter of its speed, since lookups in a subgroup need all of it.
    let last = octets - 1u;
    var packed = load(row, min(lane, last));
#ifdef TABLE_SUBGROUP
    table_load(subgroup_lane);
#endif
#ifdef TABLE_WORKGROUP
    table_load(lane);
    workgroupBarrier();
#endif
    let rounds = last / WORKGROUP;
    let last_round = rounds * WORKGROUP;
    // Counts to a constant: browsers add a counter of their own to other loops.
    for (var n = 0u; n < 0x1000000u; n++) {
        if n >= rounds {
            break;
        }
        let round = n * WORKGROUP;
        let now = packed;
        packed = load(row, min(round + WORKGROUP + lane, last));
        accumulate_tokens(unpack(now), round + lane, true);
    }
    let i = last_round + lane;
    accumulate_tokens(unpack(packed), min(i, last), i < octets);
#else
    for (var i = lane; i < octets; i += WORKGROUP) {
        accumulate_tokens(unpack(load(row, i)), i, true);
    }
#endif
#ifdef SUBGROUPS
    let elected = subgroup_lane == 0u;
    reduce(0u, subgroup, elected);
#ifdef COLUMNS_2
    reduce(1u, subgroup, elected);
#endif
#ifdef COLUMNS_4
    reduce(2u, subgroup, elected);
    reduce(3u, subgroup, elected);
#endif
#ifdef COLUMNS_8
    reduce(4u, subgroup, elected);
    reduce(5u, subgroup, elected);
    reduce(6u, subgroup, elected);
    reduce(7u, subgroup, elected);
#endif
    workgroupBarrier();
    if lane < params.tokens {
        let first = lane * MAX_SUBGROUPS;
        var sum = subgroup_sums[first];
        var square = 0.0;
#ifdef NORM
        square = subgroup_squares[first];
#endif
        for (var s = 1u; s < subgroups; s++) {
            sum += subgroup_sums[first + s];
#ifdef NORM
            square += subgroup_squares[first + s];
#endif
        }
        finish(lane, row, sum, square);
    }
#else
    reduce(0u, lane);
#ifdef COLUMNS_2
    reduce(1u, lane);
#endif
#ifdef COLUMNS_4
    reduce(2u, lane);
    reduce(3u, lane);
#endif
#ifdef COLUMNS_8
    reduce(4u, lane);
    reduce(5u, lane);
    reduce(6u, lane);
    reduce(7u, lane);
#endif
    if lane < params.tokens {
        finish(lane, row, own_sum, own_square);
    }
#endif
}
