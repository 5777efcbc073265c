// y = W x for the many tokens of a prefill chunk. An invocation owns four rows for a tile of 16 tokens: it reads and
// unpacks its rows' weights into registers, where each serves all tokens of the tile. The tile's activations lie in
// workgroup memory, where all invocations read the same address at the same time. Everything is f32.
//
// BROADCAST (needs SUBGROUPS; for adapters of kind Cpu) reads four activations at once, one in each of a subgroup's
// first four lanes, and hands them round; BROADCAST_8 (also, where no subgroup has fewer lanes) reads eight. GPUs
// broadcast reads of one address by themselves; software reads it again for every lane, which took two thirds of the
// time.

#import projection
#import unit
#import output

override WORKGROUP: u32 = 64u;

const TILE_TOKENS: u32 = 16u;
// vec4s of activations that a token has in a unit of 32 columns.
const FOURS: u32 = 8u;

@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;

#ifdef BROADCAST
var<workgroup> tile: array<f32, 512>;
var<private> subgroup_lane: u32;

// Keeps a vec4 of activations.
fn stage(i: u32, x: vec4<f32>) {
    tile[4u * i] = x.x;
    tile[4u * i + 1u] = x.y;
    tile[4u * i + 2u] = x.z;
    tile[4u * i + 3u] = x.w;
}

// Staged vec4s `i` and `i + 1`. A subgroup has at least four lanes.
fn staged(i: u32) -> mat2x4<f32> {
#ifdef BROADCAST_8
    let x = tile[4u * i + (subgroup_lane & 7u)];
    return mat2x4(
        subgroupBroadcast(x, 0u), subgroupBroadcast(x, 1u), subgroupBroadcast(x, 2u), subgroupBroadcast(x, 3u),
        subgroupBroadcast(x, 4u), subgroupBroadcast(x, 5u), subgroupBroadcast(x, 6u), subgroupBroadcast(x, 7u),
    );
#else
    let x = tile[4u * i + (subgroup_lane & 3u)];
    let z = tile[4u * i + 4u + (subgroup_lane & 3u)];
    return mat2x4(
        subgroupBroadcast(x, 0u), subgroupBroadcast(x, 1u), subgroupBroadcast(x, 2u), subgroupBroadcast(x, 3u),
        subgroupBroadcast(z, 0u), subgroupBroadcast(z, 1u), subgroupBroadcast(z, 2u), subgroupBroadcast(z, 3u),
    );
#endif
}
#else
var<workgroup> tile: array<vec4<f32>, 128>;

fn stage(i: u32, x: vec4<f32>) {
    tile[i] = x;
}

fn staged(i: u32) -> mat2x4<f32> {
    return mat2x4(tile[i], tile[i + 1u]);
}
#endif

// One vec4 of four rows a token. Only ever indexed by literals: these are registers.
var<private> sums: array<vec4<f32>, 16>;

// Adds eight columns of four rows: `low[k]` and `high[k]` hold weight k and 4 + k of each row. The activations are
// staged vec4s `at` and `at + 1`.
fn multiply(sum: vec4<f32>, low: mat4x4<f32>, high: mat4x4<f32>, at: u32) -> vec4<f32> {
    let x = staged(at);
    var result = fma(low[0], vec4(x[0].x), sum);
    result = fma(low[1], vec4(x[0].y), result);
    result = fma(low[2], vec4(x[0].z), result);
    result = fma(low[3], vec4(x[0].w), result);
    result = fma(high[0], vec4(x[1].x), result);
    result = fma(high[1], vec4(x[1].y), result);
    result = fma(high[2], vec4(x[1].z), result);
    return fma(high[3], vec4(x[1].w), result);
}

