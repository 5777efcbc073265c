// y = W x for the one to eight tokens of a decode step, with activations of eight bits: blocks of 32 share a scale, the
// products of a block are summed in integers, blocks in f32.
//
// A workgroup makes ROWS rows. LANES neighbouring lanes of a subgroup walk along AT_ONCE rows together, a unit of 32
// weights a lane; they read DEPTH units ahead. Each has TOKENS tokens, and TOKEN_LANES such runs of lanes have the rest of
// them. BANDS equal parts of the workgroup share the units of the same rows. The sums of all rows meet in workgroup memory,
// where whole fours are finished and written.
//
// Few tokens a lane keep the code short: in a step each kernel runs once, and fetching instructions is what long ones wait for.
//
// Loops count from zero to a constant, and where need be they break. Browsers add a counter of their own to all others, lest
// they never end, which costs time and keeps drivers from unrolling them.
//
// With INLINE the workgroup first quantizes the activations itself, while its first weights are on their way; else
// `quantize` has done so. With INLINE and NORM, x stands for RMSNorm(x): the norm is one factor a token, so `x × gain` is
// quantized, and the factor comes in at the end.

#import projection
#import packed_unit
#ifdef HEADS
#import output_heads
#else
#import output
#endif

override WORKGROUP: u32 = 256u;
override LANES: u32;
override LANES_LOG2: u32;
override DEPTH: u32;
override ROWS: u32;
override BANDS: u32;
override TOKEN_LANES: u32;
// Rows of the chunk, units of a row, groups of a row, units of a group as a power of two: constants, for the first loads of a
// workgroup should not wait for those of a uniform.
override CHUNK_ROWS: u32;
override ROW_UNITS: u32;
override GROUPS: u32;
override GROUP_UNITS_LOG2: u32;
// Runs of LANES × BANDS × DEPTH units in a row; units that the activations have room for; turns of all lanes over the ROWS, which
// are no more than four an invocation for all tokens.
override CHUNKS: u32;
override UNITS: u32;
override PASSES: u32;
override MAX_SUBGROUPS: u32;
// For workgroup memory: sums of all bands, tokens and rows.
override ALL_SUMS: u32;

const MAX_DEPTH: u32 = 4u;
#ifdef ROWS_4
const AT_ONCE: u32 = 4u;
#else
#ifdef ROWS_2
const AT_ONCE: u32 = 2u;
#else
const AT_ONCE: u32 = 1u;
#endif
#endif

#ifdef COLUMNS_8
const TOKENS: u32 = 8u;
#else
#ifdef COLUMNS_4
const TOKENS: u32 = 4u;
#else
#ifdef COLUMNS_2
const TOKENS: u32 = 2u;
#else
const TOKENS: u32 = 1u;
#endif
#endif
#endif

var<workgroup> results: array<f32, ALL_SUMS>;

#ifdef INLINE
// All codes' words of units 0, 1, …: the lower halves, then the upper ones, so that neighbouring lanes read neighbouring
// vectors. Then of each unit its scale and the sum of its codes.
override ALL_WORDS: u32;
override ALL_UNITS: u32;
// Halves of units that an invocation quantizes of each token.
override HALVES: u32 = (UNITS * 2u + WORKGROUP - 1u) / WORKGROUP;
// vec4 from one token's activations to the next one's.
override INPUT_STRIDE: u32;
@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
var<workgroup> x_codes: array<vec4<u32>, ALL_WORDS>;
var<workgroup> x_affine: array<vec2<f32>, ALL_UNITS>;
#ifdef NORM
@group(0) @binding(7) var<storage, read> gain: array<vec4<f32>>;
override ALL_SQUARES: u32;
var<workgroup> squares: array<f32, ALL_SQUARES>;
#endif
#import quantize_block

// Sixteen activations, half a unit, and their gains.
struct Half {
    x: mat4x4<f32>,
#ifdef NORM
    gain: mat4x4<f32>,
#endif
}

// Half `i` of a token; halves beyond the row are its last one.
fn half_load(token: u32, i: u32) -> Half {
    let vectors = min(i, ROW_UNITS * 2u - 1u) * 4u;
    let at = min(token, params.tokens - 1u) * INPUT_STRIDE + vectors;
    var half: Half;
    half.x = mat4x4(input[at], input[at + 1u], input[at + 2u], input[at + 3u]);
#ifdef NORM
    half.gain = mat4x4(gain[vectors], gain[vectors + 1u], gain[vectors + 2u], gain[vectors + 3u]);
#endif
    return half;
}

