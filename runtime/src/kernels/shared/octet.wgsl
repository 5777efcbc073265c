// Eight neighbouring weights at a time, for kernels whose neighbouring invocations take neighbouring weights of a row:
// reads of codes and of activations then both fall into few cache lines. `octet_load` reads what is packed, `octet_values`
// gives the `q` of weights 0 to 3 and 4 to 7 of it. `params.units` is the number of units of 32 weights in a row.

#import scheme

#ifdef F32_WEIGHTS
@group(0) @binding(3) var<storage, read> values: array<vec4<f32>>;

struct Octet { low: vec4<f32>, high: vec4<f32> }

fn octet_load(row: u32, index: u32) -> Octet {
    let at = row * params.units * 8u + index * 2u;
    return Octet(values[at], values[at + 1u]);
}

fn octet_values(octet: Octet) -> mat2x4<f32> {
    return mat2x4(octet.low, octet.high);
}
#endif

#ifdef F16_WEIGHTS
@group(0) @binding(3) var<storage, read> values: array<vec4<u32>>;

struct Octet { halves: vec4<u32> }

fn octet_load(row: u32, index: u32) -> Octet {
    return Octet(values[row * params.units * 4u + index]);
}

fn octet_values(octet: Octet) -> mat2x4<f32> {
    let w = octet.halves;
    return mat2x4(
        vec4(unpack2x16float(w.x), unpack2x16float(w.y)),
        vec4(unpack2x16float(w.z), unpack2x16float(w.w)),
    );
}
#endif

#ifdef Q8
@group(0) @binding(3) var<storage, read> codes: array<vec2<u32>>;

struct Octet { codes: vec2<u32> }

fn octet_load(row: u32, index: u32) -> Octet {
    return Octet(codes[row * params.units * 4u + index]);
}

fn octet_values(octet: Octet) -> mat2x4<f32> {
    return mat2x4(four_codes(octet.codes.x), four_codes(octet.codes.y));
}
#endif

#ifdef Q4
@group(0) @binding(3) var<storage, read> codes: array<u32>;

struct Octet { codes: u32 }

fn octet_load(row: u32, index: u32) -> Octet {
    return Octet(codes[row * params.units * 4u + index]);
}

fn octet_values(octet: Octet) -> mat2x4<f32> {
    return mat2x4(four_codes(octet.codes), four_codes(octet.codes >> 4u));
}
#endif

#ifdef HIGH_BITS
@group(0) @binding(3) var<storage, read> codes: array<u32>;
@group(0) @binding(4) var<storage, read> high_bits: array<u32>;

// How far weights 4 to 7 have their low bits from those of 0 to 3.
#ifdef Q3
const NEXT_LOW: u32 = 2u;

fn low_bits(row: u32, index: u32) -> u32 {
    return codes[row * params.units * 2u + (index >> 1u)] >> (4u * (index & 1u));
}
#endif
#ifdef Q5
const NEXT_LOW: u32 = 4u;

fn low_bits(row: u32, index: u32) -> u32 {
    return codes[row * params.units * 4u + index];
}
#endif

// The octet's bits are the lowest of each byte.
struct Octet { low: u32, high: u32 }

fn octet_load(row: u32, index: u32) -> Octet {
    let high = high_bits[row * params.units + (index >> 2u)] >> (2u * (index & 3u));
    return Octet(low_bits(row, index), high);
}

fn octet_values(octet: Octet) -> mat2x4<f32> {
    return mat2x4(
        four_codes(joined(octet.low, octet.high)),
        four_codes(joined(octet.low >> NEXT_LOW, octet.high >> 1u)),
    );
}
#endif
