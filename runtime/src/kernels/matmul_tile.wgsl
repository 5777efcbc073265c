// y = W x in f32, with tiles of 128 rows × 64 tokens × 16 columns of unpacked weights and of activations in workgroup memory.
// An invocation has eight rows, in fours 64 apart, and four tokens. Each unpacks an octet of weights a turn and copies four
// activations. It reads those of the next turn while it computes this one.

#import projection
#import octet
#import output

const WORKGROUP: u32 = 256u;
const ROWS: u32 = 128u;
const TOKENS: u32 = 64u;

@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;

// By column, then by four rows (32 to a column) or tokens (16).
var<workgroup> weights_tile: array<vec4<f32>, 512>;
var<workgroup> tokens_tile: array<vec4<f32>, 256>;

// Vec4s of four rows: token by token, first the lower rows. Only ever indexed by literals: these are registers.
var<private> sums: array<vec4<f32>, 8>;

fn write_token(token: u32, row: u32, low: vec4<f32>, high: vec4<f32>) {
    if token < params.tokens {
        write_rows(token, row, low);
        write_rows(token, row + 64u, high);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // The loop's first barrier comes before the first lookup.
#ifdef TABLE_WORKGROUP
    table_load(lane);
#endif
    let first_row = workgroup.x * ROWS;
    let first_token = workgroup.y * TOKENS;
    // Beyond the last row or token, the last one is read and nothing is written.
    let row = min(first_row + lane % ROWS, params.rows - 1u);
    let begin = min(first_token + lane % TOKENS, params.tokens - 1u) * params.input_stride + lane / TOKENS;
    let turns = 2u * params.units;
    let four = lane >> 4u;
    let token_four = lane & 15u;
    // Where the octet and the activations go.
    let row_at = (lane / ROWS) * 256u + (lane % ROWS) / 4u;
    let token_at = (lane / TOKENS) * TOKENS + (lane % TOKENS) / 4u;
    let part = lane & 3u;

    var octet = octet_load(row, lane / ROWS);
#ifdef GROUPED
    var own_affine = affine(row, 0u);
#endif
    var x = input[begin];
    for (var turn = 0u; turn < turns; turn++) {
        workgroupBarrier();
        var w = octet_values(octet);
#ifdef GROUPED
        w = mat2x4(four_weights(w[0], own_affine), four_weights(w[1], own_affine));
#endif
        weights_tile[row_at][part] = w[0].x;
        weights_tile[row_at + 32u][part] = w[0].y;
        weights_tile[row_at + 64u][part] = w[0].z;
        weights_tile[row_at + 96u][part] = w[0].w;
        weights_tile[row_at + 128u][part] = w[1].x;
        weights_tile[row_at + 160u][part] = w[1].y;
        weights_tile[row_at + 192u][part] = w[1].z;
        weights_tile[row_at + 224u][part] = w[1].w;
        tokens_tile[token_at][part] = x.x;
        tokens_tile[token_at + 16u][part] = x.y;
        tokens_tile[token_at + 32u][part] = x.z;
        tokens_tile[token_at + 48u][part] = x.w;
        workgroupBarrier();
        let next = min(turn + 1u, turns - 1u);
        octet = octet_load(row, 2u * next + lane / ROWS);
#ifdef GROUPED
        own_affine = affine(row, next >> (1u + params.group_units_log2));
#endif
        x = input[begin + 4u * next];
        for (var k = 0u; k < 16u; k++) {
            let low = weights_tile[32u * k + four];
            let high = weights_tile[32u * k + 16u + four];
            let t = tokens_tile[16u * k + token_four];
            sums[0] = fma(low, vec4(t.x), sums[0]);
            sums[1] = fma(high, vec4(t.x), sums[1]);
            sums[2] = fma(low, vec4(t.y), sums[2]);
            sums[3] = fma(high, vec4(t.y), sums[3]);
            sums[4] = fma(low, vec4(t.z), sums[4]);
            sums[5] = fma(high, vec4(t.z), sums[5]);
            sums[6] = fma(low, vec4(t.w), sums[6]);
            sums[7] = fma(high, vec4(t.w), sums[7]);
        }
    }
    let t = first_token + 4u * token_four;
    let r = first_row + 4u * four;
    write_token(t, r, sums[0], sums[1]);
    write_token(t + 1u, r, sums[2], sums[3]);
    write_token(t + 2u, r, sums[4], sums[5]);
    write_token(t + 3u, r, sums[6], sums[7]);
}