// Quantizes half `i` and gives the sum of its squares before the gain.
fn half_store(token: u32, i: u32, half: Half) -> f32 {
    let inside = select(0.0, 1.0, i < ROW_UNITS * 2u);
    var x = half.x * inside;
    var square = 0.0;
#ifdef NORM
    square = (dot(x[0], x[0]) + dot(x[1], x[1])) + (dot(x[2], x[2]) + dot(x[3], x[3]));
    x = mat4x4(x[0] * half.gain[0], x[1] * half.gain[1], x[2] * half.gain[2], x[3] * half.gain[3]);
#endif
    let block = quantize_block(x);
    if i < UNITS * 2u {
        x_codes[(token * 2u + (i & 1u)) * UNITS + (i >> 1u)] = block.codes;
        if (i & 1u) == 0u {
            x_affine[token * UNITS + (i >> 1u)] = vec2(block.scale, block.sum);
        }
    }
    return square;
}
#else
// The same for each token, as `quantize` writes them.
@group(0) @binding(1) var<storage, read> x_codes: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read> x_affine: array<vec2<f32>>;
#endif

// The row at a place of the order in which the rows are computed.
fn row_at(place: u32) -> u32 {
#ifdef HEADS
    return heads_row(place);
#else
    return place;
#endif
}

// A float that holds the integers near zero in its mantissa: adding to its bits converts an integer.
const MAGIC: i32 = 0x4b400000;
const MAGIC_VALUE: f32 = 12582912.0;

fn unit_dot(w: Bytes, low: vec4<u32>, high: vec4<u32>) -> f32 {
    var sum = MAGIC + dot4I8Packed(w.low.x, low.x);
    sum += dot4I8Packed(w.low.y, low.y);
    sum += dot4I8Packed(w.low.z, low.z);
    sum += dot4I8Packed(w.low.w, low.w);
    sum += dot4I8Packed(w.high.x, high.x);
    sum += dot4I8Packed(w.high.y, high.y);
    sum += dot4I8Packed(w.high.z, high.z);
    sum += dot4I8Packed(w.high.w, high.w);
    return bitcast<f32>(sum) - MAGIC_VALUE;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32,
        @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let first = (workgroup.y * workgroups.x + workgroup.x) * ROWS;
    if first >= CHUNK_ROWS {
        return;
    }
    let index = subgroup * subgroup_size + lane;
    let within = lane & (LANES - 1u);
    let slots = WORKGROUP / (LANES * TOKEN_LANES * BANDS);
    let first_token = index / LANES % TOKEN_LANES * TOKENS;
    let slot = index / (LANES * TOKEN_LANES) % slots;
    let band = index / (LANES * TOKEN_LANES * slots);
    // Neighbouring bands take neighbouring runs of units.
    let own_first = band * LANES + within;
    // Rows beyond the chunk's are read as its last one and never written.
    let last = CHUNK_ROWS - 1u;

#ifdef LEARNED
    table_read(lane);
#endif
#ifdef INLINE
    // On their way before the weights, which take longer.
    let early = half_load(0u, index);
#endif
    var units: array<Unit, MAX_DEPTH * AT_ONCE>;
    var rows: array<u32, AT_ONCE>;
    for (var r = 0u; r < AT_ONCE; r++) {
        rows[r] = min(row_at(first + slot * AT_ONCE + r), last);
    }
    for (var d = 0u; d < DEPTH; d++) {
        let unit = min(d * (LANES * BANDS) + own_first, ROW_UNITS - 1u);
        for (var r = 0u; r < AT_ONCE; r++) {
            units[d * AT_ONCE + r] = unit_load(rows[r], unit);
        }
    }
    // Each of these lanes will finish four rows of a token.
    let own_token = min(index / (ROWS / 4u), params.tokens - 1u);
    let own_four = first + index % (ROWS / 4u) * 4u;
#ifdef RESIDUAL
    let before = read_rows(own_token, own_four);
#endif
#ifdef LEARNED
    table_load(index);
#endif
#ifdef INLINE
    for (var t = 0u; t < TOKENS * TOKEN_LANES; t++) {
        var square = 0.0;
        for (var n = 0u; n < HALVES; n++) {
            let i = n * WORKGROUP + index;
            if t == 0u && n == 0u {
                square = half_store(0u, index, early);
            } else {
                square += half_store(t, i, half_load(t, i));
            }
        }
#ifdef NORM
        let sum = subgroupAdd(square);
        if lane == 0u {
            squares[t * MAX_SUBGROUPS + subgroup] = sum;
        }
#endif
    }
#endif
    workgroupBarrier();

    var sums: array<f32, TOKENS * AT_ONCE>;
    for (var turn = 0u; turn < PASSES; turn++) {
        for (var i = 0u; i < TOKENS * AT_ONCE; i++) {
            sums[i] = 0.0;
        }
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            for (var d = 0u; d < DEPTH; d++) {
                // Beyond the row's units the activations are zero.
                let own = (chunk * DEPTH + d) * (LANES * BANDS) + own_first;
                let unit = min(own, ROW_UNITS - 1u);
                var weights: array<Bytes, AT_ONCE>;
                var affine: array<vec2<f32>, AT_ONCE>;
                for (var r = 0u; r < AT_ONCE; r++) {
                    weights[r] = unit_bytes(units[d * AT_ONCE + r]);
                    affine[r] = unit_affine(units[d * AT_ONCE + r], rows[r], unit);
                }
                for (var t = 0u; t < TOKENS; t++) {
#ifdef INLINE
                    let token = first_token + t;
#else
                    let token = min(first_token + t, params.tokens - 1u);
#endif
                    let low = x_codes[(token * 2u) * UNITS + own];
                    let high = x_codes[(token * 2u + 1u) * UNITS + own];
                    let x = x_affine[token * UNITS + own];
                    for (var r = 0u; r < AT_ONCE; r++) {
                        let product = unit_dot(weights[r], low, high);
#ifdef LEARNED
                        sums[t * AT_ONCE + r] = fma(affine[r].x * x.x, product, sums[t * AT_ONCE + r]);
#else
                        let both = fma(affine[r].x, product, affine[r].y * x.y);
                        sums[t * AT_ONCE + r] = fma(x.x, both, sums[t * AT_ONCE + r]);
#endif
                    }
                }
            }
            let next_chunk = select(chunk + 1u, 0u, chunk + 1u == CHUNKS);
            let next_turn = select(turn, turn + 1u, chunk + 1u == CHUNKS);
            if next_turn < PASSES {
                if next_chunk == 0u {
                    for (var r = 0u; r < AT_ONCE; r++) {
                        rows[r] = min(row_at(first + (next_turn * slots + slot) * AT_ONCE + r), last);
                    }
                }
                for (var d = 0u; d < DEPTH; d++) {
                    let unit = min((next_chunk * DEPTH + d) * (LANES * BANDS) + own_first, ROW_UNITS - 1u);
                    for (var r = 0u; r < AT_ONCE; r++) {
                        units[d * AT_ONCE + r] = unit_load(rows[r], unit);
                    }
                }
            }
        }
        for (var t = 0u; t < TOKENS; t++) {
            for (var r = 0u; r < AT_ONCE; r++) {
                var sum = sums[t * AT_ONCE + r];
                for (var n = 0u; n < LANES_LOG2; n++) {
                    sum += subgroupShuffleXor(sum, LANES >> (n + 1u));
                }
                if within == 0u {
                    results[((band * TOKEN_LANES) * TOKENS + first_token + t) * ROWS + (turn * slots + slot) * AT_ONCE + r] = sum;
                }
            }
        }
    }
    workgroupBarrier();
    if index >= params.tokens * (ROWS / 4u) {
        return;
    }
    var factor = 1.0;
