// C = α A B, or C + α A B, in f32: tiles of 128 × 128 with 16 terms of a sum at a time in workgroup memory. An invocation
// has eight rows and eight columns of a tile, in fours 64 apart.
//
// A has the product's rows, B its columns. Each is stored with a row of memory for each of these (terms side by side), or
// with a row of memory for each term (`BY_TERM`). Numbers beyond the last term are zero in the first case, and made zero
// in the second. Beyond the last row or column, the last one is read and nothing is written.

struct Params {
    rows: u32,
    columns: u32,
    terms: u32,
    // Terms of a workgroup: number z of the grid has those from z * slice on.
    slice: u32,
    // vec4s from row to row of memory.
    a_pitch: u32,
    b_pitch: u32,
    c_pitch: u32,
    // vec4s from the results of one slice to those of the next.
    c_slice: u32,
    // Where the matrices begin, in vec4s.
    a_at: u32,
    b_at: u32,
    c_at: u32,
    // 1 if the product is added to what is there.
    add: u32,
    alpha: f32,
    // Products of many heads and windows: heads of a window, heads that share one of B's, and vec4s from head to head and
    // from window to window.
    heads: u32,
    shared_by: u32,
    a_head: u32,
    a_window: u32,
    b_head: u32,
    b_window: u32,
    c_head: u32,
    c_window: u32,
    padding: u32,
}

override A_BY_TERM: bool = false;
override B_BY_TERM: bool = false;
// The product is symmetric: only tiles on and below the diagonal are computed, and written to both sides.
override TRIANGLE: bool = false;
// Number z of the grid is a head of a window in place of a slice of terms.
override HEADS: bool = false;
// Columns beyond a row are not needed; 
override CAUSAL_COLUMNS: bool = false;
// terms beyond a row are zero.
override CAUSAL_TERMS: bool = false;

const WORKGROUP: u32 = 256u;
const TILE: u32 = 128u;
const DEPTH: u32 = 16u;
// vec4s from term to term: one more than are used, so that neighbouring rows of memory go to different banks.
const PITCH: u32 = 33u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;

var<workgroup> a_tile: array<vec4<f32>, 528>;
var<workgroup> b_tile: array<vec4<f32>, 528>;

// Where invocation `lane` begins to read an operand of `count` rows or columns, from `first` on; it reads another vec4
// `second_at` further.
fn begin(by_term: bool, at: u32, pitch: u32, first: u32, count: u32, term: u32, lane: u32) -> u32 {
    if by_term {
        return at + (term + lane / 32u) * pitch + min(first / 4u + lane % 32u, (count - 1u) / 4u);
    }
    return at + min(first + lane / 2u, count - 1u) * pitch + term / 4u + lane % 2u;
}

fn write(row: u32, column: u32, sum: vec4<f32>, slice_at: u32) {
    if row >= params.rows || column >= params.columns {
        return;
    }
    let at = slice_at + row * params.c_pitch + column / 4u;
    var out = params.alpha * sum;
    if params.add == 1u {
        out += c[at];
    }
    c[at] = select(out, vec4(0.0), vec4(column) + vec4(0u, 1u, 2u, 3u) >= vec4(params.columns));
}

// Sums of an invocation's rows, each in two fours of columns: rows of the lower four, then of the upper one. Only ever indexed
// by literals: these are registers.
var<private> left: array<vec4<f32>, 8>;
var<private> right: array<vec4<f32>, 8>;

