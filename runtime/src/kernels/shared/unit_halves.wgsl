// The weights of a unit as f16, four at a time in the order 0, 2, 1, 3: that in which pairs of bytes lie in a word. Only
// sums over columns ask for them, and activations come in the same order.
//
// Uniform codes become f16 without a conversion: 1024 + c has the bits of 1024 and c's as its lowest. `c - CENTRE` is exact,
// and the product with the scale is rounded once.
//
// `packed_load` only reads, so that a kernel may compute before it asks for the weights.

#import unit
#import raw_affine

#ifdef GROUPED
struct Packed {
#ifdef Q8
    low: vec4<u32>,
    high: vec4<u32>,
#endif
#ifdef Q4
    codes: vec4<u32>,
#endif
#ifdef HIGH_BITS
    low: Low,
    high: u32,
#endif
    raw: RawAffine,
}

fn packed_load(row: u32, unit: u32) -> Packed {
    let raw = raw_affine_load(row, unit >> params.group_units_log2);
    let at = row * params.units + unit;
#ifdef Q8
    return Packed(codes[2u * at], codes[2u * at + 1u], raw);
#endif
#ifdef Q4
    return Packed(codes[at], raw);
#endif
#ifdef HIGH_BITS
    return Packed(codes[at], high_bits[at], raw);
#endif
}

// Scale and shift of `c - CENTRE`, or of the table's values.
fn packed_affine(packed: Packed, row: u32, unit: u32) -> vec2<f32> {
    let affine = affine_of(packed.raw, row, unit >> params.group_units_log2);
#ifdef LEARNED
    return affine;
#else
    // No shift without offsets.
    return vec2(affine.x, fma(CENTRE, affine.x, affine.y));
#endif
}

// Codes 4i to 4i + 3 in the low bits of four bytes.
fn packed_word(packed: Packed, i: u32) -> u32 {
#ifdef Q8
    return select(packed.low[i & 3u], packed.high[i & 3u], i > 3u);
#endif
#ifdef Q4
    return packed.codes[i >> 1u] >> (4u * (i & 1u));
#endif
#ifdef HIGH_BITS
    return joined(low_bits(packed.low, i), packed.high >> i);
#endif
}

#ifdef LEARNED
fn packed_halves(packed: Packed, affine: vec2<f32>, i: u32) -> vec4<f16> {
    let word = packed_word(packed, i);
    let values = vec4(
        value_of(word & (LEVELS - 1u)),
        value_of((word >> 16u) & (LEVELS - 1u)),
        value_of((word >> 8u) & (LEVELS - 1u)),
        value_of((word >> 24u) & (LEVELS - 1u)),
    );
    return vec4<f16>(values * affine.x);
}
#else
fn two_halves(codes: u32) -> vec2<f16> {
    let bits = (codes & ((LEVELS - 1u) * 0x00010001u)) | 0x64006400u;
    return vec2<f16>(unpack2x16float(bits)) - vec2(f16(1024.0 + CENTRE));
}

fn packed_halves(packed: Packed, affine: vec2<f32>, i: u32) -> vec4<f16> {
    let word = packed_word(packed, i);
    let scale = vec2(f16(affine.x));
    let shift = vec2(f16(affine.y));
    return vec4(fma(two_halves(word), scale, shift), fma(two_halves(word >> 8u), scale, shift));
}
#endif
#endif

#ifdef F16_WEIGHTS
struct Packed { halves: array<vec2<u32>, 8> }

fn packed_load(row: u32, unit: u32) -> Packed {
    let at = (row * params.units + unit) * 8u;
    return Packed(array(
        values[at], values[at + 1u], values[at + 2u], values[at + 3u],
        values[at + 4u], values[at + 5u], values[at + 6u], values[at + 7u],
    ));
}

fn packed_affine(packed: Packed, row: u32, unit: u32) -> vec2<f32> {
    return vec2(1.0, 0.0);
}

fn packed_halves(packed: Packed, affine: vec2<f32>, i: u32) -> vec4<f16> {
    let four = packed.halves[i];
    return vec4<f16>(vec4(unpack2x16float(four.x), unpack2x16float(four.y)).xzyw);
}
#endif
