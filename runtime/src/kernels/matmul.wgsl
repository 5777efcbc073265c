// y = W x for the many tokens of a prefill chunk. An invocation owns four rows for a tile of 16 tokens: it reads and
// unpacks its rows' weights into registers, where each serves all tokens of the tile, and takes the activations from
// workgroup memory at constant addresses that are the same for all invocations (one broadcast a vec4, and on software
// adapters one scalar load instead of one a lane). Everything is f32.

#import projection
#import unit
#import output

override WORKGROUP: u32 = 64u;

// Tokens of a tile, and vec4s of activations that a token has in a unit of 32 columns.
const TILE_TOKENS: u32 = 16u;
const FOURS: u32 = 8u;

@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;

var<workgroup> tile: array<vec4<f32>, 128>;
// One vec4 of four rows a token.
var<private> sums: array<vec4<f32>, 16>;

// `weights[k]` holds weight k of each of the four rows.
fn multiply(sum: vec4<f32>, weights: mat4x4<f32>, x: vec4<f32>) -> vec4<f32> {
    return fma(weights[3], vec4(x.w), fma(weights[2], vec4(x.z), fma(weights[1], vec4(x.y), fma(weights[0], vec4(x.x), sum))));
}

// Adds columns 4i to 4i + 3 of the unit, for all tokens. Written out because indices have to be constant.
fn accumulate(i: u32, a: Unit, b: Unit, c: Unit, d: Unit) {
    let w = transpose(mat4x4(unit_four(a, i), unit_four(b, i), unit_four(c, i), unit_four(d, i)));
    sums[0] = multiply(sums[0], w, tile[i]);
    sums[1] = multiply(sums[1], w, tile[i + 8u]);
    sums[2] = multiply(sums[2], w, tile[i + 16u]);
    sums[3] = multiply(sums[3], w, tile[i + 24u]);
    sums[4] = multiply(sums[4], w, tile[i + 32u]);
    sums[5] = multiply(sums[5], w, tile[i + 40u]);
    sums[6] = multiply(sums[6], w, tile[i + 48u]);
    sums[7] = multiply(sums[7], w, tile[i + 56u]);
    sums[8] = multiply(sums[8], w, tile[i + 64u]);
    sums[9] = multiply(sums[9], w, tile[i + 72u]);
    sums[10] = multiply(sums[10], w, tile[i + 80u]);
    sums[11] = multiply(sums[11], w, tile[i + 88u]);
    sums[12] = multiply(sums[12], w, tile[i + 96u]);
    sums[13] = multiply(sums[13], w, tile[i + 104u]);
    sums[14] = multiply(sums[14], w, tile[i + 112u]);
    sums[15] = multiply(sums[15], w, tile[i + 120u]);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (workgroup.x * WORKGROUP + lane) * 4u;
    let first_token = workgroup.y * TILE_TOKENS;
    // What lies beyond the last row or token is read as the last one and never written.
    let last_row = params.rows - 1u;
    let last_token = params.tokens - 1u;
    for (var unit = 0u; unit < params.units; unit++) {
        workgroupBarrier();
        for (var i = lane; i < TILE_TOKENS * FOURS; i += WORKGROUP) {
            let token = min(first_token + i / FOURS, last_token);
            tile[i] = input[token * params.input_stride + unit * FOURS + i % FOURS];
        }
        workgroupBarrier();
        let a = unit_load(min(row, last_row), unit);
        let b = unit_load(min(row + 1u, last_row), unit);
        let c = unit_load(min(row + 2u, last_row), unit);
        let d = unit_load(min(row + 3u, last_row), unit);
        accumulate(0u, a, b, c, d);
        accumulate(1u, a, b, c, d);
        accumulate(2u, a, b, c, d);
        accumulate(3u, a, b, c, d);
        accumulate(4u, a, b, c, d);
        accumulate(5u, a, b, c, d);
        accumulate(6u, a, b, c, d);
        accumulate(7u, a, b, c, d);
    }
    for (var t = 0u; t < TILE_TOKENS; t++) {
        if first_token + t < params.tokens {
            write_rows(first_token + t, row, sums[t]);
        }
    }
}
