// What rounding works on: the weights in the order of fixing, or the weights without what codes stand for.

struct Params {
    rows: u32,
    columns: u32,
    // Numbers from row to row of all matrices.
    pitch: u32,
    group: u32,
    groups: u32,
    padding0: u32,
    padding1: u32,
    padding2: u32,
    values: array<vec4<f32>, 8>,
}

// Weights less stored values, each in its place; otherwise weights in the order of fixing.
override DIFFERENCE: bool = false;

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> codes: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = workgroup.x * WORKGROUP + lane;
    if column >= params.columns {
        return;
    }
    for (var row = workgroup.y; row < params.rows; row += 65535u) {
        let at = row * params.pitch + column;
        if DIFFERENCE {
            let code = codes[at];
            let scale = scales[row * params.groups + column / params.group];
            out[at] = weights[at] - params.values[code / 4u][code % 4u] * scale;
        } else {
            out[at] = weights[row * params.pitch + order[column]];
        }
    }
}
