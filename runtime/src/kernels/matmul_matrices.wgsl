// y = W x by cooperative matrices of 16 × 16, products of f16 and sums of f32. A workgroup has ROW_BANDS × TOKEN_BANDS ×
// COLUMN_BANDS subgroups. Each sums up 32 rows × (16, with BLOCKS_2 32, with BLOCKS_4 64) tokens over its share of the
// columns; bands of columns are added up at the end.
//
// A turn covers DEPTH = TOKEN_BANDS × COLUMN_BANDS units of 32 columns: every invocation unpacks one unit of one row to
// f16, and copies VECTORS vec4s of activations, both into workgroup memory. Invocations read those of the next turn while
// they compute this one.

#import projection
#import unit_halves
#import output

override WORKGROUP: u32 = 128u;
override ROW_BANDS: u32 = 4u;
override TOKEN_BANDS: u32 = 1u;
override DEPTH: u32 = 1u;
// vec4s from row to row, and from token to token, in workgroup memory: 16 bytes more than are used, so that the rows of
// a matrix lie in different banks.
override PITCH: u32 = 10u;
// vec4s of the two tiles; values of the subgroups' results.
override WEIGHTS: u32 = 1280u;
override TOKENS: u32 = 640u;
override RESULTS: u32 = 1024u;
// vec4s of activations that an invocation copies, 1 to 8.
override VECTORS: u32 = 4u;
// vec4s of a token's activations.
override INPUT_PITCH: u32 = 64u;

#ifdef BLOCKS_4
const BLOCKS: u32 = 4u;
#else
#ifdef BLOCKS_2
const BLOCKS: u32 = 2u;
#else
const BLOCKS: u32 = 1u;
#endif
#endif

@group(0) @binding(1) var<storage, read> input: array<vec4<f16>>;
// One a token: what sums are multiplied by.
@group(0) @binding(9) var<storage, read> inverses: array<f32>;

var<workgroup> weights_tile: array<vec4<f16>, WEIGHTS>;
var<workgroup> tokens_tile: array<vec4<f16>, TOKENS>;
var<workgroup> results: array<f32, RESULTS>;

alias Rows = coop_mat16x16<f16, A>;
alias Tokens = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

var<private> lane: u32;
var<private> subgroup: u32;
var<private> first_row: u32;
var<private> first_token: u32;

// Writes the sums of rows `row` to `row + 15` and tokens `token` to `token + 15` of each subgroup's band.
fn write(sums: Sums, row: u32, token: u32) {
    workgroupBarrier();
    coopStore(sums, &results[subgroup * 256u], 16u);
    workgroupBarrier();
    let bands = ROW_BANDS * TOKEN_BANDS;
    for (var i = lane; i < bands * 64u; i += WORKGROUP) {
        let band = i / 64u;
        let own_token = (i / 4u) % 16u;
        let own_row = 4u * (i % 4u);
        var sum = vec4(0.0);
        for (var at = band * 256u + own_token * 16u + own_row; at < RESULTS; at += bands * 256u) {
            sum += vec4(results[at], results[at + 1u], results[at + 2u], results[at + 3u]);
        }
        let t = first_token + (band / ROW_BANDS) * (16u * BLOCKS) + token + own_token;
        if is_token(t) {
            write_rows(output_token(t), chunk_row(first_row + (band % ROW_BANDS) * 32u + row + own_row), sum * inverses[input_token(t)]);
        }
    }
}

// Where the invocation's vec4 `i` of activations lies: its token, and its place in the token's turn.
fn source(i: u32) -> u32 {
    let at = lane + i * WORKGROUP;
    let token = input_token(first_token + at / (DEPTH * 8u));
    return token * INPUT_PITCH + at % (DEPTH * 8u);
}

