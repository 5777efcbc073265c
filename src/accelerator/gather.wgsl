// Numbers of a matrix in another order of its columns, and of its rows.

struct Params {
    rows: u32,
    columns: u32,
    // Numbers from row to row of either.
    pitch: u32,
    out_pitch: u32,
}

// The rows, too, are in the order of the columns.
override ROWS: bool = false;
// Number i of row j becomes number n − 1 − j of row n − 1 − i in place of that, below the diagonal and on it; the others are zero.
override FLIP: bool = false;

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = workgroup.x * WORKGROUP + lane;
    if column >= params.columns {
        return;
    }
    for (var row = workgroup.y; row < params.rows; row += 65535u) {
        let at = row * params.out_pitch + column;
        if FLIP {
            var value = 0.0;
            if column <= row {
                value = x[(params.columns - 1u - column) * params.pitch + params.rows - 1u - row];
            }
            out[at] = value;
        } else if ROWS {
            out[at] = x[order[row] * params.pitch + order[column]];
        } else {
            out[at] = x[row * params.pitch + order[column]];
        }
    }
}
