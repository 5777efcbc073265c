// A unit of 32 weights at a time, for kernels in which an invocation owns whole rows: codes are read as whole vectors.
// `unit_load` reads what is packed, `unit_four` gives weights 4i to 4i + 3 of it. `params.units` is the number of units in a row, `params.group_units_log2` of units in a group.

#import scheme

#ifdef F32_WEIGHTS
@group(0) @binding(3) var<storage, read> values: array<vec4<f32>>;

struct Unit { at: u32 }

fn unit_load(row: u32, unit: u32) -> Unit {
    return Unit((row * params.units + unit) * 8u);
}

fn unit_four(unit: Unit, i: u32) -> vec4<f32> {
    return values[unit.at + i];
}
#endif

#ifdef F16_WEIGHTS
@group(0) @binding(3) var<storage, read> values: array<vec2<u32>>;

struct Unit { at: u32 }

fn unit_load(row: u32, unit: u32) -> Unit {
    return Unit((row * params.units + unit) * 8u);
}

fn unit_four(unit: Unit, i: u32) -> vec4<f32> {
    let w = values[unit.at + i];
    return vec4(unpack2x16float(w.x), unpack2x16float(w.y));
}
#endif

#ifdef Q8
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;

struct Unit { low: vec4<u32>, high: vec4<u32>, affine: vec2<f32> }

fn unit_load(row: u32, unit: u32) -> Unit {
    let at = (row * params.units + unit) * 2u;
    return Unit(codes[at], codes[at + 1u], affine(row, unit >> params.group_units_log2));
}

fn unit_four(unit: Unit, i: u32) -> vec4<f32> {
    let word = select(unit.low[i & 3u], unit.high[i & 3u], i > 3u);
    return four_weights(four_codes(word), unit.affine);
}
#endif

#ifdef Q4
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;

struct Unit { codes: vec4<u32>, affine: vec2<f32> }

fn unit_load(row: u32, unit: u32) -> Unit {
    return Unit(codes[row * params.units + unit], affine(row, unit >> params.group_units_log2));
}

fn unit_four(unit: Unit, i: u32) -> vec4<f32> {
    let word = unit.codes[i >> 1u] >> (4u * (i & 1u));
    return four_weights(four_codes(word), unit.affine);
}
#endif

#ifdef HIGH_BITS
#ifdef Q3
alias Low = vec2<u32>;

fn low_bits(low: Low, i: u32) -> u32 {
    return low[i >> 2u] >> (2u * (i & 3u));
}
#endif
#ifdef Q5
alias Low = vec4<u32>;

fn low_bits(low: Low, i: u32) -> u32 {
    return low[i >> 1u] >> (4u * (i & 1u));
}
#endif
@group(0) @binding(3) var<storage, read> codes: array<Low>;
@group(0) @binding(4) var<storage, read> high_bits: array<u32>;

struct Unit { low: Low, high: u32, affine: vec2<f32> }

fn unit_load(row: u32, unit: u32) -> Unit {
    let at = row * params.units + unit;
    return Unit(codes[at], high_bits[at], affine(row, unit >> params.group_units_log2));
}

fn unit_four(unit: Unit, i: u32) -> vec4<f32> {
    return four_weights(four_codes(joined(low_bits(unit.low, i), unit.high >> i)), unit.affine);
}
#endif
