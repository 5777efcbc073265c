// A unit of 32 weights at a time as eight words of four signed bytes, for packed dot products. `unit_load` reads what is
// packed, `unit_bytes` gives the bytes `c`, `unit_affine` a scale and a shift: a weight is `c × scale + shift`.
//
// With LEARNED a byte is the codebook's value in steps of its largest one / 127, and `table_step` is such a step;
// `table_read`, then `table_load` fill the table. Codes of three and four bits are looked up in pairs, as they lie in a byte: with PAIRED
// word 2j holds weights (0, 4, 1, 5) and word 2j + 1 weights (2, 6, 3, 7) of the j-th eight. Else a word holds four neighbours.
//
// Words of scales and offsets are kept as they are until a unit is computed, so that all loads of several units are on
// their way together. Flags as in `scheme.wgsl`. The kernel declares WORKGROUP, ROW_UNITS, GROUPS
// and GROUP_UNITS_LOG2.

@group(0) @binding(5) var<storage, read> scales: array<u32>;
#ifdef OFFSET_U4
@group(0) @binding(6) var<storage, read> offsets: array<u32>;
#endif
#ifdef OFFSET_F16
@group(0) @binding(6) var<storage, read> offsets: array<u32>;
#endif
#ifdef LEARNED
@group(0) @binding(6) var<storage, read> codebook: array<f32>;
#endif

// The byte that stands for zero, bytes in a step of a u4 zero point, and what is added to a byte to get the code.
#ifdef Q8
const CENTRE: f32 = 0.0;
const BYTE_TO_CODE: f32 = 128.0;
#endif
#ifdef Q5
const CENTRE: f32 = 16.0;
const ZERO_STEP: f32 = 2.0;
const BYTE_TO_CODE: f32 = 0.0;
const LEVELS: u32 = 32u;
#endif
#ifdef Q4
const CENTRE: f32 = 8.0;
const ZERO_STEP: f32 = 1.0;
const BYTE_TO_CODE: f32 = 0.0;
const LEVELS: u32 = 16u;
#endif
#ifdef Q3
const CENTRE: f32 = 4.0;
const ZERO_STEP: f32 = 0.5;
const BYTE_TO_CODE: f32 = 0.0;
const LEVELS: u32 = 8u;
#endif

#ifdef Q8
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
#endif
#ifdef Q4
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
#endif
#ifdef Q5
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
#endif
#ifdef Q3
@group(0) @binding(3) var<storage, read> codes: array<vec2<u32>>;
#endif
#ifdef HIGH_BITS
@group(0) @binding(4) var<storage, read> high_bits: array<u32>;
#endif

struct Unit {
#ifdef Q3
    codes: vec2<u32>,
#else
    codes: vec4<u32>,
#endif
#ifdef Q8
    more: vec4<u32>,
#endif
#ifdef HIGH_BITS
    high: u32,
#endif
    scale: u32,
#ifdef OFFSET_U4
    offset: u32,
#endif
#ifdef OFFSET_F16
    offset: u32,
#endif
}

// Weights 0 to 15 and 16 to 31.
struct Bytes { low: vec4<u32>, high: vec4<u32> }

fn unit_load(row: u32, unit: u32) -> Unit {
    var loaded: Unit;
    let at = row * ROW_UNITS + unit;
#ifdef Q8
    loaded.codes = codes[at * 2u];
    loaded.more = codes[at * 2u + 1u];
#else
    loaded.codes = codes[at];
#endif
#ifdef HIGH_BITS
    loaded.high = high_bits[at];
#endif
    let group = unit >> GROUP_UNITS_LOG2;
#ifdef SCALE_E4M4
    loaded.scale = scales[(row >> 2u) * GROUPS + group];
#else
    let index = row * GROUPS + group;
    loaded.scale = scales[index >> 1u];
#ifdef OFFSET_U4
    loaded.offset = offsets[index >> 3u];
#endif
#ifdef OFFSET_F16
    loaded.offset = offsets[index >> 1u];
#endif
#endif
    return loaded;
}

