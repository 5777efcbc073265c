// Multiplies what heads made with the sigmoids of their gates, each of which serves `share` numbers side by side.

struct Params {
    rows: u32,
    // Numbers of a row, and those of a gate.
    columns: u32,
    share: u32,
    // Where the first gate stands in a row.
    first: u32,
    // Numbers from row to row of either.
    gate_pitch: u32,
    pitch: u32,
    padding: vec2<u32>,
}

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gates: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = workgroup.x * WORKGROUP + lane;
    if column >= params.columns {
        return;
    }
    for (var row = workgroup.y; row < params.rows; row += 65535u) {
        let gate = gates[row * params.gate_pitch + params.first + column / params.share];
        x[row * params.pitch + column] /= 1.0 + exp(-gate);
    }
}
