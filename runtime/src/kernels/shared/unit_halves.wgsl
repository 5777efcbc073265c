// The weights of a unit as f16, four at a time in the order 0, 2, 1, 3: that in which pairs of bytes lie in a word. Only
// sums over columns ask for them, and activations come in the same order.
//
// Uniform codes become f16 without a conversion: 1024 + c has the bits of 1024 and c's as its lowest. `c - CENTRE` is exact,
// and the product with the scale is rounded once.

#import unit

#ifdef GROUPED
// Codes 4i to 4i + 3 in the low bits of four bytes.
fn unit_word(unit: Unit, i: u32) -> u32 {
#ifdef Q8
    return select(unit.low[i & 3u], unit.high[i & 3u], i > 3u);
#endif
#ifdef Q4
    return unit.codes[i >> 1u] >> (4u * (i & 1u));
#endif
#ifdef HIGH_BITS
    return joined(low_bits(unit.low, i), unit.high >> i);
#endif
}

#ifdef LEARNED
fn unit_halves(unit: Unit, i: u32) -> vec4<f16> {
    let word = unit_word(unit, i);
    let values = vec4(
        value_of(word & (LEVELS - 1u)),
        value_of((word >> 16u) & (LEVELS - 1u)),
        value_of((word >> 8u) & (LEVELS - 1u)),
        value_of((word >> 24u) & (LEVELS - 1u)),
    );
    return vec4<f16>(values * unit.affine.x);
}
#else
fn two_halves(codes: u32) -> vec2<f16> {
    let bits = (codes & ((LEVELS - 1u) * 0x00010001u)) | 0x64006400u;
    return vec2<f16>(unpack2x16float(bits)) - vec2(f16(1024.0 + CENTRE));
}

fn unit_halves(unit: Unit, i: u32) -> vec4<f16> {
    let word = unit_word(unit, i);
    let scale = vec2(f16(unit.affine.x));
    // Zero without offsets.
    let shift = vec2(f16(fma(CENTRE, unit.affine.x, unit.affine.y)));
    return vec4(fma(two_halves(word), scale, shift), fma(two_halves(word >> 8u), scale, shift));
}
#endif
#else
fn unit_halves(unit: Unit, i: u32) -> vec4<f16> {
    return vec4<f16>(unit_four(unit, i).xzyw);
}
#endif
