// How the planes of a chunk become numbers. A weight is `q × scale + shift`, where `q` is its code (or the codebook's
// value for it) and one scale and shift serve a group. Scales have 11 bits and codes at most 8, so the product is
// exact and the sum is rounded once: the result is bit for bit what the CPU's `layout::dequantize` gives.
//
// F16 (needs shader-f16) reads halves as such; without it words are unpacked, to the same bits.
//
// Flags: one of F32_WEIGHTS, F16_WEIGHTS, Q8, Q4, Q3; with the last three GROUPED and none or one of OFFSET_U4,
// OFFSET_F16, LEARNED. The kernel declares `params` with `groups` (a row).

#ifdef GROUPED

#ifdef F16
@group(0) @binding(5) var<storage, read> scales: array<f16>;
#else
@group(0) @binding(5) var<storage, read> scales: array<u32>;
#endif
#ifdef OFFSET_U4
@group(0) @binding(6) var<storage, read> offsets: array<u32>;
#endif
#ifdef OFFSET_F16
#ifdef F16
@group(0) @binding(6) var<storage, read> offsets: array<f16>;
#else
@group(0) @binding(6) var<storage, read> offsets: array<u32>;
#endif
#endif
#ifdef LEARNED
@group(0) @binding(6) var<storage, read> codebook: array<f32>;
#endif

// Code that stands for zero, and the codes in a step of a u4 zero point.
#ifdef Q8
const CENTRE: f32 = 128.0;
#endif
#ifdef Q4
const CENTRE: f32 = 8.0;
const ZERO_STEP: f32 = 1.0;
#endif
#ifdef Q3
const CENTRE: f32 = 4.0;
const ZERO_STEP: f32 = 0.5;
#endif

#ifdef F16
fn scale_of(index: u32) -> f32 {
    return f32(scales[index]);
}
#else
fn half_of(word: u32, index: u32) -> f32 {
    return unpack2x16float(word >> (16u * (index & 1u))).x;
}

fn scale_of(index: u32) -> f32 {
    return half_of(scales[index >> 1u], index);
}
#endif

// Scale and shift of a group of a row.
fn affine(row: u32, group: u32) -> vec2<f32> {
    let index = row * params.groups + group;
    let scale = scale_of(index);
#ifdef LEARNED
    return vec2(scale, 0.0);
#else
#ifdef OFFSET_U4
    let zero = f32((offsets[index >> 3u] >> (4u * (index & 7u))) & 15u);
    return vec2(scale, -scale * (zero * ZERO_STEP));
#else
#ifdef OFFSET_F16
#ifdef F16
    return vec2(scale, f32(offsets[index]));
#else
    return vec2(scale, half_of(offsets[index >> 1u], index));
#endif
#else
    return vec2(scale, -scale * CENTRE);
#endif
#endif
#endif
}

// Four codes, one a byte, as `q`.
fn four_codes(bytes: u32) -> vec4<f32> {
    let codes = unpack4xU8(bytes);
#ifdef LEARNED
    return vec4(codebook[codes.x], codebook[codes.y], codebook[codes.z], codebook[codes.w]);
#else
    return vec4<f32>(codes);
#endif
}

#endif
