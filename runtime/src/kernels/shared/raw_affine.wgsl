// Scale and offset of a group as they are stored, for kernels that read the next turn's while they compute this one's.
// Decoding them at once would wait for the memory.

#import scheme

#ifdef GROUPED
#ifdef F16
alias RawScale = f16;
#else
alias RawScale = u32;
#endif

struct RawAffine {
#ifdef SCALE_E4M4
    scale: u32,
#else
    scale: RawScale,
#endif
#ifdef OFFSET_U4
    offset: u32,
#endif
#ifdef OFFSET_F16
    offset: RawScale,
#endif
}

fn raw_affine_load(row: u32, group: u32) -> RawAffine {
    let index = row * params.groups + group;
    var raw: RawAffine;
#ifdef SCALE_E4M4
    raw.scale = scales[(row >> 2u) * params.groups + group];
#else
#ifdef F16
    raw.scale = scales[index];
#else
    raw.scale = scales[index >> 1u];
#endif
#endif
#ifdef OFFSET_U4
    raw.offset = offsets[index >> 3u];
#endif
#ifdef OFFSET_F16
#ifdef F16
    raw.offset = offsets[index];
#else
    raw.offset = offsets[index >> 1u];
#endif
#endif
    return raw;
}

fn raw_scale(raw: RawAffine, row: u32, group: u32) -> f32 {
#ifdef SCALE_E4M4
    return e4m4(raw.scale >> (8u * (row & 3u)));
#else
#ifdef F16
    return f32(raw.scale);
#else
    return half_of(raw.scale, row * params.groups + group);
#endif
#endif
}

#ifdef SCALE_E4M4
// The scale in the lowest byte. The exponent's bias is 15, that of f32 is 127; byte 0 is zero.
fn e4m4(word: u32) -> f32 {
    let byte = word & 255u;
    return select(bitcast<f32>((byte << 19u) + (112u << 23u)), 0.0, byte == 0u);
}
#endif

#ifdef OFFSET_U4
// The zero point as it is stored.
fn raw_zero(raw: RawAffine, row: u32, group: u32) -> u32 {
    return (raw.offset >> (4u * ((row * params.groups + group) & 7u))) & 15u;
}
#endif

// Scale and shift, as `affine` gives them.
fn affine_of(raw: RawAffine, row: u32, group: u32) -> vec2<f32> {
    let scale = raw_scale(raw, row, group);
#ifdef LEARNED
    return vec2(scale, 0.0);
#else
#ifdef OFFSET_U4
    return vec2(scale, -scale * (f32(raw_zero(raw, row, group)) * ZERO_STEP));
#else
#ifdef OFFSET_F16
#ifdef F16
    return vec2(scale, f32(raw.offset));
#else
    return vec2(scale, half_of(raw.offset, row * params.groups + group));
#endif
#else
    return vec2(scale, -scale * CENTRE);
#endif
#endif
#endif
}
#endif
