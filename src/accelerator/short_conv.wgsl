// A gated short convolution: rows are b, c and x of a position, the result is c · (bias + Σ kernel[j] · (b · x)[t − size + 1 + j]).
// Nothing comes before a window's first position.

struct Params {
    rows: u32,
    channels: u32,
    // Positions that a channel sees, and those of a window.
    size: u32,
    length: u32,
    // Numbers from row to row of either.
    pitch: u32,
    out_pitch: u32,
    padding: vec2<u32>,
}

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
// By channel: its taps, then its bias.
@group(0) @binding(2) var<storage, read> kernel: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let channel = workgroup.x * WORKGROUP + lane;
    if channel >= params.channels {
        return;
    }
    let taps = channel * (params.size + 1u);
    for (var row = workgroup.y; row < params.rows; row += 65535u) {
        let seen = min(row % params.length + 1u, params.size);
        var sum = kernel[taps + params.size];
        for (var j = params.size - seen; j < params.size; j++) {
            let at = (row + 1u + j - params.size) * params.pitch + channel;
            sum += kernel[taps + j] * (x[at] * x[at + 2u * params.channels]);
        }
        out[row * params.out_pitch + channel] = x[row * params.pitch + params.channels + channel] * sum;
    }
}
