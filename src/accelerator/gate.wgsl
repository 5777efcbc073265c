// What goes into the last matrix of a feed-forward network: activations of its first matrix's outputs, or, where columns are
// gate and up in turn, activation(gate) · up.

#import activation

struct Params {
    rows: u32,
    // Columns of the result.
    columns: u32,
    // Numbers from row to row of either.
    pitch: u32,
    out_pitch: u32,
}

override GATED: bool = true;

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = workgroup.x * WORKGROUP + lane;
    if column >= params.columns {
        return;
    }
    for (var row = workgroup.y; row < params.rows; row += 65535u) {
        if GATED {
            let at = row * params.pitch + 2u * column;
            out[row * params.out_pitch + column] = gated(x[at], x[at + 1u]);
        } else {
            out[row * params.out_pitch + column] = activate(x[row * params.pitch + column]);
        }
    }
}
