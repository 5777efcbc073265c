// Codes of a block of up to 128 columns, one column after the other, for 16 rows a workgroup. Sixteen invocations share a
// row: each keeps two fours of its columns in registers. Whoever has the next column rounds it and tells the others by how
// much that moves them; each takes the move, times what couples the columns, off its own.
//
// GPTQ: the state is what is left of the weights, in the order of fixing; the move is the error over the factor's diagonal.
// Descent: the state is the gradient; the move is the step from the value that was stored to the one that now is.

struct Params {
    rows: u32,
    // Columns of the block.
    count: u32,
    // The block's first column, in the order of rounding.
    first: u32,
    group: u32,
    groups: u32,
    // vec4s from row to row of the state, and where it begins.
    state_pitch: u32,
    state_at: u32,
    // vec4s from row to row of what couples the block's columns, and where it begins.
    coupling_pitch: u32,
    coupling_at: u32,
    // Numbers from row to row of weights, codes and what is written.
    pitch: u32,
    out_pitch: u32,
    levels: u32,
    // Ascending; in fours.
    values: array<vec4<f32>, 8>,
    // Where the nearest value changes.
    middles: array<vec4<f32>, 8>,
}

override DESCENT: bool = false;

const WORKGROUP: u32 = 256u;
const ROWS: u32 = 16u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> coupling: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
// Column of the matrix by place in the order of rounding.
@group(0) @binding(4) var<storage, read> order: array<u32>;
@group(0) @binding(5) var<storage, read> weights: array<f32>;
@group(0) @binding(6) var<storage, read_write> codes: array<u32>;
// Moves of the block (GPTQ), or weights without what is stored of them (descent).
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

var<workgroup> moves: array<f32, 32>;
var<workgroup> values: array<f32, 32>;
var<workgroup> middles: array<f32, 32>;

// Column of the matrix at place `place` of the block.
fn column_at(place: u32) -> u32 {
    return order[params.first + min(place, params.count - 1u)];
}

fn scale_at(row: u32, column: u32) -> f32 {
    return scales[row * params.groups + column / params.group];
}

fn four_scales(row: u32, place: u32) -> vec4<f32> {
    return vec4(scale_at(row, column_at(place)), scale_at(row, column_at(place + 1u)),
                scale_at(row, column_at(place + 2u)), scale_at(row, column_at(place + 3u)));
}

fn stored_at(row: u32, place: u32) -> f32 {
    return values[codes[row * params.pitch + column_at(place)]];
}

fn four_stored(row: u32, place: u32) -> vec4<f32> {
    return vec4(stored_at(row, place), stored_at(row, place + 1u), stored_at(row, place + 2u), stored_at(row, place + 3u));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let own = lane / 16u;
    let part = lane % 16u;
    let unclamped_row = workgroup.x * ROWS + own;
    let row = min(unclamped_row, params.rows - 1u);
    let is_row = unclamped_row < params.rows;
    if lane < 32u {
        values[lane] = params.values[lane / 4u][lane % 4u];
        middles[lane] = params.middles[lane / 4u][lane % 4u];
    }
    workgroupBarrier();
    // Places 4 part and 64 + 4 part of the block, and the three after each.
    let last_four = (params.count - 1u) / 4u;
    var low = state[params.state_at + row * params.state_pitch + min(part, last_four)];
    var high = state[params.state_at + row * params.state_pitch + min(part + 16u, last_four)];
    let low_scale = four_scales(row, 4u * part);
    let high_scale = four_scales(row, 64u + 4u * part);
    var low_stored = vec4(0.0);
    var high_stored = vec4(0.0);
    if DESCENT {
        low_stored = low_scale * four_stored(row, 4u * part);
        high_stored = high_scale * four_stored(row, 64u + 4u * part);
    }
    let coupling_low = params.coupling_at + min(part, last_four);
    let coupling_high = params.coupling_at + min(part + 16u, last_four);
    for (var place = 0u; place < params.count; place++) {
        let by_low = coupling[coupling_low + place * params.coupling_pitch];
        let by_high = coupling[coupling_high + place * params.coupling_pitch];
        if part == (place % 64u) / 4u {
            let is_high = place >= 64u;
            let component = place % 4u;
            let diagonal = select(by_low, by_high, is_high)[component];
            let scale = select(low_scale, high_scale, is_high)[component];
            var target_value = select(low, high, is_high)[component];
            var stored = 0.0;
            if DESCENT {
                stored = select(low_stored, high_stored, is_high)[component];
                target_value = stored + target_value * (1.0 / diagonal);
            }
            let x = select(0.0, target_value / scale, scale > 0.0);
            var code = 0u;
            for (var i = 0u; i + 1u < params.levels; i++) {
                code += select(0u, 1u, x > middles[i]);
            }
            let rounded = values[code] * scale;
            var move_by = 0.0;
            if DESCENT {
                move_by = rounded - stored;
            } else {
                move_by = (target_value - rounded) / diagonal;
            }
            moves[(place % 2u) * ROWS + own] = move_by;
            if is_row {
                let column = order[params.first + place];
                codes[row * params.pitch + column] = code;
                if DESCENT {
                    out[row * params.out_pitch + column] = weights[row * params.pitch + column] - rounded;
                } else {
                    out[row * params.out_pitch + place] = move_by;
                }
            }
        }
        // Moves of the next column go elsewhere, so one barrier a column is enough.
        workgroupBarrier();
        let by = moves[(place % 2u) * ROWS + own];
        low -= by * by_low;
        high -= by * by_high;
    }
}