// Scale and shift of a unit that was loaded from there.
fn unit_affine(loaded: Unit, row: u32, unit: u32) -> vec2<f32> {
#ifdef SCALE_E4M4
    // The exponent's bias is 15, that of f32 is 127; byte 0 is zero.
    let byte = (loaded.scale >> (8u * (row & 3u))) & 255u;
    return vec2(select(bitcast<f32>((byte << 19u) + (112u << 23u)), 0.0, byte == 0u), 0.0);
#else
    let index = row * GROUPS + (unit >> GROUP_UNITS_LOG2);
    let scale = unpack2x16float(loaded.scale >> (16u * (index & 1u))).x;
#ifdef LEARNED
    return vec2(scale, 0.0);
#else
#ifdef OFFSET_U4
    let zero = f32((loaded.offset >> (4u * (index & 7u))) & 15u);
    return vec2(scale, -scale * (zero * ZERO_STEP));
#else
#ifdef OFFSET_F16
    return vec2(scale, fma(scale, BYTE_TO_CODE, unpack2x16float(loaded.offset >> (16u * (index & 1u))).x));
#else
    return vec2(scale, -scale * CENTRE);
#endif
#endif
#endif
#endif
}

#ifdef LEARNED
#ifdef Q5
const ENTRIES: u32 = 32u;
#endif
#ifdef Q4
const ENTRIES: u32 = 256u;
#endif
#ifdef Q3
const ENTRIES: u32 = 64u;
#endif
// How many times each entry is there, as a power of two: with one for each of 32 banks of memory no two lanes of 32 get in
// each other's way.
override REPLICAS_LOG2: u32 = 0u;
override TABLE_WORDS: u32;
var<workgroup> table: array<u32, TABLE_WORDS>;
var<private> table_lane: u32;
// What a step of the bytes counts.
var<private> table_step: f32;

// With TABLE_SUBGROUP a subgroup has a lane for each value, and reads the codebook once, before anything else.
var<private> own_value: f32;

fn table_read(lane: u32) {
#ifdef TABLE_SUBGROUP
    own_value = codebook[lane & (LEVELS - 1u)];
#endif
}

fn table_byte(code: u32, own_byte: u32, inverse_step: f32) -> u32 {
#ifdef TABLE_SUBGROUP
    return subgroupShuffle(own_byte, code);
#else
    return bitcast<u32>(i32(round(codebook[code] * inverse_step))) & 255u;
#endif
}

// Lookups come after a barrier. `index` counts the workgroup's invocations.
fn table_load(index: u32) {
    let replicas = 1u << REPLICAS_LOG2;
    table_lane = index & (replicas - 1u);
#ifdef TABLE_SUBGROUP
    let limit = subgroupMax(abs(own_value));
#else
    var limit = 0.0;
    for (var i = 0u; i < LEVELS; i++) {
        limit = max(limit, abs(codebook[i]));
    }
#endif
    let inverse_step = select(127.0 / limit, 0.0, limit == 0.0);
    table_step = limit / 127.0;
    let own_byte = bitcast<u32>(i32(round(own_value * inverse_step))) & 255u;
    for (var first = 0u; first < ENTRIES; first += WORKGROUP) {
        let e = (first + index) & (ENTRIES - 1u);
#ifdef Q5
        let value = table_byte(e, own_byte, inverse_step);
#endif
#ifdef Q4
        let value = table_byte(e & 15u, own_byte, inverse_step) | (table_byte(e >> 4u, own_byte, inverse_step) << 8u);
#endif
#ifdef Q3
        // Two codes' low bits, then their high bits.
        let low = table_byte((e & 3u) | ((e >> 2u) & 4u), own_byte, inverse_step);
        let high = table_byte(((e >> 2u) & 3u) | ((e >> 3u) & 4u), own_byte, inverse_step);
        let value = low | (high << 8u);
#endif
        if first + index < ENTRIES {
            // Neighbouring invocations begin at neighbouring banks.
            for (var i = 0u; i < replicas; i++) {
                table[e * replicas + ((index + i) & (replicas - 1u))] = value;
            }
        }
    }
}

