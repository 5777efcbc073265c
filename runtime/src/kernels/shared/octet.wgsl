// Eight neighbouring weights at a time, for kernels whose neighbouring invocations take neighbouring weights of a row:
// reads of codes and of activations then both fall into few cache lines. `params.units` is the number of units of
// 32 weights in a row.

#import scheme

#ifdef F32_WEIGHTS
@group(0) @binding(3) var<storage, read> values: array<vec4<f32>>;

fn octet(row: u32, index: u32) -> mat2x4<f32> {
    let at = row * params.units * 8u + index * 2u;
    return mat2x4(values[at], values[at + 1u]);
}
#endif

#ifdef F16_WEIGHTS
@group(0) @binding(3) var<storage, read> values: array<vec4<u32>>;

fn octet(row: u32, index: u32) -> mat2x4<f32> {
    let w = values[row * params.units * 4u + index];
    return mat2x4(
        vec4(unpack2x16float(w.x), unpack2x16float(w.y)),
        vec4(unpack2x16float(w.z), unpack2x16float(w.w)),
    );
}
#endif

#ifdef Q8
@group(0) @binding(3) var<storage, read> codes: array<vec2<u32>>;

fn octet(row: u32, index: u32) -> mat2x4<f32> {
    let w = codes[row * params.units * 4u + index];
    return mat2x4(four_codes(w.x), four_codes(w.y));
}
#endif

#ifdef Q4
@group(0) @binding(3) var<storage, read> codes: array<u32>;

fn octet(row: u32, index: u32) -> mat2x4<f32> {
    let w = codes[row * params.units * 4u + index];
    return mat2x4(four_codes(w & 0x0f0f0f0fu), four_codes((w >> 4u) & 0x0f0f0f0fu));
}
#endif

#ifdef Q3
@group(0) @binding(3) var<storage, read> codes: array<u32>;
@group(0) @binding(4) var<storage, read> high_bits: array<u32>;

fn octet(row: u32, index: u32) -> mat2x4<f32> {
    let low = codes[row * params.units * 2u + (index >> 1u)] >> (4u * (index & 1u));
    let high = high_bits[row * params.units + (index >> 2u)] >> (2u * (index & 3u));
    return mat2x4(
        four_codes((low & 0x03030303u) | ((high & 0x01010101u) << 2u)),
        four_codes(((low >> 2u) & 0x03030303u) | (((high >> 1u) & 0x01010101u) << 2u)),
    );
}
#endif
