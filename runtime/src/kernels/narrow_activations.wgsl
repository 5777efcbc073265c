// Activations as f16 for cooperative matrices. f16 ends at 65504 and activations do not: each token is multiplied by the
// power of two that brings its largest value to 2^14 or more, below 2^15. That is exact; what rounds is 11 bits of each
// value, and values below 2^-28 of the largest lose more. The power's inverse is kept for the sums.

struct Params {
    // vec4s of a token, from one token to the next in the input, and in what is written, zeros at the end included; tokens.
    filled: u32,
    input_stride: u32,
    pitch: u32,
    tokens: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> narrow: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read_write> inverses: array<f32>;

const WORKGROUP: u32 = 256u;
var<workgroup> largest: array<f32, 256>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = workgroup.x;
    let begin = token * params.input_stride;
    var own = vec4(0.0);
    for (var i = lane; i < params.filled; i += WORKGROUP) {
        own = max(own, abs(input[begin + i]));
    }
    largest[lane] = max(max(own.x, own.y), max(own.z, own.w));
    for (var n = WORKGROUP / 2u; n > 0u; n /= 2u) {
        workgroupBarrier();
        if lane < n {
            largest[lane] = max(largest[lane], largest[lane + n]);
        }
    }
    workgroupBarrier();
    // The exponent's field of the largest value; both powers of two stay normal.
    let exponent = max(bitcast<u32>(largest[0]) >> 23u, 15u);
    let scale = bitcast<f32>((268u - exponent) << 23u);
    for (var i = lane; i < params.pitch; i += WORKGROUP) {
        var x = vec4(0.0);
        if i < params.filled {
            x = input[begin + i];
        }
        narrow[token * params.pitch + i] = vec4<f16>(x.xzyw * scale);
    }
    if lane == 0u {
        inverses[token] = bitcast<f32>((exponent - 14u) << 23u);
    }
}
