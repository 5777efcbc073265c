// C = α Σ P, or C + α Σ P, over the partial products P that slices of a product's terms have left, in their order.

struct Params {
    rows: u32,
    // vec4s of a row of the partial products, and from row to row of C.
    width: u32,
    c_pitch: u32,
    c_at: u32,
    slices: u32,
    add: u32,
    alpha: f32,
}

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> c: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP + lane;
    let count = params.rows * params.width;
    if i >= count {
        return;
    }
    var sum = parts[i];
    for (var slice = 1u; slice < params.slices; slice++) {
        sum += parts[slice * count + i];
    }
    let at = params.c_at + (i / params.width) * params.c_pitch + i % params.width;
    var out = params.alpha * sum;
    if params.add == 1u {
        out += c[at];
    }
    c[at] = out;
}