fn keep(i: u32, x: vec4<f16>) {
    let at = lane + i * WORKGROUP;
    tokens_tile[(at / (DEPTH * 8u)) * PITCH + at % (DEPTH * 8u)] = x;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>,
        @builtin(subgroup_id) subgroup_index: u32,
#ifdef SUBGROUP_LANE
        @builtin(subgroup_invocation_id) lane_in_subgroup: u32,
#endif
        @builtin(local_invocation_index) index: u32) {
#ifdef EXPERTS
    if index == 0u {
        shared_tile = tile_of(workgroup.y, workgroup.x * 32u * ROW_BANDS, 32u * ROW_BANDS);
    }
    let tile = workgroupUniformLoad(&shared_tile);
    if tile.z == 0u {
        return;
    }
    take_tile(tile);
    first_token = 0u;
#else
    first_token = workgroup.y * 16u * BLOCKS * TOKEN_BANDS;
#endif
#ifdef TABLE_WORKGROUP
    table_load(index);
    workgroupBarrier();
#endif
#ifdef TABLE_SUBGROUP
    table_load(lane_in_subgroup);
#endif
    lane = index;
    subgroup = subgroup_index;
    first_row = workgroup.x * 32u * ROW_BANDS;

    // Beyond the last row, token or unit, the last one is read; activations beyond the last unit are zero.
    let row = min(chunk_row(first_row + index / DEPTH), params.rows - 1u);
    let unit = index % DEPTH;
    let last_unit = params.units - 1u;
    let weights_at = (index / DEPTH) * PITCH + unit * 8u;

    // This subgroup's rows, tokens and columns in workgroup memory.
    let row_band = subgroup % ROW_BANDS;
    let token_band = (subgroup / ROW_BANDS) % TOKEN_BANDS;
    let column_band = subgroup / (ROW_BANDS * TOKEN_BANDS);
    let rows_at = row_band * 32u * PITCH + column_band * TOKEN_BANDS * 8u;
    let tokens_at = token_band * 16u * BLOCKS * PITCH + column_band * TOKEN_BANDS * 8u;

    var a0 = Sums();
    var b0 = Sums();
#ifdef BLOCKS_2
    var a1 = Sums();
    var b1 = Sums();
#endif
#ifdef BLOCKS_4
    var a2 = Sums();
    var b2 = Sums();
    var a3 = Sums();
    var b3 = Sums();
#endif
    let begin0 = source(0u);
    let begin1 = source(1u);
    let begin2 = source(2u);
    let begin3 = source(3u);
    let begin4 = source(4u);
    let begin5 = source(5u);
    let begin6 = source(6u);
    let begin7 = source(7u);
    var own_unit = min(unit, last_unit);
    var packed = packed_load(row, own_unit);
    var x0 = input[begin0];
    var x1 = vec4<f16>();
    var x2 = vec4<f16>();
    var x3 = vec4<f16>();
    var x4 = vec4<f16>();
    var x5 = vec4<f16>();
    var x6 = vec4<f16>();
    var x7 = vec4<f16>();
    if VECTORS > 1u {
        x1 = input[begin1];
    }
    if VECTORS > 2u {
        x2 = input[begin2];
        x3 = input[begin3];
    }
    if VECTORS > 4u {
        x4 = input[begin4];
        x5 = input[begin5];
        x6 = input[begin6];
        x7 = input[begin7];
    }
    for (var turn = 0u; turn < params.units; turn += DEPTH) {
        workgroupBarrier();
        let own_affine = packed_affine(packed, row, own_unit);
        weights_tile[weights_at] = packed_halves(packed, own_affine, 0u);
        weights_tile[weights_at + 1u] = packed_halves(packed, own_affine, 1u);
        weights_tile[weights_at + 2u] = packed_halves(packed, own_affine, 2u);
        weights_tile[weights_at + 3u] = packed_halves(packed, own_affine, 3u);
        weights_tile[weights_at + 4u] = packed_halves(packed, own_affine, 4u);
        weights_tile[weights_at + 5u] = packed_halves(packed, own_affine, 5u);
        weights_tile[weights_at + 6u] = packed_halves(packed, own_affine, 6u);
        weights_tile[weights_at + 7u] = packed_halves(packed, own_affine, 7u);
        keep(0u, x0);
        if VECTORS > 1u {
            keep(1u, x1);
        }
        if VECTORS > 2u {
            keep(2u, x2);
            keep(3u, x3);
        }
        if VECTORS > 4u {
            keep(4u, x4);
            keep(5u, x5);
            keep(6u, x6);
            keep(7u, x7);
        }
        workgroupBarrier();
        // The last turn reads itself once more.
        var next = turn + DEPTH;
        if next >= params.units {
            next = turn;
        }
        own_unit = min(next + unit, last_unit);
        packed = packed_load(row, own_unit);
        x0 = input[begin0 + next * 8u];
        if VECTORS > 1u {
            x1 = input[begin1 + next * 8u];
        }
        if VECTORS > 2u {
            x2 = input[begin2 + next * 8u];
            x3 = input[begin3 + next * 8u];
        }
        if VECTORS > 4u {
            x4 = input[begin4 + next * 8u];
            x5 = input[begin5 + next * 8u];
            x6 = input[begin6 + next * 8u];
            x7 = input[begin7 + next * 8u];
        }
        for (var k = 0u; k < 8u * TOKEN_BANDS; k += 4u) {
            let a = coopLoadT<Rows>(&weights_tile[rows_at + k], PITCH);
            let b = coopLoadT<Rows>(&weights_tile[rows_at + k + 16u * PITCH], PITCH);
            let t0 = coopLoad<Tokens>(&tokens_tile[tokens_at + k], PITCH);
            a0 = coopMultiplyAdd(a, t0, a0);
            b0 = coopMultiplyAdd(b, t0, b0);
#ifdef BLOCKS_2
            let t1 = coopLoad<Tokens>(&tokens_tile[tokens_at + k + 16u * PITCH], PITCH);
            a1 = coopMultiplyAdd(a, t1, a1);
            b1 = coopMultiplyAdd(b, t1, b1);
#endif
#ifdef BLOCKS_4
            let t2 = coopLoad<Tokens>(&tokens_tile[tokens_at + k + 32u * PITCH], PITCH);
            a2 = coopMultiplyAdd(a, t2, a2);
            b2 = coopMultiplyAdd(b, t2, b2);
            let t3 = coopLoad<Tokens>(&tokens_tile[tokens_at + k + 48u * PITCH], PITCH);
            a3 = coopMultiplyAdd(a, t3, a3);
            b3 = coopMultiplyAdd(b, t3, b3);
#endif
        }
    }
    write(a0, 0u, 0u);
    write(b0, 16u, 0u);
#ifdef BLOCKS_2
    write(a1, 0u, 16u);
    write(b1, 16u, 16u);
#endif
#ifdef BLOCKS_4
    write(a2, 0u, 32u);
    write(b2, 16u, 32u);
    write(a3, 0u, 48u);
    write(b3, 16u, 48u);
#endif
}
