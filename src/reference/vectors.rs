//! Arithmetic of single numbers and short vectors, for mixers that go through positions one by one.

use crate::exponentials::sigmoid;

/// `1 / (1 + e⁻ˣ)`.
pub(super) fn sigmoid_of(x: f32) -> f32 {
    let mut one = [x];
    sigmoid(&mut one);
    one[0]
}

/// The derivative of `x σ(x)`.
pub(super) fn silu_slope(x: f32) -> f32 {
    let s = sigmoid_of(x);
    s * (1.0 + x * (1.0 - s))
}

/// `ln(1 + eˣ)`.
pub(super) fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// The sum of products.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `out += by × x`.
pub(super) fn add(out: &mut [f32], by: f32, x: &[f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += by * x);
}