fn add_term(term: u32, four_row: u32, four_column: u32) {
    let low = a_tile[term * PITCH + four_row];
    let high = a_tile[term * PITCH + 16u + four_row];
    let l = b_tile[term * PITCH + four_column];
    let r = b_tile[term * PITCH + 16u + four_column];
    left[0] = fma(vec4(low.x), l, left[0]);
    right[0] = fma(vec4(low.x), r, right[0]);
    left[1] = fma(vec4(low.y), l, left[1]);
    right[1] = fma(vec4(low.y), r, right[1]);
    left[2] = fma(vec4(low.z), l, left[2]);
    right[2] = fma(vec4(low.z), r, right[2]);
    left[3] = fma(vec4(low.w), l, left[3]);
    right[3] = fma(vec4(low.w), r, right[3]);
    left[4] = fma(vec4(high.x), l, left[4]);
    right[4] = fma(vec4(high.x), r, right[4]);
    left[5] = fma(vec4(high.y), l, left[5]);
    right[5] = fma(vec4(high.y), r, right[5]);
    left[6] = fma(vec4(high.z), l, left[6]);
    right[6] = fma(vec4(high.z), r, right[6]);
    left[7] = fma(vec4(high.w), l, left[7]);
    right[7] = fma(vec4(high.w), r, right[7]);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var tile_row = workgroup.y;
    var tile_column = workgroup.x;
    if TRIANGLE {
        let t = workgroup.x;
        tile_row = u32((sqrt(8.0 * f32(t) + 1.0) - 1.0) * 0.5);
        if (tile_row + 1u) * (tile_row + 2u) / 2u <= t {
            tile_row += 1u;
        }
        if tile_row * (tile_row + 1u) / 2u > t {
            tile_row -= 1u;
        }
        tile_column = t - tile_row * (tile_row + 1u) / 2u;
    }
    let first_row = tile_row * TILE;
    let first_column = tile_column * TILE;
    if CAUSAL_COLUMNS && first_column >= first_row + TILE {
        return;
    }
    var first_term = workgroup.z * params.slice;
    var end = min(first_term + params.slice, params.terms);
    var a_at = params.a_at;
    var b_at = params.b_at;
    var c_at = params.c_at + workgroup.z * params.c_slice;
    if HEADS {
        let window = workgroup.z / params.heads;
        let head = workgroup.z % params.heads;
        a_at += window * params.a_window + head * params.a_head;
        b_at += window * params.b_window + (head / params.shared_by) * params.b_head;
        c_at = params.c_at + window * params.c_window + head * params.c_head;
        first_term = 0u;
        end = params.terms;
    }
    if CAUSAL_TERMS {
        end = min(end, first_row + TILE);
    }
    let turns = (end - first_term + DEPTH - 1u) / DEPTH;

    // By row: two fours of terms of one row. By term: one four of rows, of two terms.
    let a_begin = begin(A_BY_TERM, a_at, params.a_pitch, first_row, params.rows, first_term, lane);
    let b_begin = begin(B_BY_TERM, b_at, params.b_pitch, first_column, params.columns, first_term, lane);
    let a_second = select(2u, 8u * params.a_pitch, A_BY_TERM);
    let b_second = select(2u, 8u * params.b_pitch, B_BY_TERM);
    let a_turn = select(DEPTH / 4u, DEPTH * params.a_pitch, A_BY_TERM);
    let b_turn = select(DEPTH / 4u, DEPTH * params.b_pitch, B_BY_TERM);
    let own_term = first_term + lane / 32u;

    // Where they go.
    let scattered_at = (lane % 2u) * 4u * PITCH + lane / 8u;
    let part = (lane / 2u) % 4u;
    let whole_at = (lane / 32u) * PITCH + lane % 32u;

    // A warp of 32 has 4 × 8 fours of the tile: few distinct addresses at a time.
    let four_row = (lane / 64u) * 4u + (lane % 32u) / 8u;
    let four_column = ((lane / 32u) % 2u) * 8u + lane % 8u;

    var a0 = vec4(0.0);
    var a1 = vec4(0.0);
    var b0 = vec4(0.0);
    var b1 = vec4(0.0);
    if !A_BY_TERM || own_term < end { a0 = a[a_begin]; }
    if !A_BY_TERM || own_term + 8u < end { a1 = a[a_begin + a_second]; }
    if !B_BY_TERM || own_term < end { b0 = b[b_begin]; }
    if !B_BY_TERM || own_term + 8u < end { b1 = b[b_begin + b_second]; }
    for (var turn = 0u; turn < turns; turn++) {
        workgroupBarrier();
        if A_BY_TERM {
            a_tile[whole_at] = a0;
            a_tile[whole_at + 8u * PITCH] = a1;
        } else {
            a_tile[scattered_at][part] = a0.x;
            a_tile[scattered_at + PITCH][part] = a0.y;
            a_tile[scattered_at + 2u * PITCH][part] = a0.z;
            a_tile[scattered_at + 3u * PITCH][part] = a0.w;
            a_tile[scattered_at + 8u * PITCH][part] = a1.x;
            a_tile[scattered_at + 9u * PITCH][part] = a1.y;
            a_tile[scattered_at + 10u * PITCH][part] = a1.z;
            a_tile[scattered_at + 11u * PITCH][part] = a1.w;
        }
        if B_BY_TERM {
            b_tile[whole_at] = b0;
            b_tile[whole_at + 8u * PITCH] = b1;
        } else {
            b_tile[scattered_at][part] = b0.x;
            b_tile[scattered_at + PITCH][part] = b0.y;
            b_tile[scattered_at + 2u * PITCH][part] = b0.z;
            b_tile[scattered_at + 3u * PITCH][part] = b0.w;
            b_tile[scattered_at + 8u * PITCH][part] = b1.x;
            b_tile[scattered_at + 9u * PITCH][part] = b1.y;
            b_tile[scattered_at + 10u * PITCH][part] = b1.z;
            b_tile[scattered_at + 11u * PITCH][part] = b1.w;
        }
        workgroupBarrier();
        // Each turn reads the numbers of the next one while it computes; the last turn reads its own again.
        let next = min(turn + 1u, turns - 1u);
        let next_term = own_term + next * DEPTH;
        if !A_BY_TERM || next_term < end { a0 = a[a_begin + next * a_turn]; } else { a0 = vec4(0.0); }
        if !A_BY_TERM || next_term + 8u < end { a1 = a[a_begin + next * a_turn + a_second]; } else { a1 = vec4(0.0); }
        if !B_BY_TERM || next_term < end { b0 = b[b_begin + next * b_turn]; } else { b0 = vec4(0.0); }
        if !B_BY_TERM || next_term + 8u < end { b1 = b[b_begin + next * b_turn + b_second]; } else { b1 = vec4(0.0); }
        // Spelled out: half as fast again as a loop.
        add_term(0u, four_row, four_column);
        add_term(1u, four_row, four_column);
        add_term(2u, four_row, four_column);
        add_term(3u, four_row, four_column);
        add_term(4u, four_row, four_column);
        add_term(5u, four_row, four_column);
        add_term(6u, four_row, four_column);
        add_term(7u, four_row, four_column);
        add_term(8u, four_row, four_column);
        add_term(9u, four_row, four_column);
        add_term(10u, four_row, four_column);
        add_term(11u, four_row, four_column);
        add_term(12u, four_row, four_column);
        add_term(13u, four_row, four_column);
        add_term(14u, four_row, four_column);
        add_term(15u, four_row, four_column);
    }

    let row = first_row + 4u * four_row;
    let column = first_column + 4u * four_column;
    write(row, column, left[0], c_at);
    write(row + 1u, column, left[1], c_at);
    write(row + 2u, column, left[2], c_at);
    write(row + 3u, column, left[3], c_at);
    write(row + 64u, column, left[4], c_at);
    write(row + 65u, column, left[5], c_at);
    write(row + 66u, column, left[6], c_at);
    write(row + 67u, column, left[7], c_at);
    write(row, column + 64u, right[0], c_at);
    write(row + 1u, column + 64u, right[1], c_at);
    write(row + 2u, column + 64u, right[2], c_at);
    write(row + 3u, column + 64u, right[3], c_at);
    write(row + 64u, column + 64u, right[4], c_at);
    write(row + 65u, column + 64u, right[5], c_at);
    write(row + 66u, column + 64u, right[6], c_at);
    write(row + 67u, column + 64u, right[7], c_at);
    if TRIANGLE && tile_row != tile_column {
        let low = transpose(mat4x4(left[0], left[1], left[2], left[3]));
        let high = transpose(mat4x4(left[4], left[5], left[6], left[7]));
        let low_right = transpose(mat4x4(right[0], right[1], right[2], right[3]));
        let high_right = transpose(mat4x4(right[4], right[5], right[6], right[7]));
        for (var i = 0u; i < 4u; i++) {
            write(column + i, row, low[i], c_at);
            write(column + i, row + 64u, high[i], c_at);
            write(column + 64u + i, row, low_right[i], c_at);
            write(column + 64u + i, row + 64u, high_right[i], c_at);
        }
    }
}
