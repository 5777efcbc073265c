// y = W x by packed dot products of 8-bit integers. Activations are quantized before, in blocks of 32 (`quantize_activations`).
// A workgroup's 256 invocations are 16 tokens × (16 / BANDS) groups of four rows × BANDS bands of columns. Each has four rows
// and (1, with COLUMNS_2 2, with COLUMNS_4 4, with COLUMNS_8 8) tokens, 16 apart. A turn covers BANDS units of 32 columns, of
// which each invocation multiplies the one of its band; every one unpacks eight weights a turn, and copies up to two vec4s
// of activations, both into workgroup memory. Invocations read those of the next turn while they compute this one.

#import projection
#import signed_octet
#import output

// 1, 2 or 4; powers of two, so that divisions are shifts.
override BANDS: u32 = 1u;
// 16 × the tokens of an invocation.
override TILE_TOKENS: u32 = 128u;
// vec4s of the tile of activations, and their scales.
override TOKENS: u32 = 256u;
override TOKEN_SCALES: u32 = 128u;
// 256, or 1 where there is one band.
override PARTIAL: u32 = 1u;
// Blocks of a token's activations.
override INPUT_PITCH: u32 = 64u;

const WORKGROUP: u32 = 256u;
// Rows of all bands.
const ROWS: u32 = 64u;

@group(0) @binding(1) var<storage, read> input: array<vec4<u32>>;
@group(0) @binding(9) var<storage, read> input_scales: array<vec2<f32>>;

// By band, half of a unit, and row or token.
var<workgroup> weights_tile: array<vec4<u32>, 128>;
var<workgroup> tokens_tile: array<vec4<u32>, TOKENS>;
// By band and row, or token.
var<workgroup> scales_tile: array<f32, 64>;
#ifdef OFFSET_F16
var<workgroup> shifts_tile: array<f32, 64>;
#endif
var<workgroup> token_scales: array<vec2<f32>, TOKEN_SCALES>;
var<workgroup> partial: array<vec4<f32>, PARTIAL>;

// The float 1.5 × 2^23, whose lowest bits count ones: an integer that is added to its bits is added to the float. Sums of
// 32 products are below 2^20.
const FLOAT: f32 = 12582912.0;
const BITS: i32 = 0x4b400000;

// One vec4 of four rows a token. Only ever indexed by literals: these are registers.
var<private> sums: array<vec4<f32>, 8>;

fn dot_unit(low: vec4<u32>, high: vec4<u32>, x_low: vec4<u32>, x_high: vec4<u32>) -> f32 {
    var sum = BITS + dot4I8Packed(low.x, x_low.x);
    sum += dot4I8Packed(low.y, x_low.y);
    sum += dot4I8Packed(low.z, x_low.z);
    sum += dot4I8Packed(low.w, x_low.w);
    sum += dot4I8Packed(high.x, x_high.x);
    sum += dot4I8Packed(high.y, x_high.y);
    sum += dot4I8Packed(high.z, x_high.z);
    sum += dot4I8Packed(high.w, x_high.w);
    return bitcast<f32>(sum);
}

struct Four {
    low: array<vec4<u32>, 4>,
    high: array<vec4<u32>, 4>,
    scale: vec4<f32>,
#ifdef OFFSET_F16
    shift: vec4<f32>,
#endif
}

// Adds a unit of four rows for the token that lies at `at`.
fn multiply(sum: vec4<f32>, w: Four, band: u32, token: u32) -> vec4<f32> {
    let x_low = tokens_tile[2u * band * TILE_TOKENS + token];
    let x_high = tokens_tile[(2u * band + 1u) * TILE_TOKENS + token];
    let scale = token_scales[band * TILE_TOKENS + token];
    let dots = vec4(
        dot_unit(w.low[0], w.high[0], x_low, x_high),
        dot_unit(w.low[1], w.high[1], x_low, x_high),
        dot_unit(w.low[2], w.high[2], x_low, x_high),
        dot_unit(w.low[3], w.high[3], x_low, x_high),
    );
    // Both products are exact, so that the difference is rounded once.
    let scaled = fma(dots, vec4(scale.x), vec4(-FLOAT * scale.x));
#ifdef OFFSET_F16
    return fma(scaled, w.scale, fma(vec4(scale.y), w.shift, sum));
#else
    return fma(scaled, w.scale, sum);
#endif
}