#ifdef LEARNED
    factor = table_step;
#endif
#ifdef INLINE
#ifdef NORM
    var square = 0.0;
    for (var s = 0u; s < MAX_SUBGROUPS; s++) {
        if s >= subgroups {
            break;
        }
        square += squares[own_token * MAX_SUBGROUPS + s];
    }
    // Not inverseSqrt, which may be approximate.
    factor *= 1.0 / sqrt(square / params.columns + params.epsilon);
#endif
#endif
    let own_sum = four_results(index * 4u) * factor;
#ifdef HEADS
    // The other four of a rotated pair.
    write_heads(own_token, own_four, own_sum, four_results((index * 4u) ^ 4u) * factor);
#else
#ifdef RESIDUAL
    add_rows(own_token, own_four, own_sum, before);
#else
    write_rows(own_token, own_four, own_sum);
#endif
#endif
}

fn four_results(first: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    for (var band = 0u; band < BANDS; band++) {
        let at = first + band * (TOKENS * TOKEN_LANES * ROWS);
        sum += vec4(results[at], results[at + 1u], results[at + 2u], results[at + 3u]);
    }
    return sum;
}

#ifdef RESIDUAL
// The residual stream as it was: the end of a dispatch does not wait for it.
fn read_rows(token: u32, row: u32) -> vec4<f32> {
    let at = token * params.output_stride + params.first_row;
    let last = params.rows - 1u;
    return vec4(output[at + min(row, last)], output[at + min(row + 1u, last)], output[at + min(row + 2u, last)], output[at + min(row + 3u, last)]);
}

fn add_rows(token: u32, row: u32, sums: vec4<f32>, before: vec4<f32>) {
    let at = token * params.output_stride + params.first_row + row;
    for (var r = 0u; r < 4u; r++) {
        if row + r < params.rows {
            output[at + r] = fma(params.multiplier, biased(row + r, sums[r]), before[r]);
        }
    }
}
#endif
