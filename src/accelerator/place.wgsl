// Copies a part of a matrix to a place in another.

struct Params {
    rows: u32,
    columns: u32,
    // Where the parts begin, and numbers from row to row of them.
    at: u32,
    pitch: u32,
    out_at: u32,
    out_pitch: u32,
    // Further parts, in the last dimension of the grid: numbers from one to the next.
    next: u32,
    out_next: u32,
}

const WORKGROUP: u32 = 64u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = workgroup.x * WORKGROUP + lane;
    let row = workgroup.y;
    if column < params.columns {
        let source = params.at + workgroup.z * params.next + row * params.pitch + column;
        out[params.out_at + workgroup.z * params.out_next + row * params.out_pitch + column] = x[source];
    }
}
