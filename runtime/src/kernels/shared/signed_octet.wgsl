// Eight neighbouring weights as signed bytes, for packed dot products: weights 0 to 3 of an octet in one word, 4 to 7 in
// another. A weight is `byte × scale + shift`; without OFFSET_F16 there is no shift. Uniform codes lose nothing. The
// values of a learned table are rounded to 127ths of its largest, with a scale that the table itself decides.

#import octet

// What the octets of a unit have in common. `zero` is in each byte.
struct Signed {
    scale: f32,
    shift: f32,
    zero: u32,
}

#ifdef LEARNED
// Bytes by code.
var<workgroup> bytes: array<u32, LEVELS>;

// The first lookup comes after a barrier. The result is what scales are multiplied by.
fn bytes_load(lane: u32) -> f32 {
    var largest = 0.0;
    for (var i = 0u; i < LEVELS; i++) {
        largest = max(largest, abs(codebook[i]));
    }
    if lane < LEVELS {
        bytes[lane] = bitcast<u32>(i32(round(codebook[lane] * (127.0 / max(largest, 1e-30))))) & 0xffu;
    }
    return largest / 127.0;
}

fn signed_word(word: u32, zero: u32) -> u32 {
    return bytes[word & (LEVELS - 1u)]
        | (bytes[(word >> 8u) & (LEVELS - 1u)] << 8u)
        | (bytes[(word >> 16u) & (LEVELS - 1u)] << 16u)
        | (bytes[(word >> 24u) & (LEVELS - 1u)] << 24u);
}
#else
// `code - zero` in each byte; no byte borrows from its neighbour.
fn signed_word(word: u32, zero: u32) -> u32 {
#ifdef Q8
    return word ^ 0x80808080u;
#else
    let codes = word & ((LEVELS - 1u) * 0x01010101u);
#ifdef Q3
#ifdef OFFSET_U4
    // Zero points are in halves of a code.
    return (((codes << 1u) | 0x80808080u) - zero) ^ 0x80808080u;
#else
    return ((codes | 0x80808080u) - zero) ^ 0x80808080u;
#endif
#else
    return ((codes | 0x80808080u) - zero) ^ 0x80808080u;
#endif
#endif
}
#endif

fn signed_octet(octet: Octet, zero: u32) -> vec2<u32> {
#ifdef Q8
    return vec2(signed_word(octet.codes.x, zero), signed_word(octet.codes.y, zero));
#endif
#ifdef Q4
    return vec2(signed_word(octet.codes, zero), signed_word(octet.codes >> 4u, zero));
#endif
#ifdef HIGH_BITS
    return vec2(
        signed_word(joined(octet.low, octet.high), zero),
        signed_word(joined(octet.low >> NEXT_LOW, octet.high >> 1u), zero),
    );
#endif
}

// Of a group of a row.
fn signed_affine(row: u32, group: u32) -> Signed {
#ifdef OFFSET_F16
    let both = affine(row, group);
#ifdef Q8
    return Signed(both.x, fma(128.0, both.x, both.y), 0u);
#else
    return Signed(both.x, both.y, 0u);
#endif
#else
    let scale = scale_of(row, group);
#ifdef OFFSET_U4
    let index = row * params.groups + group;
    let zero = ((offsets[index >> 3u] >> (4u * (index & 7u))) & 15u) * 0x01010101u;
#ifdef Q3
    return Signed(0.5 * scale, 0.0, zero);
#else
    return Signed(scale, 0.0, zero * u32(ZERO_STEP));
#endif
#else
#ifdef LEARNED
    return Signed(scale, 0.0, 0u);
#else
    return Signed(scale, 0.0, u32(CENTRE) * 0x01010101u);
#endif
#endif
#endif
}
