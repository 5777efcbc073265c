// The blocks on the diagonal of a lower triangle, each transposed, one after the other in rows of 128 numbers: row j of a
// block has what rounding its column j does to its other columns.

struct Params {
    columns: u32,
    // Numbers from row to row of the triangle; its first row here, and rows.
    pitch: u32,
    first: u32,
    rows: u32,
}

const WORKGROUP: u32 = 128u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> triangle: array<f32>;
@group(0) @binding(2) var<storage, read_write> blocks: array<f32>;

// A workgroup has row `workgroup.x` of the triangle, which becomes a column of its block.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = params.first + workgroup.x;
    let begin = row / 128u * 128u;
    let column = begin + lane;
    var value = 0.0;
    if column < params.columns {
        value = triangle[workgroup.x * params.pitch + column];
    }
    blocks[column * 128u + row - begin] = value;
}