// Adds columns 4i to 4i + 7 of the unit, for all tokens.
fn accumulate(i: u32, a: Unit, b: Unit, c: Unit, d: Unit) {
    let j = i + 1u;
    let low = transpose(mat4x4(unit_four(a, i), unit_four(b, i), unit_four(c, i), unit_four(d, i)));
    let high = transpose(mat4x4(unit_four(a, j), unit_four(b, j), unit_four(c, j), unit_four(d, j)));
    sums[0] = multiply(sums[0], low, high, i);
    sums[1] = multiply(sums[1], low, high, i + 8u);
    sums[2] = multiply(sums[2], low, high, i + 16u);
    sums[3] = multiply(sums[3], low, high, i + 24u);
    sums[4] = multiply(sums[4], low, high, i + 32u);
    sums[5] = multiply(sums[5], low, high, i + 40u);
    sums[6] = multiply(sums[6], low, high, i + 48u);
    sums[7] = multiply(sums[7], low, high, i + 56u);
    sums[8] = multiply(sums[8], low, high, i + 64u);
    sums[9] = multiply(sums[9], low, high, i + 72u);
    sums[10] = multiply(sums[10], low, high, i + 80u);
    sums[11] = multiply(sums[11], low, high, i + 88u);
    sums[12] = multiply(sums[12], low, high, i + 96u);
    sums[13] = multiply(sums[13], low, high, i + 104u);
    sums[14] = multiply(sums[14], low, high, i + 112u);
    sums[15] = multiply(sums[15], low, high, i + 120u);
}

fn write_token(token: u32, row: u32, sum: vec4<f32>) {
    if token < params.tokens {
        write_rows(token, row, sum);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>,
#ifdef SUBGROUP_LANE
        @builtin(subgroup_invocation_id) lane_in_subgroup: u32,
#endif
        @builtin(local_invocation_index) lane: u32) {
#ifdef BROADCAST
    subgroup_lane = lane_in_subgroup;
#endif
    // The loop's first barrier comes before the first lookup.
#ifdef TABLE_WORKGROUP
    table_load(lane);
#endif
#ifdef TABLE_SUBGROUP
    table_load(lane_in_subgroup);
#endif
    let row = (workgroup.x * WORKGROUP + lane) * 4u;
    let first_token = workgroup.y * TILE_TOKENS;
    // Beyond the last row or token, the last one is read and nothing is written.
    let last_row = params.rows - 1u;
    let last_token = params.tokens - 1u;
    for (var unit = 0u; unit < params.units; unit++) {
        workgroupBarrier();
        for (var i = lane; i < TILE_TOKENS * FOURS; i += WORKGROUP) {
            let token = min(first_token + i / FOURS, last_token);
            stage(i, input[token * params.input_stride + unit * FOURS + i % FOURS]);
        }
        workgroupBarrier();
        let a = unit_load(min(row, last_row), unit);
        let b = unit_load(min(row + 1u, last_row), unit);
        let c = unit_load(min(row + 2u, last_row), unit);
        let d = unit_load(min(row + 3u, last_row), unit);
        // Eight columns a turn: all 32 written out would not fit an instruction cache, and compile for seconds.
        for (var i = 0u; i < FOURS; i += 2u) {
            accumulate(i, a, b, c, d);
        }
    }
    write_token(first_token, row, sums[0]);
    write_token(first_token + 1u, row, sums[1]);
    write_token(first_token + 2u, row, sums[2]);
    write_token(first_token + 3u, row, sums[3]);
    write_token(first_token + 4u, row, sums[4]);
    write_token(first_token + 5u, row, sums[5]);
    write_token(first_token + 6u, row, sums[6]);
    write_token(first_token + 7u, row, sums[7]);
    write_token(first_token + 8u, row, sums[8]);
    write_token(first_token + 9u, row, sums[9]);
    write_token(first_token + 10u, row, sums[10]);
    write_token(first_token + 11u, row, sums[11]);
    write_token(first_token + 12u, row, sums[12]);
    write_token(first_token + 13u, row, sums[13]);
    write_token(first_token + 14u, row, sums[14]);
    write_token(first_token + 15u, row, sums[15]);
}
