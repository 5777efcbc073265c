// Activations by number: 0 SiLU, 1 GELU, 2 GELU by tanh, 3 the clamped SwiGLU, which needs a gate, 4 the square of what is positive.
// Exponents are clamped, so that no step overflows.

override ACTIVATION: u32 = 0u;

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(clamp(-x, -80.0, 80.0)));
}

// The complementary error function to 1.2e-7 of its value: the Chebyshev fit of Press et al., Numerical Recipes.
fn erfc(x: f32) -> f32 {
    let z = abs(x);
    let t = 1.0 / fma(0.5, z, 1.0);
    var p = 0.17087277;
    p = fma(p, t, -0.82215223);
    p = fma(p, t, 1.48851587);
    p = fma(p, t, -1.13520398);
    p = fma(p, t, 0.27886807);
    p = fma(p, t, -0.18628806);
    p = fma(p, t, 0.09678418);
    p = fma(p, t, 0.37409196);
    p = fma(p, t, 1.00002368);
    p = fma(p, t, -1.26551223);
    let tail = t * exp(max(fma(-z, z, p), -80.0));
    return select(tail, 2.0 - tail, x < 0.0);
}

fn activate(x: f32) -> f32 {
    if ACTIVATION == 1u {
        return 0.5 * x * erfc(x * -0.70710678);
    }
    if ACTIVATION == 2u {
        // x/2 (1 + tanh u) = x sigmoid(2u)
        return x * sigmoid(1.5957691 * fma(0.044715 * x * x, x, x));
    }
    if ACTIVATION == 4u {
        return max(x, 0.0) * max(x, 0.0);
    }
    return x * sigmoid(x);
}

// The inner activation of a gated network.
fn gated(gate: f32, up: f32) -> f32 {
    if ACTIVATION == 3u {
        let g = min(gate, 7.0);
        return g * sigmoid(1.702 * g) * (clamp(up, -7.0, 7.0) + 1.0);
    }
    return activate(gate) * up;
}