fn write(sum: vec4<f32>, token: u32, row: u32, band: u32, lane: u32) {
    var total = sum;
    if BANDS > 1u {
        workgroupBarrier();
        partial[lane] = sum;
        workgroupBarrier();
        if band == 0u {
            for (var other = 1u; other < BANDS; other++) {
                total += partial[lane + other * (WORKGROUP / BANDS)];
            }
        }
    }
    if band == 0u && is_token(token) {
        write_rows(output_token(token), row, total);
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let rows = ROWS / BANDS;
#ifdef EXPERTS
    if lane == 0u {
        shared_tile = tile_of(workgroup.y, workgroup.x * rows, rows);
    }
    let tile = workgroupUniformLoad(&shared_tile);
    if tile.z == 0u {
        return;
    }
    take_tile(tile);
    let first_token = 0u;
#else
    let first_token = workgroup.y * TILE_TOKENS;
#endif
    // Of 32 neighbours eight tokens times four groups of rows: what they read together is least.
    let token = (lane & 7u) + ((lane >> 2u) & 8u);
    let four = ((lane >> 3u) & 3u) + ((lane >> 6u) << 2u);
    let band = four / (16u / BANDS);
    let row = 4u * (four % (16u / BANDS));
    let first_row = workgroup.x * rows;
    // Beyond the last row, token or unit, the last one is read; activations beyond the last unit are zero.
    let last_row = params.rows - 1u;
    let last_unit = params.units - 1u;

    // Which octet the invocation unpacks: neighbours take neighbours.
    let own_row = lane / (4u * BANDS);
    let own_octet = lane & 3u;
    let own_band = (lane >> 2u) & (BANDS - 1u);
    let source_row = min(chunk_row(first_row + own_row), last_row);
    // Where its two words go.
    let word_at = (2u * own_band + (own_octet >> 1u)) * rows + own_row;
    let word = 2u * (own_octet & 1u);

    // Which vec4s of activations it copies.
    let own_token = lane / (2u * BANDS);
    let own_half = lane % (2u * BANDS);
    let copies = lane < TOKENS;
    let copies_two = TOKENS > WORKGROUP;
    let token_step = WORKGROUP / (2u * BANDS);
    let begin = 2u * input_token(first_token + own_token) * INPUT_PITCH + own_half;
    let begin_two = 2u * input_token(first_token + own_token + token_step) * INPUT_PITCH + own_half;
    let to = own_half * TILE_TOKENS + own_token;
    // And which scale.
    let copies_scale = lane < TOKEN_SCALES;
    let scale_from = input_token(first_token + lane / BANDS) * INPUT_PITCH + lane % BANDS;
    let scale_to = (lane % BANDS) * TILE_TOKENS + lane / BANDS;

#ifdef LEARNED
    let table_scale = bytes_load(lane);
    workgroupBarrier();
#endif
    var unit = min(own_band, last_unit);
    var octet = octet_load(source_row, 4u * unit + own_octet);
    var own_affine = signed_affine(source_row, unit >> params.group_units_log2);
    var x = vec4(0u);
    var x_two = vec4(0u);
    var x_scale = vec2(0.0);
    if copies {
        x = input[begin];
    }
    if copies_two {
        x_two = input[begin_two];
    }
    if copies_scale {
        x_scale = input_scales[scale_from];
    }
    // Counts to a constant: browsers add a counter of their own to other loops.
    for (var round = 0u; round < 0x1000000u; round++) {
        let turn = round * BANDS;
        if turn >= params.units {
            break;
        }
        workgroupBarrier();
        let words = signed_octet(octet, own_affine.zero);
        weights_tile[word_at][word] = words.x;
        weights_tile[word_at][word + 1u] = words.y;
        if own_octet == 0u {
            let at = own_band * rows + own_row;
#ifdef LEARNED
            scales_tile[at] = own_affine.scale * table_scale;
#else
            scales_tile[at] = own_affine.scale;
#endif
#ifdef OFFSET_F16
            shifts_tile[at] = own_affine.shift;
#endif
        }
        if copies {
            tokens_tile[to] = x;
        }
        if copies_two {
            tokens_tile[to + token_step] = x_two;
        }
        if copies_scale {
            token_scales[scale_to] = x_scale;
        }
        workgroupBarrier();
        // The last turn reads itself once more.
        var next = turn + BANDS;
        if next >= params.units {
            next = turn;
        }
        unit = min(next + own_band, last_unit);
        octet = octet_load(source_row, 4u * unit + own_octet);
        own_affine = signed_affine(source_row, unit >> params.group_units_log2);
        if copies {
            x = input[begin + 2u * next];
        }
        if copies_two {
            x_two = input[begin_two + 2u * next];
        }
        if copies_scale {
            x_scale = input_scales[scale_from + next];
        }
        let low = 2u * band * rows + row;
        let high = low + rows;
        let at = band * rows + row;
        let w = Four(
            array(weights_tile[low], weights_tile[low + 1u], weights_tile[low + 2u], weights_tile[low + 3u]),
            array(weights_tile[high], weights_tile[high + 1u], weights_tile[high + 2u], weights_tile[high + 3u]),
            vec4(scales_tile[at], scales_tile[at + 1u], scales_tile[at + 2u], scales_tile[at + 3u]),
#ifdef OFFSET_F16
            vec4(shifts_tile[at], shifts_tile[at + 1u], shifts_tile[at + 2u], shifts_tile[at + 3u]),
#endif
        );
        sums[0] = multiply(sums[0], w, band, token);
#ifdef COLUMNS_2
        sums[1] = multiply(sums[1], w, band, token + 16u);
#endif
#ifdef COLUMNS_4
        sums[2] = multiply(sums[2], w, band, token + 32u);
        sums[3] = multiply(sums[3], w, band, token + 48u);
#endif
#ifdef COLUMNS_8
        sums[4] = multiply(sums[4], w, band, token + 64u);
        sums[5] = multiply(sums[5], w, band, token + 80u);
        sums[6] = multiply(sums[6], w, band, token + 96u);
        sums[7] = multiply(sums[7], w, band, token + 112u);
#endif
    }
    let t = first_token + token;
    let r = chunk_row(first_row + row);
    write(sums[0], t, r, band, lane);
#ifdef COLUMNS_2
    write(sums[1], t + 16u, r, band, lane);
#endif
#ifdef COLUMNS_4
    write(sums[2], t + 32u, r, band, lane);
    write(sums[3], t + 48u, r, band, lane);
#endif
#ifdef COLUMNS_8
    write(sums[4], t + 64u, r, band, lane);
    write(sums[5], t + 80u, r, band, lane);
    write(sums[6], t + 96u, r, band, lane);
    write(sums[7], t + 112u, r, band, lane);
#endif
}
