// y = W x in f32, with tiles of 128 rows × 64 tokens × 16 columns of unpacked weights and of activations in workgroup memory.
// An invocation has eight rows, in fours 64 apart, and eight tokens, in fours 32 apart. Each unpacks two octets of weights a
// turn and copies eight activations; what the next turn needs is read from memory while this one is computed.

#import projection
#import octet
#import output

const WORKGROUP: u32 = 128u;
const ROWS: u32 = 128u;
const TOKENS: u32 = 64u;

@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;

// By column, then by four rows (32 to a column) or tokens (16).
var<workgroup> weights_tile: array<vec4<f32>, 512>;
var<workgroup> tokens_tile: array<vec4<f32>, 256>;

// Vec4s of four rows: token by token, first the lower rows. Only ever indexed by literals: these are registers.
var<private> sums: array<vec4<f32>, 16>;

fn write_token(token: u32, row: u32, low: vec4<f32>, high: vec4<f32>) {
    if token < params.tokens {
        write_rows(token, row, low);
        write_rows(token, row + 64u, high);
    }
}

fn keep_weights(at: u32, part: u32, w: mat2x4<f32>) {
    weights_tile[at][part] = w[0].x;
    weights_tile[at + 32u][part] = w[0].y;
    weights_tile[at + 64u][part] = w[0].z;
    weights_tile[at + 96u][part] = w[0].w;
    weights_tile[at + 128u][part] = w[1].x;
    weights_tile[at + 160u][part] = w[1].y;
    weights_tile[at + 192u][part] = w[1].z;
    weights_tile[at + 224u][part] = w[1].w;
}

fn keep_tokens(at: u32, part: u32, x: vec4<f32>) {
    tokens_tile[at][part] = x.x;
    tokens_tile[at + 16u][part] = x.y;
    tokens_tile[at + 32u][part] = x.z;
    tokens_tile[at + 48u][part] = x.w;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // The loop's first barrier comes before the first lookup.
#ifdef TABLE_WORKGROUP
    table_load(lane);
    workgroupBarrier();
#endif
    let first_row = workgroup.x * ROWS;
    let first_token = workgroup.y * TOKENS;
    // What lies beyond the last row or token is read as the last one and never written.
    let row = min(first_row + lane, params.rows - 1u);
    let half = lane / TOKENS;
    let begin = min(first_token + lane % TOKENS, params.tokens - 1u) * params.input_stride + 2u * half;
    let turns = 2u * params.units;
    let four = lane >> 3u;
    let token_four = lane & 7u;
    let row_at = lane / 4u;
    let token_at = 128u * half + (lane % TOKENS) / 4u;
    let part = lane & 3u;

    var first = octet_load(row, 0u);
    var second = octet_load(row, 1u);
#ifdef GROUPED
    var own_affine = affine(row, 0u);
#endif
    var x = input[begin];
    var z = input[begin + 1u];
    for (var turn = 0u; turn < turns; turn++) {
        workgroupBarrier();
        var low_octet = octet_values(first);
        var high_octet = octet_values(second);
#ifdef GROUPED
        low_octet = mat2x4(four_weights(low_octet[0], own_affine), four_weights(low_octet[1], own_affine));
        high_octet = mat2x4(four_weights(high_octet[0], own_affine), four_weights(high_octet[1], own_affine));
#endif
        keep_weights(row_at, part, low_octet);
        keep_weights(row_at + 256u, part, high_octet);
        keep_tokens(token_at, part, x);
        keep_tokens(token_at + 64u, part, z);
        workgroupBarrier();
        let next = min(turn + 1u, turns - 1u);
        first = octet_load(row, 2u * next);
        second = octet_load(row, 2u * next + 1u);
#ifdef GROUPED
        own_affine = affine(row, next >> (1u + params.group_units_log2));
#endif
        x = input[begin + 4u * next];
        z = input[begin + 4u * next + 1u];
        for (var k = 0u; k < 16u; k++) {
            let low = weights_tile[32u * k + four];
            let high = weights_tile[32u * k + 16u + four];
            let t = tokens_tile[16u * k + token_four];
            let u = tokens_tile[16u * k + 8u + token_four];
            sums[0] = fma(low, vec4(t.x), sums[0]);
            sums[1] = fma(high, vec4(t.x), sums[1]);
            sums[2] = fma(low, vec4(t.y), sums[2]);
            sums[3] = fma(high, vec4(t.y), sums[3]);
            sums[4] = fma(low, vec4(t.z), sums[4]);
            sums[5] = fma(high, vec4(t.z), sums[5]);
            sums[6] = fma(low, vec4(t.w), sums[6]);
            sums[7] = fma(high, vec4(t.w), sums[7]);
            sums[8] = fma(low, vec4(u.x), sums[8]);
            sums[9] = fma(high, vec4(u.x), sums[9]);
            sums[10] = fma(low, vec4(u.y), sums[10]);
            sums[11] = fma(high, vec4(u.y), sums[11]);
            sums[12] = fma(low, vec4(u.z), sums[12]);
            sums[13] = fma(high, vec4(u.z), sums[13]);
            sums[14] = fma(low, vec4(u.w), sums[14]);
            sums[15] = fma(high, vec4(u.w), sums[15]);
        }
    }
    let t = first_token + 4u * token_four;
    let r = first_row + 4u * four;
    write_token(t, r, sums[0], sums[1]);
    write_token(t + 1u, r, sums[2], sums[3]);
    write_token(t + 2u, r, sums[4], sums[5]);
    write_token(t + 3u, r, sums[6], sums[7]);
    write_token(t + 32u, r, sums[8], sums[9]);
    write_token(t + 33u, r, sums[10], sums[11]);
    write_token(t + 34u, r, sums[12], sums[13]);
    write_token(t + 35u, r, sums[14], sums[15]);
}
