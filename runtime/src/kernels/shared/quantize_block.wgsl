// Activations in eight bits: the largest absolute value of 32 is 127 steps.

struct Block {
    // The sixteen codes of this lane, in the order in which `packed_unit` has weights.
    codes: vec4<u32>,
    // Of all 32: a step, and the sum of the codes.
    scale: f32,
    sum: f32,
}

fn largest_of(x: vec4<f32>) -> f32 {
    let two = max(abs(x.xy), abs(x.zw));
    return max(two.x, two.y);
}

fn four_steps(x: vec4<f32>) -> u32 {
    let steps = bitcast<vec4<u32>>(vec4<i32>(round(x))) & vec4(255u);
    return ((steps.w << 24u) | (steps.z << 16u)) | ((steps.y << 8u) | steps.x);
}

// Two neighbouring lanes quantize 32 values together, sixteen each: the columns of `x`.
fn quantize_block(x: mat4x4<f32>) -> Block {
    var largest = max(max(largest_of(x[0]), largest_of(x[1])), max(largest_of(x[2]), largest_of(x[3])));
    largest = max(largest, subgroupShuffleXor(largest, 1u));
    let inverse = select(127.0 / largest, 0.0, largest == 0.0);
    let a = four_steps(x[0] * inverse);
    let b = four_steps(x[1] * inverse);
    let c = four_steps(x[2] * inverse);
    let d = four_steps(x[3] * inverse);
    let ones = 0x01010101u;
    var sum = (dot4I8Packed(a, ones) + dot4I8Packed(b, ones)) + (dot4I8Packed(c, ones) + dot4I8Packed(d, ones));
    sum += subgroupShuffleXor(sum, 1u);
#ifdef PAIRED
    let codes = vec4(first_pairs(a, b), second_pairs(a, b), first_pairs(c, d), second_pairs(c, d));
#else
    let codes = vec4(a, b, c, d);
#endif
    return Block(codes, largest / 127.0, f32(sum));
}

#ifdef PAIRED
// Values (0, 4, 1, 5) of eight.
fn first_pairs(low: u32, high: u32) -> u32 {
    return ((low & 0xffu) | ((high & 0xffu) << 8u)) | (((low & 0xff00u) << 8u) | ((high & 0xff00u) << 16u));
}

// Values (2, 6, 3, 7).
fn second_pairs(low: u32, high: u32) -> u32 {
    return first_pairs(low >> 16u, high >> 16u);
}
#endif
