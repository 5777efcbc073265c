// How the planes of a chunk become numbers. A weight is `q × scale + shift`, where `q` is its code and one scale and shift
// serve a group. Scales have 11 bits and codes at most 8, so the product is exact and the sum is rounded once: the
// result is bit for bit what the CPU's `layout::dequantize` gives. With LEARNED `q` is the codebook's value for the code,
// there is no shift, and the product is rounded once.
//
// F16 (needs shader-f16) reads halves as such; without it words are unpacked, to the same bits.
//
// Flags: one of F32_WEIGHTS, F16_WEIGHTS, Q8, Q4, Q3; with the last three GROUPED and none or one of OFFSET_U4,
// OFFSET_F16, LEARNED; with LEARNED none or SCALE_E4M4, and none or one of TABLE_WORKGROUP, TABLE_SUBGROUP, TABLE_SELECT,
// which say where the codebook is looked up (`weights::Lookup`) once `table_load` has run. The kernel declares `params`
// with `groups` (a row).

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

// Code that stands for zero, the codes in a step of a u4 zero point, and the values of a codebook.
#ifdef Q8
const CENTRE: f32 = 128.0;
#endif
#ifdef Q4
const CENTRE: f32 = 8.0;
const ZERO_STEP: f32 = 1.0;
const LEVELS: u32 = 16u;
#endif
#ifdef Q3
const CENTRE: f32 = 4.0;
const ZERO_STEP: f32 = 0.5;
const LEVELS: u32 = 8u;
#endif

#ifdef SCALE_E4M4
// The exponent's bias is 15, that of f32 is 127; byte 0 is zero.
fn scale_of(index: u32) -> f32 {
    let byte = (scales[index >> 2u] >> (8u * (index & 3u))) & 255u;
    return select(bitcast<f32>((byte << 19u) + (112u << 23u)), 0.0, byte == 0u);
}
#else
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

// Four weights from their `q` and their group's scale and shift.
fn four_weights(q: vec4<f32>, affine: vec2<f32>) -> vec4<f32> {
#ifdef LEARNED
    return q * affine.x;
#else
    return fma(q, vec4(affine.x), vec4(affine.y));
#endif
}

#ifdef LEARNED
#ifdef TABLE_WORKGROUP
var<workgroup> table: array<f32, LEVELS>;

// The first lookup comes after a barrier.
fn table_load(lane: u32) {
    if lane < LEVELS {
        table[lane] = codebook[lane];
    }
}

fn value_of(code: u32) -> f32 {
    return table[code];
}
#else
#ifdef TABLE_SUBGROUP
// Lane c of a subgroup, which has no fewer than LEVELS, holds the value of code c; with TABLE_HALVES lane c of eight holds
// those of c and c + 8. All lanes must look up together.
#ifdef TABLE_HALVES
var<private> own_values: vec2<f32>;

fn table_load(subgroup_lane: u32) {
    let code = subgroup_lane & 7u;
    own_values = vec2(codebook[code], codebook[code + 8u]);
}

fn value_of(code: u32) -> f32 {
    let values = subgroupShuffle(own_values, code & 7u);
    return select(values.x, values.y, code > 7u);
}
#else
var<private> own_value: f32;

fn table_load(subgroup_lane: u32) {
    own_value = codebook[subgroup_lane & (LEVELS - 1u)];
}

fn value_of(code: u32) -> f32 {
    return subgroupShuffle(own_value, code);
}
#endif
#else
#ifdef TABLE_SELECT
// Each bit of a code halves the table.
var<private> table: array<vec4<f32>, 2>;

fn table_load() {
    table[0] = vec4(codebook[0], codebook[1], codebook[2], codebook[3]);
    table[1] = vec4(codebook[4], codebook[5], codebook[6], codebook[7]);
}

fn value_of(code: u32) -> f32 {
    let four = select(table[0], table[1], (code & 4u) != 0u);
    let two = select(four.xy, four.zw, (code & 2u) != 0u);
    return select(two.x, two.y, (code & 1u) != 0u);
}
#else
fn value_of(code: u32) -> f32 {
    return codebook[code];
}
#endif
#endif
#endif
#endif

// Four codes, one a byte, as `q`.
fn four_codes(bytes: u32) -> vec4<f32> {
    let codes = unpack4xU8(bytes);
#ifdef LEARNED
    return vec4(value_of(codes.x), value_of(codes.y), value_of(codes.z), value_of(codes.w));
#else
    return vec4<f32>(codes);
#endif
}

#endif
