// The diagonal of a square matrix, or the matrix with all that is not on its diagonal made smaller and something added to
// each number of the diagonal.

struct Params {
    columns: u32,
    // Numbers from row to row; the panel's first row, and its rows.
    pitch: u32,
    first: u32,
    rows: u32,
    keep: f32,
    padding0: u32,
    padding1: u32,
    padding2: u32,
}

override SHRINK: bool = false;

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> diagonal: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = workgroup.x * WORKGROUP + lane;
    if column >= params.columns {
        return;
    }
    for (var row = workgroup.y; row < params.rows; row += 65535u) {
        let at = row * params.pitch + column;
        let is_diagonal = params.first + row == column;
        if SHRINK {
            x[at] = select(params.keep * x[at], x[at] + diagonal[column], is_diagonal);
        } else if is_diagonal {
            diagonal[column] = x[at];
        }
    }
}
