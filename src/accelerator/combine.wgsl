// x = a x + b y, number by number, or x = x + y with one row y for all rows.

struct Params {
    rows: u32,
    // vec4s of a row.
    width: u32,
    a: f32,
    b: f32,
}

// y is one row.
override ROW: bool = false;

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP + lane;
    if i >= params.rows * params.width {
        return;
    }
    if ROW {
        x[i] += y[i % params.width];
    } else {
        x[i] = params.a * x[i] + params.b * y[i];
    }
}