// Where the entry of the low byte lies whose codes were shifted to the left by REPLICAS_LOG2: one shift and one operation
// on bits a lookup.
fn entry(shifted: u32) -> u32 {
    return table[(shifted & ((ENTRIES - 1u) << REPLICAS_LOG2)) | table_lane];
}

// Four pairs, one in each byte, as two words.
fn pairs(bytes: u32) -> vec2<u32> {
    let a = entry(bytes << REPLICAS_LOG2);
    let b = entry(bytes >> (8u - REPLICAS_LOG2));
    let c = entry(bytes >> (16u - REPLICAS_LOG2));
    let d = entry(bytes >> (24u - REPLICAS_LOG2));
    return vec2((b << 16u) + a, (d << 16u) + c);
}

// Four codes as a word.
fn singles(bytes: u32) -> u32 {
    let a = entry(bytes << REPLICAS_LOG2);
    let b = entry(bytes >> (8u - REPLICAS_LOG2));
    let c = entry(bytes >> (16u - REPLICAS_LOG2));
    let d = entry(bytes >> (24u - REPLICAS_LOG2));
    return ((d << 24u) + (c << 16u)) + ((b << 8u) + a);
}
#endif

#ifdef Q8
fn unit_bytes(unit: Unit) -> Bytes {
    let flip = vec4(0x80808080u);
    return Bytes(unit.codes ^ flip, unit.more ^ flip);
}
#endif

#ifdef Q4
fn unit_bytes(unit: Unit) -> Bytes {
#ifdef LEARNED
    return Bytes(vec4(pairs(unit.codes.x), pairs(unit.codes.y)), vec4(pairs(unit.codes.z), pairs(unit.codes.w)));
#else
    let low = unit.codes & vec4(0x0f0f0f0fu);
    let high = (unit.codes >> vec4(4u)) & vec4(0x0f0f0f0fu);
    return Bytes(vec4(low.x, high.x, low.y, high.y), vec4(low.z, high.z, low.w, high.w));
#endif
}
#endif

#ifdef Q5
fn unit_bytes(unit: Unit) -> Bytes {
    let low = unit.codes & vec4(0x0f0f0f0fu);
    let high = (unit.codes >> vec4(4u)) & vec4(0x0f0f0f0fu);
    let fifth = vec4(0x10101010u);
    let a = vec4(low.x, high.x, low.y, high.y) | (vec4(unit.high << 4u, unit.high << 3u, unit.high << 2u, unit.high << 1u) & fifth);
    let b = vec4(low.z, high.z, low.w, high.w) | (vec4(unit.high, unit.high >> 1u, unit.high >> 2u, unit.high >> 3u) & fifth);
#ifdef LEARNED
    return Bytes(
        vec4(singles(a.x), singles(a.y), singles(a.z), singles(a.w)),
        vec4(singles(b.x), singles(b.y), singles(b.z), singles(b.w)),
    );
#else
    return Bytes(a, b);
#endif
}
#endif

#ifdef Q3
#ifdef LEARNED
fn six_bits(low: u32, high: u32) -> u32 {
    return (low & 0x0f0f0f0fu) | (high & 0x30303030u);
}

fn unit_bytes(unit: Unit) -> Bytes {
    let c = unit.codes;
    let h = unit.high;
    return Bytes(
        vec4(pairs(six_bits(c.x, h << 4u)), pairs(six_bits(c.x >> 4u, h << 2u))),
        vec4(pairs(six_bits(c.y, h)), pairs(six_bits(c.y >> 4u, h >> 2u))),
    );
}
#else
fn unit_bytes(unit: Unit) -> Bytes {
    let two = vec4(0x03030303u);
    let third = vec4(0x04040404u);
    let shifts = vec4(0u, 2u, 4u, 6u);
    let h = unit.high;
    let a = ((vec4(unit.codes.x) >> shifts) & two) | (vec4(h << 2u, h << 1u, h, h >> 1u) & third);
    let b = ((vec4(unit.codes.y) >> shifts) & two) | (vec4(h >> 2u, h >> 3u, h >> 4u, h >> 5u) & third);
    return Bytes(a, b);
}
#endif
#endif
