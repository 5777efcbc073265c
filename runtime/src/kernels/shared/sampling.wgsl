// What both sampling kernels know: parameters, penalized logits and their order.

struct Params {
    temperature: f32,
    // 0 is all.
    top_k: u32,
    // In units of 2^-24, from 1 to 2^24; 2^24 is all.
    top_p: u32,
    min_p: f32,
    repetition_penalty: f32,
    // In units of 2^-24, below 2^24.
    uniform_number: u32,
    // Row of `seen`, or IDLE.
    sequence: u32,
    spare: u32,
}

const IDLE: u32 = 0xffffffffu;
// The order of minus infinity; what lies at or below excludes its token.
const EXCLUDED: u32 = 0x007fffffu;

override VOCAB: u32;
// Logits from one row to the next.
override PITCH: u32;
// Words of a row of `seen`.
override SEEN_WORDS: u32;
// Tokens of a span: a multiple of 256.
override SPAN: u32;

// Maps floats to integers in the same order; both zeros are one.
fn order_of(x: f32) -> u32 {
    let bits = select(bitcast<u32>(x), 0u, x == 0.0);
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

// The float of an order.
fn float_of(order: u32) -> f32 {
    return bitcast<f32>(select(~order, order & 0x7fffffffu, (order & 0x80000000u) != 0u));
}

// Neither NaN nor plus infinity: compilers may assume away both, so this asks the bits.
fn meaningful(bits: u32) -> bool {
    return (bits & 0x7fffffffu) < 0x7f800000u || bits == 0xff800000u;
}

// The order of a logit after the repetition penalty. `seen_bits` is the word of `seen` that holds the token.
fn penalized(bits: u32, id: u32, seen_bits: u32, penalty: f32) -> u32 {
    if bits == 0xff800000u {
        return EXCLUDED;
    }
    let l = bitcast<f32>(bits);
    if ((seen_bits >> (id % 32u)) & 1u) == 0u {
        return order_of(l);
    }
    return order_of(select(l / penalty, l * penalty, l < 0.0));
}

// The better of two (order, id, meaningless): the larger logit, the lower id of equals.
fn better(a: vec3<u32>, b: vec3<u32>) -> vec3<u32> {
    let other = b.x > a.x || (b.x == a.x && b.y < a.y);
    return vec3<u32>(select(a.xy, b.xy, other), a.z | b.z);
}
