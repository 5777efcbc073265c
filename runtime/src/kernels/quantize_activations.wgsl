// Activations as 8-bit integers in blocks of 32: `x = scale × code`, codes from -127 to 127. A scale has 16 significant
// bits, so that products of it with the integers that `matmul_int8` makes floats of are exact.

struct Params {
    // Blocks of a token; vec4s from one token to the next in the input; blocks of a token in what is written, zeros at
    // the end included; tokens.
    filled: u32,
    input_stride: u32,
    pitch: u32,
    tokens: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> codes: array<vec4<u32>>;
// A block's scale, and the sum of its values as they are quantized.
@group(0) @binding(3) var<storage, read_write> scales: array<vec2<f32>>;

fn four(x: vec4<f32>, inverse: f32) -> u32 {
    return pack4xI8(vec4<i32>(round(x * inverse)));
}

fn sum_of(word: u32) -> i32 {
    return dot4I8Packed(word, 0x01010101u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let unit = id.x;
    let token = id.y;
    if unit >= params.pitch {
        return;
    }
    let at = token * params.pitch + unit;
    if unit >= params.filled {
        codes[2u * at] = vec4(0u);
        codes[2u * at + 1u] = vec4(0u);
        scales[at] = vec2(0.0);
        return;
    }
    let begin = token * params.input_stride + unit * 8u;
    let a = input[begin];
    let b = input[begin + 1u];
    let c = input[begin + 2u];
    let d = input[begin + 3u];
    let e = input[begin + 4u];
    let f = input[begin + 5u];
    let g = input[begin + 6u];
    let h = input[begin + 7u];
    let four_largest = max(max(max(abs(a), abs(b)), max(abs(c), abs(d))), max(max(abs(e), abs(f)), max(abs(g), abs(h))));
    let largest = max(max(four_largest.x, four_largest.y), max(four_largest.z, four_largest.w));
    // Rounded up, so that no code exceeds 127. Blocks below 1e-30 count as zeros.
    var scale = bitcast<f32>((bitcast<u32>(largest / 127.0) + 0xffu) & 0xffffff00u);
    var inverse = 1.0 / scale;
    if largest < 1e-30 {
        scale = 0.0;
        inverse = 0.0;
    }
    let low = vec4(four(a, inverse), four(b, inverse), four(c, inverse), four(d, inverse));
    let high = vec4(four(e, inverse), four(f, inverse), four(g, inverse), four(h, inverse));
    codes[2u * at] = low;
    codes[2u * at + 1u] = high;
    let sum = sum_of(low.x) + sum_of(low.y) + sum_of(low.z) + sum_of(low.w)
        + sum_of(high.x) + sum_of(high.y) + sum_of(high.z) + sum_of(high.w);
    scales[at] = vec2(scale, scale * f32(sum));
}
