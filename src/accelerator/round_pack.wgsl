// Codes of four columns in a word.

struct Params {
    rows: u32,
    // Words of a row, and from row to row of them.
    width: u32,
    out_pitch: u32,
    // vec4s from row to row of codes.
    pitch: u32,
}

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> words: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP + lane;
    if i < params.rows * params.width {
        let row = i / params.width;
        let four = codes[row * params.pitch + i % params.width];
        words[row * params.out_pitch + i % params.width] = four.x | (four.y << 8u) | (four.z << 16u) | (four.w << 24u);
    }
}
