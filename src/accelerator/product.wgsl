// C = α A B, or C + α A B, in f32: tiles of 128 × 128 with 16 terms of a sum at a time in workgroup memory. An invocation
// has eight rows and eight columns of a tile, in fours 64 apart.
//
// A has the product's rows, B its columns. Each is stored with a row of memory for each of these (terms side by side), or
// with a row of memory for each term (`BY_TERM`). Numbers beyond the last term are zero in the first case, and made zero
// in the second; what lies beyond the last row or column is read as the last one and never written.

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
}

override A_BY_TERM: bool = false;
override B_BY_TERM: bool = false;
// The product is symmetric: only tiles on and below the diagonal are computed, and written to both sides.
override TRIANGLE: bool = false;

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
    let first_term = workgroup.z * params.slice;
    let end = min(first_term + params.slice, params.terms);
    let turns = (end - first_term + DEPTH - 1u) / DEPTH;

    // By row: two fours of terms of one row. By term: one four of rows, of two terms.
    let a_begin = begin(A_BY_TERM, params.a_at, params.a_pitch, first_row, params.rows, first_term, lane);
    let b_begin = begin(B_BY_TERM, params.b_at, params.b_pitch, first_column, params.columns, first_term, lane);
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

    var s0 = vec4(0.0); var s1 = vec4(0.0); var s2 = vec4(0.0); var s3 = vec4(0.0);
    var s4 = vec4(0.0); var s5 = vec4(0.0); var s6 = vec4(0.0); var s7 = vec4(0.0);
    var t0 = vec4(0.0); var t1 = vec4(0.0); var t2 = vec4(0.0); var t3 = vec4(0.0);
    var t4 = vec4(0.0); var t5 = vec4(0.0); var t6 = vec4(0.0); var t7 = vec4(0.0);

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
        // What the next turn needs is read while this one is computed; the last turn reads its own again.
        let next = min(turn + 1u, turns - 1u);
        let next_term = own_term + next * DEPTH;
        if !A_BY_TERM || next_term < end { a0 = a[a_begin + next * a_turn]; } else { a0 = vec4(0.0); }
        if !A_BY_TERM || next_term + 8u < end { a1 = a[a_begin + next * a_turn + a_second]; } else { a1 = vec4(0.0); }
        if !B_BY_TERM || next_term < end { b0 = b[b_begin + next * b_turn]; } else { b0 = vec4(0.0); }
        if !B_BY_TERM || next_term + 8u < end { b1 = b[b_begin + next * b_turn + b_second]; } else { b1 = vec4(0.0); }
        for (var k = 0u; k < DEPTH; k++) {
            let low = a_tile[k * PITCH + four_row];
            let high = a_tile[k * PITCH + 16u + four_row];
            let left = b_tile[k * PITCH + four_column];
            let right = b_tile[k * PITCH + 16u + four_column];
            s0 = fma(vec4(low.x), left, s0);
            t0 = fma(vec4(low.x), right, t0);
            s1 = fma(vec4(low.y), left, s1);
            t1 = fma(vec4(low.y), right, t1);
            s2 = fma(vec4(low.z), left, s2);
            t2 = fma(vec4(low.z), right, t2);
            s3 = fma(vec4(low.w), left, s3);
            t3 = fma(vec4(low.w), right, t3);
            s4 = fma(vec4(high.x), left, s4);
            t4 = fma(vec4(high.x), right, t4);
            s5 = fma(vec4(high.y), left, s5);
            t5 = fma(vec4(high.y), right, t5);
            s6 = fma(vec4(high.z), left, s6);
            t6 = fma(vec4(high.z), right, t6);
            s7 = fma(vec4(high.w), left, s7);
            t7 = fma(vec4(high.w), right, t7);
        }
    }

    let at = params.c_at + workgroup.z * params.c_slice;
    let row = first_row + 4u * four_row;
    let column = first_column + 4u * four_column;
    write(row, column, s0, at);
    write(row + 1u, column, s1, at);
    write(row + 2u, column, s2, at);
    write(row + 3u, column, s3, at);
    write(row + 64u, column, s4, at);
    write(row + 65u, column, s5, at);
    write(row + 66u, column, s6, at);
    write(row + 67u, column, s7, at);
    write(row, column + 64u, t0, at);
    write(row + 1u, column + 64u, t1, at);
    write(row + 2u, column + 64u, t2, at);
    write(row + 3u, column + 64u, t3, at);
    write(row + 64u, column + 64u, t4, at);
    write(row + 65u, column + 64u, t5, at);
    write(row + 66u, column + 64u, t6, at);
    write(row + 67u, column + 64u, t7, at);
    if TRIANGLE && tile_row != tile_column {
        let low = transpose(mat4x4(s0, s1, s2, s3));
        let high = transpose(mat4x4(s4, s5, s6, s7));
        let low_right = transpose(mat4x4(t0, t1, t2, t3));
        let high_right = transpose(mat4x4(t4, t5, t6, t7));
        for (var i = 0u; i < 4u; i++) {
            write(column + i, row, low[i], at);
            write(column + i, row + 64u, high[i], at);
            write(column + 64u + i, row, low_right[i], at);
            write(column + 64u + i, row + 64u, high_right[i], at);
        }
    }
}
