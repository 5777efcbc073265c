// y = W x in f32, with tiles of 128 rows × (64, with COLUMNS_8 128) tokens × 8 columns of unpacked weights and of activations
// in workgroup memory. An invocation has eight rows, in fours 64 apart, and four or eight tokens, likewise. Half of the
// invocations unpack weights, the other half copies activations; what the next turn needs is read from memory while this
// one is computed.

#import projection
#import octet
#import output

const WORKGROUP: u32 = 256u;
const ROWS: u32 = 128u;
#ifdef COLUMNS_8
const TOKENS: u32 = 128u;
#else
const TOKENS: u32 = 64u;
#endif

@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;

// By column, then by four rows or tokens.
var<workgroup> weights_tile: array<vec4<f32>, 256>;
var<workgroup> tokens_tile: array<vec4<f32>, 256>;

// Vec4s of four rows: token by token, first the lower rows. Only ever indexed by literals: these are registers.
var<private> sums: array<vec4<f32>, 16>;

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
    let unpacks = lane < ROWS;
    // What lies beyond the last row or token is read as the last one and never written.
    let own = lane & 127u;
    let row = min(first_row + own, params.rows - 1u);
    let begin = min(first_token + own, params.tokens - 1u) * params.input_stride;
    let copies = !unpacks && own < TOKENS;
    let octets = 4u * params.units;
    let four = lane >> 4u;
    let token_four = lane & 15u;

    var octet = octet_load(row, 0u);
#ifdef GROUPED
    var own_affine = affine(row, 0u);
#endif
    var x0 = vec4(0.0);
    var x1 = vec4(0.0);
    if copies {
        x0 = input[begin];
        x1 = input[begin + 1u];
    }
    for (var turn = 0u; turn < octets; turn++) {
        workgroupBarrier();
        if unpacks {
            var w = octet_values(octet);
#ifdef GROUPED
            w = mat2x4(four_weights(w[0], own_affine), four_weights(w[1], own_affine));
#endif
            let at = own >> 2u;
            let part = own & 3u;
            weights_tile[at][part] = w[0].x;
            weights_tile[at + 32u][part] = w[0].y;
            weights_tile[at + 64u][part] = w[0].z;
            weights_tile[at + 96u][part] = w[0].w;
            weights_tile[at + 128u][part] = w[1].x;
            weights_tile[at + 160u][part] = w[1].y;
            weights_tile[at + 192u][part] = w[1].z;
            weights_tile[at + 224u][part] = w[1].w;
        }
        if copies {
            let at = own >> 2u;
            let part = own & 3u;
            tokens_tile[at][part] = x0.x;
            tokens_tile[at + 32u][part] = x0.y;
            tokens_tile[at + 64u][part] = x0.z;
            tokens_tile[at + 96u][part] = x0.w;
            tokens_tile[at + 128u][part] = x1.x;
            tokens_tile[at + 160u][part] = x1.y;
            tokens_tile[at + 192u][part] = x1.z;
            tokens_tile[at + 224u][part] = x1.w;
        }
        workgroupBarrier();
        let next = min(turn + 1u, octets - 1u);
        if unpacks {
            octet = octet_load(row, next);
#ifdef GROUPED
            own_affine = affine(row, next >> (2u + params.group_units_log2));
#endif
        }
        if copies {
            x0 = input[begin + 2u * next];
            x1 = input[begin + 2u * next + 1u];
        }
        for (var k = 0u; k < 256u; k += 32u) {
            let low = weights_tile[k + four];
            let high = weights_tile[k + 16u + four];
            let x = tokens_tile[k + token_four];
            sums[0] = fma(low, vec4(x.x), sums[0]);
            sums[1] = fma(high, vec4(x.x), sums[1]);
            sums[2] = fma(low, vec4(x.y), sums[2]);
            sums[3] = fma(high, vec4(x.y), sums[3]);
            sums[4] = fma(low, vec4(x.z), sums[4]);
            sums[5] = fma(high, vec4(x.z), sums[5]);
            sums[6] = fma(low, vec4(x.w), sums[6]);
            sums[7] = fma(high, vec4(x.w), sums[7]);
#ifdef COLUMNS_8
            let z = tokens_tile[k + 16u + token_four];
            sums[8] = fma(low, vec4(z.x), sums[8]);
            sums[9] = fma(high, vec4(z.x), sums[9]);
            sums[10] = fma(low, vec4(z.y), sums[10]);
            sums[11] = fma(high, vec4(z.y), sums[11]);
            sums[12] = fma(low, vec4(z.z), sums[12]);
            sums[13] = fma(high, vec4(z.z), sums[13]);
            sums[14] = fma(low, vec4(z.w), sums[14]);
            sums[15] = fma(high, vec4(z.w), sums[15]);
#endif
        }
    }
    let t = first_token + 4u * token_four;
    let r = first_row + 4u * four;
    write_token(t, r, sums[0], sums[1]);
    write_token(t + 1u, r, sums[2], sums[3]);
    write_token(t + 2u, r, sums[4], sums[5]);
    write_token(t + 3u, r, sums[6], sums[7]);
#ifdef COLUMNS_8
    write_token(t + 64u, r, sums[8], sums[9]);
    write_token(t + 65u, r, sums[10], sums[11]);
    write_token(t + 66u, r, sums[12], sums[13]);
    write_token(t + 67u, r, sums[14], sums[15]);
#endif
}
