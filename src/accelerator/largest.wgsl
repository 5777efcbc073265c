// The largest magnitude of each group.

struct Params {
    rows: u32,
    groups: u32,
    // vec4s from row to row of the weights, and of a group.
    pitch: u32,
    group: u32,
    // Numbers from row to row of the result.
    out_pitch: u32,
}

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> largest: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let number = (workgroup.y * grid.x + workgroup.x) * WORKGROUP + lane;
    if number >= params.rows * params.groups {
        return;
    }
    let row = number / params.groups;
    let group = number % params.groups;
    var most = vec4(0.0);
    let end = min((group + 1u) * params.group, params.pitch);
    for (var four = group * params.group; four < end; four++) {
        most = max(most, abs(weights[row * params.pitch + four]));
    }
    largest[row * params.out_pitch + group] = max(max(most.x, most.y), max(most.z, most.w));
}
