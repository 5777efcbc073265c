// Sine and cosine of any angle, to about 1e-7 on every driver.
//
// WGSL promises little of sin and cos, and nothing outside [-π, π], while rotary angles reach 131072 radians. So the
// angle is turned exactly: its mantissa times 2^64 / 2π in integers gives the fraction of a turn to 2^-32 (Payne and
// Hanek's reduction, cut to f32), which no contraction to fused multiply-add can disturb. Polynomials do the rest.

// 64-bit product of two words, low word first.
fn multiply_wide(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let middle = a1 * b0 + (low >> 16u);
    let other = a0 * b1 + (middle & 0xffffu);
    return vec2<u32>((other << 16u) | (low & 0xffffu), a1 * b1 + (middle >> 16u) + (other >> 16u));
}

// |angle| in units of 2^-32 of a turn, whole turns dropped.
fn fraction_of_turn(angle: f32) -> u32 {
    let bits = bitcast<u32>(angle);
    let exponent = i32((bits >> 23u) & 0xffu) - 150;
    let mantissa = (bits & 0x7fffffu) | 0x800000u;
    // 2^64 / 2π = 0x28be60db9391054a
    let low = multiply_wide(mantissa, 0x9391054au);
    let high = multiply_wide(mantissa, 0x28be60dbu);
    let middle = low.y + high.x;
    let top = high.y + select(0u, 1u, middle < high.x);
    // The product is top:middle:low.x; its words 2 and 1, shifted by the exponent, are whole turns and the fraction.
    if exponent > 0 {
        let e = u32(min(exponent, 31));
        return (middle << e) | (low.x >> (32u - e));
    }
    let s = u32(-exponent);
    if s == 0u {
        return middle;
    }
    if s < 32u {
        return (middle >> s) | (top << (32u - s));
    }
    return select(0u, top >> (s - 32u), s < 64u);
}

// vec2(sin(angle), cos(angle))
fn sin_cos(angle: f32) -> vec2<f32> {
    let turn = fraction_of_turn(angle);
    let quarter = (turn + 0x20000000u) >> 30u;
    // In [-π/4, π/4].
    let r = f32(bitcast<i32>(turn - (quarter << 30u))) * 1.4629180792671596e-9;
    let z = r * r;
    // Minimax polynomials of the Cephes library.
    let s = r + r * z * (-1.6666654611e-1 + z * (8.3321608736e-3 + z * -1.9515295891e-4));
    let c = 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5));
    let swapped = (quarter & 1u) == 1u;
    let sine = select(s, c, swapped);
    let cosine = select(c, s, swapped);
    let sine_negative = ((quarter & 2u) != 0u) != (angle < 0.0);
    let cosine_negative = ((quarter + 1u) & 2u) != 0u;
    return vec2<f32>(select(sine, -sine, sine_negative), select(cosine, -cosine, cosine_negative));
}
