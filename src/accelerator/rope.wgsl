// Rotates the halves of heads of rows where they lie. A row's position is its number within its window.

struct Params {
    rows: u32,
    // Heads, pairs of a head, and numbers of a head.
    heads: u32,
    pairs: u32,
    width: u32,
    // Numbers from row to row, and where the first head begins in a row.
    pitch: u32,
    first: u32,
    // Positions of a window.
    length: u32,
    padding: u32,
}

const WORKGROUP: u32 = 64u;

@group(0) @binding(0) var<uniform> params: Params;
// Cosine and sine by position and pair.
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let row = workgroup.y * workgroups.x + workgroup.x;
    if row >= params.rows {
        return;
    }
    let position = row % params.length;
    for (var i = lane; i < params.heads * params.pairs; i += WORKGROUP) {
        let at = row * params.pitch + params.first + (i / params.pairs) * params.width + i % params.pairs;
        let angle = angles[position * params.pairs + i % params.pairs];
        let a = x[at];
        let b = x[at + params.pairs];
        x[at] = a * angle.x - b * angle.y;
        x[at + params.pairs] = b * angle.x + a * angle.y;
    }
}
