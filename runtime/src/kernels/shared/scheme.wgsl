// How the planes of a chunk become numbers. A weight is `q × scale + shift`, where `q` is its code and one scale and shift
// serve a group. Scales have 11 bits and codes at most 8, so the product is exact and the sum is rounded once: the
// result is bit for bit what the CPU's `layout::dequantize` gives. With LEARNED `q` is the codebook's value for the code,
// there is no shift, and the product is rounded once.
//
// F16 (needs shader-f16) reads halves as such; without it words are unpacked, to the same bits.
//
// Flags: one of F32_WEIGHTS, F16_WEIGHTS, Q8, Q5, Q4, Q3; with the last four GROUPED and none or one of OFFSET_U4,
// OFFSET_F16, LEARNED; with LEARNED none or SCALE_E4M4, and none or one of TABLE_WORKGROUP, TABLE_SUBGROUP, which say where the
// codebook is looked up (`weights::Lookup`) once `table_load` has run; Q5 and Q3 with HIGH_BITS. The kernel declares
// `params` with `groups` (a row).

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

// Code that stands for zero, the codes in a step of a u4 zero point, the number of codes, and what the
// highest bit of one counts.
#ifdef Q8
const CENTRE: f32 = 128.0;
const LEVELS: u32 = 256u;
#endif
#ifdef Q5
const CENTRE: f32 = 16.0;
const ZERO_STEP: f32 = 2.0;
const LEVELS: u32 = 32u;
const HIGH_BIT: u32 = 16u;
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
const HIGH_BIT: u32 = 4u;
#endif

#ifdef SCALE_E4M4
// The scales of a group of four rows, which share a word. The exponent's bias is 15, that of f32 is 127; byte 0 is zero.
fn four_scales(row: u32, group: u32) -> vec4<f32> {
    let bytes = unpack4xU8(scales[(row >> 2u) * params.groups + group]);
    return select(bitcast<vec4<f32>>((bytes << vec4(19u)) + vec4(112u << 23u)), vec4(0.0), bytes == vec4(0u));
}

fn scale_of(row: u32, group: u32) -> f32 {
    return four_scales(row, group)[row & 3u];
}
#else
#ifdef F16
fn scale_of(row: u32, group: u32) -> f32 {
    return f32(scales[row * params.groups + group]);
}
#else
fn half_of(word: u32, index: u32) -> f32 {
    return unpack2x16float(word >> (16u * (index & 1u))).x;
}

fn scale_of(row: u32, group: u32) -> f32 {
    let index = row * params.groups + group;
    return half_of(scales[index >> 1u], index);
}
#endif
#endif

// Scale and shift of a group of a row.
fn affine(row: u32, group: u32) -> vec2<f32> {
    let scale = scale_of(row, group);
#ifdef LEARNED
    return vec2(scale, 0.0);
#else
    let index = row * params.groups + group;
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

// The same of rows `row`, a multiple of 4, to `row + 3`, of which those beyond `last` are anything: four scales and four
// shifts.
fn four_affine(row: u32, last: u32, group: u32) -> mat2x4<f32> {
#ifdef SCALE_E4M4
    return mat2x4(four_scales(row, group), vec4(0.0));
#else
    let a = affine(row, group);
    let b = affine(min(row + 1u, last), group);
    let c = affine(min(row + 2u, last), group);
    let d = affine(min(row + 3u, last), group);
    return mat2x4(vec4(a.x, b.x, c.x, d.x), vec4(a.y, b.y, c.y, d.y));
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
// Each value has a bank of its own.
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
// Lane c of a subgroup, which has no fewer than LEVELS, holds the value of code c; with TABLE_EIGHT_LANES lane c of eight
// holds those of c, c + 8 and so on. All lanes must look up together.
#ifdef TABLE_EIGHT_LANES
#ifdef Q5
var<private> own_values: vec4<f32>;

fn table_load(subgroup_lane: u32) {
    let code = subgroup_lane & 7u;
    own_values = vec4(codebook[code], codebook[code + 8u], codebook[code + 16u], codebook[code + 24u]);
}

fn value_of(code: u32) -> f32 {
    let values = subgroupShuffle(own_values, code & 7u);
    let two = select(values.xy, values.zw, code > 15u);
    return select(two.x, two.y, (code & 8u) != 0u);
}
#else
var<private> own_values: vec2<f32>;

fn table_load(subgroup_lane: u32) {
    let code = subgroup_lane & 7u;
    own_values = vec2(codebook[code], codebook[code + 8u]);
}

fn value_of(code: u32) -> f32 {
    let values = subgroupShuffle(own_values, code & 7u);
    return select(values.x, values.y, code > 7u);
}
#endif
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
fn value_of(code: u32) -> f32 {
    return codebook[code];
}
#endif
#endif
#endif

// Four codes, one in the low bits of each byte, as `q`. Other bits do not matter.
fn four_codes(bytes: u32) -> vec4<f32> {
#ifdef LEARNED
    // Masked one by one: a compiler then sees that no index is beyond the table, and leaves out its own check.
    return vec4(
        value_of(bytes & (LEVELS - 1u)),
        value_of((bytes >> 8u) & (LEVELS - 1u)),
        value_of((bytes >> 16u) & (LEVELS - 1u)),
        value_of((bytes >> 24u) & (LEVELS - 1u)),
    );
#else
    return vec4<f32>(unpack4xU8(bytes & ((LEVELS - 1u) * 0x01010101u)));
#endif
}

#ifdef HIGH_BITS
// Codes, in the low bits of each byte, from their low bits, which lie there too, and their highest, the lowest of each
// byte. Other bits become anything.
fn joined(low: u32, high: u32) -> u32 {
    let of_low = (HIGH_BIT - 1u) * 0x01010101u;
    return (low & of_low) | ((high * HIGH_BIT) & ~of_low);
}
#endif

#endif
